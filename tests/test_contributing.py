"""What newcomers are told holds: make help, the hooks, the files that CONTRIBUTING.md names."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert lines, target
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in lines[1].splitlines()]


def test_make_help_lists_every_target_with_a_line():
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = dict(re.findall(r"^make ([\w-]+) +(\S.*)$", printed.stdout, re.MULTILINE))
    assert sorted(listed) == sorted(phony[1].split())


def test_every_phony_target_has_a_rule():
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony
    for target in phony[1].split():
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_a_commit_is_checked_by_all_that_lint_runs():
    entries = [hook["entry"].replace(" --force-exclude", "") for hook in HOOKS]
    for command in recipe("lint"):
        for files in (" .", " .github/workflows/*.yml"):  # which pre-commit names itself
            command = command.removesuffix(files)
        assert command.replace("--check .", "--check") in entries, command


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_needs_nothing_but_the_environment_of_the_kit(hook):
    assert hook["language"] == "system"
    program, *arguments = shlex.split(hook["entry"])
    assert program.startswith(".venv/bin/")
    files = [word for word in arguments if word.endswith(".py")]
    assert all((ROOT / file).is_file() for file in files)
    watched = re.compile(hook.get("files", r"\.py$"))
    assert any(watched.search(name) for name in tracked())


def tracked() -> list[str]:
    """Files of the kit, by their path in it."""
    folders = ("ecar_lab", "apps", "notebooks", "docs", ".github")
    return [str(f.relative_to(ROOT)) for folder in folders for f in (ROOT / folder).rglob("*")]


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`([\w.]+(?:/[\w.]*)+|[\w.]+\.(?:md|toml|yaml|lock))`", GUIDE)))
)
def test_a_file_that_the_guide_names_is_there(name):
    """NAME and NN stand for what is added: there is one like it already."""
    pattern = re.sub(r"NAME|NN_name", "[!_]*", name)
    assert list(ROOT.glob(pattern.rstrip("/"))), name


@pytest.mark.parametrize("name", ["HUB_IDS", "PRESETS", "TABS", "IndexedSource", "load_table"])
def test_a_name_that_the_guide_sends_to_is_there(name):
    line = next(line for line in GUIDE.splitlines() if f"`{name}`" in line)
    files = re.findall(r"`((?:ecar_lab|apps)/[\w/]+\.py)`", line)
    text = "".join((ROOT / file).read_text("utf-8") for file in files)
    assert re.search(rf"\b{name}\b", text), name


def test_the_changelog_has_the_version_of_the_package_and_an_open_section():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    heads = re.findall(
        r"^## ([\w.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert heads[:2] == ["Unreleased", project["version"]]
