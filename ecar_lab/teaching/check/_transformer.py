"""Checks of notebook 2's classes: attention with rotary positions, the adaLN-zero block, the
multistage transformer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ecar_lab.flow import upsample
from ecar_lab.layers import (
    Attention,
    Block,
    embed_classes,
    modulate,
    patchify,
    position_embedding,
    rotary_table,
    rotate,
)
from ecar_lab.teaching.check import Wrong, exercise, expect_list
from ecar_lab.teaching.check._modules import expect_same, leaves, twins
from ecar_lab.teaching.pieces import MultistageTransformer
from ecar_lab.transformer import KVCache, block_causal_mask

CPU = torch.device("cpu")
EYES = "tokens that a query may not look at get weight: put -inf where the mask is False"


# -- attention -------------------------------------------------------------------------------------


def _heads(kit: Attention, x: Tensor, split: str) -> list[Tensor]:
    """Query, key and value, each (B, N, h, d)."""
    qkv = rearrange(kit.qkv(x), f"b n ({split}) -> k b n h d", k=3, h=kit.num_heads)
    return list(qkv.unbind(0))


def _turned_halves(x: Tensor, rotary: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotary.real[:, None], rotary.imag[:, None]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def _attended(
    kit: Attention,
    x: Tensor,
    rotary: Tensor,
    mask: Tensor | None,
    *,
    split: str = "k h d",
    turned: str = "qk",
    turn: Any = rotate,
    norm: str = "head, first",
    root: float = 0.5,
    hide: str = "mask",
    over: int = -1,
    joined: str = "b n (h d)",
    out: bool = True,
) -> Tensor:
    """What attention gives; every option but the default is a mistake."""
    parts = dict(zip("qkv", _heads(kit, x, split), strict=True))

    def normed(part: Tensor) -> Tensor:
        if norm == "width":
            whole = part.flatten(2)
            return F.layer_norm(whole, whole.shape[-1:], eps=1e-6).view_as(part)
        return F.layer_norm(part, part.shape[-1:], eps=1e-6)

    for name in "qkv":
        if name != "v" and norm in ("head, first", "width"):
            parts[name] = normed(parts[name])
        if name in turned:
            parts[name] = turn(parts[name], rotary)
        if name != "v" and norm == "head, last":
            parts[name] = normed(parts[name])
    query, key, value = (parts[name].transpose(1, 2) for name in "qkv")
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** root
    if mask is not None and hide != "nothing":
        if hide == "added":
            logits = logits + mask
        else:
            logits = logits.masked_fill(mask if hide == "inverted" else ~mask, -torch.inf)
    attended = logits.softmax(dim=over) @ value
    flat = rearrange(attended, f"b h n d -> {joined}")
    flat = flat.reshape(x.shape)
    return kit.out(flat) if out else flat


def _mistaken(kit: Attention, x: Tensor, rotary: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Diagnosis -> what the mistake gives."""
    heads = kit.num_heads
    options: dict[str, dict[str, Any]] = {
        "query and key are not normalised: LayerNorm over the channels of a head": {"norm": "none"},
        "query and key are normalised after they are turned: LayerNorm first": {
            "norm": "head, last"
        },
        "nothing is turned, so attention knows no places: turn query and key": {"turned": ""},
        "only the query is turned: turn the key too": {"turned": "q"},
        "only the key is turned: turn the query too": {"turned": "k"},
        "the value is turned too: places belong into the logits alone": {"turned": "qkv"},
        "it turns channel i with channel i + d / 2: two neighbouring channels make a pair": {
            "turn": _turned_halves
        },
        "it turns the wrong way round: multiply by the table as it is": {
            "turn": lambda part, table: rotate(part, table.conj())
        },
        "the logits are not divided by the root of d": {"root": 0.0},
        "the logits are divided by d: by its root": {"root": 1.0},
        "the layer's channels are taken apart in another order: they are (3, heads, d)": {
            "split": "h k d"
        },
        "the out layer is missing: mix the heads by it": {"out": False},
        "softmax runs over the queries: over the keys, the last dimension": {"over": -2},
    }
    if heads > 1:
        options |= {
            "query and key are normalised over all heads at once: over a head's d channels": {
                "norm": "width"
            },
            "heads and tokens are mixed up when heads are joined: move the heads behind the tokens "
            "before you flatten": {"joined": "b h n d"},
        }
    if mask is not None:
        options |= {
            f"the mask is not used: {EYES}": {"hide": "nothing"},
            f"the mask is turned round: {EYES}": {"hide": "inverted"},
            f"the mask is added as 0 and 1: {EYES}": {"hide": "added"},
        }
    return {words: _attended(kit, x, rotary, mask, **option) for words, option in options.items()}


@exercise("2.5 attention", Attention, settings=[(32, 2, (1, 2), 2), (16, 1, (2, 3), 3)])
def attention(attempt: type, width: int, heads: int, sides: tuple[int, ...], batch: int) -> None:
    """``Attention(width, num_heads)``: x (B, N, D) -> (B, N, D), see the scaffold."""
    mine, theirs = twins(attempt, Attention, width, heads)
    rotary = rotary_table(sides, width // heads, sides[-1], CPU)
    x = torch.randn(batch, len(rotary), width).requires_grad_()
    places = torch.arange(len(rotary))
    half = (places - places[:, None]) % len(rotary) <= len(rotary) // 2  # of all, for everybody
    for mask in (half, None):
        what = "the result" + (" without a mask" if mask is None else "")
        expect_same(
            mine.forward,
            (x, rotary, mask),
            theirs(x, rotary, mask),
            _mistaken(theirs, x, rotary, mask),
            what,
            {"x": x, **leaves(theirs, "")},
        )
    _expect_cache(mine, theirs, rotary, x)


def _expect_cache(mine: Any, theirs: Attention, rotary: Tensor, x: Tensor) -> None:
    """The second of two lots of tokens looks at both; layer 1 of 2, so that the number counts."""
    cut = len(rotary) // 2
    caches = KVCache(2, len(rotary)), KVCache(2, len(rotary))
    with torch.no_grad():
        for lot in (slice(0, cut), slice(cut, None)):
            given = x.detach()[:, lot], rotary[lot], None
            alone = theirs(*given)
            right = theirs(*given, caches[1], 1)
            expect_same(
                lambda *given: mine(*given, caches[0], 1),
                given,
                right,
                {"the cache is not used: look at what cache.extend returns": alone},
                "the result with a cache",
            )
    if caches[0].lengths != caches[1].lengths:
        raise Wrong(
            "the cache is asked for another layer, or more than once: cache.extend(layer, key, "
            "value), one call"
        )


# -- block -----------------------------------------------------------------------------------------


def _blocked(
    block: Block,
    x: Tensor,
    modulation: Tensor,
    rotary: Tensor,
    mask: Tensor | None,
    *,
    order: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    gates: tuple[bool, bool] = (True, True),
    one: float = 1.0,
    norm: bool = True,
    keep: tuple[str, str] = ("x", "x"),
    mlp_reads: str = "new",
    hide: bool = True,
) -> Tensor:
    """What a block gives; every option but the default is a mistake."""
    parts = [modulation.chunk(6, dim=-1)[number][:, None] for number in order]

    def put(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) if norm else x
        return x * (one + scale) + shift

    def kept(how: str, x: Tensor, normed: Tensor) -> Tensor:
        return {"x": x, "normed": normed, "nothing": torch.zeros_like(x)}[how]

    normed = put(x, *parts[:2])
    attended = block.attention(normed, rotary, mask if hide else None)
    new = kept(keep[0], x, normed) + (parts[2] if gates[0] else 1) * attended
    normed = put(new if mlp_reads == "new" else x, *parts[3:5])
    hidden = block.mlp(new if mlp_reads == "bare" else normed)
    return kept(keep[1], new, normed) + (parts[5] if gates[1] else 1) * hidden


BLOCK_MISTAKES: dict[str, dict[str, Any]] = {
    "the gates are missing: each result is multiplied by its gate": {"gates": (False, False)},
    "attention's gate is missing": {"gates": (False, True)},
    "the MLP's gate is missing": {"gates": (True, False)},
    "shift and scale are swapped: the chunks come as shift, scale, gate": {
        "order": (1, 0, 2, 4, 3, 5)
    },
    "the chunks are taken in pairs: first three for attention, then three for the MLP": {
        "order": (0, 2, 4, 1, 3, 5)
    },
    "the MLP gets attention's shift, scale and gate: it has three of its own": {
        "order": (0, 1, 2, 0, 1, 2)
    },
    "it multiplies by the scale: by 1 + scale, so that a scale of 0 changes nothing": {"one": 0.0},
    "there is no LayerNorm before shift and scale": {"norm": False},
    "x itself is lost: add to it what attention and MLP give": {"keep": ("nothing", "nothing")},
    "x is lost after the MLP: add the MLP's result to it": {"keep": ("x", "nothing")},
    "it adds to the modulated tokens: add to x": {"keep": ("normed", "normed")},
    "the MLP reads x from before attention: it comes after it": {"mlp_reads": "old"},
    "the MLP reads x bare: modulate it first": {"mlp_reads": "bare"},
    "attention is not given the mask": {"hide": False},
}


@exercise("2.6 adaLN-zero block", Block, settings=[(32, 2, (1, 2), 2), (16, 1, (2,), 3)])
def block(attempt: type, width: int, heads: int, sides: tuple[int, ...], batch: int) -> None:
    """``Block(width, num_heads)``: x, modulation (B, 6D), rotary, ... -> x, see the scaffold."""
    fresh = attempt(width, heads)
    layer = getattr(fresh, "modulation", None)
    if isinstance(layer, torch.nn.Linear) and (layer.weight.any() or layer.bias.any()):
        raise Wrong(
            "a fresh block must be the identity: weight and bias of the layer modulation start at "
            "zero"
        )
    mine, theirs = twins(attempt, Block, width, heads)
    rotary = rotary_table(sides, width // heads, sides[-1], CPU)
    mask = torch.ones(len(rotary), len(rotary)).tril().bool()
    x = torch.randn(batch, len(rotary), width).requires_grad_()
    modulation = torch.randn(batch, 6 * width).requires_grad_()
    given = x, modulation, rotary, mask
    expect_same(
        mine.forward,
        given,
        theirs(*given),
        {words: _blocked(theirs, *given, **option) for words, option in BLOCK_MISTAKES.items()},
        "the result",
        {"x": x, "modulation": modulation, **leaves(theirs, "attention", "mlp")},
    )
    caches = KVCache(2, 2 * len(rotary)), KVCache(2, 2 * len(rotary))
    with torch.no_grad():
        for _ in range(2):
            found = mine(*given[:3], None, caches[0], 1)
            right = theirs(*given[:3], None, caches[1], 1)
    if not torch.allclose(found, right, atol=1e-4) or caches[0].lengths != caches[1].lengths:
        raise Wrong("with a cache it does something else: hand cache and layer on to attention")


# -- transformer -----------------------------------------------------------------------------------

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
            (places + number).expand_as(right)
        )
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
    expect_same(mine.run, (x, labels, sides, mask), right, mistakes, "what run returns",
                {"x": x, **leaves(theirs, "blocks", "final_modulation", "class_embedding")})  # fmt: skip
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
        "the mask is token-causal: tokens of one stage see one another": torch.ones(
            count, count
        ).tril().bool(),
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
