"""The models that are in memory: a few at a time, whatever checkpoint a visitor chooses."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ecar_lab.device import Casts
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.colours import LatentColours

MOST = 2  # models that are held; the one that was used longest ago makes room
STAMPED = ("model_index.json", "*/config.json", "*/*.safetensors")
Stamp = tuple[tuple[str, int, int], ...]


@dataclass
class Loaded:
    """What is held of a checkpoint. ``beside``: what others keep with it and lose with it."""

    pipeline: ECARPipeline
    colours: LatentColours
    beside: dict[str, Any] = field(default_factory=dict)


class Models:
    """Loads checkpoints when they are asked for. What is dropped here lives on in the runs that
    hold it, until they have ended."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, str], Loaded] = OrderedDict()
        self._loading: dict[tuple[Path, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, checkpoint: Path, device: torch.device) -> Loaded:
        """The checkpoint's model on a device.

        Raises:
            EcarError: a damaged file, another checkpoint than E-CAR's.
        """
        key = (checkpoint, str(device))
        if (kept := self._at_hand(key)) is not None:
            return kept
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:  # who comes meanwhile waits for the same
            if (kept := self._at_hand(key)) is not None:
                return kept
            pipeline = ECARPipeline.from_pretrained(str(checkpoint))
            pipeline.to(device)
            pipeline.model.casts = Casts()  # nobody changes its weights here
            loaded = Loaded(pipeline, LatentColours.of(pipeline.tokenizer))
            with self._lock:
                self._kept[key] = loaded
                while len(self._kept) > MOST:
                    self._kept.popitem(last=False)
            return loaded

    def _at_hand(self, key: tuple[Path, str]) -> Loaded | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def forget(self, checkpoint: Path) -> None:
        """Drops what is held of a checkpoint."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == checkpoint]:
                del self._kept[key]


def stamp_of(checkpoint: Path) -> Stamp:
    """Which files a checkpoint has, their sizes and times: another stamp is another checkpoint.

    Raises:
        EcarError: its files are gone.
    """
    try:
        files = sorted(file for pattern in STAMPED for file in checkpoint.glob(pattern))
        if not (checkpoint / "model_index.json").is_file():
            raise FileNotFoundError
        found = [(file, file.stat()) for file in files]
    except OSError as error:
        raise EcarError(
            f"the checkpoint {checkpoint.name!r} is no longer on the disk: choose another one at "
            "the top of the page"
        ) from error
    return tuple((str(file), one.st_size, one.st_mtime_ns) for file, one in found)


def check_stamp(checkpoint: Path, known: Stamp) -> None:
    """
    Raises:
        EcarError: the checkpoint has been deleted or replaced since ``known``.
    """
    if stamp_of(checkpoint) != known:
        raise EcarError(
            f"the checkpoint {checkpoint.name!r} has been replaced on the disk since this server "
            "started: start it again, `ecar app`, or choose another one at the top of the page"
        )
