"""Quality over cost of sampling: E-CAR against DiT, one stage and full denoise per scale, of equal
size, data and images seen, trained here with several seeds. (Experiment ``shipped`` compares the
checkpoints that ship.)
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.studies import (
    QUALITY_HEADER,
    Variant,
    measure,
    quality_rows,
    stages,
    train_all,
)

PLAIN: dict[str, Any] = {"stage_strides": None, "head_draws": None}
ARMS = (
    Variant("E-CAR", settings=PLAIN),
    Variant("DiT", architecture="dit", settings=PLAIN),
    Variant("one stage", model=stages(1), settings=PLAIN),
    Variant(
        "full denoise per scale", model={"coupling": "restart", "window_ends": None}, settings=PLAIN
    ),
)
STEPS = {
    "smoke": {"E-CAR": (2,), "DiT": (2,), "one stage": (2,), "full denoise per scale": (2,)},
    "cpu": {
        "E-CAR": (1, 2, 4, 8, 16),
        "DiT": (2, 4, 8, 16, 50),
        "one stage": (2, 4, 8, 16, 50),
        "full denoise per scale": (2, 4, 8, 16),
    },
}
STEPS["gpu"] = STEPS["cpu"]


def run(lab: Lab) -> dict[str, Any]:
    """Every arm at every number of steps."""
    runs = train_all(lab, ARMS)
    rows = []
    for arm in lab.each(ARMS, "sampling"):
        counts = STEPS[lab.size.name][arm.name]
        rows.append(
            {
                "name": arm.name,
                "parameters": runs[arm.name][0].parameters,
                "images": runs[arm.name][0].images,
                "train_pflop": runs[arm.name][0].train_flops / 1e15,
                "quality": [measure(lab, runs[arm.name], count) for count in counts],
            }
        )
    return {"rows": rows}


def draw(result: dict[str, Any]) -> Figure:
    """Distance over FLOPs of sampling."""
    figure, (axes,) = figures.new_figure(1, width=5)
    for index, row in enumerate(result["rows"]):
        entries = row["quality"]
        x, y = [e["gflop"] for e in entries], [e["frechet"] for e in entries]
        figures.line(axes, row["name"], x, y, index)
    figures.logarithmic(axes, "x", "y", xlabel="GFLOP per image", ylabel="Frechet distance")
    axes.set_title(f"{result['size']['preset']}: equal images seen", fontsize=10, loc="left")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center", ncols=2, fontsize=8, frameon=False,
    )  # fmt: skip
    return figure


def table(result: dict[str, Any]) -> str:
    """Quality of every arm."""
    return figures.markdown_table(QUALITY_HEADER, quality_rows(result["rows"]))
