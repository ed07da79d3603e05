"""Made-up curves, logs and latents, sound and sick, and what was found in them."""

import math
import random
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ecar_lab.doctor import diagnose

SEEDS = range(5)


def falling(seed: int, rows: int = 20, noise: float = 0.02, floor: float = 0.2) -> list[float]:
    """A healthy curve: exponential decay from 1 to ``floor``, with relative noise."""
    draw = random.Random(seed)
    return [
        (floor + (1 - floor) * math.exp(-6 * row / rows)) * (1 + draw.gauss(0, noise))
        for row in range(rows)
    ]


def flat(seed: int, rows: int = 20, noise: float = 0.02) -> list[float]:
    """The curve of a model that learns nothing."""
    draw = random.Random(seed)
    return [1 + draw.gauss(0, noise) for _ in range(rows)]


def value_of(found: diagnose.Diagnosis) -> float:
    assert found.value is not None
    return found.value


def fired(diagnoses: list[diagnose.Diagnosis]) -> list[str]:
    return [found.name for found in diagnoses if found.fired]


def log_rows(losses: Sequence[float | None], **more: float) -> list[dict]:
    """Rows as the trainer writes them."""
    return [
        {
            "step": row,
            "images": 256 * row,
            "loss": loss,
            "loss_stage": [loss, loss],
            "gradient_norm": 0.3,
            "data_wait": 0.003,
            "mfu": 0.1,
            **more,
        }
        for row, loss in enumerate(losses, 1)
    ]


def picture(seed: int, count: int = 64, side: int = 8) -> torch.Tensor:
    """Smooth latents of unit variance that do not know a grid."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 4, side + 2, side + 2, generator=generator)
    return 3 * F.avg_pool2d(white, kernel_size=3, stride=1)
