"""Explorations of notebook 0: a run of the shipped model, class by class and seed by seed."""

from __future__ import annotations

import torch
from PIL import Image

from ecar_lab.events import TraceEvent
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.explore import choice, explorer, whole
from ecar_lab.viz.pictures import stage_strip


def run(pipe: ECARPipeline, name: str, seed: int) -> list[TraceEvent]:
    """All events of one image."""
    return list(pipe.trace([name], generator=torch.Generator().manual_seed(seed)))


def stages(pipe: ECARPipeline, side: int = 128):
    """Controls for class and seed above the strip of stages."""

    def draw(name: str, seed: int) -> Image.Image:
        return stage_strip(run(pipe, name, seed), pipe.tokenizer, side=side, first=0)

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
