"""Checks of notebook 3: pairs to learn from, solvers, guidance, the clean estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ecar_lab import flow
from ecar_lab.flow import Velocity
from ecar_lab.teaching.check import Counted, Wrong, exercise, expect_close, expect_pair

UNEVEN = [0.0, 0.1, 0.35, 1.0]  # so that a step's length is neither 1 / K nor a time
# A step in the middle tells mistakes apart best; the first and the last must not be special.
STEPS = [(UNEVEN, 1, (5, 2)), (UNEVEN, 0, (5, 2)), (UNEVEN, 2, (5, 2)), ([0.2, 0.8], 0, (2, 1, 4))]


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _training_pair(noise: Tensor, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return (1 - t) * noise + t * data, data - noise


COLUMN = torch.tensor([[0.1], [0.2], [0.4], [0.6], [0.7], [0.9]])


@exercise(
    "3.1 the training pair", _training_pair, settings=[(COLUMN,), (COLUMN[:4],), (0.3,), (0.0,)]
)
def training_pair(attempt: Callable[[Tensor, Tensor, Any], Any], t: Any) -> None:
    """``training_pair(noise, data, t) -> state, target`` of flow matching."""
    count = 3 if isinstance(t, float) else len(t)
    noise, data = _draw(count, 2), _draw(count, 2, seed=1)
    right_state, right_target = _training_pair(noise, data, t)
    try:
        pair = attempt(noise, data, t)
    except (AttributeError, TypeError, IndexError) as error:
        if not isinstance(t, float):
            raise
        raise Wrong(
            f"it fails where t is a plain number, as cells below give it ({error}): 1 - t works "
            "for both"
        ) from error
    state, target = expect_pair(pair, "things: the state x_t and the target velocity")
    root, rest = torch.as_tensor(t).sqrt(), (1 - torch.as_tensor(t)).sqrt()
    expect_close(
        state,
        right_state,
        {
            "1 - t and t are swapped: at t = 0 the state is noise, at t = 1 data": (
                t * noise + (1 - t) * data
            ),
            "these weights keep the variance, as diffusion does: a straight line has 1 - t and t": (
                rest * noise + root * data
            ),
            "the noise is weighed with the root of 1 - t: a straight line has 1 - t and t": (
                rest * noise + t * data
            ),
            "the data comes in at once: weigh it with t": (1 - t) * noise + data,
            "the noise does not fade: weigh it with 1 - t": noise + t * data,
            "the two results have changed places: first the state, then the target": right_target,
        },
        "the state",
    )
    expect_close(
        target,
        right_target,
        {
            "the velocity points backwards: it is data - noise": -right_target,
            "the velocity is divided by t: every pair takes one unit of time": (
                right_target / (t or 1 if isinstance(t, float) else t)
            ),
            "that is the state: the target is the velocity, data - noise": right_state,
            "that is the rest of the way, data - x_t: the velocity is that of the whole way": (
                data - right_state
            ),
            "that is the data: a network may learn it, but the velocity is data - noise": data,
            "that is the noise, DDPM's target: the velocity is data - noise": noise,
        },
        "the target",
    )


def bent(state: Tensor, t: float) -> Tensor:
    """A velocity that depends on place and time, so that no two mistakes look alike."""
    return torch.sin(2 * state) + 3 * t - state.flip(-1)


def velocity_at(field: Callable[[Tensor, float], Tensor], times: Sequence[float]) -> Velocity:
    """``velocity(state, index)`` of a field at ``times[index]``; it refuses a time instead of its
    number."""

    def velocity(state: Tensor, index: int) -> Tensor:
        if not isinstance(index, int):
            raise Wrong(
                "velocity takes the number of the step, not the time: velocity(state, step)"
            )
        return field(state, times[index])

    return velocity


def _run(attempt: Any, state: Tensor, times: Sequence[float], step: int, calls: int) -> Any:
    """What a solver's step returns, and after it the check of how often it asked the network."""
    asked = Counted(velocity_at(bent, times))
    found = expect_pair(attempt(asked, state, times, step), NEW_STATE_AND_VELOCITY)
    said = f"it asks for the velocity {len(asked.calls)} times, and each is a call of the network"
    return found, said if len(asked.calls) > calls else None


Step = Callable[[Velocity, Tensor, Sequence[float], int], Any]
NEW_STATE_AND_VELOCITY = "things: the new state and the velocity that led there"
WAY = "that is the way, velocity times the length of the step: return the velocity"


@exercise("3.2 an Euler step", flow.euler_step, settings=STEPS)
def euler_step(attempt: Step, times: Sequence[float], step: int, shape: tuple[int, ...]) -> None:
    """``euler_step(velocity, state, times, step) -> new state, velocity``."""
    state, velocity = _draw(*shape), velocity_at(bent, times)
    now, then = times[step], times[step + 1]
    right, slope = flow.euler_step(velocity, state, times, step)
    (found, used), too_often = _run(attempt, state, times, step, calls=1)
    expect_close(
        found,
        right,
        {
            "the step goes backwards: add the velocity times the time that passes": (
                state - (then - now) * slope
            ),
            "it steps by the time at its end: a step lasts times[step + 1] - times[step]": (
                state + then * slope
            ),
            "it steps by the time at its start: a step lasts times[step + 1] - times[step]": (
                state + now * slope
            ),
            "every step is taken as 1 / K long: these times are not evenly spaced": (
                state + slope / (len(times) - 1)
            ),
            "the velocity is not multiplied by the length of the step": state + slope,
            "the velocity is that of the step's end: Euler looks at its start, velocity(state, "
            "step)": state + (then - now) * velocity(state, step + 1),
            "the state is missing: the step starts from it": (then - now) * slope,
            "the state comes back as it was: add the velocity times the time that passes": state,
            "it returns the velocity first: the new state comes first": slope,
        },
        f"the new state of step {step}",
    )
    expect_close(
        used,
        slope,
        {
            "the velocity has its sign reversed": -slope,
            WAY: (then - now) * slope,
            "that is the old state: return the velocity": state,
            "that is the new state: return the velocity": right,
        },
        "the velocity",
    )
    if too_often:
        raise Wrong(f"{too_often}: once is enough, keep it in a name")


@exercise("3.3 a Heun step", flow.heun_step, settings=STEPS)
def heun_step(attempt: Step, times: Sequence[float], step: int, shape: tuple[int, ...]) -> None:
    """``heun_step(velocity, state, times, step) -> new state, mean velocity``."""
    state, velocity = _draw(*shape, seed=2), velocity_at(bent, times)
    length = times[step + 1] - times[step]
    right, slope = flow.heun_step(velocity, state, times, step)
    first = velocity(state, step)
    ahead = state + length * first
    second = velocity(ahead, step + 1)
    (found, used), too_often = _run(attempt, state, times, step, calls=2)
    special = {0: "the first step", len(times) - 2: "the last step"}.get(step)
    euler = "only the first velocity is used, so this is Euler"
    if special and step != 1:
        euler = f"{special} is Euler's: Heun's is the same everywhere"
    expect_close(
        found,
        right,
        {
            "only the second velocity is used: take the mean of both": state + length * second,
            f"{euler}: look ahead, then take the mean of both": ahead,
            "states are averaged: average the two velocities, then step once from the old state": (
                (state + ahead) / 2
            ),
            "the second velocity is taken at the old time: where Euler lands it is step + 1": (
                state + length * (first + velocity(ahead, step)) / 2
            ),
            "the second velocity is taken at the old state: first let Euler look ahead": (
                state + length * (first + velocity(state, step + 1)) / 2
            ),
            "the velocities are added up but not halved": state + length * (first + second),
            "the mean velocity starts from where Euler landed: step from the old state": (
                ahead + length * slope
            ),
            "the step goes backwards: add the mean velocity times the time that passes": (
                state - length * slope
            ),
            "the mean velocity is not multiplied by the length of the step": state + slope,
            "every step is taken as 1 / K long: these times are not evenly spaced": (
                state + slope / (len(times) - 1)
            ),
        },
        f"the new state of step {step}",
    )
    expect_close(
        used,
        slope,
        {
            "the velocity returned is the first one: return the mean": first,
            "the velocity returned is the second one: return the mean": second,
            WAY: length * slope,
            "the velocities are added up but not halved": first + second,
        },
        "the slope",
    )
    if too_often:
        raise Wrong(f"{too_often}: two are enough, at the start and where Euler lands")


def _guided(v_none: Tensor, v_class: Tensor, scale: float) -> Tensor:
    return v_none + scale * (v_class - v_none)


@exercise(
    "3.4 guided velocity",
    _guided,
    settings=[(3.0, (4, 2)), (0.5, (3, 2)), (0.0, (4, 2)), (1, (5, 2))],
)
def guided(
    attempt: Callable[[Tensor, Tensor, float], Any], scale: float, shape: tuple[int, ...]
) -> None:
    """``guided(v_none, v_class, scale) -> velocity``."""
    v_none, v_class = _draw(*shape), _draw(*shape, seed=1)
    expect_close(
        attempt(v_none, v_class, scale),
        _guided(v_none, v_class, scale),
        {
            "the scale is on the wrong side, so it leads away from the class: start from v_none, "
            "go towards v_class": v_class + scale * (v_none - v_class),
            "it starts from v_class and so goes one difference too far: at 1 it has to be v_class "
            "itself": v_class + scale * (v_class - v_none),
            "the class's velocity is only scaled: what counts is how it differs from v_none": (
                scale * v_class
            ),
            "v_none is not taken off: add the scale times the difference": v_none + scale * v_class,
            "the difference alone is no velocity: start from v_none": scale * (v_class - v_none),
            "that is the velocity with class: below 1, too, the formula holds": v_class,
            "that is the velocity without class: the formula holds at every scale": v_none,
        },
        f"the guided velocity at scale {scale:g}",
    )


def _clean_estimate(state: Tensor, velocity: Tensor, t: float) -> Tensor:
    return state + (1 - t) * velocity


@exercise(
    "3.5 the clean estimate",
    _clean_estimate,
    settings=[(0.3, (4, 2)), (0.0, (3, 2)), (0.8, (2, 1, 4))],
)
def clean_estimate(
    attempt: Callable[[Tensor, Tensor, float], Any], t: float, shape: tuple[int, ...]
) -> None:
    """``clean_estimate(state, velocity, t) -> x``, what the velocity says the data is."""
    state, velocity = _draw(*shape), _draw(*shape, seed=1)
    expect_close(
        attempt(state, velocity, t),
        _clean_estimate(state, velocity, t),
        {
            "it goes the way that lies behind: 1 - t is left": state + t * velocity,
            "it goes back, to the noise: the data lies ahead": state - t * velocity,
            "it goes a whole unit of time: only 1 - t is left": state + velocity,
            "it divides by 1 - t: a velocity times the time that is left gives the way": (
                state + velocity / (1 - t)
            ),
            "it subtracts the way that is left: the data lies ahead": state - (1 - t) * velocity,
            "that is the noise that the line began with: the data is at its end": (
                state - t * velocity
            ),
            "the state is missing: the way that is left begins there": (1 - t) * velocity,
            "it is divided by t, as if the state were t times the data": (
                (state + (1 - t) * velocity) / (t or 1)
            ),
        },
        "the clean estimate",
    )
