"""A class that a generator was not trained on, told to it by its class embeddings alone.

A generator knows a class by one row in each of its ``class_embeddings`` and by nothing else. So a
new class is a choice of these rows: mixed from those of other classes, or learned from a few images
of it while every other weight stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecar_lab.device import autocast
from ecar_lab.errors import EcarError
from ecar_lab.generator import LatentGenerator


@dataclass(frozen=True)
class Learning:
    """How rows are learned: AdamW without decay, the rate falling to zero along a cosine.

    Attributes:
        steps, batch_size: of the optimizer; a batch draws its images from the few with replacement.
        lr: peak learning rate; where the shipped digits model had to learn a class again from 20
            images, 100 steps were enough at 0.03 and at 0.1, not quite at 0.01. seed: of images and
            noise. dtype: of the matrix products.
    """

    steps: int = 100
    batch_size: int = 64
    lr: float = 0.03
    seed: int = 0
    dtype: torch.dtype = torch.float32


@torch.no_grad()
def mix_classes(model: LatentGenerator, label: int, classes: Sequence[int]) -> None:
    """Sets every row of class ``label`` to the mean of the rows of ``classes``.

    Raises:
        EcarError: no class to mix, or the class itself among them.
    """
    if not classes or label in classes:
        raise EcarError(f"class {label} cannot be mixed from {list(classes)}: give other classes")
    for table in model.class_embeddings:
        table.weight[label] = table.weight[list(classes)].mean(dim=0)


def best_mix(
    model: LatentGenerator,
    label: int,
    latent: Tensor,
    mixes: Iterable[Sequence[int]],
    how: Learning,
) -> tuple[int, ...]:
    """Sets class ``label`` to the mix under which the loss of a few images is least; returns it.

    Args:
        latent: (k, C, R, R), clean. mixes: groups of classes; each is tried on the same
            ``how.batch_size`` images and draws.
    """
    scores = {}
    for classes in mixes:
        mix_classes(model, label, classes)
        with torch.no_grad(), autocast(latent.device, how.dtype):
            random = torch.Generator().manual_seed(how.seed)
            scores[tuple(classes)] = _loss(model, label, latent, how, random).item()
    best = min(scores, key=scores.__getitem__)
    mix_classes(model, label, best)
    return best


def learn_class(model: LatentGenerator, label: int, latent: Tensor, how: Learning) -> list[float]:
    """Learns every row of class ``label`` from a few images of it, from where the rows are now.

    Every other weight is frozen, and stays so. The other rows of a table stay too: no batch asks
    for them, and without decay AdamW moves only what has a gradient.

    Args:
        latent: (k, C, R, R), clean latents of the images.

    Returns:
        The loss of every step.

    Raises:
        EcarError: no image, or no such class.
    """
    if not 0 <= label < model.num_classes or len(latent) == 0:
        raise EcarError(
            f"class {label} cannot be learned from {len(latent)} images: use one or more, and a "
            f"class of 0 to {model.num_classes - 1}"
        )
    model.requires_grad_(False)
    tables = [table.weight.requires_grad_() for table in model.class_embeddings]
    optimizer = torch.optim.AdamW(tables, lr=how.lr, weight_decay=0.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps)
    random = torch.Generator().manual_seed(how.seed)
    losses = []
    for _ in range(how.steps):
        with autocast(latent.device, how.dtype):
            loss = _loss(model, label, latent, how, random)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        cosine.step()
        losses.append(loss.item())
    model.requires_grad_(False)
    return losses


def _loss(
    model: LatentGenerator, label: int, latent: Tensor, how: Learning, random: torch.Generator
) -> Tensor:
    """The training loss of one batch of the images, as images of class ``label``."""
    chosen = torch.randint(len(latent), (how.batch_size,), generator=random)
    draw = model.draw(how.batch_size, random).to(latent.device)
    labels = torch.full((how.batch_size,), label, device=latent.device)
    return model.loss(latent[chosen.to(latent.device)], labels, draw).loss
