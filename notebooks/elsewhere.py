"""What lets a notebook run where the kit is not installed: a line of links and a set-up cell.

Both hold for one repository and one release. The repository's address is that of ``[project.urls]``
in pyproject.toml; as long as there is none, notebooks have neither.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAG = "skip-execution"  # nbclient passes such a cell over: the outputs that are committed stay
SET_UP = """# Where the kit is missing, as on Colab, this installs it; elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("ecar_lab") is None:
    import subprocess
    import sys

    fetch = "git clone -q --depth 1 --branch v{version} {address} ecar-lab"
    subprocess.run(fetch.split(), check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", "ecar-lab"], check=True)
    sys.path.insert(0, "ecar-lab")"""


def project() -> dict:
    """The table ``[project]`` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def published_at() -> str | None:
    """The address of the public repository, if the project names one."""
    named = {name.lower(): url for name, url in project().get("urls", {}).items()}
    found = named.get("repository") or named.get("source")
    return address(found) if found else None


def address(text: str) -> str:
    """The address of a repository, as Colab and Binder need it.

    Raises:
        argparse.ArgumentTypeError: it is not one of GitHub's.
    """
    found = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no repository that Colab and Binder open: use https://github.com/OWNER/NAME"
        )
    return f"https://github.com/{found[1]}/{found[2]}"


def links(repository: str, path: str) -> str:
    """The line that opens a notebook elsewhere; words, since a picture would come from others."""
    name, release = repository.removeprefix("https://github.com/"), f"v{project()['version']}"
    colab = f"https://colab.research.google.com/github/{name}/blob/{release}/{path}"
    binder = f"https://mybinder.org/v2/gh/{name}/{release}?urlpath=lab/tree/{path}"
    return f"**Run it**: [in Colab]({colab}) · [in Binder]({binder})"


def set_up(repository: str) -> str:
    """The text of the set-up cell."""
    return SET_UP.format(version=project()["version"], address=repository)
