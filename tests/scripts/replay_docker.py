"""Replays the steps of the Dockerfile without Docker: a fresh environment in place of the image.

    python tests/scripts/replay_docker.py --torch-index file:///nowhere

does for the target `cpu` what `docker build` and `docker run` would do, in a temporary folder: COPY
from what .dockerignore lets through, RUN in a shell whose python is a fresh one, CMD until the page
answers over HTTP. It takes minutes, most of them pip's. What it cannot tell: whether the base image
is there, and what the system in it lacks. ``--torch-index`` in place of PyTorch's own, where pip
finds a build elsewhere; ``--keep`` leaves the folder.
"""

import argparse
import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.scripts.try_wheel import Kit, answers, free_port, timed  # noqa: E402

KNOWN = ("FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "CMD")


@dataclass
class Stage:
    """A stage of a Dockerfile: what it begins with, and its steps in order."""

    name: str
    source: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def read_stages(dockerfile: Path) -> dict[str, Stage]:
    """The stages by their names.

    Raises:
        ValueError: an instruction that this script does not know.
    """
    stages: dict[str, Stage] = {}
    text = re.sub(r"\\\n", "", dockerfile.read_text(encoding="utf-8"))
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word not in KNOWN:
            raise ValueError(f"{word} is not known here")
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            stages[name] = Stage(name, source)
        else:
            list(stages.values())[-1].steps.append((word, rest.strip()))
    return stages


def steps_of(stages: dict[str, Stage], target: str) -> list[tuple[str, str]]:
    """All steps that lead to a target, from the base image on."""
    stage = stages[target]
    before = steps_of(stages, stage.source) if stage.source in stages else []
    return [*before, *stage.steps]


def let_through(place: str, patterns: list[str]) -> bool:
    """Whether .dockerignore lets a file of the build context through; its last match decides."""
    kept, parts = True, place.split("/")
    starts = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in patterns:
        pattern = line.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        inner = pattern.replace("/**/", "/*/"), pattern.replace("/**/", "/")
        hit = any(fnmatch.fnmatchcase(start, one) for start in starts for one in inner)
        if anywhere != pattern:
            hit = hit or any(fnmatch.fnmatchcase(part, anywhere) for part in parts)
        if hit:
            kept = line.startswith("!")
    return kept


def context() -> list[str]:
    """The files that Docker would be sent."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    named = {line.removeprefix("!") for line in patterns if line.startswith("!")}
    files = [file for name in named for file in (ROOT / name, *(ROOT / name).rglob("*"))]
    places = [file.relative_to(ROOT).as_posix() for file in files if file.is_file()]
    return sorted(place for place in places if let_through(place, patterns))


class Image:
    """A folder in place of a container's root; only its WORKDIRs lie in it."""

    def __init__(self, folder: Path, arguments: dict[str, str]) -> None:
        self.root, self.venv, self.arguments = folder / "root", folder / "venv", arguments
        self.place, self.command = self.root, ""
        subprocess.run([sys.executable, "-m", "venv", str(self.venv)], check=True)
        wanted = ("PIP_CERT", "PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT", "SSL_CERT_FILE", "LANG")
        self.environment = {k: v for k, v in os.environ.items() if k in wanted}
        self.environment["PATH"] = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def do(self, word: str, rest: str) -> None:
        if word == "ARG":
            name, _, default = rest.partition("=")
            self.environment[name] = self.arguments.get(name, default)
        elif word == "ENV":
            self.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif word == "WORKDIR":
            self.place = self.root / rest.lstrip("/")
            self.place.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            self.copy(*shlex.split(rest))
        elif word == "RUN":
            shell = ["/bin/sh", "-ec", rest]
            subprocess.run(shell, cwd=self.place, env=self.environment, check=True)
        elif word == "CMD":
            self.command = rest

    def copy(self, *words: str) -> None:
        *sources, target = words
        places = context()
        for source in sources:
            found = [one for one in places if one == source or one.startswith(f"{source}/")]
            assert found, f"COPY {source}: .dockerignore leaves nothing of it"
            for one in found:
                inner = one.removeprefix(source).lstrip("/")
                goal = self.place / target / (inner or one)
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / one, goal)

    def serve(self) -> None:
        """CMD, for this machine alone, until its page answers."""
        words = [word.strip().strip('"') for word in self.command.strip("[]").split(",")]
        port = str(free_port())
        words = [word.replace("0.0.0.0", "127.0.0.1") for word in words] + ["--port", port]
        kit = Kit(self.venv, self.root)
        kit.environment |= self.environment | {"HOME": str(self.root)}
        shown = kit.run("python", "-c", "import ecar_lab; print(ecar_lab.__file__)")
        assert Path(shown.strip()).is_relative_to(self.venv), shown
        answers(kit, [str(self.venv / "bin" / words[0]), *words[1:]], port, self.root)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch-index")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    arguments = {"TORCH_INDEX": options.torch_index} if options.torch_index else {}
    folder = Path(tempfile.mkdtemp(prefix="ecar-docker-"))
    try:
        image = Image(folder, arguments)
        for word, rest in steps_of(read_stages(ROOT / "Dockerfile"), "cpu"):
            timed(f"{word} {rest}", image.do, word, rest)
        timed("the page answers", image.serve)
    finally:
        print(f"kept: {folder}") if options.keep else shutil.rmtree(folder, ignore_errors=True)
    print("the steps of the image work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
