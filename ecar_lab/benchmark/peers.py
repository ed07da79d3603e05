"""E-CAR beside the models it is compared with: what an image costs, all in one run.

All have as many parameters, latents and classes alike, guidance in all of every stage, and random
weights. Each takes the steps it is usually sampled with: ratios say what that costs, not that
quality is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from ecar_lab.baselines import build
from ecar_lab.benchmark.timing import (
    median_seconds,
    open_gates,
    open_stream,
    place,
    sample,
    seconds_of,
)
from ecar_lab.cost import total_flops
from ecar_lab.generator import LatentGenerator
from ecar_lab.machine import count_flops, matmul_rate, peak_memory
from ecar_lab.presets import get_preset
from ecar_lab.schedule import plan_text

# How the others are usually sampled. DiT: 250 steps in its paper, 50 where time matters.
DIT_STEPS = (50, 250)
SCALE_STEPS = 24  # of every scale: FlowAR
MAR_ITERATIONS, MAR_HEAD_STEPS = 64, 50  # MAR, which takes up to 100 steps in its head

OURS = "E-CAR"


@dataclass(frozen=True)
class Peer:
    """A model to measure.

    Attributes:
        architecture: as of ``baselines.build``. steps: per stage. also_steps: further numbers of
            steps, whose time follows from that of ``steps``, since all steps are the same.
    """

    name: str
    model: LatentGenerator
    steps: list[int]
    also_steps: Sequence[int] = ()


def peers(preset: str, dit_steps: Sequence[int] = DIT_STEPS) -> Iterator[Peer]:
    """E-CAR in the shape of a preset, and the others with its number of parameters.

    The preset's own guidance interval is left out: DiT, which has none, is guided all the way.
    """
    shape: dict[str, Any] = {**get_preset(preset).model, "guidance_interval": None}

    def make(architecture: str, **options: Any) -> LatentGenerator:
        return open_gates(build(architecture, shape, **options)).eval()

    ours = make("ecar")
    yield Peer(OURS, ours, ours.inference_steps())
    first, *others = sorted(set(dit_steps))
    yield Peer("DiT", make("dit"), [first], others)
    scales = [SCALE_STEPS] * shape["num_stages"]
    yield Peer("FlowAR-like", make("full-denoise"), scales)
    mar = make("mar-masked", num_iterations=MAR_ITERATIONS)
    yield Peer("MAR-like", mar, [MAR_HEAD_STEPS])


def benchmark_peers(
    preset: str,
    dit_steps: Sequence[int],
    batch_sizes: Sequence[int],
    guidance_scale: float,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
) -> dict[str, Any]:
    """FLOPs, seconds, peak memory and the share of the matrix-product rate of every peer."""
    models: list[dict[str, Any]] = []
    details: dict[str, Any] = {}
    for peer in peers(preset, dit_steps):
        place(peer.model, device, dtype)
        once = peer.name != OURS  # the others take long enough
        models += measure(peer, batch_sizes, guidance_scale, None if once else repeats)
        if not once:
            details = ecar_details(peer.model, batch_sizes, guidance_scale)
    add_ratios(models)
    ours = models[0]
    return {
        "preset": preset,
        "guidance": guidance_scale,
        **details,
        "gflop_per_million_parameters": ours["gflop_per_image"] * 1e6 / ours["parameters"],
        "seconds_decode_tiny": seconds_of_tiny_decoder(preset, device, dtype, repeats),
        "models": models,
    }


def measure(
    peer: Peer, batch_sizes: Sequence[int], guidance: float, repeats: int | None
) -> list[dict[str, Any]]:
    """One entry per number of steps; see :func:`time_and_memory`."""
    model: Any = peer.model
    rate = matmul_rate(model.dtype, model.device)
    timed = [
        (size, *time_and_memory(model, peer.steps, guidance, size, repeats)) for size in batch_sizes
    ]
    entries = []
    for steps in (peer.steps, *([count] for count in peer.also_steps)):
        times = sum(steps) / sum(peer.steps)
        flops = total_flops(model.flops(steps, guidance))
        entries.append(
            {
                "name": peer.name,
                "parameters": model.num_parameters(),
                "steps": steps,
                "iterations": model.config.get("num_iterations"),
                "timed_steps": sum(peer.steps),
                "gflop_per_image": flops / 1e9,
                "matmul_flops_per_second": rate,
                "batches": [
                    {
                        "batch_size": size,
                        "seconds_per_image": times * seconds / size,
                        "peak_bytes": memory,
                        "matmul_share": flops * size / (times * seconds) / rate,
                    }
                    for size, seconds, memory in timed
                ],
            }
        )
    return entries


def time_and_memory(
    model: LatentGenerator, steps: list[int], guidance: float, batch_size: int, repeats: int | None
) -> tuple[float, int]:
    """Seconds of a batch and peak bytes: a median of so many runs, or a single run after the first
    events of another as a warm-up."""

    def call() -> None:
        sample(model, steps, guidance, batch_size)

    if repeats is None:
        for _ in islice(open_stream(model, steps, guidance, batch_size), 3):
            pass
        return peak_memory(lambda: seconds_of(call, model.device), model.device)
    seconds = median_seconds(call, model.device, repeats)
    return seconds, peak_memory(call, model.device)[1]


def add_ratios(models: list[dict[str, Any]]) -> None:
    """How many times E-CAR's FLOPs and seconds every model takes; E-CAR is the first."""
    ours = models[0]
    for model in models:
        model["flops_ratio"] = model["gflop_per_image"] / ours["gflop_per_image"]
        for batch, our_batch in zip(model["batches"], ours["batches"], strict=True):
            batch["time_ratio"] = batch["seconds_per_image"] / our_batch["seconds_per_image"]


def ecar_details(model: Any, batch_sizes: Sequence[int], guidance: float) -> dict[str, Any]:
    """E-CAR's FLOPs and seconds by stage and part, and its FLOPs as PyTorch counts them."""
    flops = model.flops(None, guidance)
    return {
        "gflop_counted": count_flops(lambda: sample(model, None, guidance)) / 1e9,
        "gflop_per_stage": {part: [f / 1e9 for f in values] for part, values in flops.items()},
        "stage_seconds": {str(size): stage_split(model, size, guidance) for size in batch_sizes},
    }


def stage_split(model: LatentGenerator, batch_size: int, guidance: float) -> list[dict[str, float]]:
    """Seconds of transformer and head in every stage of one run."""
    split = [{"transformer": 0.0, "head": 0.0} for _ in model.sides]
    for event in open_stream(model, None, guidance, batch_size):
        for part, seconds in event.seconds_split.items():
            split[event.stage][part] += seconds
    return split


@torch.no_grad()
def seconds_of_tiny_decoder(
    preset: str, device: torch.device, dtype: torch.dtype, repeats: int
) -> float:
    """Seconds of turning one latent into an image with the smallest decoder there is."""
    decoder = place(AutoencoderTiny().eval(), device, dtype)
    side = get_preset(preset).model["latent_size"]
    latent = torch.randn(1, 4, side, side, device=device).to(dtype)
    return median_seconds(lambda: decoder.decode(latent), device, repeats)


def lines(r: dict[str, Any]) -> list[str]:
    """The section as Markdown."""
    sizes = [batch["batch_size"] for batch in r["models"][0]["batches"]]
    header = ["", "parameters", "GFLOP", "ratio"]
    for size in sizes:
        header += [f"s per image, batch {size}", "ratio", "peak MiB", "of the matmul rate"]
    rows = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for model in r["models"]:
        cells = [
            sampler_name(model),
            f"{model['parameters'] / 1e6:.1f} M",
            f"{model['gflop_per_image']:.4g}",
            f"{model['flops_ratio']:.1f} x",
        ]
        for batch in model["batches"]:
            cells += [
                f"{batch['seconds_per_image']:.3g}",
                f"{batch['time_ratio']:.1f} x",
                f"{batch['peak_bytes'] / 2**20:.0f}",
                f"{batch['matmul_share']:.0%}",
            ]
        rows.append("| " + " | ".join(cells) + " |")
    return [
        f"**{r['preset']}**, guidance {r['guidance']} in all of every stage, random weights; E-CAR "
        f"takes {r['gflop_per_million_parameters']:.2f} GFLOP per million parameters and image",
        "",
        *rows,
        "",
        *_stage_lines(r, str(sizes[0])),
        "",
        f"Decoding one latent with AutoencoderTiny: {r['seconds_decode_tiny'] * 1e3:.0f} ms.",
    ]


def sampler_name(model: dict[str, Any]) -> str:
    """E.g. ``DiT, 250 steps (timed on 50)``."""
    steps = plan_text(model["steps"])
    if model["iterations"]:
        return f"{model['name']}, {model['iterations']} iterations of {steps} steps"
    part = sum(model["steps"]) != model["timed_steps"]
    timed = f" (timed on {model['timed_steps']})" if part else ""
    return f"{model['name']}, {steps} steps{timed}"


def _stage_lines(r: dict[str, Any], batch_size: str) -> list[str]:
    rows = [
        f"| stage of E-CAR, batch {batch_size} | transformer GFLOP | head GFLOP | transformer ms "
        "| head ms |",
        "|---|---|---|---|---|",
    ]
    per_stage = r["gflop_per_stage"]
    for stage, seconds in enumerate(r["stage_seconds"][batch_size]):
        transformer, head = (per_stage[part][stage] for part in ("transformer", "head"))
        rows.append(
            f"| {stage + 1} | {transformer:.2f} | {head:.2f} "
            f"| {seconds['transformer'] * 1e3:.1f} | {seconds['head'] * 1e3:.1f} |"
        )
    return rows
