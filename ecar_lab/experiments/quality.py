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
FINAL_STEPS = {"E-CAR": [8, 6, 6], "DiT": 50}
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
    found = {}
    for name, checkpoint in lab.each(SHIPPED.items(), "shipped checkpoints"):
        model = load_pipeline(checkpoint).model
        few, many = TRIAL_IMAGES[lab.size.name], FINAL_IMAGES[lab.size.name]
        trials = []
        for scale in GUIDANCE[name]:
            trial = {"num_inference_steps": TRIAL_STEPS[name], "guidance_scale": scale}
            tried = lab.evaluate(checkpoint, num_samples=few, **trial)
            trials.append({**trial, "frechet": frechet(tried), "images": few})
        best = min(trials, key=lambda trial: trial["frechet"])["guidance_scale"]
        chosen: dict[str, Any] = {
            "num_inference_steps": FINAL_STEPS[name],
            "guidance_scale": best,
        }
        result = lab.evaluate(checkpoint, num_samples=many, **chosen)
        flops = model.flops(chosen["num_inference_steps"], chosen["guidance_scale"])
        found[name] = {
            "checkpoint": checkpoint,
            "parameters": model.num_parameters(),
            "trials": trials,
            **chosen,
            "images": many,
            "gflop": sum(map(sum, flops.values())) / 1e9,
            "frechet": frechet(result),
            "precision": named(result["metrics"], ["precision"]),
            "recall": named(result["metrics"], ["recall"]),
            "named_right": named_right(result),
        }
    found["flops_ratio"] = found["DiT"]["gflop"] / found["E-CAR"]["gflop"]
    return found


def draw(result: dict[str, Any]) -> Figure:
    """Distance over FLOPs of sampling."""
    figure, axes = figures.new_figure(2 if result["shipped"] else 1, width=5)
    for index, row in enumerate(result["rows"]):
        entries = row["quality"]
        x, y = [e["gflop"] for e in entries], [e["frechet"] for e in entries]
        figures.line(axes[0], row["name"], x, y, index)
    figures.logarithmic(axes[0], "x", "y", xlabel="GFLOP per image", ylabel="Frechet distance")
    axes[0].set_title(f"{result['size']['preset']}: equal images seen", fontsize=10, loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    if result["shipped"]:
        for name in SHIPPED:
            entry = result["shipped"][name]
            figures.line(axes[1], name, [entry["gflop"]], [entry["frechet"]], linestyle="none")
            axes[1].annotate(
                f"  {name}: {entry['frechet']:.2f}", (entry["gflop"], entry["frechet"]), fontsize=9
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
            entry["num_inference_steps"],
            f"{entry['guidance_scale']:g}",
            f"{entry['gflop']:.2f}",
            f"{entry['frechet']:.2f}",
            f"{entry['precision']:.2f}",
            f"{entry['recall']:.2f}",
            "-" if entry["named_right"] is None else f"{entry['named_right']:.1%}",
        ]
        for name, entry in result["shipped"].items()
        if name in SHIPPED
    ]
    images = result["shipped"]["E-CAR"]["images"]
    header = [
        *(f"shipped, {images:,} images", "steps", "guidance", "GFLOP", "Frechet distance"),
        *("precision", "recall", "named right"),
    ]
    ratio = f"FLOPs of sampling: {result['shipped']['flops_ratio']:.1f}x fewer for E-CAR."
    return f"{text}\n\n{figures.markdown_table(header, rows)}\n\n{ratio}"
