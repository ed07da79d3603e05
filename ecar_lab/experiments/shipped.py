"""The headline on CIFAR-10: the E-CAR, its few-step head and the DiT that ship, of equal size.

Several guidance scales and intervals are tried with few images; at the best of them each checkpoint
is measured with its usual steps and with fewer, on images of several seeds. DiT has every trick
that E-CAR has, and stands there as the literature samples it, too. The time of an image is measured
for all of them one after the other in one run, decoding included.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from matplotlib.figure import Figure

from ecar_lab.baselines import load_pipeline
from ecar_lab.benchmark.timing import median_seconds, place, seeded
from ecar_lab.cost import total_flops
from ecar_lab.errors import EcarError
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import frechet, half_width, named, named_right
from ecar_lab.files import data_root, resolve_checkpoint
from ecar_lab.schedule import plan_text

CHECKPOINTS = {"E-CAR": "cifar10", "few-step E-CAR": "cifar10-turbo", "DiT": "cifar10-dit"}
# Guidance scale and interval; E-CAR's coarsest stage has none, and its middle one all the way.
WHOLE = [0.0, 1.0]


def _late(scales: Sequence[float], ends: Sequence[float]) -> list[tuple[Any, Any]]:
    return [
        ([1.0, scale, scale], [WHOLE, WHOLE, [0.0, end]]) for scale, end in product(scales, ends)
    ]


GUIDANCE: dict[str, list[tuple[Any, Any]]] = {
    "E-CAR": [
        *_late((1.5, 2.0, 2.5), (1.0, 0.3)),
        ([1.0, 2.0, 1.5], [WHOLE, WHOLE, [0.0, 0.3]]),
    ],
    "few-step E-CAR": _late((1.5, 2.0, 2.5), (1.0, 0.5)),
    "DiT": [(scale, [0.0, end]) for scale, end in product((1.25, 1.5, 2.0, 2.5), (1.0, 0.5))],
}
TRIAL_STEPS: dict[str, Any] = {"E-CAR": [4, 4, 4], "few-step E-CAR": [4, 2, 2], "DiT": 7}
# How all are sampled, and how the literature samples: with guidance all the way.
FAST: dict[str, dict[str, Any]] = {
    "E-CAR": {"time_power": [1.0, 1.3, 1.3], "solver": "ab2"},
    "few-step E-CAR": {"time_power": 1.0, "solver": "flow-map"},
    "DiT": {"time_power": 1.3, "solver": "ab2"},
}
LITERATURE: dict[str, Any] = {"time_power": 1.0, "solver": "euler"}
# Steps, and whether as in the literature. The last plan of each is what a smoke test measures.
FINAL: dict[str, list[tuple[Any, bool]]] = {
    "E-CAR": [([4, 4, 4], False), ([8, 6, 6], False), ([4, 3, 3], False)],
    "few-step E-CAR": [
        ([4, 2, 2], False),
        ([4, 4, 4], False),
        ([1, 2, 2], False),
        ([1, 1, 2], False),
    ],
    "DiT": [(50, True), (12, False)],
}
TRIALS = {"smoke": 1, "cpu": None, "gpu": None}  # None: all
PLANS = {"smoke": -1, "cpu": 0, "gpu": 0}  # the first of FINAL that is measured
TRIAL_IMAGES = {"smoke": 8, "cpu": 500, "gpu": 2000}
BATCHES = {"smoke": (1,), "cpu": (1, 16), "gpu": (1, 16)}


def run(lab: Lab) -> dict[str, Any]:
    """All checkpoints, each with the guidance that suits it best.

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
    for entry in lab.each(found.values(), "times"):
        add_times(lab, entry)
    return {**found, "flops_ratio": dearest(found["DiT"]) / dearest(found["E-CAR"])}


def measure(lab: Lab, name: str, checkpoint: str) -> dict[str, Any]:
    """Trials of the guidance, then the points of one checkpoint.

    A point's metrics are means over the seeds of the samples; ``interval`` is half the width of the
    95% confidence interval of its distance, by Student's t.
    """
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
    for steps, as_literature in FINAL[name][PLANS[lab.size.name] :]:
        best = best_trial(trials, as_literature)
        chosen: dict[str, Any] = {
            "num_inference_steps": steps,
            "guidance_scale": best["guidance_scale"],
            "guidance_interval": best["guidance_interval"],
            **(LITERATURE if as_literature else FAST[name]),
        }
        results = [lab.evaluate(checkpoint, seed=seed, **chosen) for seed in lab.size.seeds]
        distances = [frechet(result) for result in results]
        shares = [share for one in results if (share := named_right(one)) is not None]
        points.append(
            {
                **chosen,
                "gflop": total_flops(model.flops(**chosen)) / 1e9,
                "frechet": statistics.fmean(distances),
                "interval": half_width(distances),
                "distances": distances,
                "precision": statistics.fmean(named(r["metrics"], ["precision"]) for r in results),
                "recall": statistics.fmean(named(r["metrics"], ["recall"]) for r in results),
                "named_right": statistics.fmean(shares) if shares else None,
            }
        )
    return {
        "checkpoint": checkpoint,
        "parameters": model.num_parameters(),
        "trials": trials,
        "images": lab.size.num_samples,
        "seeds": list(lab.size.seeds),
        "points": points,
    }


def add_times(lab: Lab, entry: dict[str, Any]) -> None:
    """Puts the seconds of an image, decoding included, into every point: the median of some runs
    at each number of images at once. Timings are never remembered."""
    pipe = load_pipeline(entry["checkpoint"])
    place(pipe.model, lab.torch_device, lab.torch_dtype)
    place(pipe.tokenizer, lab.torch_device, lab.torch_dtype)
    for point in entry["points"]:
        chosen = {key: point[key] for key in SETTINGS}

        def images(count: int, chosen: dict[str, Any] = chosen) -> None:
            labels = [index % pipe.model.num_classes for index in range(count)]
            *_, last = pipe.trace(labels, generator=seeded(count), **chosen)
            pipe.decode(last.latent)

        point["seconds_per_image"] = {
            str(count): median_seconds(
                lambda count=count: images(count), lab.torch_device, lab.size.repeats
            )
            / count
            for count in BATCHES[lab.size.name]
        }


SETTINGS = [
    "num_inference_steps", "guidance_scale", "guidance_interval", "time_power", "solver",
]  # fmt: skip


def as_good(result: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """For each point of DiT the cheapest point of an E-CAR whose distance is no larger: (DiT's
    point, the E-CAR's name, its point). A point of DiT that none reaches is left out."""
    for point in result["DiT"]["points"]:
        if found := cheapest_as_good(result, point["frechet"]):
            yield (point, *found)


def cheapest_as_good(
    result: Mapping[str, Any], distance: float
) -> tuple[str, dict[str, Any]] | None:
    """Name and point of the cheapest E-CAR whose distance is no larger; None if there is none."""
    ours = [(name, p) for name in present(result) if name != "DiT" for p in result[name]["points"]]
    reached = [(name, p) for name, p in ours if p["frechet"] <= distance]
    return min(reached, key=lambda one: one[1]["gflop"], default=None)


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
    """Distance over FLOPs of sampling, and over the time of one image where that was measured."""
    timed = all(
        "seconds_per_image" in p for name in present(result) for p in result[name]["points"]
    )
    figure, axes = figures.new_figure(2 if timed else 1, width=4.6)
    costs: list[tuple[Any, str]] = [(lambda point: point["gflop"], "GFLOP per image")]
    if timed:
        costs.append((lambda point: 1e3 * point["seconds_per_image"]["1"], "ms for one image"))
    for axis, (cost, label) in zip(axes, costs, strict=True):
        for name in present(result):
            points = sorted(result[name]["points"], key=cost)
            spreads = [{"mean": p["frechet"], "std": p.get("interval")} for p in points]
            figures.line(axis, name, [cost(point) for point in points], spreads)
        axis.set_ylim(bottom=0)
        figures.logarithmic(axis, "x", xlabel=label, ylabel="Frechet distance")
    axes[0].set_title("shipped CIFAR-10 checkpoints", fontsize=10, loc="left")
    axes[-1].legend(frameon=False, fontsize=9)
    return figure


def present(result: Mapping[str, Any]) -> list[str]:
    """The checkpoints that a result has; older ones have no few-step head."""
    return [name for name in CHECKPOINTS if name in result]


def table(result: dict[str, Any]) -> str:
    """Every point, what is as good as DiT at which cost, the trials that decided the guidance."""
    names = present(result)
    rows = [
        [
            f"{name} (`{result[name]['checkpoint']}`, {result[name]['parameters'] / 1e6:.2f} M)",
            plan_text(point["num_inference_steps"]),
            figures.power_text(point),
            figures.guidance_text(point),
            point.get("solver", "euler"),
            f"{point['gflop']:.2f}",
            _times(point),
            _distance(point),
            f"{point['precision']:.2f}",
            f"{point['recall']:.2f}",
            "-" if point["named_right"] is None else f"{point['named_right']:.1%}",
        ]
        for name in names
        for point in result[name]["points"]
    ]
    header = [
        *(f"{result['E-CAR']['images']:,} images", "steps", "power", "guidance", "solver", "GFLOP"),
        *("ms per image", "Frechet distance", "precision", "recall", "classified correctly"),
    ]
    trials = "; ".join(
        f"{name} "
        + ", ".join(
            f"{figures.guidance_text(trial)}: {trial['frechet']:.2f}"
            for trial in result[name]["trials"]
        )
        for name in names
    )
    seeds = result["E-CAR"].get("seeds", [0])
    few = result["E-CAR"]["trials"][0]["images"]
    parts = [
        figures.markdown_table(header, rows),
        _how_measured(result, seeds),
        _verdicts(result),
        f"Guidance tried on {few} images each: {trials}.",
    ]
    return "\n\n".join(filter(None, parts))


def _distance(point: dict[str, Any]) -> str:
    interval = point.get("interval")
    return f"{point['frechet']:.2f}" + ("" if interval is None else f" ± {interval:.2f}")


def _times(point: dict[str, Any]) -> str:
    """Milliseconds for one image alone / in the larger batches."""
    seconds = point.get("seconds_per_image", {})
    return " / ".join(f"{1e3 * value:.1f}" for value in seconds.values()) or "-"


def _how_measured(result: dict[str, Any], seeds: list[int]) -> str:
    sentences = []
    if len(seeds) > 1:
        sentences.append(
            f"Distances are means over the seeds {', '.join(map(str, seeds))} of the samples, "
            "each with half the width of its 95% confidence interval (Student's t); one training "
            "of each."
        )
    batches = list(result["E-CAR"]["points"][0].get("seconds_per_image", {}))
    if batches:
        sentences.append(
            f"ms per image, decoding included, at {' and '.join(batches)} at once: medians of "
            "one run over all rows."
        )
    return " ".join(sentences)


def _verdicts(result: dict[str, Any]) -> str:
    """What is no worse than each DiT, how much cheaper."""
    if "few-step E-CAR" not in result:
        return f"FLOPs of sampling, first rows: {result['flops_ratio']:.1f}x fewer for E-CAR."
    lines = []
    for dit, name, point in as_good(result):
        seconds = [
            f"{dit['seconds_per_image'][batch] / value:.1f}x less time at {batch} at once"
            for batch, value in point["seconds_per_image"].items()
        ]
        steps = plan_text(point["num_inference_steps"])
        lines.append(
            f"- No worse than DiT at {plan_text(dit['num_inference_steps'])} {dit['solver']} "
            f"steps ({dit['frechet']:.2f}): {name} at {steps} "
            f"steps ({point['frechet']:.2f}), {dit['gflop'] / point['gflop']:.1f}x fewer FLOPs, "
            f"{', '.join(seconds)}."
        )
    return "\n".join(lines) or "No E-CAR of the table is as good as any DiT of it."
