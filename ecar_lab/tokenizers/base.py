"""What every tokenizer is: encode, decode, and the statistics that normalise its latent."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ecar_lab.arguments import as_dtype
from ecar_lab.errors import EcarError
from ecar_lab.stored import StoredNetwork, bring, refused


class Tokenizer(StoredNetwork):
    """Base of all tokenizers: `encode`, `decode`, and the latent's shift and scale.

    A maker implements `_moments` and `_decode` on its own raw latent z; this class normalises it,
    `latent = (z - latent_shift) * latent_scale`, so that every channel has zero mean and unit
    standard deviation over the training set. Shift and scale (C,) are saved with the weights; they
    are 0 and 1 until `fit_statistics` has measured them. Both stay float32 in a model cast to
    bfloat16, and latents and images leave as float32.
    """

    _exact = ("latent_shift", "latent_scale")  # `_apply` below keeps them float32 in any cast

    latent_shift: Tensor
    latent_scale: Tensor

    def __init__(self, downsample_factor: int, latent_channels: int, image_channels: int = 3):
        super().__init__()
        self.downsample_factor = downsample_factor
        self.latent_channels = latent_channels
        self.image_channels = image_channels
        self._hash_before: str | None = None
        self.register_buffer("latent_shift", torch.zeros(latent_channels, dtype=torch.float32))
        self.register_buffer("latent_scale", torch.ones(latent_channels, dtype=torch.float32))

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw mean and standard deviation of the latent, both (B, C, H/f, W/f)."""
        raise NotImplementedError(f"{type(self).__name__} must say how it encodes")

    def _decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, f*h, f*w) of raw latents (B, C, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} must say how it decodes")

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the normalised latent, both (B, C, H/f, W/f) float32.

        `images` are (B, 3, H, W) floats in [-1, 1]. The standard deviation is that of the
        posterior of a KL-VAE and zero for all other tokenizers.
        Raises `EcarError` if H or W is not divisible by the downsample factor f.
        """
        self._check_images(images)
        bring(self)
        return self._normalised_moments(images)

    def _normalised_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self._moments(images.to(self.dtype))
        shift, scale = self._statistics()
        return (mean.float() - shift) * scale, std.float() * scale

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to the normalised latent's mode (B, C, H/f, W/f)."""
        return self.moments(images)[0]

    def encode_unchecked(self, images: Tensor) -> Tensor:
        """The arithmetic of :meth:`encode` alone: for what traces it."""
        return self._normalised_moments(images)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) of any size to images (B, 3, f*h, f*w) in [-1, 1]."""
        if latent.ndim != 4 or latent.shape[1] != self.latent_channels:
            raise EcarError(
                f"a latent of shape {tuple(latent.shape)} does not fit this tokenizer: "
                f"give it (batch, {self.latent_channels}, height, width)"
            )
        bring(self)
        images = self.decode_unchecked(latent)
        if not images.isfinite().all():  # a clamp would make black or white of it
            raise EcarError(
                f"the images are not finite: the latent or the weights of this "
                f"{type(self).__name__} ({self.dtype}) are not, load them anew in float32"
            )
        return images.clamp(-1, 1)

    def decode_unchecked(self, latent: Tensor) -> Tensor:
        """The arithmetic of :meth:`decode` alone, whose images may leave [-1, 1]: for what traces
        it."""
        shift, scale = (each.to(latent.device) for each in self._statistics())
        z = latent.float() / scale + shift
        return self._decode(z.to(self.dtype)).float()

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Measure `latent_shift` (mean) and `latent_scale` (1 / std) per channel over `batches`.

        `batches` yields images (B, 3, H, W) in [-1, 1]. Sums run in float64.
        Raises `EcarError` if there is no image or if a latent is not finite.
        """
        count = 0
        total = total_of_squares = torch.zeros(self.latent_channels, dtype=torch.float64)
        for images in batches:
            self._check_images(images)
            z = self._moments(images.to(self.device, self.dtype))[0].cpu().double()
            count += z.numel() // self.latent_channels
            total = total + z.sum((0, 2, 3))
            total_of_squares = total_of_squares + z.square().sum((0, 2, 3))
        if count == 0:
            raise EcarError("no image to measure the latent statistics on: give at least one batch")
        mean = total / count
        std = (total_of_squares / count - mean.square()).clamp(min=0).sqrt()
        if not (mean.isfinite().all() and std.isfinite().all()):
            raise EcarError("the latents are not finite: train the tokenizer again, less fast")
        self.latent_shift.copy_(mean)
        # A constant channel says nothing; without the floor it would turn rounding into signal.
        self.latent_scale.copy_(1 / std.clamp(min=1e-4))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.latent_shift.view(1, -1, 1, 1), self.latent_scale.view(1, -1, 1, 1)

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.image_channels:
            raise EcarError(
                f"images of shape {tuple(images.shape)} cannot be encoded: "
                f"give (batch, {self.image_channels}, height, width)"
            )
        if not images.is_floating_point():
            raise EcarError(
                f"images of type {images.dtype} cannot be encoded: scale them to floats in [-1, 1]"
            )
        f = self.downsample_factor
        for size in images.shape[2:]:
            if size % f or size == 0:
                raise EcarError(
                    f"{size} px is not divisible by {f} (tokenizer): "
                    f"use {max(1, math.ceil(size / f)) * f}"
                )

    def to_json_string(self) -> str:
        """The config as JSON, without the folder it was loaded from: that is nobody else's."""
        content = json.loads(super().to_json_string())
        content.pop("_name_or_path", None)
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As of every network of the kit; a `dtype` casts what was loaded in float32."""
        dtype = as_dtype(kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None))
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        tokenizer = loaded[0] if isinstance(loaded, tuple) else loaded
        for name in cls._exact:
            if not getattr(tokenizer, name).is_floating_point():
                place = Path(pretrained_model_name_or_path)
                raise refused(place, name, "is stored in whole numbers")
        if dtype is not None:
            nn.Module.to(tokenizer, dtype)  # diffusers' own would warn of what `_apply` sees to
        return loaded

    def content_hash(self, anew: bool = False) -> str:
        """64 hexadecimal digits that two trainings never share: SHA-256 of weights and statistics.

        They are read as bfloat16, so that a copy in another precision has the same hash. float16,
        which has other roundings, keeps the one from before the cast, unless it is asked `anew`,
        which a saved file has to be.
        """
        if self._hash_before is not None and self.dtype == torch.float16 and not anew:
            return self._hash_before
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            exact = tensor if not tensor.is_floating_point() else tensor.bfloat16()
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(exact.cpu().flatten().view(torch.uint8).numpy().tobytes())
        self._hash_before = digest.hexdigest()
        return self._hash_before

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        narrow = fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype == torch.float16
        if narrow and self.dtype != torch.float16:
            self._hash_before = self.content_hash()
        exact = {name: getattr(self, name) for name in self._exact}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved = getattr(self, name)
            if moved.dtype != torch.float32 and not value.is_meta:
                setattr(self, name, value.to(moved.device))
        return self


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of images (B, ...) in [-1, 1], in dB, averaged over the batch.

    Per image 10 * log10(peak² / mean((a - b)²)) with peak = 2; equal images give 120 dB.
    """
    return psnr_per_image(a, b).mean().item()


def psnr_per_image(a: Tensor, b: Tensor) -> Tensor:
    """`psnr` of each image, (B,) in dB."""
    error = (a.float() - b.float()).flatten(1).square().mean(1)
    return 10 * torch.log10(4 / error.clamp(min=4e-12))
