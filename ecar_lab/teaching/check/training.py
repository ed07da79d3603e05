"""Checks of notebook 6: local times, learning rate, clipping, averaged weights, a budget."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_tensor
from ecar_lab.teaching.explore.training import budget_hours as hours_of
from ecar_lab.training.optim import Plan
from ecar_lab.training.optim import lr_factor as lr_factor_of_plan

# -- local times -----------------------------------------------------------------------------------


def _local_times(batch_size: int, num_stages: int, generator: torch.Generator) -> Tensor:
    jitter = torch.rand(batch_size, num_stages, generator=generator)
    order = torch.rand(batch_size, num_stages, generator=generator).argsort(dim=0)
    return (order + jitter) / batch_size


@exercise("6.1 stratified times", _local_times)
def local_times(attempt: Callable[[int, int, torch.Generator], Tensor]) -> None:
    """``local_times(batch_size, num_stages, generator) -> (B, S)``, one in every B-th of [0, 1)."""
    batch, stages = 64, 3
    generator = torch.Generator().manual_seed(0)
    times = expect_tensor(attempt(batch, stages, generator), (batch, stages), "the times")
    if times.min() < 0 or times.max() >= 1:
        raise Wrong(
            f"the times run from {times.min():.3g} to {times.max():.3g}: divide by the batch size, "
            "so that they lie in [0, 1)"
        )
    slots = (times * batch).long()
    if not torch.equal(slots.sort(dim=0).values, torch.arange(batch)[:, None].expand(-1, stages)):
        raise Wrong(
            "some B-th of the interval holds two times and another none: these are plain uniform "
            "times, begin with one slot per image"
        )
    if torch.equal(slots[:, 0], torch.arange(batch)):
        raise Wrong("image 0 always has the smallest time: shuffle the slots over the batch")
    if torch.equal(slots[:, 0], slots[:, 1]):
        raise Wrong("the stages share one order, so their times go together: shuffle each stage")
    if (times * batch - slots).std() < 1e-3:
        raise Wrong("all times sit at the same place of their slot: add a uniform number to it")
    torch.manual_seed(0)
    again = [attempt(batch, stages, torch.Generator().manual_seed(0)) for _ in range(2)]
    if not torch.equal(*again):
        raise Wrong("the same generator gives other times the second time: draw all from it")


# -- learning rate ---------------------------------------------------------------------------------


def _lr_factor(step: int, total: int, warmup: int, floor: float) -> float:
    return lr_factor_of_plan(step, Plan(total), warmup, floor)


@exercise("6.2 learning rate", _lr_factor)
def lr_factor(attempt: Callable[[int, int, int, float], float]) -> None:
    """``lr_factor(step, total, warmup, floor)`` as a fraction of the peak."""
    total, warmup, floor = 200, 20, 0.1
    steps = range(0, total, 7)
    found = [attempt(step, total, warmup, floor) for step in steps]
    if None in found:
        raise Wrong("the result is None: is a return missing?")

    def curve(function: Callable[[float, float], float]) -> Tensor:
        """The factors that a formula in warm-up and progress gives."""
        warm = [min(1.0, (step + 1) / warmup) for step in steps]
        progress = [step / total for step in steps]
        return torch.tensor([function(w, p) for w, p in zip(warm, progress, strict=True)])

    def cosine(progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2

    def mix(share: float) -> float:
        return floor + (1 - floor) * share

    def late(progress: float) -> float:
        return max(0.0, (progress * total - warmup) / (total - warmup))

    expect_close(
        torch.tensor([float(value) for value in found]),
        torch.tensor([_lr_factor(step, total, warmup, floor) for step in steps]),
        {
            "it starts at the full rate: multiply by the warm-up, min(1, (step + 1) / warmup)": (
                curve(lambda w, p: mix(cosine(p)))
            ),
            "it warms up and then stays: multiply by the cosine part": curve(lambda w, p: w),
            "the cosine is taken of degrees: math.cos wants pi * progress": curve(
                lambda w, p: w * mix((1 + math.cos(180 * p)) / 2)
            ),
            "it ends at zero: mix the floor in, floor + (1 - floor) * ...": curve(
                lambda w, p: w * cosine(p)
            ),
            "it begins above the peak: the floor is added, and nothing taken off for it": curve(
                lambda w, p: w * (floor + cosine(p))
            ),
            "it rises to the peak at the end: the sign before the cosine is reversed": curve(
                lambda w, p: w * mix((1 - math.cos(math.pi * p)) / 2)
            ),
            "its cosine begins after the warm-up: the kit's runs from step 0": curve(
                lambda w, p: w * mix(cosine(late(p)))
            ),
        },
        "the factor at every seventh step",
    )


# -- clipping --------------------------------------------------------------------------------------


def _clip(gradients: list[Tensor], limit: float) -> Tensor:
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.mul_((limit / norm).clamp(max=1.0))
    return norm


@exercise("6.3 clipping", _clip)
def clip(attempt: Callable[[list[Tensor], float], Tensor]) -> None:
    """``clip(gradients, limit) -> norm``: scales in place, all gradients by one factor."""
    random = torch.Generator().manual_seed(0)
    small = [0.01 * torch.randn(3, 4, generator=random), 0.01 * torch.randn(5, generator=random)]
    large = [300 * gradient for gradient in small]
    for gradients, limit in ((large, 1.0), (small, 1.0)):
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        worked = [gradient.clone() for gradient in gradients]
        said = attempt(worked, limit)
        after = torch.cat([gradient.flatten() for gradient in worked])
        before = torch.cat([gradient.flatten() for gradient in gradients])
        apart = [gradient * min(1.0, limit / gradient.norm().item()) for gradient in gradients]
        total = sum(gradient.norm().item() for gradient in gradients)
        expect_close(
            after,
            before * min(1.0, limit / norm.item()),
            {
                "nothing has changed: scale the gradients in place, with mul_": before,
                "it cuts every number off by itself, which turns the gradient: scale all alike": (
                    before.clamp(-limit, limit)
                ),
                "it makes small gradients larger: the factor is at most 1": (
                    before * limit / norm.item()
                ),
                "it clips every tensor by its own norm: take one norm over all of them": (
                    torch.cat([gradient.flatten() for gradient in apart])
                ),
                "it adds up the tensors' norms: squares add up, norms do not": (
                    before * min(1.0, limit / total)
                ),
            },
            f"the gradient of norm {norm.item():.3g}, clipped at {limit:g},",
        )
        if said is None:
            raise Wrong("the result is None: return the norm, which is logged")
        expect_close(
            torch.as_tensor(said),
            norm,
            {"it returns the norm after clipping: the log wants that before": after.norm()},
            "the norm",
        )


# -- averaged weights ------------------------------------------------------------------------------


def _update_average(average: list[Tensor], weights: list[Tensor], decay: float) -> None:
    for mean, weight in zip(average, weights, strict=True):
        mean.mul_(decay).add_(weight, alpha=1 - decay)


@exercise("6.4 averaged weights", _update_average)
def update_average(attempt: Callable[[list[Tensor], list[Tensor], float], None]) -> None:
    """``update_average(average, weights, decay)``: in place, ``decay * average + ...``."""
    old, new, decay = torch.tensor([1.0, -2.0, 4.0]), torch.tensor([3.0, 5.0, 0.5]), 0.9
    average, weights = [old.clone(), old.clone()], [new.clone(), new.clone()]
    attempt(average, weights, decay)
    if not torch.equal(torch.cat(weights), torch.cat([new, new])):
        raise Wrong("it changes the weights: they are only read, the average is what moves")
    for mean in average:
        expect_close(
            mean,
            decay * old + (1 - decay) * new,
            {
                "the average has not moved: change it in place, with mul_ and add_": old,
                "decay is on the wrong side: the average keeps decay of itself": (
                    (1 - decay) * old + decay * new
                ),
                "the average only grows: it keeps decay of itself, not all": (
                    old + (1 - decay) * new
                ),
                "it is a plain mean of the two: weigh them by decay and 1 - decay": (old + new) / 2,
                "it copies the weights: keep decay of the old average": new,
            },
            "the average",
        )


# -- budget ----------------------------------------------------------------------------------------


@exercise("6.5 budget", hours_of)
def budget_hours(attempt: Callable[[float, float, float, float], float]) -> None:
    """``budget_hours(flops_per_image, images, rate, share) -> hours``."""
    flops, images, rate, share = 3e9, 6e5, 4e11, 0.25
    seconds = flops * images / rate / share
    expect_close(
        attempt(flops, images, rate, share),
        seconds / 3600,
        {
            "these are seconds: an hour has 3600": seconds,
            "these are minutes: divide by 3600, not by 60": seconds / 60,
            "it takes the whole rate: training gets a share of it": seconds * share / 3600,
            "a smaller share makes it faster here: divide by the share": seconds * share**2 / 3600,
            "it is upside down: work divided by speed is time": 3600 / seconds,
        },
        "the budget in hours",
    )
