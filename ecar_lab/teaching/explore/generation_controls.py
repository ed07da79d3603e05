"""Notebook 7: controls for the steps and guidance of every stage, and for a seed of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from ecar_lab.events import TraceEvent
from ecar_lab.interventions import stage_noise
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.explore import choice, explorer, real, whole
from ecar_lab.viz.colours import LatentColours
from ecar_lab.viz.pictures import image_grid, stage_strip

SIDE = 112  # pixels of the largest stage in a strip
WIDE = 1250  # pixels that a gallery may take
Draw = Callable[..., Image.Image]
Groups = Mapping[str, Tensor]  # label -> images (B, 3, H, W) in [-1, 1]


def gallery(groups: Groups, columns: int, per_row: int = 4) -> Image.Image:
    """The images of each group, as large as there is room, its label below."""
    side = max(images.shape[-1] for images in groups.values())
    scale = min(6, max(2, WIDE // (side * columns * per_row)))
    tiles = [image_grid(images, per_row, scale=scale) for images in groups.values()]
    return image_grid(tiles, columns, labels=list(groups))


def sample(
    pipe: ECARPipeline, name: str, seed: int, steps: Sequence[int], guidance: Sequence[float]
) -> list[TraceEvent]:
    """All events of one image; steps and guidance have one value per stage."""
    generator = torch.Generator().manual_seed(seed)
    return list(pipe.trace([name], steps, guidance, generator))


def cost_in_words(events: Sequence[TraceEvent]) -> str:
    """What a run took: 10.5 GFLOP, 98 ms."""
    flops = sum(event.flops for event in events)
    seconds = sum(event.seconds for event in events)
    return f"{flops / 1e9:.1f} GFLOP, {1000 * seconds:.0f} ms"


def sample_seeds(pipe: ECARPipeline, name: str, seeds: Sequence[int]) -> list[TraceEvent]:
    """All events of one image whose stage s has the noise of ``seeds[s]``."""
    noise = dict(enumerate(stage_noise(pipe.model, seeds)))
    return list(pipe.trace([name], noise=noise))


def draw_plan(pipe: ECARPipeline) -> Draw:
    """Class, seed, ``steps_0`` ..., ``guidance_0`` ... -> the strip of stages and its cost."""
    stages, colours = len(pipe.model.sides), LatentColours.of(pipe.tokenizer)

    def draw(name: str, seed: int, **plan: float) -> Image.Image:
        steps = [int(plan[f"steps_{stage}"]) for stage in range(stages)]
        guidance = [plan[f"guidance_{stage}"] for stage in range(stages)]
        events = sample(pipe, name, seed, steps, guidance)
        strip = stage_strip(events, pipe.tokenizer, side=SIDE, colours=colours)
        return image_grid([strip], labels=[cost_in_words(events)])

    return draw


def draw_seeds(pipe: ECARPipeline) -> Draw:
    """Class, ``seed_0`` ... -> the strip of stages."""
    stages, colours = len(pipe.model.sides), LatentColours.of(pipe.tokenizer)

    def draw(name: str, **seeds: int) -> Image.Image:
        chosen = [seeds[f"seed_{stage}"] for stage in range(stages)]
        events = sample_seeds(pipe, name, chosen)
        return stage_strip(events, pipe.tokenizer, side=SIDE, colours=colours)

    return draw


def knobs(pipe: ECARPipeline, name: str, seed: int = 0):
    """Controls for class, seed, and the steps and guidance of every stage."""
    model = pipe.model
    steps = {
        f"steps_{stage}": whole(f"steps, stage {stage + 1}", 1, 16, value)
        for stage, value in enumerate(model.inference_steps())
    }
    guidance = {
        f"guidance_{stage}": real(f"guidance, stage {stage + 1}", 1.0, 6.0, value, 0.25)
        for stage, value in enumerate(model.guidance())
    }
    controls = {
        "name": choice("class", pipe.class_names, name),
        "seed": whole("seed", 0, 99, seed),
    }
    return explorer(
        draw_plan(pipe),
        {**controls, **steps, **guidance},
        {
            "the model's own plan": {},
            "guidance 6 everywhere": dict.fromkeys(guidance, 6.0),
        },
        "Figure 7.6. One class and seed, two plans. Guidance of 6 everywhere makes colours and "
        "contrast glaring.",
        "Two strips of stages of the same class and seed: the model's own plan, and guidance 6 in "
        "every stage, each with its GFLOP and milliseconds below.",
    )


def seeds(pipe: ECARPipeline, name: str, first: int = 0, second: int = 1):
    """Controls for the class and for the seed that each stage's noise comes from."""
    stages = len(pipe.model.sides)
    controls = {
        f"seed_{stage}": whole(f"seed of stage {stage + 1}", 0, 99, first)
        for stage in range(stages)
    }
    examples: dict[str, dict[str, int]] = {f"all of seed {first}": {}}
    for stage in range(stages):
        examples[f"stage {stage + 1} of seed {second}"] = {f"seed_{stage}": second}
    return explorer(
        draw_seeds(pipe),
        {"name": choice("class", pipe.class_names, name), **controls},
        examples,
        "Figure 7.9. One run, and the same run with the noise of another seed in one stage alone. "
        "Stage 2's noise makes another picture of it.",
        "Four strips of stages. With other noise in stage 2 the picture is another one; with other "
        "noise in stage 1 or 3 it keeps its layout.",
        columns=2,
    )
