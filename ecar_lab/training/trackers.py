"""Further places for a run's curves and pictures, by Accelerate's trackers: Trackio and Weights &
Biases, beside TensorBoard (``board.py``). Conveniences, which never end a run.

What a run says stays on this machine unless its owner has said otherwise: W&B writes offline where
WANDB_MODE is not set, Trackio keeps its data base here.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from ecar_lab.errors import EcarError, reason
from ecar_lab.training.board import Board

logger = logging.getLogger(__name__)
PROJECT = "ecar-lab"
PACKAGES = {"trackio": "trackio", "wandb": "wandb"}


def check_installed(names: Sequence[str]) -> None:
    """Looks for the packages of trackers, before any work.

    Raises:
        EcarError: one is not here.
    """
    for name in names:
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            raise EcarError(
                f"log_with {name} needs the package {PACKAGES[name]}: "
                f"pip install 'ecar-lab[{name}]', or leave it out"
            )


def open_boards(
    names: Sequence[str], folder: Path, step: int, config: Mapping[str, Any]
) -> list[Board | Tracked]:
    """Every place that was asked for, in a run folder and from a step on."""
    boards: list[Board | Tracked] = []
    for name in names:
        if name == "tensorboard":
            boards.append(Board(folder / "tensorboard", step))
        else:
            boards.append(Tracked(name, folder, config))
    return boards


class Tracked:
    """One of Accelerate's trackers with the methods of a ``Board``; after the first thing that it
    cannot take it gets no more."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]):
        self.name = name
        self.tracker: Any = None
        self._try(self._open, folder, config)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of every curve."""
        self._try(lambda: self.tracker.log(dict(values), step=step))

    def picture(self, tag: str, image: Any, step: int) -> None:
        """A PIL image."""
        self._try(self._picture, tag, image, step)

    def close(self) -> None:
        """Ends the tracker's run."""
        self._try(lambda: self.tracker.finish())
        self.tracker = None

    def _open(self, folder: Path, config: Mapping[str, Any]) -> None:
        options: dict[str, Any] = {"name": folder.name}
        if self.name == "wandb":
            os.environ.setdefault("WANDB_MODE", "offline")
            os.environ.setdefault("WANDB_SILENT", "true")
            options["dir"] = str(folder)
        elif self.name == "trackio":
            options["resume"] = "allow"
        tracker = LOGGER_TYPE_TO_CLASS[self.name](PROJECT, **options)
        tracker.start()
        self.tracker = tracker
        plain = {
            key: json.dumps(value) if isinstance(value, dict | list) else value
            for key, value in config.items()
        }
        tracker.store_init_configuration(plain)

    def _picture(self, tag: str, image: Any, step: int) -> None:
        if hasattr(self.tracker, "log_images"):
            self.tracker.log_images({tag: [image]}, step=step)
        else:
            kind = importlib.import_module(PACKAGES[self.name]).Image
            self.tracker.log({tag: kind(image)}, step=step)

    def _try(self, work: Any, *arguments: Any) -> None:
        if self.tracker is None and work != self._open:
            return
        try:
            work(*arguments)
        except Exception as error:  # trackers, disks and networks have nothing in common
            logger.warning(
                "%s gets no more of this run (%s); metrics.jsonl holds the same numbers",
                self.name,
                reason(error),
            )
            self.tracker = None
