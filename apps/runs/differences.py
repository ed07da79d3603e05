"""What sets two runs apart, in words and in numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from apps.shared.settings import Edit, Settings, interval_text
from ecar_lab.tokenizers.base import psnr
from ecar_lab.viz.pictures import pixel_distance

Row = tuple[str, str, str]


def differing_settings(a: Settings, b: Settings) -> list[Row]:
    """(what, in A, in B) for everything that the two runs do not share, and for nothing else."""
    # A stage's own class or noise takes the place of the run's.
    per_stage = {"class": bool(a.classes or b.classes), "seed": bool(a.seeds or b.seeds)}
    noisy_edits = any(edit.action == "noise" for edit in (*a.edits, *b.edits))
    first, second = (_facts(run, per_stage, noisy_edits) for run in (a, b))
    rows = [(name, first[name], second[name]) for name in first if first[name] != second[name]]
    return rows + _edits(a.edits, b.edits)


def _facts(run: Settings, per_stage: dict[str, bool], noisy_edits: bool) -> dict[str, str]:
    """Everything but the edits, in words."""
    facts = {"Solver": run.solver, "Start": str(run.painted or "noise")}
    if not per_stage["class"]:
        facts["Class"] = run.class_name
    if not per_stage["seed"]:
        facts["Seed"] = str(run.seed)
    elif noisy_edits:
        facts["Seed of the edits' noise"] = str(run.seed)
    for stage, (steps, scale) in enumerate(zip(run.steps, run.guidance, strict=True)):
        where = f"in stage {stage + 1}"
        if per_stage["class"]:
            facts[f"Class {where}"] = str(_at(run.classes, stage, run.class_name))
        if per_stage["seed"]:
            facts[f"Seed of the noise {where}"] = str(_at(run.seeds, stage, run.seed))
        for name, other, shares in (
            ("Mixed with class", run.mix_class, run.mix),
            ("Noise walked towards seed", run.walk_seed, run.walk),
        ):
            share = _at(shares, stage, 0)
            facts[f"{name} {where}"] = f"{other}, {share:.0%}" if share else "no"
        facts[f"Flow steps {where}"] = str(steps)
        facts[f"Time power {where}"] = f"{run.all_powers[stage]:g}"
        facts[f"Guidance {where}"] = f"{scale:g}"
        facts[f"Local times of guidance {where}"] = interval_text(run.all_intervals[stage])
        if stage:
            new = _at(run.renoise, stage, True)
            facts[f"New noise at the start of stage {stage + 1}"] = "yes" if new else "no"
    return facts


def _at(own: tuple, stage: int, common: object) -> object:
    return own[stage] if own else common


def _edits(a: tuple[Edit, ...], b: tuple[Edit, ...]) -> list[Row]:
    rows = []
    for number in range(max(len(a), len(b))):
        pair = [edits[number] if number < len(edits) else None for edits in (a, b)]
        if pair[0] == pair[1]:
            continue
        first, second = (_edit(edit) for edit in pair)
        if first == second:
            second += " (other pixels)"
        rows.append((f"Edit {number + 1}", first, second))
    return rows


def _edit(edit: Edit | None) -> str:
    return "none" if edit is None else str(edit)


def distance(a: Path, b: Path) -> tuple[float, float]:
    """How far two image files are apart: PSNR in dB and root mean square in levels of 255.

    Equal images give infinity and 0.
    """
    first, second = (_picture(path) for path in (a, b))
    rms = 255 * pixel_distance(first, second).square().mean().sqrt().item()
    if rms == 0:
        return float("inf"), 0.0
    return psnr(first[None], second[None]), rms


def _picture(path: Path) -> torch.Tensor:
    """(3, H, W) in [-1, 1]."""
    with Image.open(path) as image:
        levels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(levels / 127.5 - 1).movedim(-1, 0)


def distance_in_words(a: Path, b: Path) -> str:
    """The same as a sentence."""
    decibels, rms = distance(a, b)
    if rms == 0:
        return "The images are the same, pixel for pixel."
    return f"The images are {rms:.1f} of 255 levels apart (RMS), PSNR {decibels:.1f} dB."
