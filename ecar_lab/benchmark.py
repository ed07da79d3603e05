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
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from ecar_lab import runtime
from ecar_lab.baselines import DiT
from ecar_lab.errors import EcarError
from ecar_lab.metrics import count_flops, machine, matmul_rate, peak_memory
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.presets import get_preset
from ecar_lab.trace import trace

SECTIONS = ("checkpoint", "dit", "training", "memory")
TRAINING_TOKENS = 8192  # of all stages and images in a training step
TRAINING_STEPS = 6
LATENTS_512 = 64  # side of a 512 px latent at factor 8


def run_benchmark(
    sections: Sequence[str] = SECTIONS,
    *,
    checkpoint: str = "cifar10",
    preset: str = "imagenet256-s",
    dit_steps: int = 50,
    batch_sizes: Sequence[int] = (1, 8),
    guidance_scale: float = 2.0,
    repeats: int = 3,
    compile: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures the sections named and returns what ``ecar benchmark`` prints and saves.

    Args:
        sections: ``checkpoint``: the shipped model, first stage, one image, a batch of 16, decode
            included. ``dit``: a preset (random weights) beside DiT of its size. ``training``: the
            preset's training step against the machine's matmul rate. ``memory``: transformer and
            mask at 512 px.
        report: told what is being measured.

    Raises:
        EcarError: an unknown section, preset, checkpoint or device.
    """
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        raise EcarError(f"benchmark section {unknown[0]!r} is unknown: use {', '.join(SECTIONS)}")
    if not batch_sizes or min(batch_sizes) < 1:
        raise EcarError(f"batch sizes {list(batch_sizes)}: give whole numbers of 1 or more")
    for switch, value in (("repeats", repeats), ("dit_steps", dit_steps)):
        if value < 1:
            raise EcarError(f"{switch} is {value}: use 1 or more")
    place = runtime.pick_device(device)
    kind = runtime.pick_dtype(place, dtype)
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
        elif name == "dit":
            result[name] = benchmark_dit(
                preset, dit_steps, batch_sizes, guidance_scale, place, kind, repeats
            )
        elif name == "training":
            result[name] = benchmark_training(preset, place, kind, compile)
        else:
            result[name] = benchmark_memory(preset, place, kind)
        gc.collect()
    return result


def median_seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median duration of ``call`` after one warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        runtime.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def seeded(batch_size: int) -> list[torch.Generator]:
    """One generator per image."""
    return [torch.Generator().manual_seed(seed) for seed in range(batch_size)]


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
        "gflop_per_image": sum(map(sum, pipe.model.flops().values())) / 1e9,
        "seconds_first_stage": median_seconds(first_stage, device, repeats),
        "seconds_one_image": median_seconds(lambda: images(1), device, repeats),
        "seconds_batch_16": median_seconds(lambda: images(16), device, repeats),
        "seconds_decode_one": median_seconds(lambda: pipe.decode(last.latent), device, repeats),
    }


def benchmark_dit(
    preset: str,
    dit_steps: int,
    batch_sizes: Sequence[int],
    guidance_scale: float,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
) -> dict[str, Any]:
    """E-CAR and DiT of one size, random weights, the same latent, classes and guidance."""
    shape = get_preset(preset).model
    model = open_gates(ECAR.from_preset(preset)).to(device).to(dtype).eval()
    size = {384: "S", 768: "B"}.get(shape["width"], "S")
    baseline = DiT(size, shape["latent_size"], shape["latent_channels"], shape["num_classes"])
    baseline = baseline.to(device).to(dtype).eval()
    decoder = AutoencoderTiny().to(device).to(dtype).eval()
    latent = torch.randn(1, 4, model.config.latent_size, model.config.latent_size, device=device)

    def dit_step() -> None:
        baseline.sample([0], 1, guidance_scale, seeded(1))

    flops = model.flops(None, guidance_scale)
    result: dict[str, Any] = {
        "preset": preset,
        "dit": f"DiT-{size}/2",
        "steps": model.inference_steps(),
        "dit_steps": dit_steps,
        "guidance": guidance_scale,
        "parameters": model.num_parameters(),
        "dit_parameters": sum(p.numel() for p in baseline.parameters()),
        "gflop_per_image": sum(map(sum, flops.values())) / 1e9,
        "gflop_counted": count_flops(lambda: sample(model, 1, guidance_scale)) / 1e9,
        "dit_gflop_per_image": dit_steps * count_flops(dit_step) / 1e9,
        "gflop_per_stage": {part: [f / 1e9 for f in values] for part, values in flops.items()},
    }
    result["flops_ratio"] = result["dit_gflop_per_image"] / result["gflop_per_image"]
    result["gflop_per_million_parameters"] = result["gflop_per_image"] * 1e6 / result["parameters"]

    @torch.no_grad()
    def decode() -> None:
        decoder.decode(latent.to(dtype))

    result["seconds_decode_tiny"] = median_seconds(decode, device, repeats)
    result["batches"] = [
        _beside_dit(model, baseline, size, dit_steps, guidance_scale, repeats)
        for size in batch_sizes
    ]
    return result


def _beside_dit(
    model: ECAR, baseline: DiT, batch_size: int, dit_steps: int, guidance_scale: float, repeats: int
) -> dict[str, Any]:
    """Time and peak memory of both at one batch size; DiT runs once, after a step of warm-up."""
    device = model.device
    ours = median_seconds(lambda: sample(model, batch_size, guidance_scale), device, repeats)
    split, memory = peak_memory(lambda: stage_split(model, batch_size, guidance_scale), device)

    def run_dit(steps: int) -> float:
        start = time.perf_counter()
        baseline.sample([0] * batch_size, steps, guidance_scale, seeded(batch_size))
        runtime.synchronize(device)
        return time.perf_counter() - start

    run_dit(1)
    theirs, dit_memory = peak_memory(lambda: run_dit(dit_steps), device)
    return {
        "batch_size": batch_size,
        "seconds_per_image": ours / batch_size,
        "dit_seconds_per_image": theirs / batch_size,
        "time_ratio": theirs / ours,
        "stage_seconds": split,
        "peak_bytes": memory,
        "dit_peak_bytes": dit_memory,
    }


def open_gates(model: ECAR) -> ECAR:
    """Small random numbers in the layers that start at zero: a fresh model's gates are shut, and
    what multiplies by zero may be timed too fast."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02, generator=generator)
    return model


def sample(model: ECAR, batch_size: int, guidance_scale: float) -> None:
    """Generates latents and throws them away."""
    for _ in trace(model, [0] * batch_size, None, guidance_scale, seeded(batch_size)):
        pass


def stage_split(model: ECAR, batch_size: int, guidance_scale: float) -> list[dict[str, float]]:
    """Seconds of transformer and head in every stage of one run."""
    split = [{"transformer": 0.0, "head": 0.0} for _ in model.schedule.resolutions]
    for event in trace(model, [0] * batch_size, None, guidance_scale, seeded(batch_size)):
        for part, seconds in event.seconds_split.items():
            split[event.stage][part] += seconds
    return split


def benchmark_training(
    preset: str, device: torch.device, dtype: torch.dtype, compile: bool
) -> dict[str, Any]:
    """A training step (forward, backward, AdamW) against the machine's matrix product.

    The data of a step, its latents and random draws, is made before the clock of the step starts
    and timed by itself: ``data_wait`` is its share.
    """
    runtime.keep_freed_memory(device)
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
        with runtime.autocast(device, dtype):
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
        runtime.synchronize(device)
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
    """Peak memory of the masked transformer call of all stages at 512 px, one image, beyond the
    weights; and of the same with its backward pass."""
    model = open_gates(ECAR.from_preset(preset, latent_size=latent_size)).to(device)
    transformer, labels = model.transformer, torch.zeros(1, dtype=torch.long, device=device)
    ends = [
        torch.randn(1, 4, side, side, device=device) for side in model.schedule.resolutions[:-1]
    ]

    def forward() -> torch.Tensor:
        with runtime.autocast(device, dtype):
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
        "dit": _dit_lines,
        "training": _training_lines,
        "memory": _memory_lines,
    }
    for name, writer in writers.items():
        if name in result:
            lines += ["", *writer(result[name])]
    return "\n".join(lines)


def _checkpoint_lines(r: dict[str, Any]) -> list[str]:
    return [
        f"**{r['checkpoint']}** ({r['parameters'] / 1e6:.1f} M parameters, steps {r['steps']}, "
        f"guidance {r['guidance']}, {r['gflop_per_image']:.2f} GFLOP per image)",
        "",
        "| first stage on screen | one image | batch of 16 | decoding one |",
        "|---|---|---|---|",
        f"| {r['seconds_first_stage'] * 1e3:.0f} ms | {r['seconds_one_image'] * 1e3:.0f} ms "
        f"| {r['seconds_batch_16']:.2f} s | {r['seconds_decode_one'] * 1e3:.1f} ms |",
    ]


def _dit_lines(r: dict[str, Any]) -> list[str]:
    lines = [
        f"**{r['preset']}** (steps {r['steps']}) against {r['dit']} "
        f"({r['dit_steps']} Euler steps), guidance {r['guidance']}, random weights",
        "",
        f"| | E-CAR | {r['dit']} | ratio |",
        "|---|---|---|---|",
        f"| parameters | {r['parameters'] / 1e6:.1f} M | {r['dit_parameters'] / 1e6:.1f} M | |",
        f"| GFLOP per image | {r['gflop_per_image']:.1f} | {r['dit_gflop_per_image']:.0f} "
        f"| {r['flops_ratio']:.1f} x |",
    ]
    for batch in r["batches"]:
        size = batch["batch_size"]
        lines += [
            f"| s per image, batch {size} | {batch['seconds_per_image']:.3f} "
            f"| {batch['dit_seconds_per_image']:.2f} | {batch['time_ratio']:.1f} x |",
            f"| peak memory, batch {size} | {batch['peak_bytes'] / 2**20:.0f} MiB "
            f"| {batch['dit_peak_bytes'] / 2**20:.0f} MiB | |",
        ]
    lines += ["", "| stage | transformer GFLOP | head GFLOP | transformer ms | head ms |"]
    lines += ["|---|---|---|---|---|"]
    per_stage = r["gflop_per_stage"]
    for stage, seconds in enumerate(r["batches"][0]["stage_seconds"]):
        lines.append(
            f"| {stage} | {per_stage['transformer'][stage]:.2f} | {per_stage['head'][stage]:.2f} "
            f"| {seconds['transformer'] * 1e3:.1f} | {seconds['head'] * 1e3:.1f} |"
        )
    decode = r["seconds_decode_tiny"] * 1e3
    return [*lines, "", f"Decoding one latent to 256 px with AutoencoderTiny: {decode:.0f} ms."]


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
