"""Checks of notebook 5: conditioning time, head, state and target, loss, guidance, sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.check import (
    Counted,
    Wrong,
    exercise,
    expect_close,
    expect_gradients,
    expect_pair,
)
from ecar_lab.teaching.check._ecar import flow_errors, generate
from ecar_lab.teaching.check._head import flow_head
from ecar_lab.teaching.pieces import guided_velocity as guided

__all__ = [
    "conditioning_time",
    "flow_errors",
    "flow_head",
    "generate",
    "guided_velocity",
    "multistage_loss",
    "state_and_target",
]


def _conditioning_time(schedule: StageSchedule, stage: int, local_time: Tensor) -> Tensor:
    return schedule.conditioning_time(stage, local_time)


@exercise(
    "5.1 conditioning time",
    _conditioning_time,
    settings=[((16, 3, (0.4, 0.7, 1.0)), (3,)), ((8, 2, (0.5, 1.0)), (2, 1))],
)
def conditioning_time(
    attempt: Callable[[StageSchedule, int, Tensor], Tensor],
    sizes: tuple[int, int, tuple[float, ...]],
    shape: tuple[int, ...],
) -> None:
    """``conditioning_time(schedule, stage, local_time) -> time`` in the stage's own slice."""
    schedule = StageSchedule(*sizes)
    local_time = torch.tensor([0.0, 0.3, 1.0])[-shape[0] :].view(shape)
    for stage in (1, *range(2, schedule.num_stages), 0):
        low, high = schedule.time_slice(stage)
        expect_close(
            attempt(schedule, stage, local_time),
            _conditioning_time(schedule, stage, local_time),
            {
                "this is the bare local time: every stage would be told the same numbers": (
                    local_time
                ),
                "this is the flow time t: windows overlap, so two stages share values of it": (
                    schedule.flow_time(stage, local_time)
                ),
                "it multiplies by where the slice ends: multiply by its length, high - low": (
                    low + local_time * high
                ),
                "these slices touch: the end of one stage and the start of the next share a number":
                (stage + local_time) / schedule.num_stages,
                "it runs backwards: local time 0 belongs to where the slice begins": (
                    high - local_time * (high - low)
                ),
                "it does not begin where the slice does: add low": local_time * (high - low),
                "it adds the local time as it is: multiply it by the slice's length": (
                    low + local_time
                ),
                "it is the slice of the stage before: stages count from 0 here": (
                    _conditioning_time(schedule, stage - 1, local_time) if stage else local_time
                ),
            },
            f"the conditioning time for stage={stage}",
        )  # fmt: skip


def _state_and_target(start: Tensor, end: Tensor, local_time: Tensor) -> tuple[Tensor, Tensor]:
    tau = local_time[:, None, None, None]
    return (1 - tau) * start + tau * end, end - start


# First as many images as pixels in a row: there a wrong axis raises nothing.
@exercise("5.3 state and target", _state_and_target, settings=[((4, 3, 4, 4),), ((2, 1, 8, 8),)])
def state_and_target(
    attempt: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], shape: tuple[int, ...]
) -> None:
    """``state_and_target(start, end, local_time) -> (state, target)``, tau per image."""
    start, end = torch.randn(2, *shape)
    local_time = torch.tensor([0.1, 0.3, 0.6, 0.8])[: shape[0]]
    state, target = _state_and_target(start, end, local_time)
    tau = local_time[:, None, None, None]
    along_row, along_column = tau, tau
    if shape[0] == shape[2] == shape[3]:
        along_row, along_column = local_time, local_time[:, None]
    found = attempt(start, end, local_time)
    found = expect_pair(found, "tensors: state, target")
    expect_close(
        found[0],
        state,
        {
            "start and end are swapped in the state: at local time 0 it is the start": (
                tau * start + (1 - tau) * end
            ),
            "local time runs along the pixels, not along the batch: give it three more dimensions, "
            "local_time[:, None, None, None]": (1 - along_row) * start + along_row * end,
            "local time runs down the pixels, not along the batch: give it three more dimensions, "
            "local_time[:, None, None, None]": (1 - along_column) * start + along_column * end,
            "all images get the mean of the local times: each has its own": (
                (1 - tau.mean()) * start + tau.mean() * end
            ),
            "all images get the first one's local time: each has its own": (
                (1 - tau[0]) * start + tau[0] * end
            ),
            "the start does not fade: weigh it with 1 - tau": start + tau * end,
            "this is the target: return the state first": target,
        },
        "the state",
    )
    expect_close(
        found[1],
        target,
        {
            "the velocity points backwards: it is end - start": -target,
            "this is what is left of the way: the velocity of a straight line is the same all "
            "along it, end - start": end - state,
            "this is the velocity times tau: it is the same all along the line": tau * target,
            "this is the velocity divided by tau: it is the same all along the line": target / tau,
            "this is the state: the target is the velocity, end - start": state,
            "this is the end itself: the head predicts the way to it, end - start": end,
        },
        "the target",
    )


def _multistage_loss(errors: Sequence[Tensor]) -> Tensor:
    return torch.stack([error.square().mean() for error in errors]).mean()


@exercise(
    "5.4 the loss of all stages",
    _multistage_loss,
    settings=[(((2, 0.3), (4, 1.0), (8, 2.0)),), (((4, 0.5), (8, 1.5)),), (((3, 1.0),),)],
)
def multistage_loss(
    attempt: Callable[[Sequence[Tensor]], Tensor], sides: Sequence[tuple[int, float]]
) -> None:
    """``multistage_loss(errors) -> loss``: errors (B, C, r_s, r_s), one tensor per stage."""
    errors = [torch.randn(3, 4, side, side) * scale for side, scale in sides]
    errors = [error.requires_grad_() for error in errors]  # as in training
    squares = [error.square() for error in errors]
    loss, right = attempt(errors), _multistage_loss(errors)
    expect_close(
        loss,
        right,
        {
            "it adds the stages up: take their mean, so that more stages do not mean a larger "
            "loss": torch.stack([square.mean() for square in squares]).sum(),
            "every latent pixel counts the same, so the finest stage drowns the others: first the "
            "mean of each stage, then the mean of those": (
                torch.cat([square.flatten() for square in squares]).mean()
            ),
            "it sums over the pixels of a stage: take their mean": (
                torch.stack([square.sum() for square in squares]).mean()
            ),
            "it takes absolute values: the error is squared": (
                torch.stack([error.abs().mean() for error in errors]).mean()
            ),
            "it takes the root of each stage's mean: the squares themselves count": (
                torch.stack([square.mean().sqrt() for square in squares]).mean()
            ),
            "it takes the root of the loss: the squares themselves count": right.sqrt(),
            "it squares the mean error, where plus and minus cancel: first square, then mean": (
                torch.stack([error.mean().square() for error in errors]).mean()
            ),
            "it is half: the loss is the plain mean of squares": right / 2,
            "it divides by three stages, however many there are": right * len(errors) / 3,
            "it takes the finest stage only: all stages are trained": squares[-1].mean(),
            "it takes the coarsest stage only: all stages are trained": squares[0].mean(),
        },
        "the loss",
    )
    names = {f"the error of stage {n + 1}": error for n, error in enumerate(errors)}
    expect_gradients(loss, right, names)


@exercise("5.6 guided velocity", guided, settings=[(2.5, 3), (0.5, 2), (0.0, 3), (1, 2)])
def guided_velocity(
    attempt: Callable[[Callable[[int], Tensor], float], Tensor], scale: float, batch: int
) -> None:
    """``guided_velocity(run_head, scale) -> velocity``; ``run_head(halves)`` runs the head."""
    with_class, without = torch.randn(2, batch, 4, 4, 4)
    run_head = Counted(lambda halves: torch.cat([with_class, without])[: halves * batch])
    expect_close(
        attempt(run_head, scale),
        without + scale * (with_class - without),
        {
            "the halves are swapped: the one with class comes first": (
                with_class + scale * (without - with_class)
            ),
            "it starts from the half with class, so a scale of 1 would already push: start from "
            "the one without": with_class + scale * (with_class - without),
            "this is the velocity with class alone: ask for two halves where scale is not 1": (
                with_class
            ),
            "this is the velocity without class: at every scale but 0 the class counts": without,
            "it mixes the halves as weights that do not add up to 1: without + scale * (with_class "
            "- without)": without + scale * with_class,
            "the difference alone is no velocity: add the half without class": (
                scale * (with_class - without)
            ),
            "the velocity with class is only scaled: its difference to the other counts": (
                scale * with_class
            ),
        },
        f"the velocity at scale {scale:g}",
    )
    halves = [int(asked) for (asked,) in run_head.calls]
    if scale == 1 and halves != [1]:
        raise Wrong(
            "at scale 1 it runs a half without class and throws it away: ask for one half, once"
        )
    if scale != 1 and halves != [2]:
        raise Wrong(
            f"at scale {scale:g} it runs {sum(halves)} halves of the head in {len(halves)} calls: "
            "two are enough, in one call"
        )
