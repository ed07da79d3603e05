"""The same images by PyTorch and by ONNX, timed in turns in one run: the ratio is what to quote."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ecar_lab.benchmark.timing import seconds_of, seeded
from ecar_lab.files import resolve_checkpoint
from ecar_lab.onnx.export import exported, load_ecar
from ecar_lab.onnx.pipeline import OnnxPipeline

CPU = torch.device("cpu")


def benchmark_onnx(checkpoint: str, repeats: int) -> dict[str, Any]:
    """Medians for one image and a batch of 16, decoded, both in float32 with as many threads.

    The export is made first, unless it is there.
    """
    pipe = load_ecar(resolve_checkpoint(checkpoint))
    ours = OnnxPipeline(exported(checkpoint, threads=torch.get_num_threads()))
    labels = [index % pipe.model.num_classes for index in range(16)]

    def on_torch(count: int) -> None:
        *_, last = pipe.trace(labels[:count], generator=seeded(count))
        pipe.decode(last.latent)

    def on_onnx(count: int) -> None:
        *_, last = ours.trace(labels[:count], seeds=list(range(count)))
        ours.tokenizer.decode(last.latent)

    result: dict[str, Any] = {"checkpoint": checkpoint}
    for name, count in (("one_image", 1), ("batch_16", 16)):
        by_torch, by_onnx = in_turns(partial(on_torch, count), partial(on_onnx, count), repeats)
        result[name] = {"torch": by_torch, "onnx": by_onnx, "ratio": by_torch / by_onnx}
    return result


def in_turns(one: Callable[[], Any], other: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds of two things, each done once before and then in turns: what else the machine
    does meets both."""
    seconds: tuple[list[float], list[float]] = [], []
    for repeat in range(repeats + 1):
        for call, found in zip((one, other), seconds, strict=True):
            taken = seconds_of(call, CPU)
            if repeat:
                found.append(taken)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def lines(r: dict[str, Any]) -> list[str]:
    """The result as Markdown."""
    one, batch = r["one_image"], r["batch_16"]
    return [
        f"**{r['checkpoint']}** on both runtimes, float32, decoding included",
        "",
        "| | torch | onnx | torch / onnx |",
        "|---|---|---|---|",
        f"| one image | {one['torch'] * 1e3:.0f} ms | {one['onnx'] * 1e3:.0f} ms "
        f"| {one['ratio']:.2f} |",
        f"| batch of 16 | {batch['torch']:.2f} s | {batch['onnx']:.2f} s | {batch['ratio']:.2f} |",
    ]
