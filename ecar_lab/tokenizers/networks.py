"""The networks and losses of the compact autoencoder: residual convolutions, a vector quantiser.

Nothing here knows of normalised latents, names or files; that is `makers.py`.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Normalisation over groups of 8 channels, in float32 whatever the input; keeps its dtype.

    (The float32 copy also is the faster way on a CPU under bfloat16 autocast: measured.)
    """

    def __init__(self, channels: int):
        super().__init__(max(1, channels // 8), channels)

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(norm(x)))) with 3x3 convolutions; starts as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(channels)
        self.conv1, self.conv2 = conv3x3(channels, channels), conv3x3(channels, channels)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:  # (B, channels, H, W) -> same
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size (stride 1) or halves it (stride 2)."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


class Shrink(nn.Module):
    """Halves the size by a convolution, beside a shortcut that needs no weights: every 2x2 square
    is stacked into channels (PixelUnshuffle), and neighbouring channels are averaged.

    The residual space-to-channel shortcut of DC-AE (arXiv 2410.10733).
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = conv3x3(channels_in, channels_out, stride=2)
        self.channels_out = channels_out

    def forward(self, x: Tensor) -> Tensor:  # (B, i, H, W) -> (B, o, H/2, W/2)
        stacked = F.pixel_unshuffle(x, 2).unflatten(1, (self.channels_out, -1))
        return self.conv(x) + stacked.mean(2)


class Grow(nn.Module):
    """Doubles the size, the mirror of :class:`Shrink`: channels are repeated, then unstacked."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = conv3x3(channels_in, 4 * channels_out)
        self.repeats = 4 * channels_out // channels_in

    def forward(self, x: Tensor) -> Tensor:  # (B, i, h, w) -> (B, o, 2h, 2w)
        return F.pixel_shuffle(self.conv(x) + x.repeat_interleave(self.repeats, dim=1), 2)


def make_encoder(
    channels: list[int], depth: int, channels_out: int, shortcuts: bool = False
) -> nn.Sequential:
    """Images (B, 3, H, W) to (B, channels_out, H/f, W/f), with f = 2 ** len(channels).

    `channels[i]` is the width at 1 / 2^(i+1) of the image size; `depth` blocks work at the last.
    With `shortcuts` sizes change by :class:`Shrink`.
    """
    top = channels[-1]
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), conv3x3(3 * 4, channels[0])]
    for fine, coarse in pairwise(channels):
        halve = Shrink(fine, coarse) if shortcuts else conv3x3(fine, coarse, stride=2)
        layers += [ResidualBlock(fine), halve]
    layers += [ResidualBlock(top) for _ in range(depth)]
    return nn.Sequential(*layers, GroupNorm(top), nn.SiLU(), conv3x3(top, channels_out))


def make_decoder(
    channels: list[int], depth: int, channels_in: int, shortcuts: bool = False
) -> nn.Sequential:
    """Latents (B, channels_in, h, w) to images (B, 3, f*h, f*w): `make_encoder` backwards.

    A quarter of `channels[0]` is left at full size, where every channel costs most.
    """
    top, tail = channels[-1], channels[0] // 4
    layers: list[nn.Module] = [conv3x3(channels_in, top)]
    layers += [ResidualBlock(top) for _ in range(depth)]
    for coarse, fine in pairwise([*reversed(channels), tail]):
        if shortcuts:
            layers += [Grow(coarse, fine), ResidualBlock(fine)]
        else:
            layers += [conv3x3(coarse, fine * 4), nn.PixelShuffle(2), ResidualBlock(fine)]
    return nn.Sequential(*layers, GroupNorm(tail), nn.SiLU(), conv3x3(tail, 3))


class Quantised(NamedTuple):
    """What `VectorQuantiser` returns."""

    codes: (
        Tensor  # (B, C, h, w), the nearest code of each position; gradients pass straight through
    )
    codebook_loss: Tensor  # scalar: codes move to the latents they stand for
    commitment_loss: Tensor  # scalar: latents move to their code
    reach_loss: Tensor  # scalar: every code, used or not, moves to the latent nearest to it
    used: Tensor  # scalar: the share of the codebook that this batch used


class VectorQuantiser(nn.Module):
    """Replaces every latent vector by the nearest of `size` learned codes.

    Codes that no latent is near to would never learn. The reach loss pulls each code towards its
    nearest latent of the batch and so revives them, without counters or restarts: the step stays a
    function of weights and batch alone, on one process or many.
    """

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(size, channels))

    def forward(self, z: Tensor) -> Quantised:  # z (B, C, h, w)
        with torch.autocast(z.device.type, enabled=False):  # distances need float32
            rows = z.float().movedim(1, -1).flatten(0, -2)  # (N, C)
            book = self.codebook.float()  # (K, C)
            code_of_row, row_of_code = nearest_pairs(rows.detach(), book.detach())
            codes = book[code_of_row]
            used = torch.zeros_like(book[:, 0]).index_fill(0, code_of_row, 1).mean()
            straight_through = codes.detach() + (rows - rows.detach())  # exactly the codes
            return Quantised(
                straight_through.unflatten(0, (z.shape[0], *z.shape[2:])).movedim(-1, 1),
                F.mse_loss(codes, rows.detach()),
                F.mse_loss(rows, codes.detach()),
                F.mse_loss(book, rows.detach()[row_of_code]),
                used.detach(),
            )


def nearest_pairs(rows: Tensor, book: Tensor, chunk: int = 8192) -> tuple[Tensor, Tensor]:
    """The code nearest to each row (N,) and the row nearest to each code (K,), as indices.

    `rows` are (N, C), `book` is (K, C). Works in chunks of rows, so that the (N, K) distances
    never stand in memory at once.
    """
    code_of_row = []
    best = torch.full_like(book[:, 0], torch.inf)
    row_of_code = torch.zeros(len(book), dtype=torch.long, device=book.device)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        distance = torch.cdist(part, book, compute_mode="donot_use_mm_for_euclid_dist")
        code_of_row.append(distance.argmin(1))
        closest, row = distance.min(0)
        row_of_code = torch.where(closest < best, row + start, row_of_code)
        best = torch.minimum(best, closest)
    return torch.cat(code_of_row), row_of_code


def reconstruction_terms(reconstruction: Tensor, images: Tensor) -> dict[str, Tensor]:
    """``l1 = mean |e|``, ``l2 = mean e²``, ``sharpness = mean |∂x e| + mean |∂y e|``, e in image
    units.

    Blur is an error that sits at edges and has a large gradient there, so the last term weighs it
    up without any pretrained network. All in float32.
    """
    error = reconstruction.float() - images.float()
    return {
        "l1": error.abs().mean(),
        "l2": error.square().mean(),
        "sharpness": error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean(),
    }
