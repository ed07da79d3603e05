"""The one home of sizes: what each preset is made of. All numbers are ours, none is the paper's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ecar_lab.errors import EcarError

CIFAR10_NAMES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
IMAGENETTE_NAMES = [
    *("tench", "English springer", "cassette player", "chain saw", "church"),
    *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
]


# Arguments of a model that its weights and its training take no notice of.
SAMPLING_DEFAULTS = ("num_inference_steps", "guidance_scale", "guidance_interval", "time_power")


@dataclass(frozen=True)
class Preset:
    """A data set, a tokenizer, a model and how the two are trained.

    Attributes:
        tokenizer: arguments of ``ConvTokenizer``, or ``{"name": ...}`` for one that is trained
            elsewhere (``identity``, a folder, a Hub id).
        model: arguments of ``ECAR``.
        train_tokenizer, train_model, train_turbo: fields of the training configurations that
            differ from their defaults.
    """

    name: str
    dataset: str
    image_size: int
    tokenizer: dict[str, Any]
    model: dict[str, Any]
    train_tokenizer: dict[str, Any] = field(default_factory=dict)
    train_model: dict[str, Any] = field(default_factory=dict)
    train_turbo: dict[str, Any] = field(default_factory=dict)

    def model_of(self, num_stages: int | None) -> dict[str, Any]:
        """``model`` for so many stages; None: the preset's own.

        Defaults of sampling that it gives per stage fit no other number and are left out there.
        """
        if num_stages in (None, self.model["num_stages"]):
            return dict(self.model)
        return {
            name: value
            for name, value in self.model.items()
            if name not in SAMPLING_DEFAULTS or not isinstance(value, list)
        }


# Where capacity sits, by size. The transformer is paid once per stage, the head at every flow step;
# a probe on digits was best with most of it in the head. Not swept at these sizes.
SMALL = {"width": 384, "num_heads": 6, "transformer_layers": 4, "head_layers": 8}
BASE = {"width": 768, "num_heads": 12, "transformer_layers": 4, "head_layers": 8}


def _imagenet(image_size: int, size: str, shape: dict[str, Any]) -> Preset:
    """ImageNet at 64, 128 or 256 px in the latents of the Stable Diffusion VAE (factor 8).

    At 256 px this is the paper's shape: 32x32 latent, 4 stages, patches of 2.
    """
    # At 64 px a factor of 8 would leave 8x8 latent pixels; factor 2 leaves as many as 256 px has.
    small_image = image_size == 64
    tokenizer = (
        {"downsample_factor": 2, "latent_channels": 4, "width": 64}
        if small_image
        else {"name": "stabilityai/sd-vae-ft-ema"}
    )
    latent_size = image_size // (2 if small_image else 8)
    stages = 4 if latent_size == 32 else 3
    return Preset(
        name=f"imagenet{image_size}-{size}",
        dataset="imagenette",
        image_size=image_size,
        tokenizer=tokenizer,
        model={
            **shape,
            "latent_size": latent_size,
            "latent_channels": 4,
            "patch_size": 2,
            "num_stages": stages,
            "num_classes": 10 if small_image else 1000,
            "num_inference_steps": [4, 3, 3, 2][-stages:],
            "guidance_scale": 2.0,
        },
        train_tokenizer={"steps": 20_000, "batch_size": 128},
        train_model={
            **{"steps": 200_000, "batch_size": 256, "warmup_steps": 1000, "ema_decay": 0.9999},
            **{"log_every": 100, "save_every": 2000, "sample_every": 5000},
        },
    )


_DIGITS = Preset(
    name="digits",
    dataset="digits",
    image_size=8,
    tokenizer={"downsample_factor": 2, "latent_channels": 4, "width": 32},
    model={
        **{"width": 128, "num_heads": 4, "transformer_layers": 1, "head_layers": 4},
        **{"latent_size": 4, "latent_channels": 4, "patch_size": 1, "num_stages": 2},
        **{"num_classes": 10, "class_names": [str(digit) for digit in range(10)]},
        **{"num_inference_steps": [8, 8], "guidance_scale": 1.0},
    },
    train_tokenizer={"steps": 1500, "batch_size": 128, "flip": False, "sample_every": 0},
    train_model={
        **{"steps": 1200, "batch_size": 256, "flip": False, "lr": 2e-3, "ema_decay": 0.995},
        **{"log_every": 100, "save_every": 400, "sample_every": 600},
    },
    train_turbo={
        **{"teacher": "digits", "steps": 600, "batch_size": 128, "flip": False, "lr": 6e-4},
        **{"ema_decay": 0.99, "log_every": 50, "save_every": 200, "sample_every": 300},
    },
)

_CIFAR10 = Preset(
    name="cifar10",
    dataset="cifar10",
    image_size=32,
    tokenizer={"downsample_factor": 2, "latent_channels": 4, "width": 64},
    model={
        **{"width": 256, "num_heads": 4, "transformer_layers": 2, "head_layers": 6},
        **{"latent_size": 16, "latent_channels": 4, "patch_size": 2, "num_stages": 3},
        **{"num_classes": 10, "class_names": CIFAR10_NAMES},
        **{"window_ends": [0.4, 0.7, 1.0], "local_mixing": True},
        **{"num_inference_steps": [8, 6, 6], "time_power": [1.0, 1.3, 1.3]},
        **{"guidance_scale": [1.0, 2.0, 2.0], "guidance_interval": [None, None, [0.0, 0.3]]},
    },
    train_tokenizer={"steps": 3000, "batch_size": 64, "sample_every": 0},
    train_model={
        **{"steps": 10_000, "batch_size": 128, "lr": 1e-3, "warmup_steps": 150},
        **{"ema_decay": 0.998, "head_draws": [2, 2, 1]},
        **{"log_every": 50, "save_every": 250, "sample_every": 500},
    },
    train_turbo={
        **{"teacher": "cifar10", "steps": 1000, "batch_size": 64, "lr": 4e-4, "ema_decay": 0.99},
        **{"log_every": 25, "save_every": 100, "sample_every": 250},
    },
)

# For half an hour of two cores: docs/speedrun.md keeps the log of the tries. So short a training
# wants more guidance than a long one.
_CIFAR10_QUICK = Preset(
    name="cifar10-quick",
    dataset="cifar10",
    image_size=32,
    tokenizer={"name": "cifar10"},
    model={
        **_CIFAR10.model,
        **{"width": 192, "num_heads": 3, "head_layers": 5, "guidance_scale": [1.0, 3.0, 2.5]},
    },
    train_model={
        **_CIFAR10.train_model,
        **{"steps": 12_000, "max_minutes": 30.0, "batch_size": 64, "lr": 1.5e-3},
        **{"ema_decay": 0.995, "compile": True, "sample_every": 0},
    },
    train_turbo={**_CIFAR10.train_turbo, "teacher": "runs/cifar10-quick-model/final"},
)


def _imagenette(
    image_size: int, factor: int, latent_channels: int, guidance: dict[str, Any]
) -> Preset:
    """Imagenette at 64 or 128 px in the latents of a tokenizer of the kit's own: a 16x16 latent,
    three stages, 64 tokens in the finest, as `cifar10`. Narrower than that, since there are 9,469
    images to learn from, not 50,000. Guidance is that of the model that ships."""
    return Preset(
        name=f"imagenette{image_size}",
        dataset="imagenette",
        image_size=image_size,
        tokenizer={
            **{"downsample_factor": factor, "latent_channels": latent_channels},
            **{"width": 32, "scale_terms": 2, "shortcuts": True},
        },
        model={
            **_CIFAR10.model,
            **{"latent_channels": latent_channels, "class_names": IMAGENETTE_NAMES},
            **{"width": 192, "num_heads": 3},
            **guidance,
        },
        train_tokenizer={"steps": 6000, "batch_size": 32, "sample_every": 0},
        train_model={**_CIFAR10.train_model, "steps": 8000},
        train_turbo={**_CIFAR10.train_turbo, "teacher": f"imagenette{image_size}"},
    )


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _DIGITS,
        _CIFAR10,
        _CIFAR10_QUICK,
        _imagenette(64, 4, 8, {"guidance_interval": [None, None, [0.0, 0.5]]}),
        _imagenette(128, 8, 16, {"guidance_scale": [1.0, 3.0, 3.0], "guidance_interval": None}),
        *(
            _imagenet(size, letter, shape)
            for size in (64, 128, 256)
            for letter, shape in (("s", SMALL), ("b", BASE))
        ),
    )
}


def get_preset(name: str) -> Preset:
    """The preset called ``name``; an ImageNet preset without a size letter is the small one.

    Raises:
        EcarError: there is none; the sentence lists those there are.
    """
    preset = PRESETS.get(name) or PRESETS.get(f"{name}-s")
    if preset is None:
        raise EcarError(f"preset {name!r} is unknown: use one of {', '.join(PRESETS)}")
    return preset
