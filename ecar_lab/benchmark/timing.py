"""What every timing of a generator needs: weights that are not zero, fixed seeds, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from ecar_lab.baselines.base import Baseline
from ecar_lab.device import synchronize
from ecar_lab.generator import LatentGenerator
from ecar_lab.model import ECAR
from ecar_lab.trace import Stream, trace

Module = TypeVar("Module", bound=torch.nn.Module)


def open_gates(model: Module) -> Module:
    """Small random numbers in the layers that start at zero: a fresh model's gates are shut, and
    what multiplies by zero may be timed too fast."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02, generator=generator)
    return model


def place(model: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """The model where and in the precision that it will be timed; without the warning that
    diffusers' own ``to`` has for every change of precision."""
    return torch.nn.Module.to(model, device=device, dtype=dtype)


def seeded(batch_size: int) -> list[torch.Generator]:
    """One generator per image."""
    return [torch.Generator().manual_seed(seed) for seed in range(batch_size)]


def open_stream(
    model: LatentGenerator,
    steps: int | Sequence[int] | None = None,
    guidance: float = 1.0,
    batch_size: int = 1,
) -> Stream:
    """The events of a sampling run of E-CAR or a baseline with fixed seeds."""
    labels = [0] * batch_size
    if isinstance(model, ECAR):
        return trace(model, labels, steps, guidance, seeded(batch_size))
    assert isinstance(model, Baseline)
    return model.trace(labels, steps, guidance, seeded(batch_size))


def sample(
    model: LatentGenerator,
    steps: int | Sequence[int] | None = None,
    guidance: float = 1.0,
    batch_size: int = 1,
) -> None:
    """Generates latents and throws them away."""
    for _ in open_stream(model, steps, guidance, batch_size):
        pass


def timed(device: torch.device, work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What ``work`` returns, and the seconds it took; waits for a GPU."""
    synchronize(device)
    started = time.perf_counter()
    result = work(*arguments)
    synchronize(device)
    return result, time.perf_counter() - started


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Duration of one call."""
    return timed(device, call)[1]


def median_seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median duration of ``call`` after one warm-up."""
    call()
    return statistics.median(seconds_of(call, device) for _ in range(repeats))
