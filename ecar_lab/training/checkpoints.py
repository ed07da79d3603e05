"""Training checkpoints: everything a run needs to go on, as safetensors and JSON.

A checkpoint is a folder ``checkpoints/step-00001000`` with ``model.safetensors``,
``ema.safetensors``, ``optimizer.safetensors`` and ``state.json``. It appears under its name
complete or not at all, and nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.files import Tensors, atomic_directory, load_tensors, save_tensors

FORMAT = 1
NAME = re.compile(r"step-(\d{8})")


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` stands."""
    return run / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    root = run / "checkpoints"
    if not root.is_dir():
        return []
    return sorted(f for f in root.iterdir() if f.is_dir() and NAME.fullmatch(f.name))


def save_checkpoint(
    run: Path, step: int, tensors: dict[str, Tensors], state: dict[str, Any], keep: int
) -> Path:
    """Writes one checkpoint, then drops all but the newest ``keep``.

    Args:
        tensors: file stem -> named tensors (``model``, ``ema``, ``optimizer``).
        state: whatever JSON holds: step, plan, configuration, data position, logs.

    Raises:
        EcarError: the disk is full or the place cannot be written; older checkpoints are intact.
    """
    folder = checkpoint_folder(run, step)
    with atomic_directory(folder) as fresh:
        for stem, named in tensors.items():
            save_tensors(fresh / f"{stem}.safetensors", named)
        (fresh / "state.json").write_text(json.dumps({"format": FORMAT, **state}), encoding="utf-8")
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def remove_leftovers(run: Path) -> None:
    """Removes the half-written folders that a killed run left beside the complete ones."""
    for folder in [*run.glob(".final-*"), *run.glob("checkpoints/.step-*")]:
        shutil.rmtree(folder, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Reads one checkpoint: its tensors per file stem, and its state.

    Raises:
        EcarError: a file is missing, truncated, or of an unknown format.
    """
    remedy = f"delete the folder {str(folder)!r} to go on from the checkpoint before it"
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = {file.stem: load_tensors(file) for file in folder.glob("*.safetensors")}
    except (OSError, ValueError, SafetensorError) as error:
        raise EcarError(f"the checkpoint {str(folder)!r} is damaged ({error}): {remedy}") from error
    if state.get("format") != FORMAT:
        raise EcarError(
            f"the checkpoint {str(folder)!r} has format {state.get('format')}, "
            f"this version reads {FORMAT}: {remedy}"
        )
    missing = {"model", "ema", "optimizer"} - set(tensors)
    if missing:
        raise EcarError(
            f"the checkpoint {str(folder)!r} lacks {min(missing)}.safetensors: {remedy}"
        )
    return tensors, state


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> Tensors:
    """The state of all optimizers as named tensors: ``<optimizer>.<parameter>.<entry>``."""
    named: Tensors = {}
    for number, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                named[f"{number}.{index}.{key}"] = torch.as_tensor(value)
    return named


def load_optimizer_tensors(optimizers: list[torch.optim.Optimizer], named: Tensors) -> None:
    """Puts back what ``optimizer_tensors`` took; settings such as the learning rate stay as built.

    Raises:
        EcarError: the tensors do not belong to optimizers of this shape.
    """
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in named.items():
        number, index, key = name.split(".", 2)
        if int(number) >= len(states):
            raise EcarError(f"the checkpoint holds the state of an optimizer {number}, which this "
                            "run does not have: keep the optimizer of the old run")  # fmt: skip
        states[int(number)].setdefault(int(index), {})[key] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for index, entries in state.items():
            for key, tensor in entries.items():
                known = index < len(parameters)
                if not known or (tensor.ndim and tensor.shape != parameters[index].shape):
                    raise EcarError(
                        f"the optimizer state {key} of parameter {index} has shape "
                        f"{tuple(tensor.shape)} and fits no parameter of this model: "
                        "resume with the model and optimizer of the old run"
                    )
                if tensor.ndim:  # fused optimizers walk weights and state in the same memory order
                    entries[key] = torch.empty_like(parameters[index]).copy_(tensor)
        optimizer.load_state_dict({"state": state, "param_groups": groups})
