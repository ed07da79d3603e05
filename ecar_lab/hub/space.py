"""A Gradio Space: a folder that serves the live app with one checkpoint, ready to be pushed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from ecar_lab.documents import read_json
from ecar_lab.errors import EcarError
from ecar_lab.files import as_folder, atomic_directory, check_folder, resolve_checkpoint
from ecar_lab.home import APP_CHECKPOINT
from ecar_lab.hub.pull import check_index, pull
from ecar_lab.hub.push import listing, stage
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schema import short
from ecar_lab.stored import INDEX, find_pipeline, is_hub_id

PYTHON = "3.11"  # the lock's
TORCH_FOR_CPU = "https://download.pytorch.org/whl/cpu"
README = """---
title: E-CAR, stage by stage
emoji: 🪜
colorFrom: blue
colorTo: green
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
license: mit
short_description: Watch an image grow from stage to stage
---
# E-CAR, stage by stage

The live app of `ecar_lab` on the checkpoint `{name}`. `python app.py` serves it on this machine
alone; on a Space it listens to the Space's proxy, under the name that the Space has.

It is public as it stands. One run computes at a time, the others wait in turns that go round: 12
of one visitor, 64 of one network, 256 of all. Behind the proxy of a Space all visitors are one
network. An upload has 5 MB at most, a visitor's files are deleted when they leave, and nothing
that a visitor sends is run. A password: the secret `ECAR_APP_AUTH`, `USER:PASSWORD`.

`requirements.txt` asks for PyTorch's CPU build; on a GPU Space take its second line out.
"""
APP = '''"""The live app of ecar_lab: on a Space behind its proxy, elsewhere for this machine."""

import os
import sys
from pathlib import Path

from ecar_lab.cli.main import main

CHECKPOINT = Path(__file__).resolve().with_name({name!r})
HOST = "0.0.0.0" if os.environ.get("SPACE_HOST") else "127.0.0.1"

if __name__ == "__main__":
    sys.exit(main(["app", "--checkpoint", str(CHECKPOINT), "--host", HOST]))
'''


def write_space(
    folder: str | Path, checkpoint: str = APP_CHECKPOINT, kit: str | None = None
) -> list[str]:
    """Writes the folder; it is there when all of it is, or not at all.

    Args:
        folder: new or empty.
        checkpoint: the name of one that ships, a folder, or OWNER/NAME on the Hub; it is copied,
            without the paths of this machine.
        kit: how pip finds the kit, e.g. ``ecar-lab @ https://.../ecar_lab-0.1.0-py3-none-any.whl``;
            None means the version that is running, from PyPI.

    Returns:
        The files that are no part of the checkpoint.

    Raises:
        EcarError: a folder that holds something, no checkpoint of an E-CAR, a kit that pip would
            not understand.
    """
    target = as_folder(folder)
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise EcarError(f"{str(target)!r} holds something already: give an empty or a new folder")
    check_folder(target)
    pins = requirements(kit)
    with atomic_directory(target) as fresh:
        if is_hub_id(checkpoint):
            name = checkpoint.partition("/")[2]
            pull(checkpoint, fresh / name)
        else:
            source = find_pipeline(resolve_checkpoint(checkpoint))
            whole = source.resolve()
            name = whole.parent.name if whole.name == "final" else whole.name
            stage(source, fresh / name, f"OWNER/{name}", None)
        index = read_json(fresh / name / INDEX, "the index", "copy the checkpoint again")
        if check_index(index, checkpoint) is not ECARPipeline:
            raise EcarError(
                f"{short(checkpoint)} is a baseline, and the app shows E-CAR: name an E-CAR, the "
                "DiT beside it is the app's to find"
            )
        gradio = importlib.metadata.version("gradio")
        words = README.format(name=name, gradio=gradio, python=PYTHON)
        (fresh / "README.md").write_text(words, encoding="utf-8")
        (fresh / "app.py").write_text(APP.format(name=name), encoding="utf-8")
        (fresh / "requirements.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    return [file for file in listing(target) if "/" not in file]


def requirements(kit: str | None = None) -> list[str]:
    """The lines of requirements.txt: the kit, and the versions of all that it asks for which are
    running here.

    Raises:
        EcarError: ``kit`` is no requirement.
    """
    kit = kit or f"ecar-lab=={importlib.metadata.version('ecar-lab')}"
    try:
        named = Requirement(kit)
    except InvalidRequirement:
        named = None
    if named is None or named.name != "ecar-lab":
        raise EcarError(
            f"kit {short(kit)} is nothing that pip installs the kit from: use ecar-lab==VERSION "
            "or 'ecar-lab @ https://ADDRESS.whl'"
        )
    declared = map(Requirement, importlib.metadata.requires("ecar-lab") or ())
    names = sorted(one.name for one in declared if one.marker is None)
    # A build's own mark, "+cpu", is that of one index only.
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in names}
    pins = [f"{name}=={version}" for name, version in versions.items()]
    return [str(named), f"--extra-index-url {TORCH_FOR_CPU}", *pins]
