"""The parts that the transformer and the flow head are made of.

Shapes: B images, N tokens, D width, h heads, d = D / h. Norms, rotary angles and the time embedding
are computed in float32, whatever the weights or the autocast are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ecar_lab.attention import Windows, attend, attend_by_stage
from ecar_lab.device import CASTS
from ecar_lab.errors import EcarError

TIME_FREQUENCIES = 128


def cached_table(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes each table once per set of arguments. Never as an inference tensor: one made while
    sampling under ``torch.inference_mode`` would be of no use to a later training step."""

    @functools.lru_cache(maxsize=64)
    @functools.wraps(make)
    def cached(*arguments: Any) -> Tensor:
        with torch.inference_mode(False):
            return make(*arguments)

    return cached


class Linear(nn.Linear):
    """``nn.Linear`` that casts its weights once for a run (:func:`ecar_lab.device.casting_once`),
    not once for a call. The numbers are the same."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(input)
        casts = CASTS.get()
        if casts is None or torch.is_grad_enabled():
            return super().forward(input)
        dtype = torch.get_autocast_dtype(input.device.type)
        if (self, dtype) not in casts:
            bias = None if self.bias is None else self.bias.to(dtype)
            casts[self, dtype] = self.weight.to(dtype), bias
        return F.linear(input, *casts[self, dtype])


def with_kept_casts(network: nn.Module) -> nn.Module:
    """The network, its linear layers as :class:`Linear`; for those of other libraries."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return network


def patchify(latent: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> tokens (B, N, C * p * p), row by row."""
    return rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=patch_size, q=patch_size)


def embed_classes(table: nn.Embedding, labels: Tensor) -> Tensor:
    """Rows of a table of classes, (B, D): of (B,) ids, or of (B, K) shares of its K classes, the
    mean of their rows by these shares."""
    if not labels.is_floating_point():
        return table(labels)
    return (labels[..., None] * table.weight).sum(dim=-2).to(table.weight.dtype)


def unpatchify(tokens: Tensor, patch_size: int) -> Tensor:
    """Tokens (B, N, C * p * p) of a square map -> (B, C, H, W); the inverse of :func:`patchify`."""
    side = math.isqrt(tokens.shape[1])
    return rearrange(
        tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=side, p=patch_size, q=patch_size
    )


@cached_table
def token_coordinates(side: int) -> Tensor:
    """Centres of a side x side grid in [0, 1]²: (N, 2) as (y, x), row by row.

    Because they are normalised, a coarse token lies in the middle of the finer ones it covers, and
    all stages share one geometry.
    """
    centres = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    return torch.cartesian_prod(centres, centres)


@cached_table
def position_embedding(side: int, width: int) -> Tensor:
    """Fixed sine-cosine embedding of :func:`token_coordinates`: (N, D).

    Attention turns rotary positions into relations only; at the coarsest stage, where all tokens
    start alike, something must tell them apart.
    """
    frequencies = math.pi * 2.0 ** torch.linspace(0, 5, width // 4)
    angles = token_coordinates(side)[:, :, None] * frequencies  # (N, 2, D / 4)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)


@cached_table
def rotary_angles(side: int, head_dim: int, finest_side: int) -> Tensor:
    """Rotation angle of each pair of a head's channels: (N, d / 2), in radians.

    Half the pairs turn with y, half with x. Frequencies are geometric, from 1 radian over the image
    up to about a quarter turn between neighbours of the finest grid.
    """
    highest = max(2.0, finest_side * math.pi / 2)
    frequencies = torch.logspace(0, math.log2(highest), head_dim // 4, base=2.0)
    return (token_coordinates(side)[:, :, None] * frequencies).flatten(1)


@cached_table
def rotary_table(
    sides: tuple[int, ...], head_dim: int, finest_side: int, device: torch.device
) -> Tensor:
    """e^(i * angle) for the tokens of several stages, one after the other: (N, d / 2), complex."""
    angles = torch.cat([rotary_angles(side, head_dim, finest_side) for side in sides])
    return torch.polar(torch.ones_like(angles), angles).to(device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turns each pair of neighbouring channels by its angle, as a product of complex numbers.

    x (B, N, ..., d) float32; table (N, d / 2) complex: e^(i * angle).
    """
    pairs = x.unflatten(-1, (-1, 2))
    table = table.view(table.shape[0], *(1,) * (pairs.ndim - 4), table.shape[1])
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic, not complex
        first, second = pairs.unbind(-1)
        cos, sin = torch.view_as_real(table).unbind(-1)
        turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * table)
    return turned.flatten(-2)


class Attention(nn.Module):
    """Multi-head attention with QK-norm and 2-D rotary positions.

    Raises:
        EcarError: the width is not a multiple of 4 * num_heads (rotary pairs on two axes).
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        if width % (4 * num_heads):
            raise EcarError(
                f"width {width} is not divisible by {4 * num_heads} (4 x {num_heads} heads): "
                f"use {math.ceil(width / (4 * num_heads)) * 4 * num_heads}"
            )
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, N, D) -> query, key (normalised, turned) and value, each (B, h, N, d).

        Query and key are LayerNormed over their head's channels, without gain, so no logit exceeds
        sqrt(d); both go through norm and rotation together.
        """
        qkv = rearrange(self.qkv(x), "b n (k h d) -> b n k h d", k=3, h=self.num_heads)
        query_key, value = qkv[:, :, :2].float(), qkv[:, :, 2]
        query_key = F.layer_norm(query_key, query_key.shape[-1:], eps=1e-6)
        query_key = rotate(query_key, rotary).to(value.dtype)
        query, key = query_key.unbind(2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor,
        mask: Tensor | None = None,
        cache=None,
        layer: int = 0,
        windows: Windows | None = None,
    ) -> Tensor:
        """x (B, N, D) -> (B, N, D). With a cache, x looks at itself and at all that is cached.

        With windows, the last tokens of x are those of ``windows.sides``. Such a token sees its own
        window, shifted by half its size in every second layer, and all tokens of stages without
        windows: of x, and of the cache, which keeps no others. ``mask`` is between these alone.
        """
        query, key, value = self.project(x, rotary)
        if windows is not None:
            attended = attend_by_stage(query, key, value, mask, cache, layer, windows)
        else:
            if cache is not None:
                key, value = cache.extend(layer, key, value)
            attended = attend(query, key, value, mask)
        return self.out(rearrange(attended, "b h n d -> b n (h d)"))


def modulate(x: Tensor, shift: Tensor, scale: Tensor, norm: str = "layer") -> Tensor:
    """norm(x) * (1 + scale) + shift; x (B, N, D), shift, scale (B, D).

    ``layer``: LayerNorm. ``rms``: x over its root mean square, the mean stays. Both compute in
    float32 whatever x is; the result has the condition's dtype.
    """
    if norm == "rms":
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(scale.dtype)
    else:
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6).to(scale.dtype)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


class SquaredReLU(nn.Module):
    """max(x, 0)²: free of GELU's exponentials, which with their gradient took 0.34 s of a 2.5 s
    training step on two shared cores, beside 0.6 s of matrix products (one profile). Which of the
    two makes the better model was not compared."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class LocalMixing(nn.Module):
    """What a token takes over from its eight neighbours: a depthwise 3x3 convolution over the map
    of its stage, ``x + conv(x)``. It starts at zero, so a new one is the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, sides: Sequence[int]) -> Tensor:
        """x (B, N, D), the tokens of square maps of these sides one after the other; the same."""
        mixed = []
        for tokens, side in zip(
            x.split([side * side for side in sides], dim=1), sides, strict=True
        ):
            image = rearrange(tokens, "b (h w) d -> b d h w", h=side)  # channels-last: no copy
            mixed.append(rearrange(self.conv(image), "b d h w -> b (h w) d"))
        return x + (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1))


@dataclass(frozen=True)
class BlockStyle:
    """What a block is made of.

    Attributes:
        local_mixing: whether ``LocalMixing`` stands before the MLP.
        mlp: ``relu2``, two matrices about a ``SquaredReLU``, or ``swiglu``, :class:`SwiGLU`.
        norm: ``layer`` or ``rms``, of ``layers.modulate``.

    Raises:
        EcarError: an unknown MLP or norm.
    """

    local_mixing: bool = False
    mlp: str = "relu2"
    norm: str = "layer"

    def __post_init__(self) -> None:
        for name, known in (("mlp", ("relu2", "swiglu")), ("norm", ("layer", "rms"))):
            if (value := getattr(self, name)) not in known:
                raise EcarError(f"{name} {value!r} is unknown: use {' or '.join(known)}")


def gated_width(hidden: int) -> int:
    """Hidden features of a gated MLP with about as many weights as a plain one of ``hidden``: two
    thirds of it, for it has three matrices, rounded to a multiple of 32."""
    return 32 * max(1, round(2 * hidden / 3 / 32))


class SwiGLU(nn.Module):
    """Gated MLP ``W_out (silu(W_gate x) * W_value x)`` (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_value = Linear(width, 2 * hidden)
        self.out = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm transformer block whose norms and gates are set by a condition (adaLN-zero).

    ``x += gate1 * attention(modulate(x)); x += gate2 * mlp(mix(modulate(x)))``. The linear map that
    makes shift, scale and gate from the condition starts at zero, so a new block is the identity.
    mix is :class:`LocalMixing` where it is wanted, else nothing.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        style: BlockStyle = BlockStyle(),
    ):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm = style.norm
        self.attention = Attention(width, num_heads)
        self.mix = LocalMixing(width) if style.local_mixing else None
        if style.mlp == "swiglu":
            self.mlp = SwiGLU(width, gated_width(hidden))
        else:
            wide, narrow = Linear(width, hidden), Linear(hidden, width)
            self.mlp = nn.Sequential(wide, SquaredReLU(), narrow)
        self.modulation = zero_init(Linear(width, 6 * width))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        rotary,
        mask=None,
        cache=None,
        layer=0,
        windows=None,
        sides: Sequence[int] = (),
    ) -> Tensor:
        """x (B, N, D), maps of these sides; modulation (B, 6D) = ``self.modulation(silu(c))``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        normed = modulate(x, shift1, scale1, self.norm)
        attended = self.attention(normed, rotary, mask, cache, layer, windows)
        x = torch.addcmul(x, gate1[:, None].to(x.dtype), attended.to(x.dtype))
        normed = modulate(x, shift2, scale2, self.norm)
        hidden = self.mlp(normed if self.mix is None else self.mix(normed, sides))
        return torch.addcmul(x, gate2[:, None].to(x.dtype), hidden.to(x.dtype))


class Blocks(nn.ModuleList):
    """``num_layers`` blocks, one on top of the other."""

    def __init__(
        self,
        num_layers: int,
        width: int,
        num_heads: int,
        style: BlockStyle = BlockStyle(),
    ):
        super().__init__(Block(width, num_heads, style=style) for _ in range(num_layers))

    def __iter__(self) -> Iterator[Block]:
        return cast("Iterator[Block]", super().__iter__())


class TimeEmbedding(nn.Module):
    """Time in [0, 1] -> (B, D): sines and cosines of 1 to 2^octaves radians, then a two-layer MLP.

    By default up to ~1000 radians; a number that matters less finely needs fewer octaves. With
    ``zero`` it gives 0 at first, and so changes nothing where it is added.
    """

    def __init__(self, width: int, octaves: float = 10, zero: bool = False):
        super().__init__()
        self.octaves = octaves
        self.mlp = nn.Sequential(
            Linear(2 * TIME_FREQUENCIES, width), nn.SiLU(), Linear(width, width)
        )
        if zero:
            zero_init(cast(nn.Linear, self.mlp[-1]))

    def forward(self, time: Tensor) -> Tensor:
        """time (B,) float32 -> (B, D)."""
        octaves = torch.linspace(0, self.octaves, TIME_FREQUENCIES, device=time.device)
        angles = time.float()[:, None] * 2.0**octaves
        features = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


def zero_init(linear: nn.Linear) -> nn.Linear:
    """Sets weight and bias to zero and hands the layer back."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def long_skip_maps(num_layers: int, width: int) -> nn.ModuleDict:
    """Linear maps from what block i gives to what block L-1-i gets, added to it; named by the
    latter's number. They start at zero. Neighbours have none: one follows the other anyway."""
    pairs = range((num_layers - 1) // 2)
    maps = nn.ModuleDict({str(num_layers - 1 - i): Linear(width, width) for i in pairs})
    for parameter in maps.parameters():
        nn.init.zeros_(parameter)
    return maps
