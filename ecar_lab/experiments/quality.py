"""The headline: E-CAR against DiT of equal size, equal data, equal images seen, one evaluation.

Two parts. ``trained``: both (and one stage, and full denoise per scale) trained here with several
seeds, distance over FLOPs of sampling. ``shipped``: the two CIFAR-10 checkpoints that ship with the
kit, each at the guidance that suits it best.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ecar_lab import runtime
from ecar_lab.baselines import load_pipeline
from ecar_lab.cost import total_flops
from ecar_lab.experiments import figures
from ecar_lab.experiments.lab import Lab, frechet, named, named_right
from ecar_lab.experiments.studies import (
    QUALITY_HEADER,
    Variant,
    measure,
    quality_rows,
    stages,
    train_all,
)

PLAIN: dict[str, Any] = {"stage_strides": None}
ARMS = (
    Variant("E-CAR", settings=PLAIN),
    Variant("DiT", architecture="dit", settings=PLAIN),
    Variant("one stage", model=stages(1), settings=PLAIN),
    Variant("full denoise per scale", model={"coupling": "restart"}, settings=PLAIN),
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
SHIPPED = {"E-CAR": "cifar10", "DiT": "cifar10-dit"}
# How the shipped ones are sampled: several guidance scales are tried with few steps on few images,
# the best of them is measured with all steps on many.
GUIDANCE = {"E-CAR": (2.0, 2.5, 3.0), "DiT": (1.5, 2.0, 2.5)}
TRIAL_STEPS = {"E-CAR": [8, 6, 6], "DiT": 20}
# DiT's usual number of steps, and as many as cost what E-CAR's cost; E-CAR's, and fewer.
FINAL_STEPS: dict[str, list] = {"E-CAR": [[8, 6, 6], [4, 2, 2]], "DiT": [50, 7]}
TRIAL_IMAGES = {"cpu": 500, "gpu": 2000}
FINAL_IMAGES = {"cpu": 2000, "gpu": 10_000}


def run(lab: Lab) -> dict[str, Any]:
    """Both parts; the second is None where the checkpoints or the data set are not here."""
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
    return {"rows": rows, "shipped": None if lab.size.name == "smoke" else shipped(lab)}


def shipped(lab: Lab) -> dict[str, Any] | None:
    """The shipped checkpoints, at the best guidance of each."""
    root = runtime.checkpoints_root()
    if runtime.data_root(lab.data_root) is None or any(
        not (root / name / "model_index.json").is_file() for name in SHIPPED.values()
    ):
        return None
    found: dict[str, Any] = {}
    for name, checkpoint in lab.each(SHIPPED.items(), "shipped checkpoints"):
        model = load_pipeline(checkpoint).model
        few, many = TRIAL_IMAGES[lab.size.name], FINAL_IMAGES[lab.size.name]
        trials = []
        for scale in GUIDANCE[name]:
            trial = {"num_inference_steps": TRIAL_STEPS[name], "guidance_scale": scale}
            tried = lab.evaluate(checkpoint, num_samples=few, **trial)
            trials.append({**trial, "frechet": frechet(tried), "images": few})
        best = min(trials, key=lambda trial: trial["frechet"])["guidance_scale"]
        points = []
        for steps in FINAL_STEPS[name]:
            chosen: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": best}
            result = lab.evaluate(checkpoint, num_samples=many, **chosen)
            points.append(
                {
                    **chosen,
                    "gflop": total_flops(model.flops(steps, best)) / 1e9,
                    "frechet": frechet(result),
                    "precision": named(result["metrics"], ["precision"]),
                    "recall": named(result["metrics"], ["recall"]),
                    "named_right": named_right(result),
                }
            )
        found[name] = {
            "checkpoint": checkpoint,
            "parameters": model.num_parameters(),
            "trials": trials,
            "images": many,
            "points": points,
        }
    found["flops_ratio"] = dearest(found["DiT"]) / dearest(found["E-CAR"])
    return found


def dearest(entry: dict[str, Any]) -> float:
    """GFLOP of the most expensive way of sampling that was measured."""
    return max(point["gflop"] for point in entry["points"])


def draw(result: dict[str, Any]) -> Figure:
    """Distance over FLOPs of sampling."""
    figure, axes = figures.new_figure(2 if result["shipped"] else 1, width=5)
    for index, row in enumerate(result["rows"]):
        entries = row["quality"]
        x, y = [e["gflop"] for e in entries], [e["frechet"] for e in entries]
        figures.line(axes[0], row["name"], x, y, index)
    figures.logarithmic(axes[0], "x", "y", xlabel="GFLOP per image", ylabel="Frechet distance")
    axes[0].set_title(f"{result['size']['preset']}: equal images seen", fontsize=10, loc="left")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center", ncols=4, fontsize=8, frameon=False,
    )  # fmt: skip
    if result["shipped"]:
        for name in SHIPPED:
            points = sorted(result["shipped"][name]["points"], key=lambda point: point["gflop"])
            x, y = [p["gflop"] for p in points], [p["frechet"] for p in points]
            figures.line(axes[1], name, x, y)
            for point in points:
                left = name == "E-CAR"
                axes[1].annotate(
                    f"{name}: {point['frechet']:.2f}",
                    (point["gflop"], point["frechet"]),
                    xytext=(-7, -4) if left else (7, 2),
                    textcoords="offset points",
                    ha="right" if left else "left",
                    fontsize=9,
                )
        axes[1].set_title("shipped CIFAR-10 checkpoints", fontsize=10, loc="left")
        axes[1].margins(0.35)
        axes[1].set_ylim(bottom=0)
        labels = {"xlabel": "GFLOP per image", "ylabel": "Frechet distance"}
        figures.logarithmic(axes[1], "x", **labels)
    return figure


def table(result: dict[str, Any]) -> str:
    """Quality of every arm, then of the shipped checkpoints."""
    text = figures.markdown_table(QUALITY_HEADER, quality_rows(result["rows"]))
    if not result["shipped"]:
        return text
    rows = [
        [
            f"{name} (`{entry['checkpoint']}`, {entry['parameters'] / 1e6:.2f} M)",
            point["num_inference_steps"],
            f"{point['guidance_scale']:g}",
            f"{point['gflop']:.2f}",
            f"{point['frechet']:.2f}",
            f"{point['precision']:.2f}",
            f"{point['recall']:.2f}",
            "-" if point["named_right"] is None else f"{point['named_right']:.1%}",
        ]
        for name, entry in result["shipped"].items()
        if name in SHIPPED
        for point in entry["points"]
    ]
    images = result["shipped"]["E-CAR"]["images"]
    header = [
        *(f"shipped, {images:,} images", "steps", "guidance", "GFLOP", "Frechet distance"),
        *("precision", "recall", "named right"),
    ]
    ratio = (
        f"FLOPs of sampling, first rows: {result['shipped']['flops_ratio']:.1f}x fewer for E-CAR."
    )
    return f"{text}\n\n{figures.markdown_table(header, rows)}\n\n{ratio}"
