"""Checks of notebook 10: Adams-Bashforth 2, grids, guidance in an interval, mean velocities."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ecar_lab import schedule
from ecar_lab.teaching.check import (
    Counted,
    Wrong,
    exercise,
    expect_close,
    expect_list,
    expect_something,
)
from ecar_lab.teaching.check._ab2 import ab2_step, draw
from ecar_lab.training.turbo import QUARTERS, SPANS

__all__ = ["ab2_step", "guided_velocity", "head_passes", "joined", "span_rows", "time_grid"]


@exercise(
    "10.2 an uneven grid",
    schedule.time_grid,
    settings=[(4, 1.3), (3, 2.0), (1, 1.5), (5, 1.0), (2, 0.5)],
)
def time_grid(attempt: Callable[[int, float], Any], steps: int, power: float) -> None:
    """``time_grid(steps, power) -> K + 1 times``, ``(i / K) ** power``."""
    asked = f"time_grid({steps}, {power:g})"
    found = expect_list(attempt(steps, power), asked)
    even = [i / steps for i in range(steps + 1)]
    right = [share**power for share in even]
    try:
        numbers_ = [float(time) for time in found]
    except (TypeError, ValueError) as error:
        raise Wrong(f"{asked} holds something that is no number: return a list of times") from error
    if len(found) != steps + 1:
        if _alike(numbers_, right[:-1]):
            raise Wrong(f"{asked} stops before 1: {steps} steps have {steps + 1} times")
        if _alike(numbers_, right[1:]):
            raise Wrong(f"{asked} leaves out 0, where the first step begins")
        raise Wrong(f"{asked} has {len(found)} times: {steps} steps have {steps + 1}")
    expect_close(
        torch.tensor(numbers_),
        torch.tensor(right),
        {
            "the power is taken before the division: then the last time is not 1": torch.tensor(
                [i**power / steps for i in range(steps + 1)]
            ),
            "the power is upside down: (i / K) ** p, not its p-th root": torch.tensor(
                [share ** (1 / power) for share in even]
            ),
            "the grid is mirrored: above 1 the first steps shall be the shorter ones": torch.tensor(
                [1 - (1 - share) ** power for share in even]
            ),
            "the grid is even: raise the shares to the power": torch.tensor(even),
            "the shares are multiplied by the power: raise them to it": torch.tensor(
                [share * power for share in even]
            ),
            "it begins with 1: time runs from 0 to 1": torch.tensor(right[::-1]),
            "these are lengths of steps: return the times between them": torch.tensor(
                [0.0, *(b - a for a, b in pairwise(right))]
            ),
        },
        asked,
        tolerance=1e-6,
    )


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, abs_tol=1e-6) for a, b in zip(one, other, strict=True)
    )


def _guided_velocity(
    field: Callable[[Tensor, float, bool], Tensor],
    state: Tensor,
    t: float,
    scale: float,
    interval: tuple[float, float],
) -> Tensor:
    low, high = interval
    with_class = field(state, t, True)
    if scale == 1 or not low <= t < high:
        return with_class
    without = field(state, t, False)
    return without + scale * (with_class - without)


def _two_fields(state: Tensor, t: float, with_class: bool) -> Tensor:
    return torch.cos(state) + t - state.flip(-1) if with_class else torch.sin(2 * state) - 2 * t


@exercise(
    "10.3 guidance in an interval",
    _guided_velocity,
    settings=[
        *((t, 2.5, (0.25, 0.5)) for t in (0.3, 0.1, 0.8, 0.25, 0.5)),
        *((0.3, 1.0, (0.0, 1.0)), (0.0, 0.5, (0.0, 1.0)), (0.9, 3.0, (0.0, 1.0))),
    ],
)
def guided_velocity(
    attempt: Callable[..., Any], t: float, scale: float, interval: tuple[float, float]
) -> None:
    """``guided_velocity(field, state, t, scale, interval)``: guided where low <= t < high."""
    state, asked = draw(4, 2), Counted(_two_fields)
    right = _guided_velocity(_two_fields, state, t, scale, interval)
    with_class, without = (_two_fields(state, t, told) for told in (True, False))
    guided = without + scale * (with_class - without)
    low, high = interval
    inside = low <= t < high
    where = f"t = {t:g}, interval {low:g} to {high:g}, scale {scale:g}"
    mistakes = {
        "the scale is on the wrong side, so it leads away from the class": (
            with_class + scale * (without - with_class)
        ),
        "it starts from the velocity with class and so goes one difference too far": (
            with_class + scale * (with_class - without)
        ),
        "the difference alone is no velocity: start from the one without class": (
            scale * (with_class - without)
        ),
    }
    if inside:
        mistakes |= {
            "it does not guide where it should: between low and high, low included": with_class,
            "it leaves the class out inside of the interval: guide there": without,
        }
    elif t == high:
        mistakes[
            "the interval's end belongs to it here: the kit's steps are guided at t < high"
        ] = guided
    else:
        mistakes["it guides outside of the interval: there it is the velocity with class"] = guided
    if not inside:
        mistakes["outside of the interval it forgets the class: guidance ends there, not the "
                 "class"] = without  # fmt: skip
        mistakes["outside of the interval nothing moves: the velocity with class goes on"] = (
            torch.zeros_like(state)
        )
    expect_close(attempt(asked, state, t, scale, interval), right, mistakes, f"at {where}")
    needed = 2 if inside and scale != 1 else 1
    if len(asked.calls) > needed:
        why = "at scale 1 the two cancel" if inside else "outside the other one is not needed"
        said = f"{len(asked.calls)} calls of the network at {where}"
        raise Wrong(
            f"the velocity is right, but it takes {said}: "
            + (why if needed == 1 else "one with class and one without are enough")
        )


def _head_passes(times: Sequence[float], scale: float, interval: tuple[float, float]) -> int:
    low, high = interval
    return sum(1 + (scale != 1 and low <= t < high) for t in times[:-1])


FIFTHS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


@exercise(
    "10.4 passes through the head",
    _head_passes,
    settings=[
        # One end of the interval after the other lies on a step's beginning.
        *((FIFTHS, 2.5, interval) for interval in ((0.1, 0.7), (0.2, 0.7), (0.1, 0.6), (0.0, 0.5))),
        ([0.0, 0.06, 0.25, 0.56, 1.0], 3.0, (0.0, 1.0)),
        ([0.0, 0.5, 1.0], 1.0, (0.0, 1.0)),
        ([0.0, 0.1, 0.3, 1.0], 2.0, (0.5, 0.9)),
    ],
)
def head_passes(
    attempt: Callable[..., Any], times: list[float], scale: float, interval: tuple[float, float]
) -> None:
    """``head_passes(times, scale, interval)``: one pass a step, two where the step is guided."""
    right, (low, high) = _head_passes(times, scale, interval), interval
    steps = len(times) - 1
    asked = f"head_passes({times}, {scale:g}, {interval})"
    found = attempt(times, scale, interval)
    expect_something(found, asked)
    if not isinstance(found, numbers.Integral | Tensor) and found == right:
        raise Wrong(f"{asked} is {found!r}: a number of passes is an int")
    twice = 2 * steps
    mistakes = {  # the first two differ only where no step begins at the interval's end
        "the interval's end belongs to it here: a step is guided at low <= t < high": (
            steps + sum(scale != 1 and low <= t <= high for t in times[:-1])
        ),
        "it counts the last time as a step: a step begins at every time but the last": (
            right + 1 + (scale != 1 and low <= times[-1] < high)
        ),
        "it counts guidance at scale 1, which has no second half": (
            steps + sum(low <= t < high for t in times[:-1])
        ),
        "it counts guided steps only: the others take a pass too": right - steps + (right - steps),
        "it counts the second halves only: every step has a first one": right - steps,
        "it looks at where a step ends: where it begins decides": (
            steps + sum(scale != 1 and low <= t < high for t in times[1:])
        ),
        "the interval's start is left out here: a step is guided at low <= t < high": (
            steps + sum(scale != 1 and low < t < high for t in times[:-1])
        ),
        "it doubles every step: only those in the interval run twice": twice,
        "guidance is missing: a guided step runs twice": steps,
    }
    expect_close(
        found,
        float(right),
        {said: float(count) for said, count in mistakes.items() if count != right},
        asked,
        tolerance=1e-9,
    )


def _joined(first: Tensor, d1: float, second: Tensor, d2: float) -> Tensor:
    return (d1 * first + d2 * second) / (d1 + d2)


@exercise(
    "10.5 the mean velocity of two spans",
    _joined,
    settings=[(0.1, 0.3, (4, 2)), (0.5, 0.25, (3, 2)), (0.5, 0.5, (2, 1, 3))],
)
def joined(attempt: Callable[..., Any], d1: float, d2: float, shape: tuple[int, ...]) -> None:
    """``joined(first, d1, second, d2)``: (d1 u1 + d2 u2) / (d1 + d2)."""
    first, second = draw(*shape), draw(*shape, seed=1)
    way = d1 * first + d2 * second
    expect_close(
        attempt(first, d1, second, d2),
        _joined(first, d1, second, d2),
        {
            "both spans count alike: the longer one counts more, by its length": (
                (first + second) / 2
            ),
            "the lengths are swapped: d1 belongs to the first": (
                (d2 * first + d1 * second) / (d1 + d2)
            ),
            "that is the way: divide it by the time it takes, d1 + d2": way,
            "the velocities are added up: the way is, and time is too": first + second,
            "it divides by 2: divide by the time that passes, d1 + d2": way / 2,
            "velocities are divided by their spans: a way is velocity times time": (
                (first / d1 + second / d2) / (d1 + d2)
            ),
            "the difference is taken: the ways add up": (d1 * first - d2 * second) / (d1 + d2),
            "only the second span is left": second,
            "only the first span is left": first,
        },
        f"for spans of {d1:g} and {d2:g}, the mean velocity",
    )


def _span_rows(
    states: Sequence[Tensor], spans: Sequence[tuple[int, int]]
) -> list[tuple[Tensor, float, float, Tensor]]:
    quarters = len(states) - 1
    rows = []
    for first, last in spans:
        length = (last - first) / quarters
        way = states[last] - states[first]
        rows.append((states[first], first / quarters, length, way / length))
    return rows


@exercise(
    "10.6 what the flow map learns from a walk",
    _span_rows,
    settings=[([(2, 5), (0, 8)], 8), (SPANS, QUARTERS), ([(0, 1), (1, 2), (0, 2)], 2)],
)
def span_rows(attempt: Callable[..., Any], spans: list[tuple[int, int]], quarters: int) -> None:
    """``span_rows(states, spans) -> (state, time, span, target) of each``."""
    states = [draw(3, 2, seed=seed) for seed in range(quarters + 1)]
    rows = expect_list(attempt(states, list(spans)), "the result")
    if len(rows) != len(spans):
        raise Wrong(f"{len(rows)} rows for {len(spans)} spans: return one for each")
    for (first, last), row, right in zip(spans, rows, _span_rows(states, spans), strict=True):
        if not isinstance(row, tuple | list) or len(row) != 4:
            raise Wrong("each row is four things: state, time, span and target")
        named = f"of the span from {first} to {last}, {quarters} to a stage,"
        state, time, length, target = row
        begin, start, span, _ = right
        way = states[last] - begin
        expect_close(
            state,
            begin,
            {
                "the state is that of the span's end: the head is asked at its start": states[last],
                "the state is always the first one: each span begins at its own": states[0],
            },
            f"{named} the state",
        )
        expect_close(
            time,
            start,
            {
                "time is counted in parts of the walk: in local time it is first / quarters": (
                    float(first)
                ),
                "the time is that of the span's end: the head is asked at its start": (
                    last / quarters
                ),
                "the time is that of the span's middle: the head is asked at its start": (
                    (first + last) / 2 / quarters
                ),
            },
            f"{named} the time",
        )
        expect_close(
            length,
            span,
            {
                "the span is counted in parts of the walk: in local time it is (last - first) / "
                "quarters": float(last - first),
                "the span has the sign of going back: last - first": -span,
                "that is where the span ends, not how long it is": last / quarters,
            },
            f"{named} the span",
        )
        parts = last - first
        expect_close(
            target,
            way / span,
            {
                "that is the way: divide it by the span for a velocity": way,
                "the target points backwards: from the span's start to its end": -way / span,
                "the way is divided by the number of parts: by the span in local time": way / parts,
                "the way is multiplied by the span: a velocity is way through time": way * span,
                "every target goes to the walk's end: a span ends at its own last state": (
                    (states[-1] - begin) / span
                ),
                "every target begins at the walk's start: a span begins at its own state": (
                    (states[last] - states[0]) / span
                ),
                "that is the velocity of the first part alone: the mean is over the whole span": (
                    (states[first + 1] - begin) * quarters
                ),
                "that is the state at the end: a velocity leads there": states[last],
            },
            f"{named} the target",
        )
