"""Notebook 10: a flow in the plane that is known exactly, and the errors of solvers on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecar_lab import flow
from ecar_lab.schedule import time_grid
from ecar_lab.teaching.explore.flow_matching import Field, points

EVALUATED = (4, 8, 16, 32, 64, 128)  # calls of the velocity; Heun takes half as many steps


@dataclass(frozen=True)
class Cloud:
    """Data whose mean velocity is known: a normal distribution of width ``blur`` about each centre.

    Given a centre m, x_t is normal about t m with variance ``s² = (1 - t)² + t² blur²``, so that
    ``E[x - eps | x_t, m] = m + (t blur² - (1 - t)) / s² (x_t - t m)``. The velocity is the mean of
    that over the centres, each with its probability given x_t.

    Args:
        centres: (M, 2).
    """

    centres: Tensor
    blur: float

    def __call__(self, state: Tensor, t: float) -> Tensor:
        """The velocity at states (N, 2) and a time from 0 to 1."""
        centres = self.centres.to(state)
        variance = (1 - t) ** 2 + (t * self.blur) ** 2
        distance = torch.cdist(state, t * centres)
        mean = (-distance.square() / (2 * variance)).softmax(-1) @ centres  # of m, given x_t
        return mean + (t * self.blur**2 - (1 - t)) / variance * (state - t * mean)

    def log_density(self, points: Tensor) -> Tensor:
        """Of the data, less a constant: (N,)."""
        distance = torch.cdist(points, self.centres.to(points))
        return (-distance.square() / (2 * self.blur**2)).logsumexp(1) - math.log(len(self.centres))


@dataclass(frozen=True)
class Fields:
    """Velocities with class and without: ``fields(state, t, with_class)``.

    Attributes:
        everything: without. each: one per class. labels: (N,), the class of every particle.
    """

    everything: Cloud
    each: Sequence[Cloud]
    labels: Tensor

    def __call__(self, state: Tensor, t: float, with_class: bool) -> Tensor:
        if not with_class:
            return self.everything(state, t)
        of_class = torch.stack([cloud(state, t) for cloud in self.each])  # (classes, N, 2)
        return of_class[self.labels, torch.arange(len(state))]

    def guided(self, scale: float | Tensor) -> Field:
        """``v_none + scale (v_class - v_none)``; scale: a number, or (N, 1)."""

        def velocity(state: Tensor, t: float) -> Tensor:
            without = self(state, t, False)
            return without + scale * (self(state, t, True) - without)

        return velocity

    def certainty(self, points: Tensor) -> float:
        """Mean probability of the particles' own class, given where they ended."""
        log = torch.stack([cloud.log_density(points) for cloud in self.each], dim=1)
        return log.softmax(1)[torch.arange(len(points)), self.labels].mean().item()


def moons(labels: Tensor, blur: float = 0.25, count: int = 100) -> Fields:
    """The two moons of notebook 3, blurred; a class for each."""
    centres, moon = points("moons", count, torch.Generator().manual_seed(1))
    each = [Cloud(centres[moon == kind], blur) for kind in (0, 1)]
    return Fields(Cloud(centres, blur), each, labels)


@torch.no_grad()
def walk(
    velocity: Field, start: Tensor, times: Sequence[float], step: Callable[..., Any] = flow.ab2_step
) -> Tensor:
    """All states of a run over any grid of times, (K + 1, N, 2). Every step is given what the step
    before returned as its velocity."""
    states, slope = [start], None
    for number in range(len(times) - 1):
        state, slope = step(lambda x, i: velocity(x, times[i]), states[-1], times, number, slope)
        states.append(state)
    return torch.stack(states)


def gap(one: Tensor, other: Tensor) -> float:
    """Root mean square of the difference."""
    return (one.double() - other.double()).square().mean().sqrt().item()


def order_of(calls: Sequence[int], errors: Sequence[float]) -> float:
    """p of an error that falls as ``calls ** -p``: the slope in logarithms, by least squares."""
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (calls, errors))
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / x.square().sum()).item()


def errors_of(
    step: Callable[..., Any], per_step: int, velocity: Field, start: Tensor, exact: Tensor
) -> list[float]:
    """A solver's errors at the end for each number of calls of ``EVALUATED``, on even grids."""
    ends = [walk(velocity, start, time_grid(n // per_step), step)[-1] for n in EVALUATED]
    return [gap(end, exact) for end in ends]
