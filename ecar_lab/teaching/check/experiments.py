"""Checks of notebook 8: distances, spreads, exponents, fronts, and equal cost."""

from __future__ import annotations

import math
import numbers
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecar_lab.evaluation.metrics import frechet_distance
from ecar_lab.experiments.lab.growth import exponents
from ecar_lab.experiments.steps_and_guidance import front, mark_front
from ecar_lab.teaching.check import (
    Wrong,
    exercise,
    expect_close,
    expect_list,
    expect_something,
)

Point = tuple[float, float]


@exercise("8.1 the Frechet distance", frechet_distance, settings=[(40, 40, 3, 1), (60, 90, 4, 0)])
def frechet(
    attempt: Callable[[Tensor, Tensor], float], count_a: int, count_b: int, width: int, seed: int
) -> None:
    """``frechet(a, b) -> distance`` of features (N, D) and (M, D)."""
    generator = torch.Generator().manual_seed(seed)
    mixes = torch.randn(2, width, width, generator=generator, dtype=torch.float64)
    # Neither set is white: there two different roots would give the same distance.
    a = torch.randn(count_a, width, generator=generator, dtype=torch.float64) @ mixes[0] - 0.5
    b = torch.randn(count_b, width, generator=generator, dtype=torch.float64) @ mixes[1] + 1.5
    shift = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    spreads = cov_a.trace() + cov_b.trace()
    root = _trace_of_root(cov_a, cov_b)
    axes = (a.std(0) - b.std(0)).square().sum()
    transposed = shift
    if count_a == count_b:
        samples_a, samples_b = torch.cov(a), torch.cov(b)
        root_of_samples = _trace_of_root(samples_a, samples_b)
        transposed = shift + samples_a.trace() + samples_b.trace() - 2 * root_of_samples
    by_number = (cov_a @ cov_b).clamp(min=0).sqrt().trace()
    biased_a, biased_b = (torch.cov(x.T, correction=0) for x in (a, b))
    biased = biased_a.trace() + biased_b.trace() - 2 * _trace_of_root(biased_a, biased_b)
    apart = (_root(cov_a) @ _root(cov_b)).trace()
    found = attempt(a, b)
    if isinstance(found, complex) or (isinstance(found, Tensor) and found.is_complex()):
        raise Wrong("the distance is complex: take .real of the eigenvalues")
    expect_close(
        found,
        shift + spreads - 2 * root,
        {
            "it compares the means only: the trace term compares the covariances": shift,
            "the distance of the means is not squared": shift.sqrt() + spreads - 2 * root,
            "it leaves out the means: their squared distance comes first": spreads - 2 * root,
            "the root is not subtracted: equal sets must come out at 0": shift + spreads,
            "the root counts once: it is subtracted twice": shift + spreads - root,
            "it knows each feature's own deviation only: the covariance also says which features "
            "vary together": shift + axes,
            "the root is taken number by number: a matrix has a root of its own, whose trace is "
            "the sum of the roots of its eigenvalues": shift + spreads - 2 * by_number,
            "the covariance is one between samples: torch.cov wants a feature per row, give it "
            "the transpose": transposed,
            "eigvalsh takes a matrix for symmetric, and a product of two seldom is: use eigvals": (
                shift + spreads - 2 * torch.linalg.eigvalsh(cov_a @ cov_b).clamp(min=0).sqrt().sum()
            ),
            "singular values are no eigenvalues unless the matrix is symmetric: use eigvals": (
                shift + spreads - 2 * torch.linalg.svdvals(cov_a @ cov_b).sqrt().sum()
            ),
            "it roots each covariance by itself and multiplies: the root is that of the product": (
                shift + spreads - 2 * apart
            ),
            "the root of the distance is too much: the formula is the distance": (
                (shift + spreads - 2 * root).clamp(min=0).sqrt()
            ),
            "the covariances are subtracted and squared: that is another distance": (
                shift + (cov_a - cov_b).square().sum()
            ),
            "the eigenvalues are not rooted: their roots add up to the trace of the root": (
                shift + spreads - 2 * (cov_a @ cov_b).trace()
            ),
            "the root of the sum is no sum of roots: first root the eigenvalues, then add": (
                shift + spreads - 2 * (cov_a @ cov_b).trace().sqrt()
            ),
            "the covariance divides by N: divide by N - 1, as torch.cov does, so that it is not "
            "too small": shift + biased,
        },
        "the distance",
        tolerance=1e-3,
    )


def _root(covariance: Tensor) -> Tensor:
    """Σ^½ of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _trace_of_root(cov_a: Tensor, cov_b: Tensor) -> Tensor:
    """tr (Σ_a Σ_b)^½."""
    return torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()


def _welch_t(a: Sequence[float], b: Sequence[float]) -> float:
    error = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
    return (statistics.fmean(a) - statistics.fmean(b)) / math.sqrt(error)


@exercise(
    "8.2 is it more than the spread?",
    _welch_t,
    settings=[
        ([7.0, 2.5, 6.1, 9.9, 4.0], [3.1, 3.3]),
        ([12.1, 13.4, 11.9], [15.0, 14.2, 16.5, 15.4]),
    ],
)
def welch_t(
    attempt: Callable[[Sequence[float], Sequence[float]], float], a: list[float], b: list[float]
) -> None:
    """``welch_t(a, b) -> t`` of two lists of values, one value per seed."""
    gap = statistics.fmean(a) - statistics.fmean(b)
    std_a, std_b = statistics.stdev(a), statistics.stdev(b)
    freedom = (len(a) - 1, len(b) - 1)
    pooled = (freedom[0] * std_a**2 + freedom[1] * std_b**2) / sum(freedom)
    whole_a, whole_b = statistics.pvariance(a), statistics.pvariance(b)
    expect_close(
        attempt(a, b),
        _welch_t(a, b),
        {
            "it compares the means alone: divide by how far they may be off": gap,
            "it divides by std / n: a mean is off by std / √n, so variances are divided by n": (
                gap / math.sqrt(std_a / len(a) + std_b / len(b))
            ),
            "it adds std / √n of both: add their squares, then take the root": (
                gap / (std_a / math.sqrt(len(a)) + std_b / math.sqrt(len(b)))
            ),
            "it forgets the number of seeds: divide each variance by its n": (
                gap / math.hypot(std_a, std_b)
            ),
            "the variance is divided by n: with n - 1 it is not too small": (
                gap / math.sqrt(whole_a / len(a) + whole_b / len(b))
            ),
            "it takes both spreads for one and pools them: Welch gives each its own": (
                gap / math.sqrt(pooled * (1 / len(a) + 1 / len(b)))
            ),
            "it divides by the variance: take its root, the standard error": (
                gap / (statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
            ),
            "its sign is lost: a negative t says that a is lower": abs(_welch_t(a, b)),
            "its sign is reversed: it is the mean of a less that of b": -_welch_t(a, b),
        },
        "t",
    )


def _exponent(tokens: Sequence[float], values: Sequence[float]) -> float:
    slope = exponents([int(n) for n in tokens], list(values))["all"]
    assert slope is not None
    return slope


# Unevenly spaced, or the mean of all slopes would be that of the two ends.
@exercise(
    "8.3 an exponent from measurements",
    _exponent,
    settings=[
        ([16, 64, 128, 1024], [2.0, 9.0, 80.0, 1500.0]),
        ([4, 9, 100], [5.0, 4.0, 60.0]),
    ],
)
def exponent(
    attempt: Callable[[Sequence[float], Sequence[float]], float],
    tokens: list[float],
    values: list[float],
) -> None:
    """``exponent(tokens, values) -> p`` of the best fit ``values ~ tokens ** p``."""
    x, y = np.log(tokens), np.log(values)
    slopes = np.diff(y) / np.diff(x)
    expect_close(
        attempt(tokens, values),
        _exponent(tokens, values),
        {
            "it fits the raw numbers: a power is a straight line only between logarithms": (
                _slope(np.array(tokens), np.array(values))
            ),
            "only the values are logarithms: that is the rate of an exponential": (
                _slope(np.array(tokens), y)
            ),
            "the axes are swapped: tokens are x, values are y": _slope(y, x),
            "it uses the two ends only: fit a line through all points": (
                (y[-1] - y[0]) / (x[-1] - x[0])
            ),
            "it takes the mean of the slopes between neighbours, where one bad point counts twice: "
            "fit a line through all points": float(slopes.mean()),
            "it takes the slope of the last two points: fit a line through all": float(slopes[-1]),
            "it takes the slope of the first two points: fit a line through all": float(slopes[0]),
            "its line goes through the origin: a factor in front of the power is free": (
                float((x * y).sum() / (x * x).sum())
            ),
            "it returns exp of the slope: the slope itself is the exponent": (
                float(np.exp(_slope(x, y)))
            ),
            "only the tokens are logarithms: take those of the values too": (
                _slope(x, np.array(values))
            ),
            "it returns the intercept: np.polyfit gives the slope first": float(
                np.polyfit(x, y, 1)[1]
            ),
        },
        "the exponent",
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0])


def _pareto(points: Sequence[Point]) -> list[Point]:
    rows: list[dict[str, Any]] = [{"gflop": cost, "frechet": value} for cost, value in points]
    mark_front(rows)
    return [(row["gflop"], row["frechet"]) for row in front(rows)]


@exercise(
    "8.4 the Pareto front",
    _pareto,
    settings=[
        (
            [
                (8.0, 2.0),
                (1.0, 9.0),
                (3.0, 5.0),
                (2.0, 9.0),
                (5.0, 6.0),
                (4.0, 5.0),
                (9.0, 2.5),
                (10.0, 9.5),
            ],
        ),
        ([(3.0, 1.0), (2.0, 2.0), (1.0, 3.0)],),
        ([(2.0, 1.0), (4.0, 1.0), (2.0, 3.0)],),
    ],
)
def pareto(attempt: Callable[[Sequence[Point]], Sequence[Point]], points: list[Point]) -> None:
    """``pareto(points) -> the front`` of (cost, distance), the cheapest first."""
    right = _pareto(points)
    found = expect_list(attempt(points), "the front")
    found = [(float(cost), float(value)) for cost, value in found]
    if found == right:
        return
    ordered = sorted(found)
    if ordered == right:
        raise Wrong("the points are right, their order is not: put the cheapest first")
    if ordered == [min(points)]:
        raise Wrong("it keeps the cheapest point only: better ones that nothing beats belong too")
    if ordered == sorted(points):
        raise Wrong("it keeps every point: a point that another one beats does not belong to it")
    if ordered == sorted(_beaten(points, lambda a, b: a[0] < b[0] and a[1] < b[1])):
        raise Wrong(
            "it keeps points that tie in one and lose in the other: as good in both and better in "
            "one is enough to beat"
        )
    if ordered == sorted(_beaten(points, lambda a, b: a[0] <= b[0] and a[1] >= b[1] and a != b)):
        raise Wrong("it keeps the largest distances: a smaller distance is better")
    if ordered == sorted(_beaten(points, lambda a, b: a[0] >= b[0] and a[1] <= b[1] and a != b)):
        raise Wrong("it keeps the costliest points: a smaller cost is better")
    if not ordered:
        raise Wrong("nothing is left: does every point beat itself?")
    if ordered == [min(points, key=lambda point: point[1])]:
        raise Wrong("it keeps the best point only: the cheaper ones that nothing beats belong too")
    raise Wrong(f"the front of {points} is {found}, it should be {right}")


def _beaten(points: Sequence[Point], beats: Callable[[Point, Point], bool]) -> list[Point]:
    """What is left if ``beats(other, point)`` decides."""
    return [point for point in points if not any(beats(other, point) for other in points)]


def _matched_steps(flops: Callable[[int], float], budget: float, most: int = 1000) -> int:
    return min(range(1, most + 1), key=lambda steps: abs(flops(steps) - budget))


@exercise(
    "8.5 steps at equal cost",
    _matched_steps,
    settings=[(5.0, 2.0, (15.8, 16.5, 101.2)), (1.0, 0.5, (301.3, 7.1, 0.2))],
)
def matched_steps(
    attempt: Callable[[Callable[[int], float], float], int],
    once: float,
    each: float,
    budgets: Sequence[float],
) -> None:
    """``matched_steps(flops, budget) -> steps`` whose cost is nearest to the budget."""

    def flops(steps: int) -> float:
        return once + each * steps  # a fixed part, as a transformer's, and one per step

    counts = range(1, 1001)
    for budget in budgets:
        found, right = attempt(flops, budget), _matched_steps(flops, budget)
        expect_something(found, "the number of steps")
        if found == right:
            if not isinstance(found, numbers.Integral):  # NumPy's too
                raise Wrong(f"{found!r} steps: steps are whole, return an int")
            continue
        asked = f"where n steps cost {once:g} + {each:g}n and the budget is {budget:g}"
        if found in (round(budget / flops(1)), int(budget // flops(1))):
            raise Wrong(f"{asked}, it divides by the cost of one step: a part is paid only once")
        if not isinstance(found, numbers.Real):
            raise Wrong(f"{asked}, it says {found}: return a number of steps")
        if found < 1:
            raise Wrong(f"{asked}, it says {found} steps: at least one is taken")
        if abs(flops(int(found)) - flops(right)) < 1e-9 or found == flops(right):
            raise Wrong(f"{asked}, it returns the cost: the number of steps is asked for")
        if found == max((n for n in counts if flops(n) <= budget), default=None):
            raise Wrong(f"{asked}, it stays below the budget: {right} steps come nearer")
        if found == min(n for n in counts if flops(n) >= budget):
            raise Wrong(f"{asked}, it goes above the budget: {right} steps come nearer")
        if found == right - 1:
            raise Wrong(f"{asked}, it says {found}, one too few: do its steps count from 0?")
        if found == round(budget):
            raise Wrong(f"{asked}, it takes the budget for a number of steps: equal cost is meant")
        raise Wrong(f"{asked}, it says {found} steps, it should be {right}")
