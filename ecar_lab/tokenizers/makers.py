"""Tokenizers: images to normalised latents and back.

Three makers of a `Tokenizer` (the protocol, in `base.py`):

- `ConvTokenizer`: a compact convolutional autoencoder trained in this kit, as a KL-VAE or as its
  vector-quantised twin,
- `AutoencoderTokenizer`: any `AutoencoderKL` or `AutoencoderTiny` of diffusers,
- `IdentityTokenizer`: pixels are the latent.

`load_tokenizer` finds out by itself which one a name or a folder holds.
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from torch import Tensor

from ecar_lab.arguments import as_dtype
from ecar_lab.bounds import check_size
from ecar_lab.errors import EcarError
from ecar_lab.files import resolve_checkpoint, verify_checksums
from ecar_lab.stored import check_weights, is_hub_id
from ecar_lab.tokenizers.base import Tokenizer, psnr_per_image
from ecar_lab.tokenizers.networks import (
    VectorQuantiser,
    make_decoder,
    make_encoder,
    reconstruction_terms,
)

LOG_VARIANCE_RANGE = (-20.0, 4.0)
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
Pooled = Callable[[int], Tensor]  # the latent average-pooled by a factor


class IdentityTokenizer(Tokenizer):
    """Pixels are the latent: factor 1, 3 channels, nothing lost."""

    @register_to_config
    def __init__(self):
        super().__init__(downsample_factor=1, latent_channels=3)

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, torch.zeros_like(images)

    def _decode(self, z: Tensor) -> Tensor:
        return z


class ConvTokenizer(Tokenizer):
    """A compact, fully convolutional autoencoder: KL-VAE (`kind="kl"`) or VQ-VAE (`kind="vq"`).

    `width` is the channel count at half the image size; it doubles with every further halving, so
    a block costs the same at every level. `depth` blocks of the decoder (one less in the encoder)
    work at the latent's size, one at each finer level. `shortcuts` adds DC-AE's residual
    space-to-channel shortcuts (arXiv 2410.10733) where sizes change; they have no weights.

    Training minimises, with e = reconstruction - image and means over all elements::

        R(e) = |e| + e² + sharpness_weight * (|∂x e| + |∂y e|)
        loss = R(full size) + coarse_weight * (R(half size) + ... + R(1 / 2^scale_terms))
             + perceptual_weight * P(reconstruction, image), if a P is given
             + kl_weight * KL(q(z | image) || N(0, 1)) per latent element                     (kl)
             + codebook term + 0.25 * commitment term + 0.1 * reach term                      (vq)

    The half size term asks the decoder to turn the 2x2-pooled latent into the 2x2-pooled image,
    for the coarse stages of E-CAR live on pooled latents. With `scale_terms` 2 it is asked for the
    4x4-pooled pair as well. P is a distance between the features of a frozen classifier, see
    `ecar_lab.training.perceptual`; `perceptual_net` keeps the hash of its weights, for it must not
    judge what is made with this tokenizer. All of this is our choice, not the paper's, which takes
    a tokenizer off the shelf.

    Why `kl_weight` is 3e-3: on CIFAR-10 (factor 2, 4 channels, two minutes of one core) 1e-4 gave
    38.1 dB (28 k images), 3e-3 36.7 dB (18 k images); but latents off by noise of std 0.1 / 0.2
    decode at 32.2 / 27.7 dB instead of 31.0 / 25.9 dB, and generated latents are never exact.

    Raises `EcarError` for a factor other than 2, 4, 8, an unknown kind, a width that is no multiple
    of 16, or a size below 1.
    """

    @register_to_config
    def __init__(
        self,
        downsample_factor: int = 2,
        latent_channels: int = 4,
        width: int = 64,
        depth: int = 3,
        kind: str = "kl",
        codebook_size: int = 1024,
        kl_weight: float = 3e-3,
        sharpness_weight: float = 0.5,
        coarse_weight: float = 0.25,
        scale_terms: int = 1,
        shortcuts: bool = False,
        perceptual_weight: float = 0.0,
        perceptual_net: str = "",
    ):
        if downsample_factor not in (2, 4, 8):
            raise EcarError(f"downsample factor {downsample_factor} is unknown: use 2, 4 or 8")
        if kind not in ("kl", "vq"):
            raise EcarError(f"tokenizer kind {kind!r} is unknown: use 'kl' or 'vq'")
        if width < 16 or width % 16:
            raise EcarError(
                f"tokenizer width {width} is not a multiple of 16: "
                f"use {16 * max(1, math.ceil(width / 16))}"
            )
        super().__init__(downsample_factor, latent_channels)
        self.kind = kind
        channels = [width * 2**level for level in range(downsample_factor.bit_length() - 1)]
        moments = 2 * latent_channels if kind == "kl" else latent_channels
        self.encoder = make_encoder(channels, max(1, depth - 1), moments, shortcuts)
        self.decoder = make_decoder(channels, depth, latent_channels, shortcuts)
        self.quantiser = VectorQuantiser(codebook_size, latent_channels) if kind == "vq" else None

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw mean and log-variance of a KL-VAE, both (B, C, H/f, W/f) float32."""
        mean, log_variance = self._encode(images).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def _encode(self, images: Tensor) -> Tensor:
        return self.encoder(images.contiguous(memory_format=torch.channels_last)).float()

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.quantiser is not None:
            codes = self.quantiser(self._encode(images)).codes
            return codes, torch.zeros_like(codes)
        mean, log_variance = self._posterior(images)
        return mean, (0.5 * log_variance).exp()

    def _decode(self, z: Tensor) -> Tensor:
        if self.quantiser is not None:  # whatever comes in, the decoder only knows codes
            z = self.quantiser(z).codes
        return self._run_decoder(z)

    def _run_decoder(self, z: Tensor) -> Tensor:
        return self.decoder(z.to(self.dtype).contiguous(memory_format=torch.channels_last))

    def training_loss(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """`loss` (differentiable) and its parts (detached), each a scalar float32.

        `images` are (B, 3, H, W) in [-1, 1], H and W divisible by f and at least 2^scale_terms f.
        The posterior is sampled with `noise`, standard normal (B, C, H/f, W/f), if given (one
        process's share of a global draw), else with noise from `generator`. `perceptual` is P.
        Parts: l1, l2, sharpness, coarse (the half size R), coarse_4 (a quarter, if it is asked
        for), perceptual (P, if it is given), psnr in dB, and kl and posterior_std (kl) or codebook,
        commitment, reach and codes_used (vq).
        """
        self._check_images(images)
        halvings = range(1, self.config["scale_terms"] + 1)
        smallest, least = min(images.shape[2:]), 2 ** len(halvings) * self.downsample_factor
        if smallest < least:
            raise EcarError(
                f"{smallest} px are too few to train this tokenizer: use {least} or more"
            )
        images = images.to(self.dtype)
        if self.quantiser is not None:
            z, pooled, parts = self._bottleneck_vq(images)
        else:
            z, pooled, parts = self._bottleneck_kl(images, generator, noise)
        reconstruction = self._run_decoder(z)
        fine = reconstruction_terms(reconstruction, images)
        loss = self._weigh(fine) + parts.pop("regulariser")
        parts |= fine
        for halving in halvings:
            coarse = self._coarse_error(pooled(2**halving), images, 2**halving)
            loss = loss + self.config["coarse_weight"] * coarse
            parts["coarse" if halving == 1 else f"coarse_{2**halving}"] = coarse
        if perceptual is not None:
            parts["perceptual"] = perceptual(reconstruction, images)
            loss = loss + self.config["perceptual_weight"] * parts["perceptual"]
        parts["psnr"] = psnr_per_image(reconstruction.clamp(-1, 1), images).mean()
        return {"loss": loss} | {name: part.detach() for name, part in parts.items()}

    def _coarse_error(self, coarse_z: Tensor, images: Tensor, factor: int) -> Tensor:
        """R of what a pooled latent decodes to against the image pooled as much."""
        reconstruction = self._run_decoder(coarse_z)
        height, width = reconstruction.shape[2:]  # pooling drops what is left over
        coarse_images = F.avg_pool2d(images, factor)[..., :height, :width]
        return self._weigh(reconstruction_terms(reconstruction, coarse_images))

    def _bottleneck_kl(
        self, images: Tensor, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Pooled, dict[str, Tensor]]:
        mean, log_variance = self._posterior(images)
        std = (0.5 * log_variance).exp()
        if noise is None:
            device = generator.device if generator is not None else mean.device
            noise = torch.randn(mean.shape, generator=generator, device=device)
        z = mean + std * noise.to(mean)
        kl = 0.5 * (mean.square() + std.square() - 1 - log_variance).mean()
        regulariser = self.config["kl_weight"] * kl
        parts = {"regulariser": regulariser, "kl": kl, "posterior_std": std.mean()}
        return z, lambda factor: F.avg_pool2d(z, factor), parts

    def _bottleneck_vq(self, images: Tensor) -> tuple[Tensor, Pooled, dict[str, Tensor]]:
        quantiser = self.quantiser
        assert quantiser is not None
        hidden = self._encode(images)
        codes, codebook, commitment, reach, used = quantiser(hidden)
        parts = {
            "regulariser": codebook + 0.25 * commitment + 0.1 * reach,
            "codebook": codebook,
            "commitment": commitment,
            "reach": reach,
            "codes_used": used,
        }
        return codes, lambda factor: quantiser(F.avg_pool2d(hidden, factor)).codes, parts

    def _weigh(self, terms: dict[str, Tensor]) -> Tensor:
        return terms["l1"] + terms["l2"] + self.config["sharpness_weight"] * terms["sharpness"]


class AutoencoderTokenizer(Tokenizer):
    """A diffusers `AutoencoderKL` or `AutoencoderTiny`, saved with its own config and weights.

    `autoencoder_class` and `autoencoder_config` rebuild the network; `from_autoencoder` wraps one
    that has its weights. Shift and scale start as the autoencoder's own `shift_factor` and
    `scaling_factor`; `fit_statistics` replaces them by measured ones.
    """

    @register_to_config
    def __init__(self, autoencoder_class: str, autoencoder_config: dict[str, Any]):
        if autoencoder_class not in AUTOENCODERS:
            raise EcarError(
                f"the autoencoder class {autoencoder_class!r} is not supported: "
                f"use one of {', '.join(AUTOENCODERS)}"
            )
        try:
            autoencoder = getattr(diffusers, autoencoder_class).from_config(autoencoder_config)
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
            raise EcarError(
                f"these are no arguments of {autoencoder_class} ({error}): take the config.json of "
                "one that diffusers saved"
            ) from error
        config = autoencoder.config
        if config.in_channels != 3 or config.out_channels != 3:
            raise EcarError(
                f"an autoencoder of {config.in_channels} image channels is not supported: "
                "use one of RGB images, 3 channels"
            )
        blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        super().__init__(2 ** (len(blocks) - 1), config.latent_channels)
        self.autoencoder = autoencoder
        self.latent_shift.fill_(config.get("shift_factor") or 0.0)
        self.latent_scale.fill_(config.scaling_factor)

    @classmethod
    def from_autoencoder(cls, autoencoder: ModelMixin) -> Self:
        """Wraps a loaded diffusers autoencoder (the object itself, not a copy)."""
        config = {k: v for k, v in autoencoder.config.items() if not k.startswith("_")}
        tokenizer = cls(type(autoencoder).__name__, json.loads(json.dumps(config)))
        tokenizer.autoencoder = autoencoder
        return tokenizer.eval()

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.autoencoder.encode(images)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean, encoded.latent_dist.std
        return encoded.latents, torch.zeros_like(encoded.latents)

    def _decode(self, z: Tensor) -> Tensor:
        return self.autoencoder.decode(z).sample


def load_tokenizer(name_or_path: str | Path, dtype: torch.dtype | str | None = None) -> Tokenizer:
    """The tokenizer behind a name, in evaluation mode.

    `name_or_path` is `"identity"`; a folder written by `save_pretrained` (one of ours, or a
    diffusers autoencoder); a checkpoint, by path or name, or a diffusers pipeline, which hold one
    in `tokenizer/` or `vae/`; or a Hub id `owner/name` of any of these. `dtype` is that of the
    weights, float32 by default. Only safetensors are read.

    Raises `EcarError` if there is nothing of that name, if it is no tokenizer, or if its weights
    are missing, damaged or of another shape.
    """
    if str(name_or_path) == "identity":
        return IdentityTokenizer().eval()
    source, subfolder, config = _find(str(name_or_path))
    class_name = config.get("_class_name")
    makers = {c.__name__: c for c in (ConvTokenizer, AutoencoderTokenizer, IdentityTokenizer)}
    makers |= {name: getattr(diffusers, name) for name in AUTOENCODERS}
    if class_name not in makers:
        raise EcarError(
            f"{str(name_or_path)!r} holds a {class_name}, which is no tokenizer: "
            f"use one of {', '.join(makers)}"
        )
    try:
        with _silent_diffusers():
            loaded: Any = makers[class_name].from_pretrained(
                source,
                subfolder=subfolder,
                dtype=as_dtype(dtype) or torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
        model, info = loaded
    except EcarError:
        raise
    except (OSError, SafetensorError) as error:
        raise EcarError(
            f"the weights of the tokenizer {str(name_or_path)!r} are missing, cut short or not "
            "safetensors: copy the folder again or train the tokenizer again"
        ) from error
    except (ValueError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
        raise _other_shape(name_or_path) from error
    if any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise _other_shape(name_or_path)
    if isinstance(model, Tokenizer):
        return model
    place = Path(source) / (subfolder or "")
    verify_checksums(place, ".safetensors")
    check_weights(model, info, place)
    return AutoencoderTokenizer.from_autoencoder(model)


@contextlib.contextmanager
def _silent_diffusers() -> Generator[None]:
    """Keeps its lists of missing weights off the screen: our one sentence says it."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _other_shape(name_or_path: str | Path) -> EcarError:
    return EcarError(
        f"the weights of the tokenizer {str(name_or_path)!r} are of another shape than its "
        "config.json says: keep the two files of one training together"
    )


def _find(name_or_path: str) -> tuple[str, str | None, dict[str, Any]]:
    """Where a tokenizer lies: a folder or Hub id, the subfolder in it, and its config."""
    on_hub, folder = is_hub_id(name_or_path), Path(name_or_path)
    if not on_hub:
        folder = resolve_checkpoint(name_or_path)
    source = name_or_path if on_hub else str(folder)
    for subfolder in (None, "tokenizer", "vae"):
        if not on_hub and not (folder / (subfolder or "") / "config.json").is_file():
            continue
        try:
            config: Any = Tokenizer.load_config(source, subfolder=subfolder)
        except OSError as error:
            if on_hub:
                continue
            raise EcarError(
                f"the config.json of the tokenizer {name_or_path!r} cannot be read: "
                "copy the folder again or train the tokenizer again"
            ) from error
        check_size(config.get("_class_name", "tokenizer"), config)
        return source, subfolder, config
    if on_hub:
        raise EcarError(
            f"{name_or_path!r} is no folder, and the Hub gives no tokenizer of that name: "
            "check the spelling and the network, or give a folder"
        )
    raise EcarError(
        f"there is no tokenizer in {name_or_path!r}: give a folder with a config.json, "
        "or one with tokenizer/ in it"
    )
