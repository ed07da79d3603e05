"""Open question 2 and the seed's first check: how many stages?

S = 1 ... 4 with all else fixed (parameters, data, optimizer, steps per stage), twice: at equal
images seen, and at equal training FLOPs, where the cheaper models see more images. The data set is
learned in pixels, so that four stages fit.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.records import Trained
from ecar_lab.experiments.lab.scores import plus_minus
from ecar_lab.experiments.lab.studies import (
    Variant,
    measure,
    stages,
    time_runs,
    train_all,
    with_room,
)

COUNTS = (1, 2, 3, 4)
STEPS = {"smoke": (2,), "cpu": (2, 4, 8), "gpu": (2, 4, 8, 16)}
TIMED_STEPS = 4


def variants(lab: Lab) -> list[Variant]:
    """One per number of stages."""
    base = with_room(lab)
    return [
        Variant(f"S = {count}", model={**base.model, **stages(count)}, settings=base.settings)
        for count in COUNTS
    ]


def run(lab: Lab) -> dict[str, Any]:
    """Quality, FLOPs, time and memory for every number of stages."""
    arms = variants(lab)
    equal_images = train_all(lab, arms)
    first = {name: runs[0] for name, runs in equal_images.items()}
    steps = steps_of_equal_flops(first, lab.size.steps)
    equal_flops = train_all(lab, arms, steps)
    time = time_runs(lab, first, TIMED_STEPS)
    rows = []
    for arm in lab.each(arms, "sampling"):
        row: dict[str, Any] = {"name": arm.name, "model": arm.model, **time[arm.name]}
        for budget, runs in (("equal_images", equal_images), ("equal_flops", equal_flops)):
            one = runs[arm.name][0]
            row[budget] = {
                "images": one.images,
                "train_pflop": one.train_flops / 1e15,
                "parameters": one.parameters,
                "quality": [measure(lab, runs[arm.name], k) for k in STEPS[lab.size.name]],
            }
        rows.append(row)
    return {"rows": rows, "timed_steps": TIMED_STEPS}


def steps_of_equal_flops(runs: dict[str, Trained], steps: int) -> dict[str, int]:
    """Optimizer steps that cost every variant as much as ``steps`` cost the cheapest one.

    The cheapest keeps its steps, the others get fewer.
    """
    per_image = {name: run.train_flops / run.images for name, run in runs.items()}
    cheapest = min(per_image.values())
    return {name: max(1, round(steps * cheapest / cost)) for name, cost in per_image.items()}


def draw(result: dict[str, Any]) -> Figure:
    """Quality over FLOPs of sampling, one line per number of stages, one panel per budget."""
    figure, axes = figures.new_figure(2)
    titles = {"equal_images": "Equal images seen", "equal_flops": "Equal training FLOPs"}
    for axis, (budget, title) in zip(axes, titles.items(), strict=True):
        for index, row in enumerate(result["rows"]):
            entries = row[budget]["quality"]
            x, y = [e["gflop"] for e in entries], [e["frechet"] for e in entries]
            figures.line(axis, row["name"], x, y, index)
        figures.logarithmic(axis, "x", "y", xlabel="GFLOP per image", ylabel="Frechet distance")
        axis.set_title(title, fontsize=10, loc="left")
    axes[0].legend(frameon=False)
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per number of stages and step count."""
    rows = [
        [
            row["name"],
            fewer["steps"][0],
            plus_minus(fewer["frechet"]),
            plus_minus(flops["frechet"]),
            f"{fewer['gflop']:.3g}",
            f"{row['equal_images']['train_pflop'] * 1e3:.0f}",
            f"{row['seconds_per_image'] * 1e3:.2f}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in result["rows"]
        for fewer, flops in zip(
            row["equal_images"]["quality"], row["equal_flops"]["quality"], strict=True
        )
    ]
    header = [
        *("stages", "steps per stage", "Frechet, equal images", "Frechet, equal training FLOPs"),
        *("GFLOP per image", "training TFLOP", f"ms per image ({result['timed_steps']} steps)"),
        "peak MiB",
    ]
    return figures.markdown_table(header, rows)
