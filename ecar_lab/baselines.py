"""What E-CAR is measured against, thin and on well-kept parts.

:class:`DiT` is diffusers' ``DiTTransformer2DModel`` with the flow objective instead of the DDPM
one: every step works at full resolution from noise to data, which is what E-CAR's stages avoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ecar_lab.errors import EcarError
from ecar_lab.interventions import Generators

# diffusers' DiT embeds an integer-like timestep; flow time is spread over the same range.
TIME_SCALE = 1000.0
SIZES = {
    "S": dict(num_attention_heads=6, attention_head_dim=64, num_layers=12),
    "B": dict(num_attention_heads=12, attention_head_dim=64, num_layers=12),
    "XL": dict(num_attention_heads=16, attention_head_dim=72, num_layers=28),
}


class DiT(nn.Module):
    """DiT (arXiv 2212.09748) with patches of 2, predicting the velocity ``x - eps``.

    Args:
        size: S, B or XL.
        latent_size, latent_channels: of the latent (B, C, R, R).

    Raises:
        EcarError: the size is unknown.
    """

    def __init__(
        self,
        size: str = "S",
        latent_size: int = 32,
        latent_channels: int = 4,
        num_classes: int = 1000,
    ):
        super().__init__()
        if size not in SIZES:
            raise EcarError(f"DiT size {size!r} is unknown: use {', '.join(SIZES)}")
        self.latent_shape = (latent_channels, latent_size, latent_size)
        self.null_class = num_classes
        self.transformer = DiTTransformer2DModel(
            **SIZES[size],
            sample_size=latent_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            num_embeds_ada_norm=num_classes,
        )

    def forward(self, state: Tensor, time: Tensor, class_labels: Tensor) -> Tensor:
        """Velocity (B, C, R, R), float32, at flow times ``time`` (B,) in [0, 1]."""
        dtype = self.transformer.dtype
        output = self.transformer(
            state.to(dtype), timestep=time * TIME_SCALE, class_labels=class_labels
        )
        return output.sample.float()

    @torch.no_grad()
    def sample(
        self,
        class_labels: Sequence[int],
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        generator: Generators = None,
    ) -> Tensor:
        """Latents (B, C, R, R) by equal Euler steps; guidance as in ``ecar_lab.trace``."""
        device = self.transformer.device
        labels = torch.tensor(list(class_labels), device=device)
        halves = 1 if guidance_scale == 1.0 else 2
        if halves == 2:
            labels = torch.cat((labels, torch.full_like(labels, self.null_class)))
        shape = (len(class_labels), *self.latent_shape)
        state = randn_tensor(shape, _as_list(generator), device, torch.float32)
        for step in range(num_inference_steps):
            time = torch.full((len(labels),), step / num_inference_steps, device=device)
            velocity = self(state.repeat(halves, 1, 1, 1), time, labels)
            if halves == 2:
                with_class, without = velocity.chunk(2)
                velocity = without + guidance_scale * (with_class - without)
            state = state + velocity / num_inference_steps
        return state


def _as_list(generator: Generators) -> Any:
    return list(generator) if isinstance(generator, Sequence) else generator
