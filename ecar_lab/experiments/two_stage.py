"""The seed's second experiment: a second stage beside one, same images seen, same parameters.

Does it gain quality, and what does it save? Quality over FLOPs of sampling, and time in one run.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.studies import (
    QUALITY_HEADER,
    Variant,
    quality_rows,
    stages,
    study,
    time_runs,
    train_all,
)

STEPS = {"smoke": (2,), "cpu": (1, 2, 4, 8, 16), "gpu": (2, 4, 8, 16, 32)}
TIMED_STEPS = 8
VARIANTS = (
    Variant("one stage", model=stages(1), settings={"stage_strides": None, "head_draws": None}),
    Variant("two stages", model=stages(2), settings={"stage_strides": None, "head_draws": None}),
)


def run(lab: Lab) -> dict[str, Any]:
    """One stage against two, at several steps per stage."""
    rows = study(lab, VARIANTS, STEPS[lab.size.name])
    runs = {name: trained[0] for name, trained in train_all(lab, VARIANTS).items()}
    return {"rows": rows, "timed_steps": TIMED_STEPS, "time": time_runs(lab, runs, TIMED_STEPS)}


def draw(result: dict[str, Any]) -> Figure:
    """Quality over FLOPs."""
    figure, (axis,) = figures.new_figure(width=5)
    for index, row in enumerate(result["rows"]):
        entries = row["quality"]
        x, y = [e["gflop"] for e in entries], [e["frechet"] for e in entries]
        figures.line(axis, row["name"], x, y, index)
    figures.logarithmic(axis, "x", "y", xlabel="GFLOP per image", ylabel="Frechet distance")
    axis.set_title("A second stage: quality at equal cost", fontsize=10, loc="left")
    axis.legend(frameon=False)
    return figure


def table(result: dict[str, Any]) -> str:
    """Quality at every step count, then time and memory."""
    steps = result["timed_steps"]
    timed = [
        [name, f"{entry['seconds_per_image'] * 1e3:.2f}", f"{entry['peak_mib']:.0f}"]
        for name, entry in result["time"].items()
    ]
    header = ["", f"ms per image, {steps} steps per stage, batch 16", "peak MiB"]
    quality = figures.markdown_table(QUALITY_HEADER, quality_rows(result["rows"]))
    return f"{quality}\n\n{figures.markdown_table(header, timed)}"
