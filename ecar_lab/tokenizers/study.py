"""What a tokenizer does to an image, looked at piece by piece: errors, channels, rounding.

Latents are (B, C, h, w), images (B, 3, H, W) in [-1, 1], as everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecar_lab.errors import EcarError

MAX_BITS = 16
# From no error to the largest shown: darker to lighter throughout, so it also reads in grey.
RAMP = ((0.05, 0.07, 0.16), (0.20, 0.30, 0.62), (0.80, 0.42, 0.38), (0.99, 0.93, 0.55))


def error_map(image: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference of the three colours per pixel, (B, H, W), as a share of the range:
    1 is black against white."""
    return (image.float() - other.float()).abs().mean(dim=1) / 2


def ramp(values: Tensor, top: float) -> Tensor:
    """Values (B, H, W) as colours (B, 3, H, W) in [-1, 1] along ``RAMP``: 0 is its start, ``top``
    and more its end."""
    stops = torch.tensor(RAMP)
    place = (values.float().cpu() / max(top, 1e-9)).clamp(0, 1) * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2)
    share = (place - low)[..., None]
    low = low.long()
    return 2 * torch.lerp(stops[low], stops[low + 1], share).movedim(-1, 1) - 1


def without_channel(latent: Tensor, channel: int) -> Tensor:
    """The latent with one channel set to 0, which is the mean that the tokenizer gave it over its
    training images."""
    changed = latent.clone()
    changed[:, channel] = 0
    return changed


def round_latent(latent: Tensor, bits: int) -> Tensor:
    """Every number rounded to the nearest of ``2**bits`` levels, spread evenly from the smallest to
    the largest value that its channel takes in this latent.

    Two numbers per channel, the ends, would have to be told beside the bits.

    Raises:
        EcarError: bits out of range.
    """
    if not 1 <= bits <= MAX_BITS:
        raise EcarError(f"{bits} bits per number: use 1 to {MAX_BITS}")
    low = latent.amin(dim=(2, 3), keepdim=True)
    step = (latent.amax(dim=(2, 3), keepdim=True) - low) / (2**bits - 1)
    step = step.clamp(min=1e-12)  # a constant channel has one level
    return low + ((latent - low) / step).round() * step
