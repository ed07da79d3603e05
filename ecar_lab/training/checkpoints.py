"""Training checkpoints: everything a run needs to go on, as safetensors and JSON.

A checkpoint is a folder ``checkpoints/step-00001000`` with ``model.safetensors``,
``ema.safetensors``, ``optimizer.safetensors``, ``state.json`` and the checksums of these. It
appears under its name complete or not at all, and nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from ecar_lab.errors import EcarError
from ecar_lab.files import (
    Tensors,
    atomic_directory,
    load_tensors,
    save_tensors,
    verify_checksums,
    write_checksums,
)
from ecar_lab.schema import short

FORMAT = 1
NAME = re.compile(r"step-(\d{8,})")
Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class UnsoundCheckpoint(EcarError):
    """A checkpoint that no run can go on from; the sentence says why."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Plan(_Record):
    total: Count | None
    start: Count
    progress: Annotated[float, Field(ge=0, le=1)]
    settled: bool


class _Position(_Record):
    epoch: Count
    start: Count


class _Guard(_Record):
    recent: list[Finite]
    strikes: Count


class State(_Record):
    """What ``state.json`` holds; checkpoints from before there was an ``identity`` have none."""

    format: Literal[1]
    step: Count
    global_batch: Annotated[int, Field(ge=1)]
    plan: _Plan
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    config: dict[str, Any]
    position: _Position
    ema_steps: Count
    meter: dict[str, tuple[float | list[Any], float | list[Any]]]
    guard: _Guard
    last_row: dict[str, Any]
    identity: dict[str, Any] | None = None


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` stands."""
    return run / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    root = run / "checkpoints"
    if not root.is_dir():
        return []
    found = [f for f in root.iterdir() if f.is_dir() and NAME.fullmatch(f.name)]
    return sorted(found, key=lambda folder: int(folder.name[len("step-") :]))


def save_checkpoint(
    run: Path, step: int, tensors: dict[str, Tensors], state: dict[str, Any], keep: int
) -> Path:
    """Writes one checkpoint, then drops all but the newest ``keep``.

    Args:
        tensors: file stem -> named tensors (``model``, ``ema``, perhaps ``second_ema``,
            ``optimizer``).
        state: whatever JSON holds: step, plan, configuration, data position, logs.

    Raises:
        EcarError: the disk is full or the place cannot be written; older checkpoints are intact.
    """
    folder = checkpoint_folder(run, step)
    with atomic_directory(folder) as fresh:
        for stem, named in tensors.items():
            save_tensors(fresh / f"{stem}.safetensors", named)
        (fresh / "state.json").write_text(json.dumps({"format": FORMAT, **state}), encoding="utf-8")
        write_checksums(fresh)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Reads one checkpoint: its tensors per file stem, and its state.

    Raises:
        UnsoundCheckpoint: a file is missing, truncated, of an unknown format, or not the one that
            was written.
    """
    try:
        verify_checksums(folder)
        state = read_state(folder)
        tensors = {file.stem: load_tensors(file) for file in sorted(folder.glob("*.safetensors"))}
    except UnsoundCheckpoint:
        raise
    except EcarError as error:  # what the checksums say; its remedy is not the one here
        unsound(folder, str(error).rpartition(": ")[0] or str(error))
    except (OSError, ValueError, SafetensorError) as error:
        unsound(folder, str(error))
    missing = {"model", "ema", "optimizer"} - set(tensors)
    if missing:
        unsound(folder, f"it lacks {min(missing)}.safetensors")
    return tensors, state


def read_state(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's ``state.json``.

    Raises:
        UnsoundCheckpoint: a field is missing, unknown or of another kind, or the step is not the
            one that the folder's name says.
    """
    text = (folder / "state.json").read_bytes()
    try:
        state = State.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("format",):
            unsound(
                folder,
                f"state.json is of format {short(first['input'])}, this version of the kit reads "
                f"{FORMAT}",
            )
        place = ".".join(map(str, first["loc"])) or "the whole"
        unsound(folder, f"state.json: {place}: {first['msg']}")
    named = NAME.fullmatch(folder.name)
    if named and int(named[1]) != state.step:
        unsound(folder, f"state.json says step {state.step}")
    if state.ema_steps != state.step:
        unsound(folder, f"state.json says step {state.step}, but {state.ema_steps} averages")
    return state.model_dump()


def unsound(folder: Path, reason: str) -> NoReturn:
    """Refuses a checkpoint.

    Raises:
        UnsoundCheckpoint: always.
    """
    raise UnsoundCheckpoint(
        f"the checkpoint {str(folder)!r} is damaged ({reason}): delete the folder to go on from "
        "the checkpoint before it"
    )


def set_unsound_aside(run: Path, folder: Path) -> str:
    """Gives an unsound checkpoint of a run another name, under which it is none; says so."""
    target = folder.with_name(f"{folder.name}.unsound")
    while target.exists():
        target = target.with_name(f"{target.name}.1")
    try:
        folder.rename(target)
    except OSError as error:
        return f"it is passed over ({error.strerror})"
    return f"it is kept as {target.relative_to(run)}"
