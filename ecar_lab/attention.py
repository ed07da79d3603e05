"""Who looks at whom: attention over everything, or in windows where a stage is large.

Full attention costs 4 N² D: from some size on more than all the rest, which grows with N. In
windows of w x w tokens it costs 4 N w² D, so a stage's cost grows with its pixels and no faster.

Shapes: B images, h heads, N tokens, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ecar_lab.errors import EcarError


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v; shapes (B, h, N, d); mask (N, M) is True where a query may look.

    PyTorch's fused kernel, except when training in bfloat16 on a CPU: its backward pass is 2.5 to
    4 times slower there than the three plain operations (measured on two AMX cores, 84 tokens).
    """
    plain = query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not plain:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


class Windows(NamedTuple):
    """The stages whose tokens look around in windows instead of over the whole stage.

    ``sides``: tokens per side of each such stage. In a sequence of several stages they are the last
    ones. ``size``: tokens per side of a window; divides every side.
    """

    sides: tuple[int, ...]
    size: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each such stage."""
        return [side * side for side in self.sides]

    def shift(self, layer: int) -> int:
        """Windows lie half their size further on in every second layer, so that news spreads."""
        return self.size // 2 if layer % 2 else 0


def windows_among(token_sides: Sequence[int], size: int | None) -> Windows | None:
    """Windows in the stages that are larger than one; None where no stage is.

    Raises:
        EcarError: a window of fewer than 2 tokens per side, or one that does not divide such
            a stage.
    """
    if size is None:
        return None
    if size < 2:
        raise EcarError(f"attention_window is {size}: use 2 or more tokens per side")
    sides = tuple(side for side in token_sides if side > size)
    for side in sides:
        if side % size:
            best = max(whole for whole in range(1, size) if side % whole == 0)
            raise EcarError(
                f"attention_window {size} does not divide a stage of {side}x{side} tokens: "
                f"use e.g. {best if best > 1 else side}"
            )
    return Windows(sides, size) if sides else None


def attend_in_windows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: tuple[Tensor, Tensor],
    size: int,
    shift: int = 0,
) -> Tensor:
    """Attention of a square map, every token to its own window and to all of the context.

    The grid is cut into windows of size x size tokens, all of them one batch. With a shift the cuts
    lie so many tokens further down and right, on a torus: tokens at the right and bottom border
    share a window with those at the left and top (their rotary positions still tell them apart).

    Args:
        query, key, value: (B, h, side², d). context: key and value, (B, h, M, d).
    Returns:
        (B, h, side², d).
    """
    batch, tokens = query.shape[0], query.shape[2]
    side = math.isqrt(tokens)
    count = side // size

    def cut(x: Tensor) -> Tensor:
        grid = x.unflatten(2, (side, side))
        if shift:
            grid = grid.roll((-shift, -shift), (2, 3))
        return rearrange(grid, "b h (y p) (x q) d -> b (y x) h (p q) d", p=size, q=size)

    def beside(context: Tensor, x: Tensor) -> Tensor:
        every_window = context[:, None].expand(-1, count**2, -1, -1, -1)
        return torch.cat((every_window, cut(x)), dim=3).flatten(0, 1)

    keys, values = beside(context[0], key), beside(context[1], value)
    attended = attend(cut(query).flatten(0, 1), keys, values)
    grid = rearrange(
        attended, "(b y x) h (p q) d -> b h (y p) (x q) d", b=batch, y=count, x=count, p=size
    )
    if shift:
        grid = grid.roll((shift, shift), (2, 3))
    return grid.flatten(2, 3)


def attend_by_stage(query, key, value, mask, cache, layer: int, windows: Windows) -> Tensor:
    """Attention of several stages at once, the last of them in windows; all (B, h, N, d).

    A token of a stage with windows sees its own window and all tokens of the stages without: of
    this sequence, and of the cache, which keeps no others. ``mask`` is between these alone.
    """
    lengths = [query.shape[2] - sum(windows.lengths), *windows.lengths]
    (query, *queries), (key, *keys), (value, *values) = (
        x.split(lengths, dim=2) for x in (query, key, value)
    )
    if cache is not None:
        key, value = cache.extend(layer, key, value)
    attended = [
        attend_in_windows(*stage, (key, value), windows.size, windows.shift(layer))
        for stage in zip(queries, keys, values, strict=True)
    ]
    if lengths[0]:
        attended.insert(0, attend(query, key, value, mask))
    return torch.cat(attended, dim=2) if len(attended) > 1 else attended[0]


def same_window(side: int, size: int, shift: int, device: torch.device) -> Tensor:
    """(N, N) bool: which tokens of a map share a window of :func:`attend_in_windows`."""
    place = (torch.arange(side, device=device) - shift) % side // size
    window = (place[:, None] * side + place).flatten()
    return window[:, None] == window
