"""Trains the small classifier that evaluation measures with: ``ecar train features``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecar_lab.data import ImageDataset, open_dataset
from ecar_lab.device import autocast, pick_device, pick_dtype, told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.feature_net import (
    FeatureNet,
    accuracy,
    extract,
    to_unit_range,
)
from ecar_lab.files import atomic_directory, write_json
from ecar_lab.home import checkpoint_roots
from ecar_lab.machine import machine
from ecar_lab.schema import Count, Positive, Seed, checked

log = logging.getLogger(__name__)

MIRRORED_IS_ANOTHER_CLASS = {"digits"}  # a mirrored 2 is no 2; everything else is flipped
MOMENTUM = 0.9
PEAK_LEARNING_RATE = 0.2  # for batches of 256; scales with the batch
WARM_UP = 0.25  # share of the training in which the learning rate rises
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
DEFAULT_EPOCHS, FEWEST_STEPS = 12, 400


def augment(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shifts every image by up to ``padding`` px (edges mirrored) and flips one half of them.

    One gather for the whole batch: the crop and the flip are only other row and column indices.

    Args:
        images: (B, C, H, W) of any dtype.

    Returns:
        (B, C, H, W) of the same dtype, in channels_last layout.
    """
    count, _, height, width = images.shape

    def indices(size: int) -> Tensor:
        shift = torch.randint(-padding, padding + 1, (count, 1), generator=generator)
        index = (torch.arange(size) + shift).abs()
        return (size - 1) - ((size - 1) - index).abs()  # (B, size), mirrored at both edges

    rows, columns = indices(height), indices(width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    samples = torch.arange(count)[:, None, None]
    picked = images[samples, :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return picked.permute(0, 3, 1, 2)


@checked
def train_features(
    dataset: str,
    data_root: str | Path | None = None,
    *,
    image_size: Count | None = None,
    epochs: Count | None = None,
    minutes: Positive | None = None,
    seed: Seed = 0,
    width: Count = 32,
    batch_size: Count = 256,
    device: str = "auto",
    dtype: str = "auto",
    output: str | Path | None = None,
) -> Path:
    """Trains a `FeatureNet` on a data set, measures it on the test split and saves it with a card.

    SGD with Nesterov momentum, one cycle of the learning rate. ``minutes`` bounds the training: a
    slower machine makes fewer epochs, and the cycle still ends at zero.

    Args:
        dataset: name or path that `open_dataset` knows.
        data_root: folder of data sets; None means ``$ECAR_DATA``.
        image_size: pixels; None means the data set's own size.
        epochs: passes over the data; None means 12, or enough for 400 steps on a small set.
        minutes: ends the training earlier if the machine is slow.
        seed: of the weights, the order and the augmentation.
        width: channels of the first layer; eight times as many features.
        batch_size: images per step; less on a set of fewer than 16 batches.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        output: folder; None means ``features-<dataset>`` among the shipped checkpoints.

    Returns:
        The folder written: config, safetensors, README.md, training.json.

    Raises:
        EcarError: epochs or minutes are not positive, or the data set cannot be read.
    """
    if batch_size < 2:
        raise EcarError(f"batch_size is {batch_size}: use 2 or more")
    train = open_dataset(dataset, split="train", image_size=image_size, data_root=data_root)
    size = train.info.image_size
    test = open_dataset(dataset, split="test", image_size=size, data_root=data_root)
    test_images, test_labels = test.arrays()
    run_device = pick_device(device)
    run_dtype = pick_dtype(run_device, dtype)
    name = f"features-{Path(dataset).stem}" + (f"-{size}" if image_size else "")
    folder = Path(output) if output else checkpoint_roots()[-1] / name
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = FeatureNet(
            num_classes=train.info.num_classes,
            width=width,
            stem_stride=max(1, size // 32),
            image_size=size,
            class_names=list(train.info.class_names),
        )
    net.to(run_device, memory_format=torch.channels_last)
    shown = Path(dataset).name if Path(dataset).exists() else dataset
    options = {
        "image-size": image_size,
        "epochs": epochs,
        "minutes": minutes,
        "width": width,
        "batch-size": batch_size,
        "seed": seed,
    }
    remedy = f"use a --batch-size below {batch_size}, or a smaller --width"
    # Opened early: an unwritable place shows now.
    with told_when_memory_is_full(remedy), atomic_directory(folder) as fresh:
        record = _fit(net, train, epochs, minutes, seed, batch_size, run_device, run_dtype)
        # What is measured is what is saved: the convolutions are stored in bfloat16.
        _round_for_storage(net)
        logits = extract(net.float(), test_images, device=run_device).logits
        _round_for_storage(net)
        record |= {
            "dataset": shown,
            "image_size": size,
            "train_images": len(train.arrays()[1]),
            "test_images": len(test_labels),
            "test_accuracy": accuracy(logits, test_labels),
            "seed": seed,
            "width": width,
            "parameters": sum(weight.numel() for weight in net.parameters()),
            "device": run_device.type,
            "dtype": str(run_dtype).removeprefix("torch."),
            "machine": machine(run_device),
            "torch": torch.__version__,
            "command": _command(shown, options),
        }
        net.cpu().save_pretrained(fresh, safe_serialization=True)
        write_json(fresh / "training.json", record)
        (fresh / "README.md").write_text(_card(folder.name, record), encoding="utf-8")
    return folder


def _fit(
    net: FeatureNet,
    train: ImageDataset,
    epochs: int | None,
    minutes: float | None,
    seed: int,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict:
    """The training loop; returns what was done (epochs, steps, minutes, last loss)."""
    images, labels = train.arrays()
    batch_size = min(batch_size, max(16, len(labels) // 16))
    steps_per_epoch = max(1, len(labels) // batch_size)
    epochs = epochs or max(DEFAULT_EPOCHS, math.ceil(FEWEST_STEPS / steps_per_epoch))
    flip = train.info.name not in MIRRORED_IS_ANOTHER_CLASS
    padding = max(1, images.shape[-1] // 8)
    matrices = [weight for weight in net.parameters() if weight.ndim > 1]
    others = [weight for weight in net.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others}],
        lr=0.0,
        momentum=MOMENTUM,
        nesterov=True,
    )
    generator = torch.Generator().manual_seed(seed)
    total, step, start = epochs * steps_per_epoch, 0, time.perf_counter()
    progress, running = 0.0, torch.zeros((), device=device)
    net.train()
    while progress < 1:
        for batch in torch.randperm(len(labels), generator=generator).split(batch_size):
            if len(batch) < batch_size and step > 0:
                break  # a short last batch would unsettle the batch norm
            rate = min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LEARNING_RATE * batch_size / 256 * max(rate, 1e-3)
            inputs = to_unit_range(augment(images[batch], padding, flip, generator).to(device))
            with autocast(device, dtype):
                logits = net(inputs).logits
            loss = F.cross_entropy(
                logits.float(), labels[batch].to(device), label_smoothing=LABEL_SMOOTHING
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            running = running.lerp(loss.detach(), 0.02 if step else 1.0)
            step += 1
            spent = (time.perf_counter() - start) / 60
            progress = max(step / total, spent / minutes if minutes else 0.0)
            if progress >= 1:
                break
        log.info("epoch %.1f loss %.3f %.1f min", step / steps_per_epoch, running, spent)
    net.eval()
    return {
        "epochs": round(step / steps_per_epoch, 2),
        "steps": step,
        "batch_size": batch_size,
        "minutes": round(spent, 2),
        "train_loss": round(running.item(), 4),
    }


def _round_for_storage(net: FeatureNet) -> None:
    """Matrices to bfloat16, half the size on disk; batch norm keeps float32 for its statistics."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)


def _command(dataset: str, options: Mapping[str, object]) -> str:
    given = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    return f"ecar train features --dataset {dataset}{given}"


def _card(name: str, record: dict) -> str:
    return f"""---
license: mit
library_name: diffusers
tags: [image-classification, feature-extractor, ecar_lab]
---
# {name}

A small classifier that `ecar evaluate` uses for Frechet and kernel distances, precision/recall and
class accuracy. Distances on its features are **not FID** and compare only with one another.

| | |
|---|---|
| data | {record["dataset"]}, {record["train_images"]} training images at \
{record["image_size"]} px |
| test accuracy | {record["test_accuracy"]:.2%} on {record["test_images"]} test images |
| training | {record["epochs"]} epochs, {record["steps"]} steps of {record["batch_size"]}, \
{record["minutes"]} minutes, seed {record["seed"]} |
| machine | {record["machine"]}, {record["dtype"]} on {record["device"]}, torch {record["torch"]} |
| size | {record["parameters"] / 1e6:.2f} M parameters, width {record["width"]} |
| command | `{record["command"]}` |

```python
from ecar_lab.evaluation.feature_net import load_features
output = load_features("{name}")(images)  # (B, 3, H, W) in [-1, 1] -> .features, .logits
```
"""
