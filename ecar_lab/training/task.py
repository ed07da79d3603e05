"""What the training loop needs to know about the thing it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ecar_lab.data.identity import Identity
from ecar_lab.generator import LatentGenerator


class Task:
    """What is trained. Subclasses fill in the attributes and methods; the trainer calls them.

    Attributes:
        identity: what is trained on; a checkpoint of other data is refused.
        model: what is saved. objective: wraps it; ``objective(*batch)`` gives the loss and a
            dictionary of further numbers to log (tensors; NaN means "none this time").
        teachers: networks that the objective only asks, parts of neither model nor objective.
        second_ema_decay: decay of a second set of averaged weights; None: there is one set.
        fsdp: whether the weights are to be spread over the processes. Then ``generator``, which
            pictures and the result are made with, is a whole copy of the model.
    """

    identity: Identity
    model: ModelMixin
    objective: nn.Module
    teachers: tuple[nn.Module, ...] = ()
    prefetch: bool = False
    second_ema_decay: float | None = None
    fsdp: bool = False
    generator: LatentGenerator

    @property
    def trained(self) -> nn.Module:
        """Whose weights are optimised, averaged and kept in checkpoints: the model's, as a rule."""
        return self.model

    def at(self, progress: float) -> None:
        """Told before every step how far the run has come, from 0 to 1. Nothing, as a rule."""

    def held_out_error(self) -> float:
        """How far off the weights in place are on images not trained on; asked with two sets of
        averaged weights, of which the better is exported."""
        raise NotImplementedError

    def load(self, step: int) -> list[tuple]:
        """The arguments of ``objective`` for every micro-batch of this process at ``step``."""
        raise NotImplementedError

    def position(self, step: int) -> dict[str, int]:
        """Where the data stands before ``step``."""
        raise NotImplementedError

    def restore(self, position: dict[str, int]) -> None:
        """Goes back to a stored position of the data."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what was begun to load data; told once, after the last step."""

    def sample(self, step: int) -> Any | None:
        """A PIL picture made with the averaged weights, which are in place during the call."""
        raise NotImplementedError

    def export(self, folder: Path, report: dict[str, Any]) -> dict[str, Any]:
        """Writes the result with the averaged weights in place; returns numbers to log."""
        raise NotImplementedError
