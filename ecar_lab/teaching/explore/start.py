"""Notebook 0: what its cells show and ask; a run of the shipped model, by class and seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ecar_lab.events import TraceEvent
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.explore import choice, explorer, whole
from ecar_lab.teaching.figures import hue, new_figure, show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.viz.overview import stage_overview
from ecar_lab.viz.pictures import image_grid, stage_strip

# -- what is shown ---------------------------------------------------------------------------------


def show_images(images: Sequence[Image.Image], names: Sequence[str]) -> None:
    """Figure 0.1: four generated images with their classes."""
    show(
        image_grid(images, 4, scale=4, labels=list(names)),
        "Figure 0.1. Four images of the shipped model, 32×32 pixels, enlarged (seed 9, one of the "
        "clearer ones).",
        "Four small generated images in a row: an automobile, a horse, a ship and a truck.",
    )


def tell_turning_points(points: Sequence[tuple[int, int, float, int]]) -> None:
    """Prints where each stage starts and ends: (stage from 1, step, time, side of the latent)."""
    for stage, step, t, side in points:
        moment = "ends  " if step else "starts"
        print(f"stage {stage} {moment} at t = {t:.2f} with a latent of {side}×{side}")


def show_strip(events: Sequence[TraceEvent], pipe: ECARPipeline) -> None:
    """Figure 0.2: the end of each stage as latent, clean estimate, decoded estimate."""
    show(
        stage_strip(events, pipe.tokenizer),
        "Figure 0.2. The ship at the end of each stage. Top: the latent, still noisy in the first "
        "two stages. Middle: what the model believes the clean latent to be. Bottom: that belief "
        "as an image.",
        "Three columns, one per stage, growing from 4×4 over 8×8 to 16×16. The noisy latent gets "
        "clearer, the decoded estimate turns from a blur into a ship.",
    )


def show_overview(events: Sequence[TraceEvent], pipe: ECARPipeline) -> None:
    """Figure 0.3: the whole run on one page."""
    show(
        stage_overview(events, pipe.tokenizer),
        "Figure 0.3. Everything at once. Each stage: the transformer writes a token map, the flow "
        "head carries the latent along its window of time, the transition hands it over.",
        "A column per stage with its token map on top, the latent at its start and end, the "
        "decoded estimate, and below the windows of time: 0 to 0.4, then 0.25 to 0.7, then 0.54 "
        "to 1.",
    )


def show_stages(schedule: StageSchedule) -> None:
    """A table of a schedule: the latent of each stage, and its window of time."""
    table(
        ["stage", "latent", "starts at t", "ends at t"],
        [
            (number, f"{side}×{side}", *(f"{t:.3f}" for t in schedule.window(number - 1)))
            for number, side in enumerate(schedule.resolutions, 1)
        ],
    )


def show_flops(flops: Sequence[float], tokens: Sequence[int]) -> None:
    """Figure 0.4: FLOPs of one image per stage, with the tokens of each."""
    figure, (axis,) = new_figure(width=6, height=2.2)
    labels = [f"stage {number}\n{count} tokens" for number, count in enumerate(tokens, 1)]
    axis.barh(labels, [f / 1e9 for f in flops], color=[hue(s) for s in range(len(flops))])
    axis.set(xlabel="GFLOP for one image")
    axis.invert_yaxis()
    shares = ", ".join(f"{f / sum(flops):.0%}" for f in flops)
    show(
        figure,
        f"Figure 0.4. Shares of the stages: {shares}. The last one has most of the tokens.",
        f"Three bars of FLOPs; the stages take {shares} of the whole.",
    )


def ask_first_stage() -> Any:
    """Where the flow steps of the first stage lead."""
    return quiz(
        "Where do the flow steps of the first stage lead?",
        {
            "To a finished small image, which later stages enlarge": "They stop at t = 0.4: the "
            "latent is still noisy. A finished small image is what the full-denoise-per-scale "
            "baseline makes.",
            "To a latent part of the way from noise to data": "The window of time ends early. The "
            "later stages go the rest of the way, at finer resolutions.",
            "To the token map": "That is the transformer's output; the flow head reads it at every "
            "step.",
        },
        right="To a latent part of the way from noise to data",
    )


# -- controls --------------------------------------------------------------------------------------


def run(pipe: ECARPipeline, name: str, seed: int) -> list[TraceEvent]:
    """All events of one image."""
    return list(pipe.trace([name], generator=torch.Generator().manual_seed(seed)))


def stages(pipe: ECARPipeline, side: int = 128):
    """Controls for class and seed above the strip of stages."""

    def draw(name: str, seed: int) -> Image.Image:
        return stage_strip(run(pipe, name, seed), pipe.tokenizer, side=side)

    names = pipe.class_names
    return explorer(
        draw,
        {"name": choice("class", names), "seed": whole("seed", 0, 99, 0)},
        {f"{name}, seed 0": {"name": name} for name in (names[0], names[-1])},
        "Two runs of one seed and two classes. The coarsest latents look nearly alike, since most "
        "of them is the seed's noise; the estimates part from there.",
        "Two strips of three stages each. In both the latent grows from 4 to 8 to 16 pixels, and "
        "the decoded estimate goes from a blur of colours to a small picture.",
    )
