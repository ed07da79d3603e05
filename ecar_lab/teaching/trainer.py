"""The kit's trainer under one name, for notebook 6: what it reads and what it does.

The parts lie in ``ecar_lab.data`` and ``ecar_lab.training``. :func:`quietly` runs any of them
without its progress bar, :func:`power_cut` kills a training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, TypeVar
from unittest.mock import patch

from IPython.utils.capture import capture_output

from ecar_lab.data import open_dataset
from ecar_lab.data.feeds import IndexedFeed, LatentStore, Share, encode_all, generator
from ecar_lab.training.checkpoints import list_checkpoints, load_checkpoint
from ecar_lab.training.config import ModelTrainConfig, TokenizerTrainConfig
from ecar_lab.training.launch import initial_seed
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import ModelTask, new_model, train_model
from ecar_lab.training.optim import Plan, build_optimizers, lr_factor
from ecar_lab.training.tokenizer import train_tokenizer

__all__ = [
    "IndexedFeed",
    "LatentStore",
    "ModelTrainConfig",
    "Plan",
    "Share",
    "TokenizerTrainConfig",
    "build_optimizers",
    "encode_all",
    "generator",
    "initial_seed",
    "list_checkpoints",
    "load_checkpoint",
    "lr_factor",
    "new_model",
    "open_dataset",
    "power_cut",
    "quietly",
    "read_metrics",
    "said_by",
    "train_model",
    "train_tokenizer",
]

Value = TypeVar("Value")


def quietly(work: Callable[..., Value], *arguments: Any, **options: Any) -> Value:
    """What ``work`` returns, without what it says on the way."""
    with capture_output():
        return work(*arguments, **options)


def said_by(work: Callable[..., Any], *arguments: Any) -> str:
    """What ``work`` prints."""
    with capture_output() as said:
        work(*arguments)
    return said.stdout


class _PowerCut(Exception):
    """Nothing is saved and nobody says goodbye."""


@contextlib.contextmanager
def power_cut(step: int) -> Generator[None]:
    """A training of a model within it ends when it asks for the data of ``step``: nothing is saved
    and nobody says goodbye."""
    load = ModelTask.load

    def limited(task: ModelTask, wanted: int) -> Any:
        if wanted == step:
            raise _PowerCut
        return load(task, wanted)

    with contextlib.suppress(_PowerCut), patch.object(ModelTask, "load", limited):
        yield
