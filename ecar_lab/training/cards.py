"""Model cards: the README.md beside weights that says where they come from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from ecar_lab.data import DatasetInfo
from ecar_lab.machine import command_line, machine, versions
from ecar_lab.training.config import TrainConfig


def number(value: Any) -> str:
    """A number, or a list of numbers, with four digits."""
    if isinstance(value, list | tuple):
        return ", ".join(number(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


# How a card says how many images a model has seen: as `write_card` does, or in a row by hand.
IMAGES_SEEN = re.compile(
    r"^\| (?:images seen \| ([\d,]+) \||model \| ([\d,]+) images\b)", re.MULTILINE
)


def images_seen(folder: Path) -> int | None:
    """How many images a checkpoint was trained on, repetitions counted: as its card says, else as
    its ``training.json`` plans (steps times batch, one process). None: neither says, or a time
    box may have ended the plan."""
    try:
        found = IMAGES_SEEN.search((folder / "README.md").read_text(encoding="utf-8"))
        if found:
            return int((found[1] or found[2]).replace(",", ""))
    except (OSError, ValueError):
        pass
    try:
        plan = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        if plan.get("max_minutes") is not None:
            return None
        return int(plan["steps"]) * int(plan["batch_size"]) * int(plan.get("grad_accum", 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_card(
    folder: Path,
    title: str,
    lines: list[str],
    cfg: TrainConfig,
    data: DatasetInfo,
    report: dict[str, Any],
    results: dict[str, Any],
    device: torch.device,
) -> None:
    """Writes ``README.md``: what it is, how it was trained, and what was measured.

    Args:
        lines: what to say about use, before the facts.
        report: of the trainer: steps, images, minutes, processes, losses of the last log.
        results: name -> number, measured on the finished weights.
    """
    facts = {
        "data": f"{data.name}, split {data.split}, "
        f"{'streamed' if data.num_images is None else f'{data.num_images:,} images'}, "
        f"{data.image_size}x{data.image_size}, {data.num_classes} classes",
        "images seen": number(report["images"]),
        "steps": f"{report['steps']:,} of {report['planned_steps'] or report['steps']:,}",
        "training time": f"{report['minutes']:.1f} minutes",
        "machine": machine(device),
        "command": f"`{command_line()}`{started_by(report['processes'])}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    losses = {
        name: value
        for name, value in report["last"].items()
        if name.startswith("loss") and name != "loss_bin"
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    measured = [f"| {name} | {number(value)} |" for name, value in {**losses, **results}.items()]
    text = [
        "---",
        "library_name: diffusers",
        "license: mit",
        "---",
        f"# {title}",
        "",
        *lines,
        "",
        "## Training",
        "| | |",
        "|---|---|",
        *rows,
        "",
        "`training.json` beside this file is the whole configuration: "
        f"`ecar train {cfg.kind} --config training.json` repeats the run.",
        "",
        "## Measured",
        "| | |",
        "|---|---|",
        *measured,
        "",
    ]
    (folder / "README.md").write_text("\n".join(text), encoding="utf-8")


def started_by(processes: int) -> str:
    """What a command line does not say of itself: that a launcher started several of it."""
    if processes == 1:
        return ""
    return (
        f" in {processes} processes (`torchrun --standalone --nproc-per-node {processes} "
        "-m ecar_lab.cli` in the place of `ecar`)"
    )
