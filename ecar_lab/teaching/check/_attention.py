"""Checks of notebook 2: attention with rotary positions, and the adaLN-zero block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ecar_lab.layers import (
    Attention,
    Block,
    rotary_table,
    rotate,
)
from ecar_lab.teaching.check import Wrong, exercise
from ecar_lab.teaching.check._modules import expect_same, leaves, twins
from ecar_lab.transformer import KVCache

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
