"""How the images that are judged are generated: every setting of it, and the images themselves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ecar_lab.device import autocast
from ecar_lab.pipeline import ECARPipeline, ImageOutput


@dataclass(frozen=True)
class Sampling:
    """How images are generated: everything that decides what they look like."""

    solver: str
    num_inference_steps: list[int]
    guidance_scale: list[float]
    num_samples: int
    seed: int
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    renoise: bool = True

    def record(self) -> dict[str, Any]:
        """The same, for JSON."""
        texts = {"device": self.device.type, "dtype": str(self.dtype).removeprefix("torch.")}
        return {**self.__dict__, **texts, "classes": "balanced"}


def generate(pipe: ECARPipeline, sampling: Sampling) -> tuple[Tensor, Tensor, float]:
    """Images uint8 (N, 3, H, W), as they would be saved; their labels (N,); seconds taken.

    Classes take turns. Every image has its own generator, so it does not depend on the batch.
    """
    labels = torch.arange(sampling.num_samples) % pipe.model.num_classes
    draw = torch.Generator().manual_seed(sampling.seed)
    seeds = torch.randint(2**62, (sampling.num_samples,), generator=draw)
    options: dict[str, Any] = (
        {} if sampling.renoise else {"renoise": False}
    )  # which baselines have no use for
    images = []
    started = time.perf_counter()
    batches = list(
        zip(labels.split(sampling.batch_size), seeds.split(sampling.batch_size), strict=True)
    )
    for batch_labels, batch_seeds in tqdm(batches, desc="sampling", unit="batch", disable=None):
        out = pipe(
            class_labels=batch_labels.tolist(),
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            generator=[torch.Generator().manual_seed(s) for s in batch_seeds.tolist()],
            output_type="latent",
            solver=sampling.solver,
            dtype=sampling.dtype,
            **options,
        )
        with autocast(sampling.device, sampling.dtype):
            images.append(to_bytes(pipe.decode(cast(ImageOutput, out).images) * 2 - 1))
    return torch.cat(images), labels, time.perf_counter() - started


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8 on the CPU, rounded as image files are."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).byte().cpu()
