"""Variants of a model, trained alike, compared in quality, FLOPs, time and memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ecar_lab.baselines import load_pipeline
from ecar_lab.benchmark.timing import seconds_of
from ecar_lab.cost import total_flops
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.records import Trained
from ecar_lab.experiments.lab.scores import frechet, named, named_right, plus_minus, spread
from ecar_lab.machine import peak_memory
from ecar_lab.schedule import plan_text

TIMED_BATCH = 16
COSTLY = ("guidance_scale", "guidance_interval", "time_power", "solver")  # what FLOPs depend on
# How every arm is sampled, so that they differ in what was trained only; noise prediction knows no
# other solver and no other grid.
ALIKE: dict[str, Any] = {
    "solver": "euler",
    "time_power": 1.0,
    "guidance_interval": (0.0, 1.0),
}


@dataclass(frozen=True)
class Variant:
    """One way to build and train a model.

    Attributes:
        name: as figures and tables call it. model, architecture, settings: see ``Lab.train``.
    """

    name: str
    architecture: str = "ecar"
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def stages(number: int, **more: Any) -> dict[str, Any]:
    """Arguments of an E-CAR with so many stages, windows at their default."""
    return {"num_stages": number, "window_ends": None, **more}


def with_room(lab: Lab) -> Variant:
    """One stage, and room for four: eight-pixel digits are learned as pixels; a larger data set's
    latent has it as it is."""
    settings: dict[str, Any] = {"stage_strides": None, "head_draws": None}
    model: dict[str, Any] = {}
    if lab.size.preset == "digits":
        settings["tokenizer"] = "identity"
        model = {"patch_size": 1, "width": min(96, lab.shape()["width"])}
    return Variant("S = 1", model={**model, **stages(1)}, settings=settings)


def train_all(
    lab: Lab, variants: Sequence[Variant], steps: dict[str, int] | None = None
) -> dict[str, list[Trained]]:
    """Every variant with every seed; ``steps`` by name where they differ from the size's."""
    jobs = [(variant, seed) for variant in variants for seed in lab.size.seeds]
    runs: dict[str, list[Trained]] = {variant.name: [] for variant in variants}
    for variant, seed in lab.each(jobs, "training"):
        trained = lab.train(
            architecture=variant.architecture,
            seed=seed,
            steps=(steps or {}).get(variant.name),
            model=variant.model,
            **variant.settings,
        )
        runs[variant.name].append(trained)
    return runs


def measure(
    lab: Lab, runs: Sequence[Trained], steps: int | Sequence[int], **sampling: Any
) -> dict[str, Any]:
    """Quality and FLOPs of one variant at one number of flow steps per stage."""
    sampling = {**ALIKE, **sampling}
    results = [lab.evaluate(trained, num_inference_steps=steps, **sampling) for trained in runs]
    model = load_pipeline(runs[0].folder).model
    costly = {name: value for name, value in sampling.items() if name in COSTLY}
    right = [named_right(result) for result in results]
    return {
        "steps": model.inference_steps(steps),
        "frechet": spread([frechet(result) for result in results]),
        "precision": spread([named(result["metrics"], ["precision"]) for result in results]),
        "recall": spread([named(result["metrics"], ["recall"]) for result in results]),
        "named_right": None if None in right else spread([r or 0.0 for r in right]),
        "gflop": total_flops(model.flops(steps, **costly)) / 1e9,
    }


def study(
    lab: Lab,
    variants: Sequence[Variant],
    step_counts: Sequence[int],
    training_steps: dict[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Trains and measures every variant; one row each, with ``quality`` at every step count."""
    runs = train_all(lab, variants, training_steps)
    jobs = [(variant, count) for variant in variants for count in step_counts]
    quality: dict[str, list] = {variant.name: [] for variant in variants}
    for variant, count in lab.each(jobs, "sampling"):
        quality[variant.name].append(measure(lab, runs[variant.name], count))
    return [
        {
            "name": variant.name,
            "model": variant.model,
            "parameters": runs[variant.name][0].parameters,
            "images": runs[variant.name][0].images,
            "train_pflop": runs[variant.name][0].train_flops / 1e15,
            "loss_stage": runs[variant.name][0].loss_stage,
            "quality": quality[variant.name],
        }
        for variant in variants
    ]


def time_runs(
    lab: Lab, runs: dict[str, Trained], steps: int | Sequence[int], **sampling: Any
) -> dict[str, dict[str, Any]]:
    """Seconds per image (batch of 16, without decoding) and peak memory, all in this run.

    Rounds take turns between the variants, so that a busy moment of the machine hits all alike.
    """
    calls: dict[str, Callable[[], None]] = {}
    for name, trained in runs.items():
        pipe = load_pipeline(trained.folder, dtype=lab.torch_dtype).to(lab.torch_device)
        calls[name] = _sampler(pipe, steps, sampling)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(lab.size.repeats + 1):
        for name, call in calls.items():
            taken = seconds_of(call, lab.torch_device)
            if round_number:  # the first one warms up
                seconds[name].append(taken)
    return {
        name: {
            "seconds_per_image": statistics.median(seconds[name]) / TIMED_BATCH,
            "peak_mib": peak_memory(call, lab.torch_device)[1] / 2**20,
        }
        for name, call in calls.items()
    }


def _sampler(pipe: Any, steps: int | Sequence[int], sampling: dict[str, Any]) -> Callable[[], None]:
    labels = [index % pipe.model.num_classes for index in range(TIMED_BATCH)]

    @torch.no_grad()
    def call() -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in pipe.trace(labels, steps, generator=generator, **sampling):
            pass

    return call


def quality_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Cells of the usual table, see ``QUALITY_HEADER``."""
    return [
        [
            row["name"],
            plan_text(entry["steps"]),
            plus_minus(entry["frechet"]),
            f"{entry['recall']['mean']:.2f}",
            "-" if entry["named_right"] is None else f"{entry['named_right']['mean']:.1%}",
            f"{entry['gflop']:.3g}",
        ]
        for row in rows
        for entry in row["quality"]
    ]


QUALITY_HEADER = ["", "steps", "Frechet distance", "recall", "classified correctly", "GFLOP"]
