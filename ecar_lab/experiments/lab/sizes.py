"""How large experiments are: smoke to see that they run, cpu for two cores, gpu in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ecar_lab.errors import EcarError


@dataclass(frozen=True)
class Size:
    """How large an experiment is.

    Attributes:
        preset: data set, tokenizer and model shape. model: arguments of the model that differ.
        steps, batch_size, train: of every training; ``train`` holds further configuration fields.
        seeds: one training each; results carry mean and spread over them.
        num_samples: images that a distance is measured on.
        repeats: of a timed call. pixels: image sizes of the complexity experiment.
        seconds: of every training of the experiment on recipes.
    """

    name: str
    preset: str
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    num_samples: int
    repeats: int
    pixels: tuple[int, ...]
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    seconds: float = 60.0

    def __post_init__(self) -> None:
        """
        Raises:
            EcarError: a seed that is there twice, whose runs would pass for independent ones.
        """
        for seed in self.seeds:
            if self.seeds.count(seed) > 1:
                raise EcarError(f"--seeds names {seed} twice, that is one run: give each seed once")


SIZES = {
    # Seconds: whether everything runs, not what comes out.
    "smoke": Size(
        name="smoke",
        preset="digits",
        steps=3,
        batch_size=32,
        seeds=(0,),
        num_samples=40,
        repeats=1,
        pixels=(64, 128, 256),
        model={"width": 32, "num_heads": 2, "transformer_layers": 1, "head_layers": 1},
        train={"warmup_steps": 1, "log_every": 1},
        seconds=0.05,
    ),
    # One core, about two hours for all experiments together.
    "cpu": Size(
        name="cpu",
        preset="digits",
        steps=500,
        batch_size=128,
        seeds=(0, 1, 2),
        num_samples=1000,
        repeats=3,
        pixels=(64, 128, 256, 512, 1024),
        model={"width": 64},
        train={"warmup_steps": 30, "log_every": 20, "ema_decay": 0.98},
    ),
    # One GPU, hours.
    "gpu": Size(
        name="gpu",
        preset="cifar10",
        steps=20_000,
        batch_size=256,
        seeds=(0, 1, 2),
        num_samples=10_000,
        repeats=5,
        pixels=(64, 128, 256, 512, 1024),
        train={"stage_strides": None, "head_draws": None},
        seconds=1800.0,
    ),
}
