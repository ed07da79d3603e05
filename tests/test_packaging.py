"""pyproject.toml, requirements.lock and environment.yml describe one set of packages."""

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
import zlib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
# Imported only where they are found: the extras "heif", "onnx" and "fid".
OPTIONAL = {"pillow_heif", "onnx", "onnxruntime", "torch_fidelity", "torchvision"}
# What a wheel brings: the demo's models, what the notebooks open (but for a DiT in number 8), and
# what trainings and evaluations begin with.
CARRIED = (
    *("cifar10", "cifar10-turbo", "digits", "features-cifar10", "features-digits"),
    *("features-imagenette-64", "features-imagenette-128"),
    *("imagenette64", "imagenette128"),
)
LOCK_TEXT = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def lock_lines() -> list[str]:
    return [line for line in LOCK_TEXT.splitlines() if line and not line.startswith("#")]


def locked_versions() -> dict[str, Version]:
    pins = (line.split("==") for line in lock_lines())
    return {canonicalize_name(name): Version(version) for name, version in pins}


def declared_requirements() -> list[Requirement]:
    """All that `make` installs: what the package needs to run, and what its tests need."""
    lines = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    return [Requirement(line) for line in lines]


def test_every_line_of_the_lock_is_an_exact_pin():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line) for line in lock_lines())
    assert len(locked_versions()) == len(lock_lines()), "a package is pinned twice"
    assert locked_versions()["torch"] == Version("2.13.0")


@pytest.mark.parametrize("requirement", declared_requirements(), ids=lambda r: r.name)
def test_the_lock_lies_within_the_ranges(requirement):
    version = locked_versions().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in requirements.lock: run `make lock`"
    assert version in requirement.specifier


def test_every_range_is_bounded_above():
    extras = PROJECT["optional-dependencies"].values()
    lines = PROJECT["dependencies"] + [line for extra in extras for line in extra]
    for requirement in map(Requirement, lines):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert "<" in operators or "==" in operators, f"{requirement} has no upper bound"


def test_the_lock_is_closed():
    """What a locked package needs is locked too, so that pip has nothing left to choose."""
    locked = locked_versions()
    for name in locked:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} of requirements.lock is not installed in this environment")
        if metadata.version(name).split("+")[0] != str(locked[name]):
            pytest.skip(f"another version of {name} than the locked one is installed here")
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                # What torch needs beyond the CPU differs by the build that a machine takes.
                if name == "torch" and re.match("nvidia|cuda|triton", need.name):
                    continue
                assert canonicalize_name(need.name) in locked, f"{name} needs {need.name}"


def test_whatever_the_code_imports_is_declared():
    """A package that only comes along with another may stay away with that one's next version."""
    owners = metadata.packages_distributions()
    folders: dict[str, list[str]] = {
        "ecar_lab": [],
        "apps": [],
        "tests": ["dev"],
        "notebooks": ["dev"],
        "docs": ["dev"],
    }
    for folder, extras in folders.items():
        lines = PROJECT["dependencies"] + [
            line for extra in extras for line in PROJECT["optional-dependencies"][extra]
        ]
        declared = {canonicalize_name(Requirement(line).name) for line in lines}
        own = {*folders, *(path.stem for path in (ROOT / "tests").iterdir())}
        for file in sorted((ROOT / folder).rglob("*.py")):
            for module in sorted(imported_modules(file) - sys.stdlib_module_names - own - OPTIONAL):
                names = {canonicalize_name(name) for name in owners.get(module, [module])}
                assert names & declared, f"{file.relative_to(ROOT)} imports {module}"


def imported_modules(file: Path) -> set[str]:
    """First parts of the names of all modules that a file imports, at the top or further in."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(str(node.module).split(".")[0])
    return modules


def test_nothing_locked_drags_in_cuda_or_torchvision():
    unwanted = re.compile("nvidia|cuda|triton|torchvision|torchaudio|xformers|flash")
    assert not [name for name in locked_versions() if unwanted.search(name)]


def test_conda_installs_the_lock_on_a_python_that_the_project_takes():
    pip = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
    conda = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
    assert pip == ["-r requirements.lock", "-e ."], "conda takes the lock, not a list of its own"
    python = next(entry.removeprefix("python=") for entry in conda if entry.startswith("python="))
    assert Version(python) in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert {entry for entry in conda if not entry.startswith("python=")} == {"pip"}


def test_no_file_of_the_set_up_names_a_host_or_a_place_on_one_machine():
    for name in (
        "requirements.lock",
        "environment.yml",
        "pyproject.toml",
        "setup.py",
        "Makefile",
        ".ci/run",
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|file:|--(extra-)?index-url|--hash|--find-links", text), (
            name
        )
        assert not re.search(r"(?<![\w.])/(work|home|root|Users|opt)/", text), name


def packed() -> dict[str, Path]:
    """What a wheel carries beside the package: place -> file."""
    return {place: file for file, place in runpy.run_path(str(ROOT / "setup.py"))["carried"]()}


def test_the_wheel_carries_the_app_whole():
    found = {file for place, file in packed().items() if place.startswith("apps/")}
    sources = {file for file in (ROOT / "apps").rglob("*") if file.is_file()}
    assert found == {file for file in sources if "__pycache__" not in file.parts}


def test_the_wheel_carries_checkpoints_whole_and_knows_the_others():
    places = packed()
    for folder in (ROOT / "data" / "checkpoints").iterdir():
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        names = {"SHA256SUMS", *(line.partition("  ")[2] for line in lines)}
        start = f"data/checkpoints/{folder.name}/"
        carried = {place.removeprefix(start) for place in places if place.startswith(start)}
        if folder.name in CARRIED:
            assert carried == names, folder.name
        else:
            assert carried == set()
            assert f"data/left_behind/{folder.name}/SHA256SUMS" in places
            assert f"data/left_behind/{folder.name}/model_index.json" in places


def test_the_wheel_carries_the_notebooks_and_what_they_open():
    places = packed()
    sources = sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))
    assert len(sources) == 12
    opened = set()
    for source in sources:
        assert f"notebooks/{source.stem}.ipynb" in places
        assert f"notebooks/solutions/{source.stem}.ipynb" in places
        text = source.read_text(encoding="utf-8")
        opened |= set(re.findall(r"lab\.pipeline\(\"([\w-]+)\"", text))
        opened |= {f"features-{name}" for name in re.findall(r'load_features\("(\w+)"', text)}
        for result in re.findall(r'lab\.result\("([\w-]+)"', text):
            assert f"data/results/{result}.json" in places
    assert {"cifar10", "digits", "cifar10-turbo"} <= opened <= set(CARRIED)


def test_the_wheel_carries_nothing_of_anybodys_own_and_fits_on_pypi():
    places = packed()
    own = re.compile(r"\.ipynb_checkpoints|^notebooks/.*runs/|my_ecar")
    assert not [place for place in places if own.search(place)]
    size = sum(len(zlib.compress(file.read_bytes(), 6)) for file in places.values())
    assert size < 90e6, "PyPI takes 100 MB"


def test_a_build_puts_them_where_the_kit_looks(tmp_path):
    """As pip does it, but for the compression."""
    command = ["-q", "egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib"]
    build = [sys.executable, "setup.py", *command, str(tmp_path / "lib")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    package = tmp_path / "lib" / "ecar_lab"
    for place, file in packed().items():
        assert (package / "packed" / place).stat().st_size == file.stat().st_size
    assert (package / "cli" / "main.py").is_file()
    assert {one.name for one in (tmp_path / "lib").iterdir()} == {"ecar_lab"}
    said = "import ecar_lab.home as h; print(h.is_packed(), h.home(), *h.left_behind())"
    ran = subprocess.run(
        [sys.executable, "-c", said], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "lib")},
    )  # fmt: skip
    left = ["cifar10-dit", "imagenette128-turbo"]
    assert ran.stdout.split() == ["True", str(package / "packed"), *left]


def test_the_command_and_its_package_are_declared():
    assert PROJECT["scripts"] == {"ecar": "ecar_lab.cli.main:main"}
    assert PROJECT["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
