"""What a latent from outside must be, and where a run's own one is no image any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ecar_lab.errors import EcarError

# Latents have standard deviation 1 over the data. What is so far out is no image any more.
MAX_LATENT = 1e4


def check_tensor(tensor: Any, shape: Sequence[int], name: str) -> None:
    """Refuses what is no tensor of finite floats of that shape, or far beyond all noise."""
    shape = tuple(shape)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        what = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise EcarError(f"{name} is {what}: it must be a float tensor {shape}")
    if tuple(tensor.shape) != shape:
        raise EcarError(f"{name} is {tuple(tensor.shape)}: it must be {shape}")
    if tensor.is_meta or tensor.layout != torch.strided:
        what = "on the device meta" if tensor.is_meta else "sparse"
        raise EcarError(f"{name} is {what}: give a dense tensor that holds numbers")
    if not tensor.isfinite().all():
        raise EcarError(f"{name} is not finite: look for a NaN or a division by zero")
    if (peak := tensor.abs().max().item()) > MAX_LATENT:
        raise EcarError(
            f"{name} reaches {peak:g}: noise and latents have a standard deviation of 1"
        )


def check_replacement(tensor: Tensor, shape: Sequence[int]) -> None:
    """Refuses what does not broadcast to a latent of that shape, or could be no latent."""
    if tensor.is_complex() or tensor.is_meta or tensor.layout != torch.strided:
        raise EcarError(
            "the replacement of an edit holds no numbers: give a dense tensor of floats"
        )
    fits = tensor.ndim <= len(shape) and all(
        own in (1, wanted)
        for own, wanted in zip(reversed(tensor.shape), reversed(shape), strict=False)
    )
    if not fits or not tensor.isfinite().all():
        raise EcarError(
            f"the replacement of an edit is {tuple(tensor.shape)}: it must broadcast to "
            f"{tuple(shape)} and be finite"
        )


def taken(latent: Tensor, sent: Any) -> Tensor:
    """The latent that a run goes on with: what its consumer sent back, or else its own.

    Raises:
        EcarError: what was sent has another shape, or is not finite.
    """
    if sent is None:
        return latent
    check_tensor(sent, latent.shape, "the latent that was sent back")
    return sent.to(latent)


def check_latent(latent: Tensor, stage: int, guidance: float) -> None:
    """Refuses the latent of a stage's end if no image can come of it.

    Raises:
        EcarError: it is not finite, or far beyond all data.
    """
    peak = latent.abs().amax().item()
    if peak <= MAX_LATENT:
        return
    less = f"guide less than {guidance:g}, or " if guidance > 1 else ""
    raise EcarError(
        f"the latent at the end of stage {stage} reaches {peak:g} where data have a standard "
        f"deviation of 1: {less}load the checkpoint anew, in float32"
    )
