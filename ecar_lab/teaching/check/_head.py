"""The check of notebook 5's flow head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecar_lab.flow import FlowHead
from ecar_lab.layers import modulate, patchify, rotary_table, unpatchify
from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.check import (
    Attempt,
    Wrong,
    exercise,
    expect_list,
    expect_tensor,
)
from ecar_lab.teaching.check._modules import expect_same, leaves, twins

CPU = torch.device("cpu")


def _modulations(
    head: FlowHead, stage: int, local_time: Tensor, labels: Tensor, *, leave: str = "",
    time: str = "slice", soft: bool = True, of_stage: int | None = None,
) -> Tensor:  # fmt: skip
    """All modulations side by side; every option but the default is a mistake."""
    told = {
        "slice": head.schedule.conditioning_time(stage, local_time),
        "bare": local_time,
        "flow": head.schedule.flow_time(stage, local_time),
    }[time]
    parts = {
        "time": head.time_embedding(told.flatten()).unflatten(0, told.shape),
        "stage": head.stage_embedding.weight[stage if of_stage is None else of_stage],
        "class": head.class_embedding(labels),
    }
    condition: Any = sum(part for name, part in parts.items() if name != leave)
    condition = F.silu(condition) if soft else condition
    layers = [*(block.modulation for block in head.blocks), head.final_modulation]
    return torch.cat([layer(condition) for layer in layers], dim=-1)


def _velocity(
    head: FlowHead, stage: int, state: Tensor, read_map: Tensor, modulations: Sequence[Tensor], *,
    mapped: bool = True, finest: int | None = None, end: str = "modulated", swap: bool = False,
    count: int | None = None,
) -> Tensor:  # fmt: skip
    side = head.token_sides[stage]
    rotary = rotary_table((side,), head.head_dim, finest or head.token_sides[-1], CPU)
    state = state.transpose(2, 3) if swap else state
    x = head.patch_embedding(patchify(state, head.patch_size))
    x = x + read_map if mapped else x
    for block, modulation in list(zip(head.blocks, modulations[:-1], strict=True))[:count]:
        x = block(x, modulation, rotary)
    shift, scale = modulations[-1].chunk(2, dim=-1)
    shift, scale = (scale, shift) if end == "swapped" else (shift, scale)
    x = head.out(x if end == "bare" else modulate(x, shift, scale))
    return unpatchify(x, head.patch_size)


@exercise(
    "5.2 the flow head",
    FlowHead,
    settings=[((8, 3, (0.4, 0.7, 1.0)), 1, 3, 2), ((4, 2, (0.5, 1.0)), 2, 2, 1)],
)
def flow_head(attempt: type, times: Any, patch_size: int, channels: int, heads: int) -> None:
    """``FlowHead(schedule=..., ...)``: modulations (5.2a) and forward (5.2b)."""
    schedule = StageSchedule(*times)
    sizes: dict[str, Any] = dict(
        token_sides=tuple(side // patch_size for side in schedule.resolutions), num_layers=2,
        latent_channels=channels, patch_size=patch_size, num_classes=4, width=16 * heads,
        num_heads=heads, schedule=schedule,
    )  # fmt: skip
    mine, theirs = twins(attempt, FlowHead, **sizes)
    labels = torch.tensor([1, 4, 0])
    options: dict[str, dict[str, Any]] = {
        "the head is told the bare local time: place it in the stage's slice first": {
            "time": "bare"
        },
        "the head is told the flow time t: windows overlap, so place tau in the stage's slice": {
            "time": "flow"
        },
        "the time is missing in the condition": {"leave": "time"},
        "the stage is missing in the condition": {"leave": "stage"},
        "the class is missing in the condition": {"leave": "class"},
        "the condition is their bare sum: put silu on it": {"soft": False},
        "it takes the embedding of the stage before: stages count from 0 here": {"of_stage": -1},
    }
    for stage in (1, 0):
        for time in (torch.tensor([0.1, 0.5, 0.9]), torch.tensor([[0.0], [0.4], [0.7], [1.0]])):
            kit_s = theirs.modulations(stage, time, labels)
            mistakes = {}
            for words, option in options.items():
                before: dict[str, Any] = {"of_stage": stage - 1} if "of_stage" in option else option
                mistakes[words] = _modulations(theirs, stage, time, labels, **before)
            found = expect_list(
                Attempt(mine.modulations)(stage, time, labels), "what modulations returns"
            )
            if len(found) != len(kit_s):
                raise Wrong(
                    f"modulations returns {len(found)} tensors: one per block and one for the end, "
                    f"{len(kit_s)}"
                )
            for number, (got, want) in enumerate(zip(found, kit_s, strict=True)):
                expect_tensor(got, tuple(want.shape), f"modulation {number}")
            named = leaves(theirs, "time", "stage", "class", "final_modulation", "blocks.1.mod")
            joined = torch.cat(list(found), dim=-1)
            expect_same(lambda joined=joined: joined, (), torch.cat(kit_s, dim=-1), mistakes,
                        "what modulations returns", named)  # fmt: skip
    for stage, side in enumerate(schedule.resolutions):
        _expect_velocity(mine, theirs, stage, torch.randn(3, channels, side, side), labels)


def _expect_velocity(mine: Any, theirs: Any, stage: int, state: Tensor, labels: Tensor) -> None:
    tokens, width = theirs.token_sides[stage] ** 2, theirs.patch_embedding.out_features
    read_map = torch.randn(3, tokens, width).requires_grad_()
    given = theirs.modulations(stage, torch.tensor([0.2, 0.5, 0.7]), labels)
    given = [part.detach().requires_grad_() for part in given]
    options: dict[str, dict[str, Any]] = {
        "the token map is not used: add it to the embedded state": {"mapped": False},
        "the final modulation is missing: shift and scale the last norm": {"end": "bare"},
        "shift and scale of the final modulation are swapped": {"end": "swapped"},
        "rows and columns of the state are swapped": {"swap": True},
        "the first block alone runs: all of them, one after the other": {"count": 1},
        "the finest side of the rotary table is the stage's own: it is the model's, for every "
        "stage": {"finest": theirs.token_sides[stage]},
    }
    arguments = stage, state, read_map, given
    right = theirs(*arguments)
    mistakes = {words: _velocity(theirs, *arguments, **option) for words, option in options.items()}
    mistakes["the velocity points backwards"] = -right
    sources = {"the token map": read_map, "the modulations": given[0], "their last": given[-1]}
    expect_same(mine.forward, arguments, right, mistakes, f"the velocity in stage {stage + 1}",
                {**sources, **leaves(theirs, "patch_embedding", "out")})  # fmt: skip
