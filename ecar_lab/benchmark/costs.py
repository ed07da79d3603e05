"""What E-CAR costs: FLOPs, time and memory, each section measured in one run on one machine.

Times are medians after a warm-up. Ratios within a run are what to quote: absolute times drift from
machine to machine and from hour to hour.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ecar_lab.benchmark import peers, runtimes
from ecar_lab.benchmark.timing import median_seconds, open_gates, seeded
from ecar_lab.cost import total_flops
from ecar_lab.device import autocast, keep_freed_memory, pick_device, pick_dtype, synchronize
from ecar_lab.errors import EcarError
from ecar_lab.machine import count_flops, machine, matmul_rate, peak_memory
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schema import Count, NotNegative, Steps, checked

SECTIONS = ("checkpoint", "peers", "training", "memory")
ALL_SECTIONS = (*SECTIONS, "onnx")  # the last one needs packages of an extra
TRAINING_TOKENS = 8192  # of all stages and images in a training step
TRAINING_STEPS = 6
LATENTS_512 = 64  # side of a 512 px latent at factor 8, whatever the preset's own factor is


@checked
def run_benchmark(
    sections: Sequence[str] = SECTIONS,
    *,
    checkpoint: str = "cifar10",
    preset: str = "imagenet256-s",
    dit_steps: Sequence[Steps] = peers.DIT_STEPS,
    batch_sizes: Sequence[Count] = (1, 8),
    guidance_scale: NotNegative = 2.0,
    repeats: Count = 3,
    compile: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures the sections named and returns what ``ecar benchmark`` prints and saves.

    Args:
        sections: ``checkpoint``: the shipped model, first stage, one image, a batch of 16, decode
            included. ``peers``: a preset (random weights) beside the models it is compared with,
            of its size. ``training``: the preset's training step against the machine's matmul rate.
            ``memory``: transformer and mask on a latent of 64, which is 512 px at factor 8.
            ``onnx``, if it is named: the checkpoint on both runtimes, on the CPU.
        dit_steps: numbers of steps of DiT; the lowest is timed, the others follow from it.
        report: told what is being measured.

    Raises:
        EcarError: an unknown section, preset, checkpoint or device.
    """
    unknown = [name for name in sections if name not in ALL_SECTIONS]
    if unknown:
        known = ", ".join(ALL_SECTIONS)
        raise EcarError(f"benchmark section {unknown[0]!r} is unknown: use {known}")
    if not batch_sizes or min(batch_sizes) < 1:
        raise EcarError(f"batch sizes {list(batch_sizes)}: give whole numbers of 1 or more")
    if not dit_steps:
        raise EcarError("dit_steps is empty: give at least one number of steps")
    for switch, value in (("repeats", repeats), ("dit_steps", min(dit_steps))):
        if value < 1:
            raise EcarError(f"{switch} is {value}: use 1 or more")
    place = pick_device(device)
    kind = pick_dtype(place, dtype)
    result: dict[str, Any] = {
        "machine": machine(place),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(kind).removeprefix("torch."),
        "matmul_flops_per_second": matmul_rate(kind, place),
    }
    for name in sections:
        report(f"measuring: {name}")
        if name == "checkpoint":
            result[name] = benchmark_checkpoint(checkpoint, place, kind, repeats)
        elif name == "peers":
            result[name] = peers.benchmark_peers(
                preset, dit_steps, batch_sizes, guidance_scale, place, kind, repeats
            )
        elif name == "onnx":
            result[name] = runtimes.benchmark_onnx(checkpoint, repeats)
        elif name == "training":
            result[name] = benchmark_training(preset, place, kind, compile)
        else:
            result[name] = benchmark_memory(preset, place, kind)
        gc.collect()
    return result


def benchmark_checkpoint(
    checkpoint: str, device: torch.device, dtype: torch.dtype, repeats: int
) -> dict[str, Any]:
    """Seconds until the first stage is on the screen, for one image, for a batch of 16."""
    pipe = ECARPipeline.from_pretrained(checkpoint, dtype=dtype).to(device)
    labels = [index % pipe.model.num_classes for index in range(16)]

    def first_stage() -> None:
        for event in pipe.trace(labels[:1], generator=seeded(1)):
            if event.is_stage_end:
                pipe.decode(event.clean_estimate)
                return

    def images(count: int) -> None:
        *_, last = pipe.trace(labels[:count], generator=seeded(count))
        pipe.decode(last.latent)

    *_, last = pipe.trace(labels[:1], generator=seeded(1))
    return {
        "checkpoint": checkpoint,
        "parameters": pipe.model.num_parameters(),
        "steps": pipe.model.inference_steps(),
        "guidance": pipe.model.guidance(),
        "gflop_per_image": total_flops(pipe.model.flops()) / 1e9,
        "gflop_decode_one": count_flops(lambda: pipe.decode(last.latent)) / 1e9,
        "seconds_first_stage": median_seconds(first_stage, device, repeats),
        "seconds_one_image": median_seconds(lambda: images(1), device, repeats),
        "seconds_batch_16": median_seconds(lambda: images(16), device, repeats),
        "seconds_decode_one": median_seconds(lambda: pipe.decode(last.latent), device, repeats),
    }


def benchmark_training(
    preset: str, device: torch.device, dtype: torch.dtype, compile: bool
) -> dict[str, Any]:
    """A training step (forward, backward, AdamW) against the machine's matrix product.

    The data of a step, its latents and random draws, is made before the clock of the step starts
    and timed by itself: ``data_wait`` is its share.
    """
    keep_freed_memory(device)
    model = open_gates(ECAR.from_preset(preset)).to(device).train()
    batch_size = max(1, TRAINING_TOKENS // sum(model.transformer.tokens_per_stage))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)
    side, channels = model.config.latent_size, model.config.latent_channels
    latents = torch.randn(8 * batch_size, channels, side, side, generator=generator)
    labels = torch.randint(model.num_classes, (len(latents),), generator=generator)
    loss_of = torch.compile(model.loss) if compile else model.loss

    def load(step: int):
        rows = torch.arange(batch_size) + step % 8 * batch_size
        draw = model.draw(batch_size, torch.Generator().manual_seed(step)).to(device)
        return latents[rows].to(device), labels[rows].to(device), draw

    def forward_backward(batch, loss_of) -> None:
        with autocast(device, dtype):
            loss = loss_of(*batch, 0.1).loss
        loss.backward()

    flops = count_flops(lambda: forward_backward(load(0), model.loss)) / batch_size
    optimizer.zero_grad()
    step_seconds, data_seconds = [], []
    for step in range(TRAINING_STEPS + 2):
        start = time.perf_counter()
        batch = load(step)
        loaded = time.perf_counter()
        forward_backward(batch, loss_of)
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        data_seconds.append(loaded - start)
        step_seconds.append(time.perf_counter() - start)
    seconds = statistics.median(step_seconds[2:])
    rate = matmul_rate(dtype, device)
    return {
        "preset": preset,
        "width": model.config.width,
        "batch_size": batch_size,
        "compiled": compile,
        "images_per_second": batch_size / seconds,
        "gflop_per_image": flops / 1e9,
        "flops_per_second": flops * batch_size / seconds,
        "matmul_flops_per_second": rate,
        "mfu": flops * batch_size / seconds / rate,
        "data_wait": statistics.median(data_seconds[2:]) / seconds,
    }


def benchmark_memory(
    preset: str, device: torch.device, dtype: torch.dtype, latent_size: int = LATENTS_512
) -> dict[str, Any]:
    """Peak memory of the masked transformer call of all stages, one image, beyond the weights; and
    of the same with its backward pass."""
    model = open_gates(ECAR.from_preset(preset, latent_size=latent_size)).to(device)
    transformer, labels = model.transformer, torch.zeros(1, dtype=torch.long, device=device)
    channels, sides = model.config.latent_channels, model.schedule.resolutions[:-1]
    ends = [torch.randn(1, channels, side, side, device=device) for side in sides]

    def forward() -> torch.Tensor:
        with autocast(device, dtype):
            return torch.cat([m.float().mean((0, 2)) for m in transformer(ends, labels)]).sum()

    with torch.no_grad():
        _, inference = peak_memory(forward, device)
    _, training = peak_memory(lambda: forward().backward(), device)
    return {
        "preset": preset,
        "latent_size": latent_size,
        "tokens": sum(transformer.tokens_per_stage),
        "peak_bytes_forward": inference,
        "peak_bytes_backward": training,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rate = result["matmul_flops_per_second"] / 1e12
    lines = [
        f"{result['machine']}, {result['threads']} threads, torch {result['torch']}, "
        f"{result['dtype']}; matrix product {rate:.2f} TFLOP/s"
    ]
    writers = {
        "checkpoint": _checkpoint_lines,
        "peers": peers.lines,
        "training": _training_lines,
        "memory": _memory_lines,
        "onnx": runtimes.lines,
    }
    for name, writer in writers.items():
        if name in result:
            lines += ["", *writer(result[name])]
    return "\n".join(lines)


def _checkpoint_lines(r: dict[str, Any]) -> list[str]:
    return [
        f"**{r['checkpoint']}** ({r['parameters'] / 1e6:.1f} M parameters, steps {r['steps']}, "
        f"guidance {r['guidance']}, {r['gflop_per_image']:.2f} GFLOP per image, "
        f"{r['gflop_decode_one']:.2f} more for decoding it)",
        "",
        "| first stage on screen | one image | batch of 16 | decoding one |",
        "|---|---|---|---|",
        f"| {r['seconds_first_stage'] * 1e3:.0f} ms | {r['seconds_one_image'] * 1e3:.0f} ms "
        f"| {r['seconds_batch_16']:.2f} s | {r['seconds_decode_one'] * 1e3:.1f} ms |",
    ]


def _training_lines(r: dict[str, Any]) -> list[str]:
    return [
        f"**Training** {r['preset']} (width {r['width']}, batch {r['batch_size']}, "
        f"{'compiled' if r['compiled'] else 'eager'}): {r['images_per_second']:.1f} images/s, "
        f"{r['flops_per_second'] / 1e12:.2f} TFLOP/s = {r['mfu']:.0%} of the matrix product; "
        f"waiting for data {r['data_wait']:.1%} of a step",
    ]


def _memory_lines(r: dict[str, Any]) -> list[str]:
    return [
        f"**Memory** of the masked transformer call on a latent of {r['latent_size']}, batch 1 "
        f"({r['tokens']} tokens): {r['peak_bytes_forward'] / 2**20:.0f} MiB, with backward pass "
        f"{r['peak_bytes_backward'] / 2**20:.0f} MiB",
    ]
