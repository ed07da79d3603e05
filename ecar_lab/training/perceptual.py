"""The distance of two images as a small frozen classifier sees them, for a tokenizer's training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecar_lab.evaluation.feature_net import FeatureNet

EPSILON = 1e-6


class PerceptualLoss(nn.Module):
    """P(a, b) = mean over layers and positions of ``1 - cos(f(a), f(b))``, f a layer's features.

    f is the feature vector at a position, and one minus the cosine is half the squared distance of
    the two scaled to length one: 0 for equal images, 1 for unrelated ones. As LPIPS (arXiv
    1801.03924), but with a classifier of the kit and without weights fitted to people's judgement.

    Args:
        net: is frozen, and left in evaluation mode. Its own layers at every size are compared.
    """

    def __init__(self, net: FeatureNet):
        super().__init__()
        self.net = net.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in evaluation mode: the running statistics of the classifier belong to it."""
        return super().train(False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """P of images (B, 3, H, W) in [-1, 1], a float32 scalar; only ``made`` gets a gradient."""
        with torch.no_grad():
            wanted = self._features(real)
        distances = [
            1 - F.cosine_similarity(one.float(), other.float(), dim=1, eps=EPSILON).mean()
            for one, other in zip(self._features(made), wanted, strict=True)
        ]
        return torch.stack(distances).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        x, found = images.contiguous(memory_format=torch.channels_last), []
        for layer in self.net.body:
            x = layer(x)
            found.append(x)
        return found
