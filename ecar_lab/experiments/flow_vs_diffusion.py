"""The seed's second validation check: flow matching or noise prediction, all else equal.

Two pairs differ in nothing but the objective: the multistage network with every stage denoised in
full, and DiT. E-CAR itself, whose stages go part of the way, stands beside them; noise prediction
has no such form (see ``baselines.stage_epsilon``).

Quality is measured end to end, and stage by stage under teacher forcing: a stage is given the true
end states of the earlier ones and sampled alone, once for every held-out image, and what it makes
is compared with what that image really has there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from ecar_lab.baselines import load_pipeline
from ecar_lab.data import open_dataset
from ecar_lab.device import autocast
from ecar_lab.evaluation.evaluate import trained_on
from ecar_lab.evaluation.feature_net import to_unit_range
from ecar_lab.evaluation.judge import fingerprint
from ecar_lab.evaluation.metrics import frechet_distance, kernel_distance
from ecar_lab.events import TraceEvent
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.records import Trained
from ecar_lab.experiments.lab.scores import plus_minus, spread
from ecar_lab.experiments.lab.studies import measure
from ecar_lab.flow import endpoints
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.trace import trace

FULL, NOISE, DIT_NOISE = "full denoise per scale", "noise prediction per scale", "DiT, noise"
ARMS = {
    "E-CAR": "ecar",
    FULL: "full-denoise",
    NOISE: "stage-epsilon",
    "DiT": "dit",
    DIT_NOISE: "dit-epsilon",
}
STAGED = ("E-CAR", FULL, NOISE)  # the arms that have stages to look into
# Noise prediction has the hue of its flow twin, dotted, with hollow markers.
LOOKS: dict[str, dict[str, Any]] = {
    twin: {**figures.STYLES[name], "linestyle": ":", "markerfacecolor": "white"}
    for twin, name in ((NOISE, FULL), (DIT_NOISE, "DiT"))
}


@dataclass(frozen=True)
class Extent:
    """How much is measured at a size: steps per stage, at most so many seeds and samples."""

    steps: tuple[int, ...]
    seeds: int
    num_samples: int


EXTENTS = {
    "smoke": Extent((1, 2), 1, 40),
    "cpu": Extent((2, 4, 8, 16, 32), 2, 1000),
    "gpu": Extent((2, 4, 8, 16, 32), 3, 10_000),
}


def run(lab: Lab) -> dict[str, Any]:
    """Frechet distance end to end and stage by stage, of every arm at several step counts."""
    extent = EXTENTS[lab.size.name]
    samples = min(extent.num_samples, lab.size.num_samples)
    seeds = lab.size.seeds[: extent.seeds]
    jobs = [(name, seed) for name in ARMS for seed in seeds]
    runs: dict[str, list[Trained]] = {name: [] for name in ARMS}
    for name, seed in lab.each(jobs, "training"):
        runs[name].append(lab.train(architecture=ARMS[name], seed=seed))

    end_to_end: dict[str, list] = {name: [] for name in ARMS}
    for name, steps in lab.each([(n, k) for n in ARMS for k in extent.steps], "end to end"):
        # A DiT, all in one stage, is given as many steps as a stage of E-CAR.
        row = measure(lab, runs[name], steps, num_samples=samples)
        end_to_end[name].append({"steps": steps, **{k: v for k, v in row.items() if k != "steps"}})

    levels = load_pipeline(runs["E-CAR"][0].folder).model.schedule.ends
    stages: dict[str, list] = {name: [] for name in STAGED}
    for name, steps in lab.each([(n, k) for n in STAGED for k in extent.steps], "stage by stage"):
        results = [teacher_forced(lab, run, steps, levels, samples) for run in runs[name]]
        stages[name].append({"steps": steps, "stages": over_seeds(results)})
    return {
        "arms": {name: runs[name][0].record() for name in ARMS},
        "seeds": list(seeds),
        "samples": samples,
        "levels": levels,
        "end_to_end": end_to_end,
        "per_stage": stages,
        "real": real_stages(lab, runs["E-CAR"][0], samples),
    }


def over_seeds(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per stage; every number of it a ``spread`` over the seeds."""
    per_stage = zip(*(result["stages"] for result in results), strict=True)
    return [
        {name: spread([stage[name] for stage in same]) for name in same[0]} for same in per_stage
    ]


def teacher_forced(
    lab: Lab, trained: Trained, steps: int, levels: tuple[float, ...], images: int
) -> dict[str, Any]:
    """What :func:`measure_stages` finds with at most so many held-out images."""
    settings = {
        **{"checkpoint": fingerprint(trained.folder), "steps": steps, "levels": levels},
        **{"images": images, "seed": 0, "device": lab.device, "dtype": lab.dtype},
    }

    def measured() -> dict[str, Any]:
        pipe = on_device(lab, trained)
        latent, labels = real_latents(lab, pipe, trained, "test", images)
        return {"stages": measure_stages(lab, pipe.model, latent, labels, steps, levels)}

    return lab.remember("teacher-forced", settings, measured)


def measure_stages(
    lab: Lab,
    model: ECAR,
    latent: Tensor,
    labels: Tensor,
    steps: int,
    levels: tuple[float, ...],
) -> list[dict[str, float]]:
    """Distances of every stage, sampled alone after a true history, to the real D_s(x).

    Args:
        latent: (N, C, R, R) of real images, labels: (N,).
        levels: the flow times t_s at which ``at_level`` compares.

    Returns:
        per stage ``at_level``: Frechet distance of ``t y + (1 - t) eps`` to ``t D_s(x) + (1 - t)
        eps'``, where y is the stage's end state; an E-CAR stage that ends at t is compared as it
        is. This treats all arms alike. ``clean`` and ``kernel``: Frechet and kernel distance of
        the clean estimate to D_s(x). Where a window ends before 1, that estimate is a mean over
        what the next stages may still make of it, and by that nearer to the middle than D_s(x).
    """
    generator = torch.Generator().manual_seed(0)
    draw = model.draw(len(latent), generator).to(latent.device)
    _, ends = endpoints(model.schedule, latent, draw.noise)
    clean = model.pyramid(latent)
    results = []
    for stage, level in enumerate(levels):
        made = sample_stage(model, stage, ends[:stage], labels, steps, generator, lab.torch_dtype)
        missing = level if model.schedule.ends[stage] > level else 1.0
        noise = [torch.randn(clean[stage].shape, generator=generator) for _ in range(2)]
        noise = [part.to(latent.device) for part in noise]
        state = missing * made.latent + (1 - missing) * noise[0]
        wanted = level * clean[stage] + (1 - level) * noise[1]
        distance, _ = kernel_distance(flat(clean[stage]), flat(made.clean_estimate))
        results.append(
            {
                "at_level": frechet_distance(flat(wanted), flat(state)),
                "clean": frechet_distance(flat(clean[stage]), flat(made.clean_estimate)),
                "kernel": distance,
            }
        )
    return results


def sample_stage(
    model: ECAR,
    stage: int,
    history: list[Tensor],
    labels: Tensor,
    steps: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> TraceEvent:
    """The last event of one stage, sampled after given end states of the stages before it."""
    start = after_history(model, history, labels) if history else None
    run = trace(model, labels, steps, 1.0, generator, dtype=dtype, start_from=start)
    return next(event for event in run if event.stage == stage and event.is_stage_end)


def after_history(model: ECAR, history: list[Tensor], labels: Tensor) -> TraceEvent:
    """The event with which a run would have left the last of the given end states."""
    *earlier, latest = history
    return TraceEvent(
        stage=len(earlier), step=1, num_steps=1, local_time=1.0,
        t=model.schedule.ends[len(earlier)],
        latent=latest, clean_estimate=latest, velocity_norm=None,
        token_map=latest.new_empty(len(latest), 0, 0), attention=None,
        history=tuple(earlier), class_labels=labels, guidance=1.0,
        seconds=0.0, seconds_split={}, flops=0, cache_bytes=0,
        num_stages=model.schedule.num_stages,
    )  # fmt: skip


def real_stages(lab: Lab, trained: Trained, images: int) -> list[dict[str, float]]:
    """The distance of training images to held-out ones, as many, stage by stage: the best to be had
    from a set of this size."""
    pipe = on_device(lab, trained)
    held_out, others = (
        real_latents(lab, pipe, trained, split, images)[0] for split in ("test", "train")
    )
    count = min(len(held_out), len(others))
    generator = torch.Generator().manual_seed(0)
    results = []
    for level, *pair in zip(
        pipe.model.schedule.ends,
        pipe.model.pyramid(held_out[:count]),
        pipe.model.pyramid(others[:count]),
        strict=True,
    ):
        noised = [
            level * part + (1 - level) * torch.randn(part.shape, generator=generator).to(part)
            for part in pair
        ]
        results.append(
            {
                "at_level": frechet_distance(*map(flat, noised)),
                "clean": frechet_distance(*map(flat, pair)),
                "kernel": kernel_distance(*map(flat, pair))[0],
            }
        )
    return results


def on_device(lab: Lab, trained: Trained) -> ECARPipeline:
    """The pipeline of a trained model in float32, on the lab's device."""
    return load_pipeline(trained.folder, dtype=torch.float32).to(lab.torch_device)


@torch.inference_mode()
def real_latents(
    lab: Lab, pipe: ECARPipeline, trained: Trained, split: str, limit: int
) -> tuple[Tensor, Tensor]:
    """Latents (N, C, R, R) and classes of the images of a split, at most ``limit``."""
    data = open_dataset(
        trained_on(trained.folder),
        split=split,
        image_size=pipe.image_size,
        data_root=lab.data_root,
        limit=limit,
    )
    images, labels = data.arrays()
    parts = []
    for chunk in images.split(250):
        with autocast(lab.torch_device, lab.torch_dtype):
            parts.append(pipe.tokenizer.encode(to_unit_range(chunk.to(lab.torch_device))).float())
    return torch.cat(parts), labels.to(lab.torch_device)


def flat(latent: Tensor) -> Tensor:
    """(N, C, r, r) -> (N, C r r)."""
    return latent.flatten(1)


def draw(result: dict[str, Any]) -> Figure:
    """A panel per stage, coarsest first, and one end to end: distance over steps per stage."""
    stages = len(result["real"])
    figure, axes = figures.new_figure(columns=stages + 1, width=3.7)
    for stage, axis in enumerate(axes[:stages]):
        for name, rows in result["per_stage"].items():
            steps = [row["steps"] for row in rows]
            distances = [row["stages"][stage]["at_level"] for row in rows]
            figures.line(axis, name, steps, distances, **LOOKS.get(name, {}))
        floor = result["real"][stage]["at_level"]
        axis.axhline(floor, color="#59626E", linewidth=1, linestyle=(0, (1, 1)), label="real")
        level = result["levels"][stage]
        axis.set_title(
            f"Stage {stage + 1} alone, compared at t = {level:g}", fontsize=10, loc="left"
        )
    for name, rows in result["end_to_end"].items():
        steps, distances = [row["steps"] for row in rows], [row["frechet"] for row in rows]
        figures.line(axes[-1], name, steps, distances, **LOOKS.get(name, {}))
    axes[-1].set_title("End to end", fontsize=10, loc="left")
    for axis in axes:
        axis.set(xscale="log", yscale="log", xlabel="steps per stage")
        counts = [row["steps"] for row in result["end_to_end"]["E-CAR"]]
        axis.set_xticks(counts, list(map(str, counts)))
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("Frechet distance")
    axes[-1].set_ylim(top=12 * axes[-1].get_ylim()[1])  # room for the names above the lines
    axes[-1].legend(fontsize=7, frameon=False, loc="upper right")
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per arm and step count."""
    stages = [f"stage {number + 1} alone" for number in range(len(result["real"]))]
    rows = []
    for name, entries in result["end_to_end"].items():
        forced = result["per_stage"].get(name, [None] * len(entries))
        for entry, alone in zip(entries, forced, strict=True):
            cells = ["-"] * len(stages)
            if alone is not None:
                cells = [plus_minus(stage["at_level"], 3) for stage in alone["stages"]]
            quality = [*cells, plus_minus(entry["frechet"])]
            rows.append([name, entry["steps"], *quality, f"{entry['gflop']:.3g}"])
    floors = [f"{stage['at_level']:.3f}" for stage in result["real"]]
    rows.append(["real training images", "-", *floors, "-", "-"])
    header = ["", "steps per stage", *stages, "end to end", "GFLOP"]
    return figures.markdown_table(header, rows)
