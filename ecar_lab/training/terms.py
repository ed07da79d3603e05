"""What a training may add to the velocity error, or change in its draws; off unless asked for.

- direction: 1 - cosine between velocity and target, token by token (LightningDiT, 2501.01423).
- alignment: tokens in the middle of the head, through a small convolution, are to say what the
  tokenizer's encoder sees in the clean image (REPA's idea, with the features that are at hand
  anyway: 2601.17830; the convolution and the normalised features: iREPA, 2512.10794).
- tilted time: the finest stage sees times from the middle more often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecar_lab.baselines.dit import DiT
from ecar_lab.errors import EcarError
from ecar_lab.generator import LatentGenerator, LossTerm, StagePrediction, TrainingDraw
from ecar_lab.layers import patchify
from ecar_lab.model import ECAR
from ecar_lab.tokenizers.base import Tokenizer
from ecar_lab.tokenizers.makers import ConvTokenizer
from ecar_lab.training.config import ModelTrainConfig

ALIGN_UNTIL = 0.6  # of the run: alignment helps to find features, later it holds them up


def direction_error(output: Tensor, target: Tensor, patch_size: int) -> Tensor:
    """1 - cosine between the numbers of a token, mean over tokens: (F, C, r, r) each -> (F,)."""
    cosine = F.cosine_similarity(
        patchify(output, patch_size), patchify(target, patch_size), dim=-1
    )  # (F, N)
    return 1 - cosine.mean(dim=1)


def tilt(time: Tensor, amount: float) -> Tensor:
    """``t = u + amount * sin(2 pi u) / (2 pi)`` of times u in [0, 1): monotone, so times that were
    spread evenly stay in order, and the ends stay in place.

    Uniform u becomes t of density ``1 / (1 + amount * cos(2 pi u))``: with 0.5 twice as dense in
    the middle and two thirds as dense at the ends; with a negative amount the reverse.
    """
    tilted = time + amount / (2 * math.pi) * torch.sin(2 * math.pi * time)
    return tilted.clamp(0, 1 - 2**-24)  # rounding must not reach 1


def tilt_finest(draw: TrainingDraw, amount: float) -> TrainingDraw:
    """The same draw with the times of the finest stage tilted."""
    local_time = draw.local_time.clone()
    local_time[:, -1] = tilt(local_time[:, -1], amount)
    more_time = (*draw.more_time[:-1], *(tilt(time, amount) for time in draw.more_time[-1:]))
    return replace(draw, local_time=local_time, more_time=more_time)


class Alignment(nn.Module):
    """How far the head's middle tokens are from the tokenizer's features of the clean image.

    ``1 - cos(conv(tokens), features)`` per token. Features are what the encoder holds before its
    last layer, pooled to the stage's tokens and normalised over them, channel by channel: what
    counts is where things are. The convolution is trained along and belongs to no model.

    Raises:
        EcarError: a tokenizer without such features.
    """

    def __init__(self, model: ECAR, tokenizer: Tokenizer):
        super().__init__()
        if not isinstance(tokenizer, ConvTokenizer):
            raise EcarError(
                "align needs the encoder of a tokenizer trained in this kit, and this one is a "
                f"{type(tokenizer).__name__}: leave align out, or name another with --tokenizer"
            )
        self.layer = (model.config.head_layers - 1) // 2
        self.sides = model.head.token_sides
        last = cast(nn.Conv2d, tokenizer.encoder[-1])
        self.projector = nn.Conv2d(model.config.width, last.in_channels, 3, padding=1)
        self._encoder = [tokenizer.encoder[:-1]]  # in a list: no part of what is trained

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / f, W / f)."""
        return self._encoder[0](images.contiguous(memory_format=torch.channels_last)).float()

    def forward(self, layers: Sequence[Tensor], stage: int, features: Tensor) -> Tensor:
        """(F,), of tokens (F, N, D) per layer and features (F, C, h, w) of the same images."""
        side = self.sides[stage]
        pooled = F.adaptive_avg_pool2d(features, side)
        pooled = pooled - pooled.mean(dim=(2, 3), keepdim=True)
        pooled = pooled / (pooled.std(dim=(2, 3), keepdim=True, correction=0) + 1e-6)
        tokens = layers[self.layer].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return 1 - F.cosine_similarity(self.projector(tokens).float(), pooled, dim=1).mean((1, 2))


def terms_for(
    cfg: ModelTrainConfig, model: LatentGenerator, tokenizer: Tokenizer
) -> ExtraTerms | None:
    """The terms that a run asks for, of which a model takes those that it has a use for."""
    alignment = Alignment(model, tokenizer) if cfg.align and isinstance(model, ECAR) else None
    directed = cfg.direction_loss and isinstance(model, ECAR | DiT)
    if alignment is None and not directed:
        return None
    return ExtraTerms(model.config.patch_size, cfg.direction_loss, cfg.align, alignment)


class ExtraTerms(nn.Module):
    """The weighted sum of the terms that a run asks for.

    Args:
        direction, align: weights. alignment: what ``align`` weighs; None: nothing.

    Attributes:
        progress: of the run, 0 to 1; alignment ends at ``ALIGN_UNTIL``.
    """

    def __init__(
        self,
        patch_size: int,
        direction: float,
        align: float = 0.0,
        alignment: Alignment | None = None,
    ):
        super().__init__()
        self.patch_size, self.direction, self.align = patch_size, direction, align
        self.alignment = alignment
        self.progress = 0.0

    @property
    def align_weight(self) -> float:
        """The weight of the alignment at this point of the run."""
        return self.align if self.progress < ALIGN_UNTIL else 0.0

    def for_batch(self, images: Tensor | None = None) -> LossTerm:
        """The term for one batch; ``images`` (B, 3, H, W), which the alignment needs."""
        features = None
        if self.alignment is not None and images is not None and self.align_weight:
            features = self.alignment.features(images)

        def term(said: StagePrediction) -> Tensor:
            total = said.output.new_zeros(len(said.output))
            if self.direction:
                error = direction_error(said.output, said.target, self.patch_size)
                total = total + self.direction * error
            if self.alignment is not None and features is not None:
                wanted = features[said.images]
                total = total + self.align_weight * self.alignment(said.layers, said.stage, wanted)
            elif self.alignment is not None:  # over, but every process waits for a gradient
                total = total + 0.0 * sum(p.sum() for p in self.alignment.parameters())
            return total

        return term
