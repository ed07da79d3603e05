"""Tokenizers of a few weights, one of each kind, and images for them."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny

from ecar_lab.tokenizers.makers import (
    AutoencoderTokenizer,
    ConvTokenizer,
    IdentityTokenizer,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"


def smooth_images(count: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Random but smooth images (count, 3, size, size) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator) * 2 - 1
    return F.interpolate(coarse, size=size, mode="bilinear")


def small(**changes) -> ConvTokenizer:
    """A small tokenizer whose zero-initialised blocks have been moved off the identity."""
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(**{"width": 16, "depth": 1, "codebook_size": 32} | changes)
    for parameter in tokenizer.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return tokenizer.eval()


def small_kl() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=5,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).eval()


def small_tiny() -> AutoencoderTiny:
    torch.manual_seed(2)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=6,
    ).eval()


def make(name: str):
    makers = {
        "kl": small,
        "vq": lambda: small(kind="vq"),
        "identity": IdentityTokenizer,
        "AutoencoderKL": lambda: AutoencoderTokenizer.from_autoencoder(small_kl()),
        "AutoencoderTiny": lambda: AutoencoderTokenizer.from_autoencoder(small_tiny()),
    }
    return makers[name]()


every_tokenizer = pytest.mark.parametrize(
    "name", ["kl", "vq", "identity", "AutoencoderKL", "AutoencoderTiny"]
)
