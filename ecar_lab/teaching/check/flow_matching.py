"""Checks of notebook 3: pairs to learn from, solvers, guidance, the clean estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ecar_lab import flow
from ecar_lab.flow import Velocity
from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_pair

TIMES = [0.0, 0.1, 0.35, 1.0]  # uneven, so that a step's length is neither 1 / K nor a time


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _training_pair(noise: Tensor, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return (1 - t) * noise + t * data, data - noise


@exercise("3.1 the training pair", _training_pair)
def training_pair(attempt: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
    """``training_pair(noise, data, t) -> state, target`` of flow matching."""
    noise, data = _draw(6, 2), _draw(6, 2, seed=1)
    t = torch.tensor([[0.1], [0.2], [0.4], [0.6], [0.7], [0.9]])
    right_state, right_target = _training_pair(noise, data, t)
    state, target = expect_pair(
        attempt(noise, data, t), "things: the state x_t and the target velocity"
    )
    expect_close(
        state,
        right_state,
        {
            "1 - t and t are swapped: at t = 0 the state is noise, at t = 1 data": (
                t * noise + (1 - t) * data
            ),
            "these weights keep the variance, as diffusion does: a straight line has 1 - t and t": (
                (1 - t).sqrt() * noise + t.sqrt() * data
            ),
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
            "the velocity is divided by t: every pair takes one unit of time": right_target / t,
            "that is the rest of the way, data - x_t: the velocity is that of the whole way": (
                data - right_state
            ),
            "that is the data: a network may learn it, but the velocity is data - noise": data,
            "that is the noise, DDPM's target: the velocity is data - noise": noise,
        },
        "the target",
    )


def _field(state: Tensor, t: float) -> Tensor:
    """A velocity that depends on place and time, so that no two mistakes look alike."""
    return torch.sin(2 * state) + 3 * t - state.flip(-1)


def _velocity(state: Tensor, index: int) -> Tensor:
    """The velocity at ``TIMES[index]``.

    Raises:
        Wrong: asked with a time instead of its number.
    """
    if not isinstance(index, int):
        raise Wrong("velocity takes the number of the step, not the time: velocity(state, step)")
    return _field(state, TIMES[index])


Step = Callable[[Velocity, Tensor, Sequence[float], int], Any]
NEW_STATE_AND_VELOCITY = "things: the new state and the velocity that led there"
WAY = "that is the way, velocity times the length of the step: return the velocity"


@exercise("3.2 an Euler step", flow.euler_step)
def euler_step(attempt: Step) -> None:
    """``euler_step(velocity, state, times, step) -> new state, velocity``."""
    state, step = _draw(5, 2), 1
    now, then = TIMES[step], TIMES[step + 1]
    right, slope = flow.euler_step(_velocity, state, TIMES, step)
    found, used = expect_pair(attempt(_velocity, state, TIMES, step), NEW_STATE_AND_VELOCITY)
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
                state + slope / (len(TIMES) - 1)
            ),
            "the velocity is not multiplied by the length of the step": state + slope,
            "the velocity is that of the step's end: Euler looks at its start, velocity(state, "
            "step)": state + (then - now) * _velocity(state, step + 1),
        },
        "the new state",
    )
    expect_close(
        used,
        slope,
        {"the velocity has its sign reversed": -slope, WAY: (then - now) * slope},
        "the velocity",
    )


@exercise("3.3 a Heun step", flow.heun_step)
def heun_step(attempt: Step) -> None:
    """``heun_step(velocity, state, times, step) -> new state, mean velocity``."""
    state, step = _draw(5, 2, seed=2), 1
    length = TIMES[step + 1] - TIMES[step]
    right, slope = flow.heun_step(_velocity, state, TIMES, step)
    first = _velocity(state, step)
    ahead = state + length * first
    second = _velocity(ahead, step + 1)
    found, used = expect_pair(attempt(_velocity, state, TIMES, step), NEW_STATE_AND_VELOCITY)
    expect_close(
        found,
        right,
        {
            "only the second velocity is used: take the mean of both": state + length * second,
            "only the first velocity is used, so this is Euler: look ahead, then take the mean of "
            "both": ahead,
            "states are averaged: average the two velocities, then step once from the old state": (
                (state + ahead) / 2
            ),
            "the second velocity is taken at the old time: where Euler lands it is step + 1": (
                state + length * (first + _velocity(ahead, step)) / 2
            ),
            "the second velocity is taken at the old state: first let Euler look ahead": (
                state + length * (first + _velocity(state, step + 1)) / 2
            ),
            "the velocities are added up but not halved": state + length * (first + second),
            "the mean velocity starts from where Euler landed: step from the old state": (
                ahead + length * slope
            ),
        },
        "the new state",
    )
    expect_close(
        used,
        slope,
        {"the velocity returned is the first one: return the mean": first, WAY: length * slope},
        "the slope",
    )


def _guided(v_none: Tensor, v_class: Tensor, scale: float) -> Tensor:
    return v_none + scale * (v_class - v_none)


@exercise("3.4 guided velocity", _guided)
def guided(attempt: Callable[[Tensor, Tensor, float], Any]) -> None:
    """``guided(v_none, v_class, scale) -> velocity``."""
    v_none, v_class, scale = _draw(4, 2), _draw(4, 2, seed=1), 3.0
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
        },
        "the guided velocity",
    )


def _clean_estimate(state: Tensor, velocity: Tensor, t: float) -> Tensor:
    return state + (1 - t) * velocity


@exercise("3.5 the clean estimate", _clean_estimate)
def clean_estimate(attempt: Callable[[Tensor, Tensor, float], Any]) -> None:
    """``clean_estimate(state, velocity, t) -> x``, what the velocity says the data is."""
    state, velocity, t = _draw(4, 2), _draw(4, 2, seed=1), 0.3
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
        },
        "the clean estimate",
    )
