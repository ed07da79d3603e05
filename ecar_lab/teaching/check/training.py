"""Checks of notebook 6: local times, learning rate, clipping, averaged weights, the trainer's
step, a budget."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_tensor
from ecar_lab.teaching.check._step import train_step
from ecar_lab.teaching.explore.training_curves import budget_hours as hours_of
from ecar_lab.training.optim import Plan
from ecar_lab.training.optim import lr_factor as lr_factor_of_plan

__all__ = ["budget_hours", "clip", "local_times", "lr_factor", "train_step", "update_average"]

# -- local times -----------------------------------------------------------------------------------


def _local_times(batch_size: int, num_stages: int, generator: torch.Generator) -> Tensor:
    jitter = torch.rand(batch_size, num_stages, generator=generator)
    order = torch.rand(batch_size, num_stages, generator=generator).argsort(dim=0)
    return (order + jitter) / batch_size


@exercise("6.1 stratified times", _local_times, settings=[(64, 3), (48, 2)])
def local_times(
    attempt: Callable[[int, int, torch.Generator], Tensor], batch: int, stages: int
) -> None:
    """``local_times(batch_size, num_stages, generator) -> (B, S)``, one in every B-th of [0, 1)."""
    generator = torch.Generator().manual_seed(0)
    times = expect_tensor(attempt(batch, stages, generator), (batch, stages), "the times")
    if times.dtype != torch.float32:
        raise Wrong(f"the times are {times.dtype}: the model computes in torch.float32")
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
    if torch.equal(slots[:, 0], torch.arange(batch - 1, -1, -1)):
        raise Wrong("image 0 always has the largest time: shuffle the slots over the batch")
    if (slots.diff(dim=0) % batch == (slots[1] - slots[0]) % batch).all(0).any():
        raise Wrong(
            "the slots are only rolled: neighbouring images have neighbouring times; shuffle them"
        )
    if torch.equal(slots[:, 0], slots[:, 1]):
        raise Wrong("the stages share one order, so their times go together: shuffle each stage")
    if ((slots[:, 0] - slots[:, 1]) % batch).unique().numel() == 1:
        raise Wrong("a stage's order is that of another one, rolled: shuffle each stage by itself")
    if torch.equal(slots[:, 0], batch - 1 - slots[:, 1]):
        raise Wrong("a stage's order is that of another one, reversed: shuffle each by itself")
    within = times * batch - slots
    if within.std(dim=0).min() < 1e-2:
        raise Wrong("all times sit at the same place of their slot: add a uniform number to each")
    if within.std(dim=1).max() < 1e-3:
        raise Wrong(
            "an image has the same place in its slot in every stage: draw (B, S) uniform numbers"
        )
    if within.max() < 0.75 or within.min() > 0.25:
        raise Wrong("the times fill a part of each slot only: add a uniform number in [0, 1)")
    if torch.equal(attempt(batch, stages, generator), times):
        raise Wrong("every call gives the same times: draw from the generator that is given")
    fresh = torch.Generator().manual_seed(0)
    if not torch.equal(attempt(batch, stages, fresh), times):
        raise Wrong("the same generator gives other times the second time: draw all from it")


# -- learning rate ---------------------------------------------------------------------------------


def _lr_factor(step: int, total: int, warmup: int, floor: float) -> float:
    return lr_factor_of_plan(step, Plan(total), warmup, floor)


@exercise("6.2 learning rate", _lr_factor, settings=[(200, 20, 0.1), (70, 1, 0.02), (100, 30, 0.0)])
def lr_factor(
    attempt: Callable[[int, int, int, float], float], total: int, warmup: int, floor: float
) -> None:
    """``lr_factor(step, total, warmup, floor)`` as a fraction of the peak."""
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

    early = [min(1.0, step / warmup) * mix(cosine(step / total)) for step in steps]
    curve_early = torch.tensor(early)
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
            "it begins at rate 0, so the first step is lost: the warm-up is (step + 1) / warmup": (
                curve_early
            ),
            "its cosine ends one step early: progress is step / total": curve(
                lambda w, p: w * mix(cosine(p * total / (total - 1)))
            ),
            "it falls along a straight line: it should follow the cosine": curve(
                lambda w, p: w * mix(1 - p)
            ),
            "the cosine goes a quarter of its way only: its angle runs to pi": curve(
                lambda w, p: w * mix(cosine(p / 2))
            ),
            "the cosine is not halved and lifted: (1 + cos) / 2 lies between 0 and 1": curve(
                lambda w, p: w * mix(math.cos(math.pi * p))
            ),
            "the factors are not multiplied: it takes the smaller of warm-up and cosine": curve(
                lambda w, p: min(w, mix(cosine(p)))
            ),
            "the floor is a lower bound here: mix it in, floor + (1 - floor) * ...": curve(
                lambda w, p: w * max(floor, cosine(p))
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


# Large and small gradients, and limits that are not all 1.
@exercise(
    "6.3 clipping", _clip, settings=[(3.0, 1.0), (0.01, 1.0), (3.0, 4.0), (0.5, 0.25)], changes=0
)
def clip(attempt: Callable[[list[Tensor], float], Tensor], size: float, limit: float) -> None:
    """``clip(gradients, limit) -> norm``: scales in place, all gradients by one factor."""
    random = torch.Generator().manual_seed(0)
    gradients = [
        size * torch.randn(3, 4, generator=random),
        size * torch.randn(5, generator=random),
    ]
    before = torch.cat([gradient.flatten() for gradient in gradients])
    norm, factor = before.norm(), min(1.0, limit / before.norm().item())
    apart = [gradient * min(1.0, limit / gradient.norm().item()) for gradient in gradients]
    total = sum(gradient.norm().item() for gradient in gradients)
    given = [gradient.clone() for gradient in gradients]
    worked = list(given)
    said = attempt(given, limit)
    after = torch.cat([gradient.flatten() for gradient in worked])
    replaced = any(one is not other for one, other in zip(given, worked, strict=False))
    if replaced or len(given) != len(worked):
        raise Wrong(
            "it puts new tensors into the list, and the weights keep their old gradients: scale "
            "each in place, with mul_"
        )
    expect_close(
        after,
        before * factor,
        {
            "nothing has changed: scale the gradients in place, with mul_": before,
            "it cuts every number off by itself, which turns the gradient: scale all alike": (
                before.clamp(-limit, limit)
            ),
            "it makes small gradients larger: the factor is at most 1": before * limit / norm,
            "it clips at 1, whatever the limit is": before * min(1.0, 1 / norm.item()),
            "it multiplies by the limit: the factor is limit / norm": before * limit,
            "it clips every tensor by its own norm: take one norm over all of them": (
                torch.cat([gradient.flatten() for gradient in apart])
            ),
            "it adds up the tensors' norms: squares add up, norms do not": (
                before * min(1.0, limit / total)
            ),
            "its norm is not rooted: the root of the sum of squares": (
                before * min(1.0, limit / norm.item() ** 2)
            ),
            "its norm is the largest number: the root of the sum of squares is meant": (
                before * min(1.0, limit / before.abs().max().item())
            ),
            "its norm adds up absolute values: the root of the sum of squares is meant": (
                before * min(1.0, limit / before.abs().sum().item())
            ),
        },
        f"the gradient of norm {norm.item():.3g}, clipped at {limit:g},",
    )
    if said is None:
        raise Wrong("the result is None: return the norm, which is logged")
    if isinstance(said, list | tuple):
        raise Wrong("it returns the gradients: they are changed in place, return the norm before")
    expect_close(
        torch.as_tensor(said),
        norm,
        {
            "it returns the norm after clipping: the log wants that before": after.norm(),
            "it returns the factor: the log wants the norm before": torch.tensor(factor),
            "it returns the squared norm: take the root": norm.square(),
            "it returns the sum of the tensors' norms: squares add up, norms do not": (
                torch.tensor(total)
            ),
        },
        "the norm",
    )


# -- averaged weights ------------------------------------------------------------------------------


def _update_average(average: list[Tensor], weights: list[Tensor], decay: float) -> None:
    for mean, weight in zip(average, weights, strict=True):
        mean.mul_(decay).add_(weight, alpha=1 - decay)


@exercise("6.4 averaged weights", _update_average, settings=[(0.9,), (0.5,), (0.0,)], changes=0)
def update_average(
    attempt: Callable[[list[Tensor], list[Tensor], float], None], decay: float
) -> None:
    """``update_average(average, weights, decay)``: in place, ``decay * average + ...``."""
    old = [torch.tensor([1.0, -2.0, 4.0]), torch.tensor([[0.5, 3.0]])]
    new = [torch.tensor([3.0, 5.0, 0.5]), torch.tensor([[-1.0, 2.0]])]
    given = [tensor.clone() for tensor in old]
    average = list(given)
    attempt(given, new, decay)
    if len(given) != len(average) or any(a is not b for a, b in zip(given, average, strict=True)):
        raise Wrong(
            "it puts new tensors into the list, so the average that samples are made with never "
            "moves: change each in place, with mul_ and add_"
        )
    for moved, mean, weight in zip(average, old, new, strict=True):
        expect_close(
            moved,
            decay * mean + (1 - decay) * weight,
            {
                "the average has not moved: change it in place, with mul_ and add_": mean,
                "decay is on the wrong side: the average keeps decay of itself": (
                    (1 - decay) * mean + decay * weight
                ),
                "the average only grows: it keeps decay of itself, not all": (
                    mean + (1 - decay) * weight
                ),
                "it is a plain mean of the two: weigh them by decay and 1 - decay": (
                    (mean + weight) / 2
                ),
                "it copies the weights: keep decay of the old average": weight,
                "the weights come in whole: weigh them by 1 - decay": decay * mean + weight,
                "the weights never come in: add (1 - decay) times them": decay * mean,
                "the weights are subtracted: add them": decay * mean - (1 - decay) * weight,
                "its decay is 0.9 always: it is given": 0.9 * mean + 0.1 * weight,
            },
            "the average",
        )


# -- budget ----------------------------------------------------------------------------------------


@exercise("6.6 budget", hours_of, settings=[(3e9, 6e5, 4e11, 0.25), (2e8, 1e8, 1e13, 0.4)])
def budget_hours(
    attempt: Callable[[float, float, float, float], float],
    flops: float,
    images: float,
    rate: float,
    share: float,
) -> None:
    """``budget_hours(flops_per_image, images, rate, share) -> hours``."""
    seconds = flops * images / rate / share
    expect_close(
        attempt(flops, images, rate, share),
        seconds / 3600,
        {
            "these are seconds: an hour has 3600": seconds,
            "these are minutes: divide by 3600, not by 60": seconds / 60,
            "it takes the whole rate: training gets a share of it": seconds * share / 3600,
            "a smaller share makes it faster here: divide by the share": seconds * share**2 / 3600,
            "these are days: an hour has 3600 seconds": seconds / 86400,
            "it is the cost of one image: multiply by the images": seconds / images / 3600,
            "it multiplies by 3600: seconds are divided by it": seconds * 3600,
            "it takes off the share: training gets the share itself": (
                seconds * share / (1 - share) / 3600
            ),
            "it is upside down: work divided by speed is time": 3600 / seconds,
        },
        "the budget in hours",
    )
