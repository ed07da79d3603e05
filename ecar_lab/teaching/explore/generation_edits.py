"""Notebook 7, its second half: edits, walks between images, recipes and the bill."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ecar_lab.events import TraceEvent
from ecar_lab.teaching.explore.generation_controls import Groups, gallery
from ecar_lab.teaching.figures import show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.viz.pictures import contact_sheet, save_gif, strip_frames


def edits(images: Groups) -> None:
    """Shows two runs, one of them without re-noising too, then every edit, one row per stage."""
    show(
        gallery(images, 3, 1),
        "Figure 7.11. Top: two runs, and A without re-noising, which has lost its detail. Below, "
        "one row per stage: A's left half zeroed, made noise, or taken from B, at that stage's "
        "end.",
        "Three columns: zero, noise, paste; one row per stage. Edits at the end of stage 1 leave "
        "little trace; after stage 2 the seam is soft; after stage 3 a hard edge cuts the image in "
        "two.",
    )


def seams(found: Mapping[str, Sequence[float]], without: tuple[float, float]) -> None:
    """Shows the seam at the middle by kind of edit and stage, and that of A and B unedited."""
    stages = [f"stage {stage}" for stage in (1, 2, 3)]
    table(
        ["seam at the middle", *stages],
        [(kind, *(f"{seam:.2f}" for seam in row)) for kind, row in found.items()],
    )
    print(f"seam without edits: {without[0]:.2f} (A), {without[1]:.2f} (B)")


def walks(images: Groups) -> None:
    """Shows the ways between two noises, straight and along the arc, and between two classes."""
    show(
        gallery(images, 1, max(map(len, images.values()))),
        "Figure 7.12. Between two noises on the straight line and on the arc: with too little "
        "noise the middle goes smooth. Bottom: between two classes, with the same noise.",
        "Three rows of five images. Top: the middle image is smooth, with little detail. Middle "
        "row: every image is an automobile with detail. Bottom: from an automobile to a horse.",
    )


def votes(found: Mapping[float, tuple[float, float]]) -> None:
    """Shows share of horse -> shares classified as automobile and as horse."""
    table(
        ["share of horse", "classified as automobile", "as horse", "as something else"],
        [
            (f"{share:.0%}", f"{a:.0%}", f"{b:.0%}", f"{1 - a - b:.0%}")
            for share, (a, b) in found.items()
        ],
    )


def fingerprint(image: Image.Image) -> str:
    """SHA-256 of an image's pixels."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def keep(events: Sequence[TraceEvent], tokenizer: Any, folder: Path, title: str) -> None:
    """Writes a run as GIF and as contact sheet beside its recipe, and lists the files."""
    save_gif(strip_frames(events, tokenizer, side=96), folder / "ship.gif")
    contact_sheet(events, tokenizer, title=title).save(folder / "ship.png")
    for file in sorted(folder.glob("ship.*")):
        print(f"{file.name}: {file.stat().st_size / 1024:.1f} KiB")


def watched(seen: Sequence[str], stopped: Tensor) -> None:
    """Prints what a callback saw, and the shape of what came out."""
    print("step: std of the latent", *seen, sep="  ")
    print("stopped after stage 2:", tuple(stopped.shape))


def bills(found: Mapping[str, tuple[float, float]]) -> None:
    """Shows knob -> GFLOP and seconds of an image, as multiples of the first, the usual one."""
    usual, *_ = found.values()
    table(
        ["knob", "GFLOP", "of the usual", "seconds, of the usual"],
        [
            (name, f"{gflop:.2f}", f"{gflop / usual[0]:.2f}", f"{seconds / usual[1]:.2f}")
            for name, (gflop, seconds) in found.items()
        ],
    )
    print(f"the usual: {usual[0]:.2f} GFLOP, {1000 * usual[1]:.0f} ms")


def dearest_plan():
    """A question: which plan of guidance costs most."""
    return quiz(
        "Which plan costs most?",
        {
            "Guidance 1.0001 in stage 3 only": "Stage 3's head runs twice, and the transformer "
            "twice in all stages.",
            "Guidance 4 in stage 1 only": "Both halves run in stage 1 alone, and that has the "
            "fewest tokens.",
            "Guidance 0 in stage 2 only": "The scale is not 1, so both halves run up to stage 2. "
            "But most tokens are in stage 3.",
        },
        right="Guidance 1.0001 in stage 3 only",
    )
