"""One class alone: its real images, images generated of it, and how near these come."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ecar_lab.data import open_dataset
from ecar_lab.device import autocast
from ecar_lab.evaluation.feature_net import FeatureOutput, extract
from ecar_lab.evaluation.judge import Judge, compare, find_own_net, pick_judge
from ecar_lab.evaluation.sampling import to_bytes
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import named
from ecar_lab.pipeline import ECARPipeline, ImageOutput

METRICS = {
    "frechet": ["frechet_distance", "fid"],
    "kernel": ["kernel_distance", "kid"],
    "precision": ["precision"],
    "recall": ["recall"],
}
STRIP = 8  # images that a figure shows of everything


@dataclass(frozen=True)
class OneClass:
    """What is real of a class.

    Attributes:
        label: its id. shown: images uint8 that may be learned from, in order. wanted: the others'
            features that generated images are compared with. rest: those of as many other real
            images as are compared at once.
    """

    label: int
    shown: Tensor
    wanted: FeatureOutput
    rest: FeatureOutput

    def quality(self, judge: Judge, made: FeatureOutput, seed: int) -> dict[str, float]:
        """How near images come: the share that is named right, and distances, precision and recall
        as means over parts of as many images as ``rest`` has, since all of them depend on that."""
        size = len(self.rest.features)
        starts = range(0, len(made.features) - size + 1, size)
        parts = [
            compare(judge, self.wanted, rows_of(made, slice(start, start + size)), seed)
            for start in starts
        ]
        means = {
            name: sum(named(part, prefixes) for part in parts) / len(parts)
            for name, prefixes in METRICS.items()
        }
        right = (made.logits.argmax(dim=1) == self.label).double().mean().item()
        return {"named_right": right, **means}


def own_judge(dataset: str, image_size: int) -> Judge:
    """The data set's own net: it has to name classes, which Inception cannot."""
    return pick_judge(str(find_own_net(dataset, image_size)), dataset, image_size)


def real_class(
    lab: Lab,
    dataset: str,
    image_size: int,
    judge: Judge,
    label: int,
    *,
    shown: int,
    compared: int,
    seed: int,
) -> OneClass:
    """Divides the images of a class: ``shown`` of the training split, and of all others one half to
    compare with, the other, at most ``compared``, to be compared."""
    parts = []
    for split in ("train", "test"):
        data = open_dataset(dataset, split=split, image_size=image_size, data_root=lab.data_root)
        images, labels = data.arrays()
        parts.append(images[labels == label])
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(parts[0]), generator=random)
    others = torch.cat((parts[0][order[shown:]], parts[1]))
    others = others[torch.randperm(len(others), generator=random)]
    features = extract(judge.net, others, device=lab.torch_device)
    half = len(others) // 2
    return OneClass(
        label,
        shown=parts[0][order[:shown]],
        wanted=rows_of(features, slice(half)),
        rest=rows_of(features, slice(half, half + min(half, compared))),
    )


def rows_of(output: FeatureOutput, rows: slice) -> FeatureOutput:
    """Some images of a set."""
    return FeatureOutput(output.features[rows], output.logits[rows])


def sample_class(
    lab: Lab, pipe: ECARPipeline, label: int, steps: list[int], count: int, seed: int
) -> Tensor:
    """Images uint8 (count, 3, H, W) of one class, without guidance."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    images = []
    for labels in torch.full((count,), label).split(250):
        out = pipe(
            class_labels=labels.tolist(),
            num_inference_steps=steps,
            guidance_scale=1.0,
            generator=generator,
            output_type="latent",
            dtype=lab.torch_dtype,
        )
        with autocast(lab.torch_device, lab.torch_dtype):
            images.append(to_bytes(pipe.decode(cast(ImageOutput, out).images) * 2 - 1))
    return torch.cat(images)


def encode(images: Tensor) -> str:
    """The first images uint8 (N, 3, H, W) side by side as a PNG in base64."""
    row = torch.cat(tuple(images[:STRIP]), dim=2).movedim(0, -1).contiguous()
    buffer = io.BytesIO()
    Image.fromarray(row.numpy()).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(strip: str) -> np.ndarray:
    """The strip that :func:`encode` wrote, (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(strip))).convert("RGB"))
