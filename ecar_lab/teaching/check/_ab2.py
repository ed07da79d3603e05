"""The check of Adams-Bashforth 2, of notebook 10."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ecar_lab import flow, schedule
from ecar_lab.teaching.check import Counted, Wrong, exercise, expect_close, expect_pair
from ecar_lab.teaching.check.flow_matching import bent, velocity_at


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


UNEVEN = [0.0, 0.1, 0.32, 0.6, 1.0]  # no step is as long as the one before it, or as 1 / K


# Of a velocity that is the same everywhere the step can be worked out: the start plus an integral.
FIELDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "a velocity that depends on place and time": bent,
    "a constant velocity": lambda state, t: torch.full_like(state, 0.7),
    "a velocity that grows evenly with time": lambda state, t: torch.full_like(state, 2 * t - 0.4),
}
# What tells mistakes apart best comes first; then the first step, and one after a new beginning.
AB2_STEPS = [
    *((name, step, True) for name in FIELDS for step in (1, 2)),
    *((name, step, False) for name in FIELDS for step in (0, 2)),
]


@exercise("10.1 a step of Adams-Bashforth 2", flow.ab2_step, settings=[*AB2_STEPS, ("order", 0, 0)])
def ab2_step(attempt: Callable[..., Any], name: str, step: int, remembers: bool) -> None:
    """``ab2_step(velocity, state, times, step, previous) -> new state, v``."""
    if name == "order":
        return _expect_order_two(attempt)
    state, asked = draw(5, 2), Counted(velocity_at(FIELDS[name], UNEVEN))
    velocity, length = velocity_at(FIELDS[name], UNEVEN), UNEVEN[step + 1] - UNEVEN[step]
    before = UNEVEN[step] - UNEVEN[step - 1] if step else 0.0
    earlier = draw(5, 2, seed=1) if name == next(iter(FIELDS)) else state  # where it was looked up
    previous = velocity(earlier, step - 1) if remembers else None
    right, slope = flow.ab2_step(velocity, state, UNEVEN, step, previous)
    try:
        answer = attempt(asked, state, UNEVEN, step, previous)
    except (TypeError, RuntimeError) as error:
        if previous is None and "None" in str(error):
            raise Wrong(
                f"at step {step} there is no velocity to remember, previous is None: take Euler's "
                "step then"
            ) from error
        if "Boolean value" in str(error):
            raise Wrong("ask 'previous is None': a tensor is neither true nor false") from error
        raise
    found, kept = expect_pair(answer, "things: the new state and the velocity of this step's start")
    euler, mistakes = state + length * slope, {}
    if previous is not None:
        change, ratio = slope - previous, length / before
        mistakes = {
            "these are the weights of an even grid, 3/2 and -1/2: here the step before had another "
            "length, so use r = dt / dt'": euler + length / 2 * change,
            "the ratio is upside down: r is this step's length over that of the step before": (
                euler + length / ratio / 2 * change
            ),
            "it follows the change the wrong way: v - v' says where the velocity is going": (
                euler - length * ratio / 2 * change
            ),
            "r is not halved: the line is followed for dt, and its mean lies half way": (
                euler + length * ratio * change
            ),
            "what is remembered is not used, so this is Euler": euler,
            "the two velocities are averaged: the line goes on, beyond v": (
                state + length * (slope + previous) / 2
            ),
            "that is the step of the velocity before: v comes first": state + length * previous,
            "the change is not multiplied by the length of the step": euler + ratio / 2 * change,
            "every step is taken as 1 / K long: these times are not evenly spaced": (
                state + (1.5 * slope - 0.5 * previous) / (len(UNEVEN) - 1)
            ),
        }
    what = f"with {name}, the new state of step {step}"
    if previous is None:
        what = f"without a velocity to remember the step is Euler's: {what}"
    late = velocity(state, step + 1)
    mistakes["the velocity is that of the step's end: look at its start"] = state + length * late
    mistakes["it returns the velocity first: the new state comes first"] = slope
    expect_close(found, right, mistakes, what)
    expect_close(
        kept,
        slope,
        {
            "it returns the slope that it went along: the next step needs v itself, as it was at "
            "this step's start": (right - state) / length,
            "it returns the velocity of the step before: the next step needs this one's": (
                slope if previous is None else previous
            ),
            "that is the new state: return the velocity": right,
            "that is the way, velocity times the length of the step: return the velocity": (
                length * slope
            ),
        },
        "the velocity",
    )
    if len(asked.calls) > 1:
        raise Wrong(
            f"it asks for the velocity {len(asked.calls)} times: once is enough, the other one is "
            "remembered in previous"
        )


def _expect_order_two(attempt: Callable[..., Any]) -> None:
    """Walks x' = x cos(3 t), whose end is known, on an uneven grid."""
    errors = []
    for steps in (64, 128):
        times = schedule.time_grid(steps, 1.3)
        state, previous = torch.ones(1, dtype=torch.float64), None

        def velocity(x: Tensor, i: int, times: list[float] = times) -> Tensor:
            return x * math.cos(3 * times[i])

        for step in range(steps):
            state, previous = attempt(velocity, state, times, step, previous)
        errors.append(abs(state.item() - math.exp(math.sin(3) / 3)))
    order = math.log2(errors[0] / errors[1])
    if order < 1.7:
        raise Wrong(
            f"single steps are right, but over a whole walk the error falls with order {order:.1f} "
            "only: does it remember something else than previous?"
        )
