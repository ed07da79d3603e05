"""What a wheel carries beside the package: the app, checkpoints, notebooks and results.

They stay where they are in the repository; a build copies them to ``ecar_lab/packed``, laid out
alike, where ``ecar_lab.home`` finds them. Everything else is said in pyproject.toml.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKED = "ecar_lab/packed"
# What `ecar demo`, the notebooks and trainings open. Of the other checkpoints a wheel knows the
# checksums.
CHECKPOINTS = (
    *("digits", "cifar10", "cifar10-turbo", "features-digits", "features-cifar10"),
    *("features-imagenette-64", "features-imagenette-128"),
    *("imagenette64", "imagenette128"),
)
APP = (".py", ".js", ".css", ".json", ".svg")
# from which folder, which files
CARRIED = (
    ("apps", [f"**/*{ending}" for ending in APP]),
    *((f"data/checkpoints/{name}", ["**/*"]) for name in CHECKPOINTS),
    ("data/results", ["*.json"]),
    ("notebooks", ["[0-9]*.ipynb", "solutions/[0-9]*.ipynb"]),
)
# Of the checkpoints that stay behind: what they are, and their checksums.
LEFT, SAID = "data/left_behind", ("SHA256SUMS", "model_index.json")


def carried() -> Iterator[tuple[Path, str]]:
    """(file, its place below ``packed``) of all that a wheel carries."""
    for folder, patterns in CARRIED:
        files = {file for pattern in patterns for file in (ROOT / folder).glob(pattern)}
        for file in sorted(files):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file, file.relative_to(ROOT).as_posix()
    for file in sorted((ROOT / "data" / "checkpoints").glob("[!.]*/*")):
        if file.parent.name not in CHECKPOINTS and file.name in SAID:
            yield file, f"{LEFT}/{file.parent.name}/{file.name}"


class BuildPacked(build_py):
    """As of setuptools, and then the copies; an editable install needs none."""

    def run(self) -> None:
        super().run()
        packed = Path(self.build_lib) / PACKED
        shutil.rmtree(packed, ignore_errors=True)  # of an earlier build
        if self.editable_mode:
            return
        places = {place: file for file, place in carried()}
        for folder, _ in CARRIED:
            if not any(place.startswith(f"{folder}/") for place in places):
                raise SystemExit(f"{folder} is not here, and a wheel needs it: build in a clone")
        for place, file in places.items():
            target = packed / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copies = [] if self.editable_mode else [place for _, place in carried()]
        places = [str(Path(self.build_lib) / PACKED / place) for place in copies]
        return [*super().get_outputs(include_bytecode), *places]


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPacked})
