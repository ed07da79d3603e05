"""Runs as a table of text, and which of them no other beats in both time and distance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ecar_lab.runs.records import Run

HEADER = ("run", "kind", "preset", "weights", "images", "minutes", "loss", "distance", "")


def cells(run: Run) -> tuple[str, ...]:
    """What the table says of a run; a dash where it says nothing."""
    distance = run.distance
    return (
        run.name,
        run.kind,
        run.preset,
        "–" if run.parameters is None else f"{run.parameters / 1e6:.2f} M",
        "–" if run.images is None else f"{run.images:,}",
        "–" if run.minutes is None else f"{run.minutes:.1f}",
        "–" if run.loss is None else f"{run.loss:.4f}",
        "–" if distance is None else f"{distance.value:.3f}",
        "" if run.finished else "unfinished",
    )


def table(runs: Sequence[Run]) -> str:
    """The runs line by line, numbers to the right."""
    rows = [HEADER, *map(cells, runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = []
    for row in rows:
        words = [
            f"{word:<{width}}" if column < 3 or column == len(HEADER) - 1 else f"{word:>{width}}"
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    return "\n".join(lines)


def comparable(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs whose distances were measured alike, by the measure that most of them have; and a
    sentence for each that was measured otherwise."""
    measured = [run for run in runs if run.distance is not None and run.minutes]
    if not measured:
        return [], []
    counts: Counter[Any] = Counter(run.distance.measure for run in measured if run.distance)
    usual, _ = counts.most_common(1)[0]
    alike = [run for run in measured if run.distance and run.distance.measure == usual]
    left = [
        f"{run.name}: its distance is of {run.distance.described}, which cannot be compared; left "
        "out of the plot"
        for run in measured
        if run.distance and run.distance.measure != usual
    ]
    return alike, left


def best(runs: Sequence[Run]) -> list[Run]:
    """Those that no other run beats in both minutes and distance, the shortest first."""
    front: list[Run] = []
    for run in sorted(runs, key=lambda one: (one.minutes, one.distance and one.distance.value)):
        if run.distance and (not front or run.distance.value < front[-1].distance.value):  # ty: ignore
            front.append(run)
    return front
