"""The seed's first experiment: one stage, which is plain flow matching, as the point of departure.

Quality over the number of steps; every later experiment is read against it.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ecar_lab.cost import total_flops
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import frechet, named_right, plus_minus, spread

STEPS = (1, 2, 4, 8, 16, 32)


def run(lab: Lab) -> dict[str, Any]:
    """Frechet distance, class accuracy and FLOPs of a one-stage model at several step counts."""
    from ecar_lab.baselines import load_pipeline

    runs = [
        lab.train(
            seed=seed,
            model={"num_stages": 1, "window_ends": None},
            stage_strides=None,
            head_draws=None,
        )
        for seed in lab.each(lab.size.seeds, "training")
    ]
    model = load_pipeline(runs[0].folder).model
    rows = []
    for steps in lab.each(STEPS, "sampling"):
        results = [lab.evaluate(trained, num_inference_steps=steps) for trained in runs]
        rows.append(
            {
                "steps": steps,
                "frechet": spread([frechet(result) for result in results]),
                "named_right": spread([named_right(result) or 0.0 for result in results]),
                "gflop": total_flops(model.flops(steps)) / 1e9,
            }
        )
    return {"trained": [trained.record() for trained in runs], "rows": rows}


def draw(result: dict[str, Any]) -> Figure:
    """Quality over steps."""
    figure, (axis,) = figures.new_figure()
    rows = result["rows"]
    figures.line(axis, "one stage", [r["steps"] for r in rows], [r["frechet"] for r in rows])
    figures.logarithmic(axis, "x", "y", xlabel="flow steps", ylabel="Frechet distance")
    axis.set_xticks([r["steps"] for r in rows], [str(r["steps"]) for r in rows], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_title("One stage: plain flow matching", fontsize=10, loc="left")
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per step count."""
    rows = [
        [
            row["steps"],
            plus_minus(row["frechet"]),
            f"{row['named_right']['mean']:.1%}",
            f"{row['gflop']:.3f}",
        ]
        for row in result["rows"]
    ]
    return figures.markdown_table(["steps", "Frechet distance", "named right", "GFLOP"], rows)
