"""Notebook 9: what an image costs in FLOPs, from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from ecar_lab.baselines import build
from ecar_lab.benchmark.peers import MAR_HEAD_STEPS, MAR_ITERATIONS, SCALE_STEPS
from ecar_lab.cost import total_flops
from ecar_lab.presets import get_preset
from ecar_lab.schedule import MAX_STAGES

FACTOR = 8  # the tokenizer's, at every size
PIXELS = (256, 512, 1024)
NAMES = ("E-CAR", "DiT", "FlowAR-like", "MAR-like")


def shape_at(pixels: int) -> dict[str, Any]:
    """E-CAR of the preset ``imagenet256-s`` for another image size: a stage more per doubling, as
    far as the kit goes; a new stage takes as many steps as the coarsest one."""
    shape = dict(get_preset("imagenet256-s").model)
    doublings = (pixels // 256).bit_length() - 1
    stages = min(MAX_STAGES, shape["num_stages"] + doublings)
    steps = shape["num_inference_steps"]
    steps = [steps[0]] * (stages - len(steps)) + steps
    return {
        **shape,
        "latent_size": pixels // FACTOR,
        "num_stages": stages,
        "num_inference_steps": steps,
    }


@cache
def model(name: str, pixels: int) -> Any:
    """A generator without memory for its weights: enough to count its FLOPs."""
    shape = shape_at(pixels)
    with torch.device("meta"):
        if name == "MAR-like":
            return build("mar-masked", shape, num_iterations=MAR_ITERATIONS)
        kind = {"E-CAR": "ecar", "DiT": "dit", "FlowAR-like": "full-denoise"}[name]
        return build(kind, shape)


def gflop(
    name: str, pixels: int, steps: int | Sequence[int] | None = None, guidance: float = 2.0
) -> float:
    """GFLOP of one image; steps: of the flow, None = what the model is usually sampled with."""
    generator = model(name, pixels)
    usual = {"DiT": 50, "FlowAR-like": SCALE_STEPS, "MAR-like": MAR_HEAD_STEPS}
    steps = usual.get(name) if steps is None else steps
    return total_flops(generator.flops(steps, guidance)) / 1e9


def compared(
    pixels: int, coarse: int, finest: int, dit_steps: int, guidance: float
) -> dict[str, float]:
    """GFLOP of every model at one image size; E-CAR with so many steps in its last stage and in
    each one before it."""
    stages = shape_at(pixels)["num_stages"]
    plan = [coarse] * (stages - 1) + [finest]
    return {
        "E-CAR": gflop("E-CAR", pixels, plan, guidance),
        "DiT": gflop("DiT", pixels, dit_steps, guidance),
        "FlowAR-like": gflop("FlowAR-like", pixels, None, guidance),
        "MAR-like": gflop("MAR-like", pixels, None, guidance),
    }
