"""Latents as colours: an affine map from a latent's channels to RGB, and the hues of the stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ecar_lab.tokenizers.base import Tokenizer

# One hue per stage, coarsest first (Okabe and Ito's set, told apart by colour-blind readers too).
STAGE_HUES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00")


@dataclass(frozen=True)
class LatentColours:
    """An affine map from the C channels of a latent to RGB, the same for every latent shown.

    ``rgb = latent @ weight + bias`` per latent pixel, clamped to [-1, 1].

    Attributes:
        weight: (C, 3). bias: (3,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h, w) in [-1, 1]."""
        rgb = torch.einsum("bchw,ck->bkhw", latent.float().cpu(), self.weight)
        return (rgb + self.bias.view(1, 3, 1, 1)).clamp(-1, 1)

    @staticmethod
    def pca(latent: Tensor, percentile: float = 2.0) -> LatentColours:
        """The three directions in which ``latent`` varies most, as red, green and blue.

        The range is robust: ``percentile`` to 100 - ``percentile`` of each colour fills [-1, 1].
        Latents of up to three channels keep them as they are (one channel: grey).
        """
        values = latent.detach().float().cpu().movedim(1, -1).flatten(0, -2)  # (pixels, C)
        channels = values.shape[1]
        if channels > 3:
            weight = _main_directions(values.double()).float()
            # An eigenvector has no sign of its own: let its largest entry be positive.
            weight = weight * weight.gather(0, weight.abs().argmax(0, keepdim=True)).sign()
        else:
            weight = torch.ones(1, 3) if channels == 1 else torch.eye(channels, 3)
        low, high = np.percentile((values @ weight).numpy(), [percentile, 100 - percentile], axis=0)
        low, high = torch.tensor(low).float(), torch.tensor(high).float()
        scale = 2 / (high - low).clamp(min=1e-6)
        return LatentColours(weight * scale, -1 - low * scale)

    @staticmethod
    def fit(latent: Tensor, images: Tensor, ridge: float = 1e-3) -> LatentColours:
        """The map whose colours come closest (least squares) to the images of these latents.

        Args:
            latent: (B, C, h, w). images: (B, 3, H, W), averaged down to h x w first.
        """
        values = latent.detach().double().cpu().movedim(1, -1).flatten(0, -2)
        target = F.adaptive_avg_pool2d(
            images.detach().double().cpu(), (latent.shape[-2], latent.shape[-1])
        )
        target = target.movedim(1, -1).flatten(0, -2)
        mean, target_mean = values.mean(0), target.mean(0)
        centred = values - mean
        gram = centred.T @ centred + ridge * len(centred) * torch.eye(centred.shape[1]).double()
        weight = torch.linalg.solve(gram, centred.T @ (target - target_mean))
        return LatentColours(weight.float(), (target_mean - mean @ weight).float())

    @staticmethod
    def of(tokenizer: Tokenizer, size: int = 16, samples: int = 16) -> LatentColours:
        """Colours like the tokenizer's own: fitted to what it decodes from smooth random latents.

        The latents have a seed of their own, so the colours are a fixed property of the tokenizer:
        two runs, or two stages of one run, can be compared by eye. Their standard deviation is 1/2,
        where the decoder is still far from its limits of -1 and 1.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (samples, tokenizer.latent_channels, max(2, size // 4), max(2, size // 4))
        coarse = torch.randn(shape, generator=generator)
        latent = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
        latent = latent / (2 * latent.std())
        return LatentColours.fit(latent, decode(tokenizer, latent))


def _main_directions(values: Tensor) -> Tensor:
    """The three directions (C, 3) in which ``values`` (N, C) vary most, the first one most."""
    centred = values - values.mean(0)
    rows, channels = centred.shape
    if rows >= channels:
        _, directions = torch.linalg.eigh(centred.T @ centred)
        return directions[:, -3:].flip(1)
    _, mixtures = torch.linalg.eigh(centred @ centred.T)  # the smaller matrix has the same ones
    directions = F.normalize(centred.T @ mixtures[:, -3:].flip(1), dim=0)
    return F.pad(directions, (0, 3 - directions.shape[1]))


def token_grid(token_map: Tensor) -> Tensor:
    """(1, N, D) tokens, row by row -> (1, D, side, side), float32 on the CPU."""
    side = round(token_map.shape[1] ** 0.5)
    return token_map.float().cpu().transpose(1, 2).unflatten(2, (side, side))


@dataclass(frozen=True)
class Principal:
    """Colours for the three directions in which tokens vary most, and their share of the variance
    (1 where nothing varies)."""

    colours: LatentColours
    explained: float


def principal_colours(grids: Sequence[Tensor]) -> Principal:
    """First three principal components over the tokens of all grids (1, D, side, side)."""
    tokens = torch.cat([grid.flatten(2) for grid in grids], dim=2)[..., None]  # (1, D, N, 1)
    centred = tokens[0, :, :, 0].double()
    centred = centred - centred.mean(dim=1, keepdim=True)
    variances = torch.linalg.svdvals(centred).square()
    whole = variances.sum().item()
    explained = variances[:3].sum().item() / whole if whole > 0 else 1.0
    return Principal(LatentColours.pca(tokens), explained)


def latent_to_rgb(latent: Tensor, colours: LatentColours | None = None) -> Tensor:
    """(B, C, h, w) latents as colours (B, 3, h, w) in [-1, 1]; by default their own PCA."""
    return (colours or LatentColours.pca(latent))(latent)


@torch.no_grad()
def decode(tokenizer: Tokenizer, latent: Tensor) -> Tensor:
    """Images (B, 3, f*h, f*w) on the CPU, whatever device the tokenizer is on."""
    return tokenizer.decode(latent.to(tokenizer.device)).float().cpu()
