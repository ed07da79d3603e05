"""pyproject.toml, requirements.lock and environment.yml describe one set of packages."""

import ast
import re
import sys
import tomllib
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
    for name in ("requirements.lock", "environment.yml", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|file:|--(extra-)?index-url|--hash|--find-links", text), (
            name
        )
        assert not re.search(r"(?<![\w.])/(work|home|root|Users|opt)/", text), name


def test_the_command_and_its_package_are_declared():
    assert PROJECT["scripts"] == {"ecar": "ecar_lab.cli.main:main"}
    assert PROJECT["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
