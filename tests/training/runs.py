"""Runs of a few steps, cut back where a test wants it, and what of them is compared."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from ecar_lab.training.checkpoints import list_checkpoints
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.log import read_metrics

TINY = dict(width=32, num_heads=2, transformer_layers=1, head_layers=1, num_stages=2, patch_size=2)


def config(folder: Path, **overrides) -> ModelTrainConfig:
    """Eight steps on 64 digits with a model of some ten thousand weights."""
    settings = dict(
        output=str(folder), steps=8, batch_size=8, limit=64, save_every=2, keep=9, log_every=3,
        sample_every=0, warmup_steps=2, dtype="float32", device="cpu", model=TINY, flip=False,
        lr=1e-2, max_minutes=None, tokenizer="identity",
    )  # fmt: skip
    return ModelTrainConfig.from_preset("digits", **{**settings, **overrides})


def weights(run: Path, stem: str = "model") -> dict[str, torch.Tensor]:
    """The weights of a run's newest checkpoint."""
    return load_file(list_checkpoints(run)[-1] / f"{stem}.safetensors")


def curve(run: Path) -> list[tuple]:
    """What the logs say about the optimisation, without the timings."""
    names = ("step", "images", "loss", "loss_stage", "loss_bin", "gradient_norm", "lr")
    return [tuple(str(row[name]) for name in names) for row in read_metrics(run) if "loss" in row]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], **tolerance) -> None:
    torch.testing.assert_close(a, b, **(tolerance or dict(rtol=0, atol=0)))


def cut_back(source: Path, target: Path, step: int) -> Path:
    """The run folder as it stood after the checkpoint of ``step``."""
    shutil.copytree(source, target)
    for folder in list_checkpoints(target):
        if int(folder.name.split("-")[1]) > step:
            shutil.rmtree(folder)
    shutil.rmtree(target / "final")
    return target
