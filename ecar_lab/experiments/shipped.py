"""The headline on CIFAR-10: the E-CAR and the DiT that ship, of equal size, data and images seen.

Several guidance scales and intervals are tried with few images; at the best of them each checkpoint
is measured with its usual steps and with fewer. DiT has every trick that E-CAR has, and stands
there as the literature samples it, too.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from matplotlib.figure import Figure

from ecar_lab.baselines import load_pipeline
from ecar_lab.cost import total_flops
from ecar_lab.errors import EcarError
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import frechet, named, named_right
from ecar_lab.files import data_root, resolve_checkpoint

CHECKPOINTS = {"E-CAR": "cifar10", "DiT": "cifar10-dit"}
# Guidance scale and interval; E-CAR's coarsest stage has none, and its middle one all the way.
WHOLE = [0.0, 1.0]
GUIDANCE: dict[str, list[tuple[Any, Any]]] = {
    "E-CAR": [
        ([1.0, scale, scale], [WHOLE, WHOLE, [0.0, end]])
        for scale, end in product((2.0, 2.5, 3.0), (1.0, 0.3))
    ],
    "DiT": [(scale, [0.0, end]) for scale, end in product((1.5, 2.0, 2.5), (1.0, 0.5))],
}
TRIAL_STEPS: dict[str, Any] = {"E-CAR": [4, 4, 4], "DiT": 7}
# How both are sampled, and how the literature samples: with guidance all the way.
FAST: dict[str, dict[str, Any]] = {
    "E-CAR": {"time_power": [1.0, 1.3, 1.3], "solver": "ab2"},
    "DiT": {"time_power": 1.3, "solver": "ab2"},
}
LITERATURE: dict[str, Any] = {"time_power": 1.0, "solver": "euler"}
# Steps, and whether as in the literature: E-CAR with its usual steps, with more, with fewer.
FINAL: dict[str, list[tuple[Any, bool]]] = {
    "E-CAR": [([4, 4, 4], False), ([8, 6, 6], False), ([4, 2, 2], False)],
    "DiT": [(50, True), (12, False), (7, False), (5, False)],
}
TRIALS = {"smoke": 2, "cpu": None, "gpu": None}  # None: all
TRIAL_IMAGES = {"smoke": 8, "cpu": 500, "gpu": 2000}
FINAL_IMAGES = {"smoke": 8, "cpu": 2000, "gpu": 10_000}


def run(lab: Lab) -> dict[str, Any]:
    """Both checkpoints, each with the guidance that suits it best.

    Raises:
        EcarError: the data set or a checkpoint is not here.
    """
    for checkpoint in CHECKPOINTS.values():
        resolve_checkpoint(checkpoint)
    if data_root(lab.data_root) is None:
        raise EcarError("the CIFAR-10 test images are not here: name their folder with --data")
    found = {
        name: measure(lab, name, checkpoint)
        for name, checkpoint in lab.each(CHECKPOINTS.items(), "checkpoints")
    }
    return {**found, "flops_ratio": dearest(found["DiT"]) / dearest(found["E-CAR"])}


def measure(lab: Lab, name: str, checkpoint: str) -> dict[str, Any]:
    """Trials of the guidance, then the points of one checkpoint."""
    model = load_pipeline(checkpoint).model
    trials, few = [], TRIAL_IMAGES[lab.size.name]
    for scale, interval in GUIDANCE[name][: TRIALS[lab.size.name]]:
        trial = {
            "num_inference_steps": TRIAL_STEPS[name],
            "guidance_scale": scale,
            "guidance_interval": interval,
            **FAST[name],
        }
        tried = lab.evaluate(checkpoint, num_samples=few, **trial)
        trials.append({**trial, "frechet": frechet(tried), "images": few})
    points = []
    for steps, as_literature in FINAL[name]:
        best = best_trial(trials, as_literature)
        chosen: dict[str, Any] = {
            "num_inference_steps": steps,
            "guidance_scale": best["guidance_scale"],
            "guidance_interval": best["guidance_interval"],
            **(LITERATURE if as_literature else FAST[name]),
        }
        result = lab.evaluate(checkpoint, num_samples=FINAL_IMAGES[lab.size.name], **chosen)
        points.append(
            {
                **chosen,
                "gflop": total_flops(model.flops(**chosen)) / 1e9,
                "frechet": frechet(result),
                "precision": named(result["metrics"], ["precision"]),
                "recall": named(result["metrics"], ["recall"]),
                "named_right": named_right(result),
            }
        )
    return {
        "checkpoint": checkpoint,
        "parameters": model.num_parameters(),
        "trials": trials,
        "images": FINAL_IMAGES[lab.size.name],
        "points": points,
    }


def best_trial(trials: list[dict[str, Any]], as_literature: bool) -> dict[str, Any]:
    """The trial of the smallest distance, of all or of those with guidance all the way."""

    def all_the_way(trial: dict[str, Any]) -> bool:
        intervals = trial["guidance_interval"]
        return intervals == WHOLE or all(interval == WHOLE for interval in intervals)

    allowed = [trial for trial in trials if not as_literature or all_the_way(trial)]
    return min(allowed, key=lambda trial: trial["frechet"])


def dearest(entry: dict[str, Any]) -> float:
    """GFLOP of the most expensive way of sampling that was measured."""
    return max(point["gflop"] for point in entry["points"])


def draw(result: dict[str, Any]) -> Figure:
    """Distance over FLOPs of sampling."""
    figure, (axes,) = figures.new_figure(1, width=5)
    for name in CHECKPOINTS:
        points = sorted(result[name]["points"], key=lambda point: point["gflop"])
        figures.line(axes, name, [p["gflop"] for p in points], [p["frechet"] for p in points])
        for point in points:
            left = name == "E-CAR"
            axes.annotate(
                f"{name}: {point['frechet']:.2f}",
                (point["gflop"], point["frechet"]),
                xytext=(-7, -4) if left else (7, 2),
                textcoords="offset points",
                ha="right" if left else "left",
                fontsize=9,
            )
    axes.set_title("shipped CIFAR-10 checkpoints", fontsize=10, loc="left")
    axes.margins(0.35)
    axes.set_ylim(bottom=0)
    figures.logarithmic(axes, "x", xlabel="GFLOP per image", ylabel="Frechet distance")
    return figure


def table(result: dict[str, Any]) -> str:
    """Every point, the trials that decided the guidance, the ratio of FLOPs."""
    rows = [
        [
            f"{name} (`{result[name]['checkpoint']}`, {result[name]['parameters'] / 1e6:.2f} M)",
            per_stage(point["num_inference_steps"], " + "),
            figures.power_text(point),
            figures.guidance_text(point),
            point.get("solver", "euler"),
            f"{point['gflop']:.2f}",
            f"{point['frechet']:.2f}",
            f"{point['precision']:.2f}",
            f"{point['recall']:.2f}",
            "-" if point["named_right"] is None else f"{point['named_right']:.1%}",
        ]
        for name in CHECKPOINTS
        for point in result[name]["points"]
    ]
    header = [
        *(f"{result['E-CAR']['images']:,} images", "steps", "power", "guidance", "solver", "GFLOP"),
        *("Frechet distance", "precision", "recall", "classified correctly"),
    ]
    trials = "; ".join(
        f"{name} "
        + ", ".join(
            f"{figures.guidance_text(trial)}: {trial['frechet']:.2f}"
            for trial in result[name]["trials"]
        )
        for name in CHECKPOINTS
    )
    few = result["E-CAR"]["trials"][0]["images"]
    return (
        f"{figures.markdown_table(header, rows)}\n\n"
        f"FLOPs of sampling, first rows: {result['flops_ratio']:.1f}x fewer for E-CAR.\n\n"
        f"Guidance tried on {few} images each: {trials}."
    )


def per_stage(value: float | list[float], between: str) -> str:
    """One number, or one for every stage."""
    return between.join(f"{part:g}" for part in (value if isinstance(value, list) else [value]))
