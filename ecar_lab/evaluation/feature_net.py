"""A small image classifier whose inner features stand in for Inception's in Frechet distances.

Inception's weights are a download of their own and were trained on large photographs. This net is
trained by the kit on the very data set that is judged, ships with it, and its distances carry its
name (``frechet_distance[features-cifar10]``): they compare models of this kit, and are no FID.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ecar_lab.documents import read_json
from ecar_lab.errors import EcarError
from ecar_lab.home import checkpoint_roots
from ecar_lab.stored import StoredNetwork


class FeatureOutput(NamedTuple):
    """``features`` (B, D), the pooled last layer; ``logits`` (B, K), one per class."""

    features: Tensor
    logits: Tensor


class ConvNorm(nn.Sequential):
    """3×3 convolution, batch norm, ReLU; (B, i, H, W) -> (B, o, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """x + f(x) with two convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(ConvNorm(channels, channels), ConvNorm(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class FeatureNet(StoredNetwork):
    """A ResNet of nine to eleven layers for RGB images in [-1, 1] of 8 px and more.

    Strided convolutions do the down-sampling: on a CPU they cost half of what pooling costs.

    Args:
        num_classes: classes K of the data set it is trained on.
        width: channels of the first layer; the features have D = 8·width numbers.
        stem_stride: shrinks larger images at once; 1 up to 32 px, 2 for 64 px and so on.
        image_size: the size in pixels it was trained on (others work, less well).
        class_names: what the classes are called.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        num_classes: int = 10,
        width: int = 32,
        stem_stride: int = 1,
        image_size: int = 32,
        class_names: Sequence[str] = (),
    ):
        super().__init__()
        self.body = nn.Sequential(
            ConvNorm(3, width, stem_stride, kernel=3 if stem_stride == 1 else 2 * stem_stride + 1),
            ConvNorm(width, 2 * width, stride=2),
            Residual(2 * width),
            ConvNorm(2 * width, 4 * width, stride=2),
            Residual(4 * width),
            ConvNorm(4 * width, 8 * width, stride=2),
            Residual(8 * width),
        )
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> FeatureOutput:
        """Features (B, 8·width) and logits (B, K) of images (B, 3, H, W) in [-1, 1]."""
        x = self.body(images.contiguous(memory_format=torch.channels_last))
        features = x.float().mean(dim=(2, 3))  # (B, D)
        return FeatureOutput(features, self.head(features))


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]; float images pass as they are."""
    return images.float().div(127.5).sub(1) if images.dtype == torch.uint8 else images


@torch.inference_mode()
def extract(
    net: nn.Module, images: Tensor, *, batch_size: int = 250, device: torch.device | None = None
) -> FeatureOutput:
    """Features and logits of a whole set (N, 3, H, W), uint8 or float in [-1, 1].

    Always in float32, so that distances do not depend on the machine's favourite precision.
    """
    device = device or torch.device("cpu")
    net = net.to(device).eval()
    outputs = [net(to_unit_range(chunk.to(device))) for chunk in images.split(batch_size)]
    features = torch.cat([output.features.cpu() for output in outputs])
    return FeatureOutput(features, torch.cat([output.logits.cpu() for output in outputs]))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is the label's."""
    return (logits.argmax(dim=1) == labels).double().mean().item()


def find_features(name_or_path: str | Path) -> Path:
    """The folder of a feature net: a path, a shipped name, or the name of a data set ("cifar10").

    Raises:
        EcarError: there is none; the sentence says how to train it.
    """
    names = (str(name_or_path), f"features-{Path(name_or_path).stem}")
    candidates = (
        Path(name_or_path).expanduser(),
        *(root / name for name in names for root in checkpoint_roots()),
    )
    for folder in candidates:
        if (folder / FeatureNet.config_name).is_file():
            return folder
    raise EcarError(
        f"there is no feature net for {str(name_or_path)!r}: train one with "
        f"`ecar train features --dataset {name_or_path}` or name a folder that holds one"
    )


def load_features(name_or_path: str | Path) -> FeatureNet:
    """The feature net that `find_features` finds, in float32 and evaluation mode.

    Raises:
        EcarError: there is none, or the folder holds something else or a damaged file.
    """
    folder = find_features(name_or_path)
    try:
        config = read_json(folder / FeatureNet.config_name, "the feature net's", "train it again")
        if config.get("_class_name") != FeatureNet.__name__:
            raise EcarError(
                f"{str(folder)!r} holds no feature net: train one with `ecar train features`"
            )
        net = FeatureNet.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    except EcarError:
        raise
    except Exception as error:  # safetensors and diffusers raise a family of types here
        raise EcarError(
            f"the feature net in {str(folder)!r} cannot be read ({error}): copy or train it again"
        ) from error
    return net.float().eval().to(memory_format=torch.channels_last)
