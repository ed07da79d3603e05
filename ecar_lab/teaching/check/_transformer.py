"""The check of notebook 2's multistage transformer: embed, run, forward, step, in this order."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecar_lab.flow import upsample
from ecar_lab.layers import embed_classes, modulate, patchify, position_embedding, rotary_table
from ecar_lab.teaching.check import Wrong, exercise, expect_list
from ecar_lab.teaching.check._modules import expect_same, leaves, twins
from ecar_lab.teaching.pieces import MultistageTransformer
from ecar_lab.transformer import KVCache, block_causal_mask

CPU = torch.device("cpu")
SIZES = [
    dict(token_sides=(1, 2, 4), latent_channels=3, patch_size=2, num_classes=5, width=32,
         num_layers=2, num_heads=2),
    dict(token_sides=(2, 4), latent_channels=2, patch_size=1, num_classes=3, width=16,
         num_layers=3, num_heads=1),
]  # fmt: skip


@exercise(
    "2.7 multistage transformer", MultistageTransformer, settings=[(sizes,) for sizes in SIZES]
)
def multistage_transformer(attempt: type, sizes: dict[str, Any]) -> None:
    """``MultistageTransformer(token_sides=..., ...)``: embed, run, forward, step."""
    mine, theirs = twins(attempt, MultistageTransformer, **sizes)
    sides, channels = sizes["token_sides"], sizes["latent_channels"]
    labels = torch.tensor([1, 0, sizes["num_classes"]])
    ends = [torch.randn(3, channels, *2 * [side * sizes["patch_size"]]) for side in sides[:-1]]
    history = [None, *ends]
    for stage in range(len(sides)):
        _expect_embedding(mine, theirs, stage, history[stage], labels)
    tokens = [theirs.embed(s, end, labels).detach() for s, end in enumerate(history)]
    _expect_run(mine, theirs, tokens, labels, tuple(sides))
    _expect_forward(mine, theirs, ends, labels, tokens)
    _expect_steps(mine, theirs, history, labels)


def _expect_embedding(mine: Any, theirs: Any, stage: int, end: Any, labels: Tensor) -> None:
    right = theirs.embed(stage, end, labels)
    places = position_embedding(theirs.token_sides[stage], theirs.width)
    number = theirs.stage_embedding.weight[stage]
    of_class = embed_classes(theirs.class_embedding, labels)[:, None]
    mistakes = {
        "the embedding of the places is missing": right - places,
        "the embedding of the stage is missing": right - number,
        "it takes the embedding of the stage before: stages count from 0 here": (
            right - number + theirs.stage_embedding.weight[stage - 1]
        ),
    }
    if stage == 0:
        mistakes["the class is missing: stage 1 starts from it"] = right - of_class
    else:
        mistakes["the class is added in a later stage too: it reads the stage before alone"] = (
            right + of_class
        )
        mistakes["the patches are missing: a later stage reads the end state before it"] = (
            places + number
        ).expand_as(right)
        size = theirs.patch_size
        patches = theirs.patch_embedding(patchify(upsample(end).transpose(2, 3), size))
        mistakes["rows and columns of the end state are swapped"] = patches + places + number
    expect_same(
        mine.embed, (stage, end, labels), right, mistakes, f"the embedding of stage {stage + 1}",
        leaves(theirs, "stage_embedding", "class_embedding" if stage == 0 else "patch_embedding"),
    )  # fmt: skip


def _ran(
    kit: Any, x: Tensor, labels: Tensor, sides: tuple[int, ...], mask: Any = None,
    *, finest: int | None = None, soft: bool = True, end: str = "modulated", layers: Any = None,
    cache: Any = None,
) -> Tensor:  # fmt: skip
    rotary = rotary_table(sides, kit.head_dim, finest or kit.token_sides[-1], CPU)
    condition = embed_classes(kit.class_embedding, labels)
    condition = F.silu(condition) if soft else condition
    for block in kit.blocks if layers is None else [kit.blocks[n] for n in layers]:
        x = block(x, block.modulation(condition), rotary, mask, cache)
    shift, scale = kit.final_modulation(condition).chunk(2, dim=-1)
    if end == "modulated":
        return modulate(x, shift, scale)
    return modulate(x, scale, shift) if end == "swapped" else x


def _expect_run(
    mine: Any, theirs: Any, tokens: list[Tensor], labels: Tensor, sides: tuple[int, ...]
) -> None:
    x, mask = torch.cat(tokens, dim=1).requires_grad_(), block_causal_mask_of(sides)
    options: dict[str, dict[str, Any]] = {
        "the final modulation is missing: shift and scale the last norm": {"end": "bare"},
        "shift and scale of the final modulation are swapped": {"end": "swapped"},
        "the condition is the class embedding bare: put silu on it": {"soft": False},
        "the first block alone runs: all of them, one after the other": {"layers": [0]},
        "the blocks run in reverse": {"layers": range(len(theirs.blocks))[::-1]},
    }
    mistakes = {
        words: _ran(theirs, x, labels, sides, mask, **option) for words, option in options.items()
    }
    mistakes["the blocks are not given the mask"] = _ran(theirs, x, labels, sides)
    right = theirs.run(x, labels, sides, mask)
    sources = {"x": x, **leaves(theirs, "blocks", "final_modulation", "class_embedding")}
    expect_same(mine.run, (x, labels, sides, mask), right, mistakes, "what run returns", sources)
    alone = tokens[-2], labels, sides[-2:-1]
    expect_same(
        mine.run, alone, theirs.run(*alone),
        {"the finest side of the rotary table is that of the tokens at hand: it is the model's, "
         "for every stage": _ran(theirs, *alone, finest=sides[-2])},
        "what run returns for one stage alone",
    )  # fmt: skip


def block_causal_mask_of(sides: tuple[int, ...]) -> Tensor:
    """The mask of stages of these sides in tokens."""
    return block_causal_mask(tuple(side * side for side in sides), CPU)


def _expect_forward(
    mine: Any, theirs: Any, ends: list[Tensor], labels: Tensor, tokens: list[Tensor]
) -> None:
    sides, lengths = theirs.token_sides, theirs.tokens_per_stage
    right, x = theirs(ends, labels), torch.cat(tokens, dim=1)
    count = x.shape[1]
    others = {
        "every token sees every other: later stages must be hidden": None,
        "the mask is token-causal: tokens of one stage see one another": torch.ones(count, count)
        .tril()
        .bool(),
        "a stage sees itself alone: it sees earlier ones too": torch.block_diag(
            *(torch.ones(length, length) for length in lengths)
        ).bool(),
    }
    wrong = {words: theirs.run(x, labels, sides, mask) for words, mask in others.items()}
    found = expect_list(mine(ends, labels), "what forward returns")
    if len(found) != len(right):
        raise Wrong(f"forward returns {len(found)} maps: one per stage, {len(right)}")
    shapes = [[getattr(one, "shape", None) for one in maps] for maps in (found, right)]
    if shapes[0] != shapes[1] and shapes[0] == shapes[1][::-1]:
        raise Wrong("the maps come finest first: coarsest first")
    for stage, (got, want) in enumerate(zip(found, right, strict=True)):
        mistakes = {words: y.split(lengths, dim=1)[stage] for words, y in wrong.items()}
        expect_same(lambda got=got: got, (), want, mistakes, f"the map of stage {stage + 1}")
    sources = {"a later end state": ends[-1].requires_grad_(), **leaves(theirs, "patch_embedding")}
    expect_same(lambda: mine(ends, labels)[-1], (), theirs(ends, labels)[-1], {}, "the last map",
                sources)  # fmt: skip


def _expect_steps(mine: Any, theirs: Any, history: list[Any], labels: Tensor) -> None:
    caches = mine.new_cache(), theirs.new_cache()
    shared = KVCache(1, 1000)
    with torch.no_grad():
        for stage, end in enumerate(history):
            x, sides = theirs.embed(stage, end, labels), theirs.token_sides[stage : stage + 1]
            alone = theirs.step(stage, end, labels, theirs.new_cache())
            right = theirs.step(stage, end, labels, caches[1])
            expect_same(
                lambda *given: mine.step(*given, caches[0]),
                (stage, end, labels),
                right,
                {
                    "the cache is not used, so the stage sees itself alone: hand it to run": alone,
                    "all blocks share one place in the cache: hand each its own number": _ran(
                        theirs, x, labels, sides, cache=shared
                    ),
                },
                f"step: the map of stage {stage + 1}",
            )
