"""Where the distance comes from: real end states in the place of the coarse stages' own.

With the first k stages taken from real images, only the later ones can err. What a stage costs is
the step from k to k + 1. With all stages real, what is left is the tokenizer's and the sample
size's.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.baselines import load_pipeline
from ecar_lab.data import open_dataset
from ecar_lab.device import autocast
from ecar_lab.evaluation.evaluate import features_of_split, trained_on
from ecar_lab.evaluation.feature_net import extract, to_unit_range
from ecar_lab.evaluation.judge import compare, fingerprint, pick_judge
from ecar_lab.evaluation.sampling import to_bytes
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import named
from ecar_lab.files import data_root, resolve_checkpoint
from ecar_lab.flow import endpoints
from ecar_lab.pipeline import ECARPipeline, advance

CHECKPOINT = {"smoke": "digits", "cpu": "cifar10", "gpu": "cifar10"}
BATCH = 100


def run(lab: Lab) -> dict[str, Any]:
    """One row per guidance (none, the checkpoint's own) and number of real stages."""
    checkpoint = CHECKPOINT[lab.size.name]
    pipe = load_pipeline(checkpoint, dtype=torch.float32).to(lab.torch_device)
    stages, usual = pipe.model.schedule.num_stages, pipe.model.guidance()
    scales = [[1.0] * stages] + [usual] * (max(usual) != 1)
    identity = fingerprint(resolve_checkpoint(checkpoint))
    rows = []
    arms = [(scale, kept) for scale in scales for kept in range(stages + 1)]
    for scale, kept in lab.each(arms, "sampling"):
        setting = {
            "guidance_scale": scale,
            "real_stages": kept,
            "num_inference_steps": pipe.model.inference_steps(),
            "images": lab.size.num_samples,
        }
        found = lab.remember(
            "stage-errors",
            {"checkpoint": identity, "dtype": str(lab.torch_dtype), **setting},
            lambda scale=scale, kept=kept: measure(lab, pipe, checkpoint, scale, kept),
        )
        rows.append({**setting, **found})
    return {"checkpoint": checkpoint, "rows": rows}


def measure(
    lab: Lab, pipe: ECARPipeline, checkpoint: str, scale: list[float], kept: int
) -> dict[str, float]:
    """Distance and recall against the test split, with ``kept`` stages of training images."""
    name, device = trained_on(resolve_checkpoint(checkpoint)), lab.torch_device
    judge = pick_judge("auto", name, pipe.image_size)
    options: dict[str, Any] = {"image_size": pipe.image_size, "data_root": lab.data_root}
    real = open_dataset(name, split="train", limit=lab.size.num_samples, **options)
    images, labels = real.arrays()
    generator, made = torch.Generator().manual_seed(0), []
    for some, classes in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        with torch.no_grad(), autocast(device, lab.torch_dtype):
            latent = pipe.tokenizer.encode(to_unit_range(some.to(device))).float()
        latent = with_real_stages(pipe, latent, classes, kept, scale, generator, lab.torch_dtype)
        with autocast(device, lab.torch_dtype):
            made.append(to_bytes(pipe.decode(latent) * 2 - 1))
    root = data_root(lab.data_root)
    wanted = features_of_split(judge, name, "test", pipe.image_size, root, device)
    found = compare(judge, wanted, extract(judge.net, torch.cat(made), device=device), 0, True)
    return {"frechet": named(found, ["frechet", "fid"]), "recall": named(found, ["recall"])}


def with_real_stages(
    pipe: ECARPipeline,
    latent: Tensor,
    labels: Tensor,
    kept: int,
    scale: list[float],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """Latents of a run whose first ``kept`` stages end where the real latents' do.

    e_s = b_s D_s(x) + (1 - b_s) eps_s takes the place of those stages' own end states, in
    :func:`trace` itself, so that everything after them is sampled as ever.
    """
    model = pipe.model
    draw = model.draw(len(latent), generator)
    _, ends = endpoints(model.schedule, latent, [noise.to(latent) for noise in draw.noise])
    # What is replaced need not be walked with care.
    steps = [1 if stage < kept else n for stage, n in enumerate(model.inference_steps())]
    events = pipe.trace(labels.tolist(), steps, scale, generator, dtype=dtype)
    event, final = next(events), latent
    while event is not None:
        replaced = event.is_stage_end and event.stage < kept
        final = ends[event.stage] if replaced else event.latent
        event = advance(events, final if replaced else None)
    return final


def draw(result: dict[str, Any]) -> Figure:
    """Distance over the number of real stages."""
    figure, (axes,) = figures.new_figure(1, width=5)
    for index, (name, rows) in enumerate(by_guidance(result).items()):
        x = [row["real_stages"] for row in rows]
        figures.line(axes, name, x, [row["frechet"] for row in rows], index)
        axes.set_xticks(x)
    axes.set(xlabel="stages taken from real images", ylabel="Frechet distance")
    axes.set_ylim(bottom=0)
    axes.set_title(
        f"{result['checkpoint']}: where the distance comes from", fontsize=10, loc="left"
    )
    axes.legend(frameon=False, fontsize=8)
    return figure


def by_guidance(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each guidance."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        scale = " / ".join(f"{value:g}" for value in row["guidance_scale"])
        name = "no guidance" if set(row["guidance_scale"]) == {1.0} else f"guidance {scale}"
        found.setdefault(name, []).append(row)
    return found


def table(result: dict[str, Any]) -> str:
    """A row per guidance, a column per number of real stages: distance (recall)."""
    rows = [
        [name, *(f"{row['frechet']:.2f} ({row['recall']:.2f})" for row in points)]
        for name, points in by_guidance(result).items()
    ]
    counts = [row["real_stages"] for row in next(iter(by_guidance(result).values()))]
    images = result["rows"][0]["images"]
    header = [f"{images:,} images: Frechet distance (recall)"]
    return figures.markdown_table(header + [f"{count} real stages" for count in counts], rows)
