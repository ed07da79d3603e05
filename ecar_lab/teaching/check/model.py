"""Checks of notebook 5: conditioning time, state and target, class dropout, loss, guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_pair, expect_tensor


def _conditioning_time(schedule: StageSchedule, stage: int, local_time: Tensor) -> Tensor:
    return schedule.conditioning_time(stage, local_time)


@exercise("5.1 conditioning time", _conditioning_time)
def conditioning_time(attempt: Callable[[StageSchedule, int, Tensor], Tensor]) -> None:
    """``conditioning_time(schedule, stage, local_time) -> time`` in the stage's own slice."""
    schedule, local_time = StageSchedule(16, 3, (0.4, 0.7, 1.0)), torch.tensor([0.0, 0.3, 1.0])
    for stage in (1, 2, 0):
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
            },
            f"the conditioning time for stage={stage}",
        )  # fmt: skip


def _state_and_target(start: Tensor, end: Tensor, local_time: Tensor) -> tuple[Tensor, Tensor]:
    tau = local_time[:, None, None, None]
    return (1 - tau) * start + tau * end, end - start


@exercise("5.2 state and target", _state_and_target)
def state_and_target(
    attempt: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> None:
    """``state_and_target(start, end, local_time) -> (state, target)``, tau per image."""
    start, end = torch.randn(2, 4, 3, 4, 4)
    local_time = torch.tensor([0.1, 0.3, 0.6, 0.8])
    state, target = _state_and_target(start, end, local_time)
    tau = local_time[:, None, None, None]
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
            "local_time[:, None, None, None]": (1 - local_time) * start + local_time * end,
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
            "this is the end itself: the head predicts the way to it, end - start": end,
        },
        "the target",
    )


def _drop_classes(class_labels: Tensor, class_drop: Tensor, rate: float, null_class: int) -> Tensor:
    return torch.where(class_drop < rate, null_class, class_labels)


@exercise("5.3 class dropout", _drop_classes)
def drop_classes(attempt: Callable[[Tensor, Tensor, float, int], Tensor]) -> None:
    """``drop_classes(class_labels, class_drop, rate, null_class) -> labels``, image by image."""
    labels = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    class_drop = torch.tensor([0.05, 0.9, 0.2, 0.6, 0.09, 0.7, 0.4, 0.3])
    rate, null = 0.25, 10
    right = _drop_classes(labels, class_drop, rate, null)
    given = labels.clone()
    found = expect_tensor(attempt(given, class_drop, rate, null), (8,), "the labels")
    if not torch.equal(given, labels):
        raise Wrong("it changes the labels it was given: return new ones")
    if not torch.equal(attempt(labels, class_drop, rate, null), found):
        raise Wrong("it draws random numbers of its own: class_drop holds those of this step")
    expect_close(
        found,
        right,
        {
            "it keeps those it should drop: an image loses its class where class_drop < rate": (
                torch.where(class_drop < rate, labels, null)
            ),
            "the whole batch loses its class at once: decide for every image by its own number": (
                torch.full_like(labels, null)
            ),
            "a dropped label becomes class 0, which is a class: use null_class": (
                torch.where(class_drop < rate, 0, labels)
            ),
            "no image loses its class: compare each number in class_drop with the rate": labels,
        },
        "the labels",
    )
    if found.dtype != labels.dtype:
        raise Wrong(f"the labels became {found.dtype}: ids are whole numbers, {labels.dtype}")


def _multistage_loss(errors: Sequence[Tensor]) -> Tensor:
    return torch.stack([error.square().mean() for error in errors]).mean()


@exercise("5.4 the loss of all stages", _multistage_loss)
def multistage_loss(attempt: Callable[[Sequence[Tensor]], Tensor]) -> None:
    """``multistage_loss(errors) -> loss``: errors (B, C, r_s, r_s), one tensor per stage."""
    errors = [torch.randn(3, 4, side, side) * scale for side, scale in ((2, 0.3), (4, 1), (8, 2))]
    errors = [error.requires_grad_() for error in errors]  # as in training
    squares = [error.square() for error in errors]
    loss = attempt(errors)
    expect_close(
        loss,
        _multistage_loss(errors),
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
        },
        "the loss",
    )
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Wrong(
            "the loss has lost its gradient: keep it a tensor, without .item() or .detach()"
        )


def _guided_velocity(run_head: Callable[[int], Tensor], scale: float) -> Tensor:
    if scale == 1:
        return run_head(1)
    with_class, without = run_head(2).chunk(2)
    return without + scale * (with_class - without)


@exercise("5.5 guided velocity", _guided_velocity)
def guided_velocity(attempt: Callable[[Callable[[int], Tensor], float], Tensor]) -> None:
    """``guided_velocity(run_head, scale) -> velocity``; ``run_head(halves)`` runs the head."""
    with_class, without = torch.randn(2, 3, 4, 4, 4)
    asked: list[int] = []

    def run_head(halves: int) -> Tensor:
        asked.append(halves)
        return torch.cat([with_class, without])[: 3 * halves]

    expect_close(
        attempt(run_head, 2.5),
        without + 2.5 * (with_class - without),
        {
            "the halves are swapped: the one with class comes first": (
                with_class + 2.5 * (without - with_class)
            ),
            "it starts from the half with class, so a scale of 1 would already push: start from "
            "the one without": with_class + 2.5 * (with_class - without),
            "this is the velocity with class alone: ask for two halves where scale is not 1": (
                with_class
            ),
            "it mixes the halves as weights that do not add up to 1: without + scale * (with_class "
            "- without)": without + 2.5 * with_class,
        },
        "the velocity at scale 2.5",
    )
    if sum(asked) > 2:
        raise Wrong(f"it runs {sum(asked)} halves of the head: two are enough, in one call")
    asked.clear()
    expect_close(attempt(run_head, 1.0), with_class, {}, "the velocity at scale 1")
    if asked != [1]:
        raise Wrong("at scale 1 it runs a half without class and throws it away: ask for one half")
