"""The looking glass of notebook 1: one image through the tokenizer, its latent disturbed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ecar_lab.teaching.explore import choice, explorer, real
from ecar_lab.tokenizers.base import Tokenizer, psnr
from ecar_lab.tokenizers.study import error_map, ramp, round_latent, without_channel
from ecar_lab.viz.colours import LatentColours
from ecar_lab.viz.pictures import image_grid

NONE, EXACT = "none", "not rounded"
TOP = 0.25  # share of the range of colours at which the error map ends, the same in every picture


class Look(NamedTuple):
    """One image on its way through the tokenizer, all on the CPU.

    Attributes:
        latent: (1, C, h, w), disturbed. rebuilt: (1, 3, H, W). error: (1, H, W), a share of the
            range of colours. psnr: in dB.
    """

    latent: Tensor
    rebuilt: Tensor
    error: Tensor
    psnr: float


@torch.no_grad()
def look(
    tokenizer: Tokenizer,
    image: Tensor,
    *,
    without: int | None = None,
    sigma: float = 0.0,
    bits: int | None = None,
    seed: int = 0,
) -> Look:
    """Encodes, disturbs and decodes an image (1, 3, H, W), in this order: one channel set to 0,
    noise of standard deviation ``sigma`` added, every number rounded to ``2**bits`` levels.

    Raises:
        EcarError: an image the tokenizer does not take, or bits out of range.
    """
    latent = tokenizer.encode(image.to(tokenizer.device)).cpu()
    if without is not None:
        latent = without_channel(latent, without)
    generator = torch.Generator().manual_seed(seed)
    latent = latent + sigma * torch.randn(latent.shape, generator=generator)
    if bits is not None:
        latent = round_latent(latent, bits)
    rebuilt = tokenizer.decode(latent.to(tokenizer.device)).cpu()
    image = image.cpu()
    return Look(latent, rebuilt, error_map(image, rebuilt), psnr(image, rebuilt))


def looking_glass(tokenizer: Tokenizer, images: Mapping[str, Tensor], side: int = 128):
    """Controls for image, channel, noise and rounding above what the decoder makes of it.

    Args:
        images: name -> (1, 3, H, W) in [-1, 1], all of one size.
        side: pixels that an image is enlarged to at least.
    """
    colours = LatentColours.of(tokenizer)

    def draw(name: str, without: str, sigma: float, bits: str) -> Image.Image:
        image = images[name]
        seen = look(
            tokenizer, image,
            without=None if without == NONE else int(without),
            sigma=sigma,
            bits=None if bits == EXACT else int(bits),
        )  # fmt: skip
        size = image.shape[-1]
        latent = torch.nn.functional.interpolate(colours(seen.latent), size=(size, size))
        tiles = torch.cat([image.cpu(), latent, seen.rebuilt, ramp(seen.error, TOP)])
        labels = ["image", "latent", f"{seen.psnr:.1f} dB", "error"]
        return image_grid(tiles, 4, scale=max(1, -(-side // size)), labels=labels)

    channels = [str(channel) for channel in range(tokenizer.latent_channels)]
    controls = {
        "name": choice("image", list(images)),
        "without": choice("channel set to 0", [NONE, *channels]),
        "sigma": real("noise on the latent", 0.0, 1.0, 0.0, 0.05),
        "bits": choice("bits per number", [EXACT, *map(str, range(1, 9))]),
    }
    return explorer(
        draw,
        controls,
        {
            "untouched": {},
            "without channel 0": {"without": "0"},
            "noise of std 0.3": {"sigma": 0.3},
            "2 bits per number": {"bits": "2"},
        },
        "The same image four times: untouched, without a channel, with noise on its latent, with "
        "its latent rounded to four levels per number. Error maps run from dark (none) to yellow "
        "(a quarter of the range of colours, or more).",
        "Four strips of image, latent, reconstruction and error map. Untouched, the error map is "
        "almost dark; in the other three it lights up.",
        columns=2,
    )
