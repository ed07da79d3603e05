"""Checks of notebook 0: the numbers of the stages, and reading a trace."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ecar_lab.events import TraceEvent
from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_list


def _resolutions(latent_size: int, num_stages: int) -> list[int]:
    return list(StageSchedule(latent_size, num_stages).resolutions)


@exercise("0.1 resolutions", _resolutions)
def resolutions(attempt: Callable[[int, int], Sequence[int]]) -> None:
    """``resolutions(latent_size, num_stages) -> sides``, coarsest first."""
    for latent_size, num_stages in ((16, 3), (32, 4), (8, 1)):
        found, right = attempt(latent_size, num_stages), _resolutions(latent_size, num_stages)
        asked = f"resolutions({latent_size}, {num_stages})"
        found = expect_list(found, asked)
        if found == right:
            if any(not isinstance(side, numbers.Integral) for side in found):
                raise Wrong("the sides are not whole numbers: divide with //, not with /")
            continue
        if found == right[::-1]:
            raise Wrong(f"{asked} begins with the finest stage: put the coarsest first")
        if len(found) == num_stages + 1:
            raise Wrong(f"{asked} has a stage too many: it halves S - 1 times, not S times")
        if found == [side // 2 for side in right]:
            raise Wrong(f"{asked} halves once too often: the last stage has the full size")
        if found and found in (right[: len(found)], right[-len(found) :]):
            raise Wrong(f"{asked} has {len(found)} of {num_stages} stages: is one left out?")
        if found == [latent_size * (s + 1) // num_stages for s in range(num_stages)]:
            raise Wrong(f"{asked} grows by equal steps: the sides double from stage to stage")
        if found == [latent_size * 2**s for s in range(num_stages)]:
            raise Wrong(f"{asked} begins with the full size: that is the last stage's")
        raise Wrong(f"{asked} is {found}, it should be {right}")


def _num_tokens(sides: Sequence[int], patch_size: int) -> list[int]:
    return [(side // patch_size) ** 2 for side in sides]


@exercise("0.2 tokens of a stage", _num_tokens)
def num_tokens(attempt: Callable[[Sequence[int], int], Sequence[int]]) -> None:
    """``num_tokens(sides, patch_size) -> tokens`` of every stage."""
    for sides, patch in (([4, 8, 16], 2), ([3, 6], 1), ([6, 12], 3)):
        right, asked = _num_tokens(sides, patch), f"num_tokens({sides}, {patch})"
        found = [float(count) for count in expect_list(attempt(sides, patch), asked)]
        if found == right:
            continue
        if found == [side // patch for side in sides]:
            raise Wrong(f"{asked} counts the tokens of one row: a stage is a square of them")
        if found == [side * side for side in sides]:
            raise Wrong(f"{asked} counts latent pixels: a token covers a patch of them")
        if found == [side * side / patch for side in sides]:
            raise Wrong(f"{asked} divides by the patch's side: its area is the side squared")
        if found == [4 * (side // patch) for side in sides]:
            raise Wrong(f"{asked} goes round the edge: tokens fill the whole square")
        if found == [sum(right)]:
            raise Wrong(f"{asked} adds the stages up: one number for each stage")
        if found == [sum(right[: s + 1]) for s in range(len(right))]:
            raise Wrong(f"{asked} counts earlier stages too: each stage has tokens of its own")
        raise Wrong(f"{asked} is {found}, it should be {right}")


def _flops_per_stage(events: Sequence[TraceEvent]) -> list[int]:
    totals = [0] * events[0].num_stages
    for event in events:
        totals[event.stage] += event.flops
    return totals


def _a_run() -> tuple[list[TraceEvent]]:
    from ecar_lab.model import ECAR
    from ecar_lab.trace import trace

    sizes = {"latent_size": 8, "num_stages": 2, "width": 32, "num_heads": 2, "num_classes": 2}
    model = ECAR(**sizes, transformer_layers=1, head_layers=1)
    return (list(trace(model, [0])),)


@exercise("0.3 FLOPs per stage", _flops_per_stage, settings=[(0,), (10**6,)], given=_a_run)
def flops_per_stage(
    attempt: Callable[[Sequence[TraceEvent]], Sequence[float]],
    dearer: int,
    events: Sequence[TraceEvent],
) -> None:
    """``flops_per_stage(events) -> FLOPs`` of every stage of a run."""
    # Once as the run was, once with costs that only the events can tell.
    events = [replace(event, flops=event.flops + n * dearer) for n, event in enumerate(events)]
    right = _flops_per_stage(events)
    ends = [event.flops for event in events if event.is_stage_end]
    starts = [event.flops for event in events if event.step == 0]
    listed = expect_list(attempt(events), "the result")
    if len(listed) != len(right):
        raise Wrong(f"the result has {len(listed)} numbers, and there are {len(right)} stages")
    found = torch.tensor([float(count) for count in listed]) / 1e6
    expect_close(
        found,
        torch.tensor(right) / 1e6,
        {
            "it takes the last event of each stage only: add up all events of a stage": (
                torch.tensor(ends) / 1e6
            ),
            "it takes step 0 only, what a stage pays once: add the flow steps": (
                torch.tensor(starts) / 1e6
            ),
            "it leaves step 0 out, where the transformer runs: add all events of a stage": (
                (torch.tensor(right) - torch.tensor(starts)) / 1e6
            ),
            "it counts events: add up their flops": (
                torch.tensor([float(sum(e.stage == s for e in events)) for s in range(len(right))])
                / 1e6
            ),
            "it takes the mean of a stage's events: add them up": (
                torch.tensor(
                    [
                        total / sum(e.stage == s for e in events) / 1e6
                        for s, total in enumerate(right)
                    ]
                )
            ),
            "it goes on counting through the run: begin each stage at 0": (
                torch.tensor(right).cumsum(0) / 1e6
            ),
        },
        "the FLOPs per stage, in millions,",
    )
