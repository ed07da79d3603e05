"""What stands behind a page: one pipeline, the folders of its visitors, a first image to show."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from apps.stream import Progress, Settings, stream
from ecar_lab.colours import LatentColours
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.runtime import pick_device, pick_dtype, resolve_checkpoint

# A visitor whose browser never said goodbye loses the folder after this many seconds without a run.
FORGET_AFTER = 3600.0
OPENING_SEED = 0


@dataclass
class Home:
    """Where a visitor's runs lie, the latest last."""

    folder: Path
    last_run: float = 0.0
    runs: list[Path] = field(default_factory=list)


class Folders:
    """A folder per visitor below one temporary folder, which vanishes with the process.

    Names are random: a path can be fetched by whoever knows it, and by nobody else. The visitor
    called None is the house itself, which is never forgotten.
    """

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="ecar-demo-", ignore_cleanup_errors=True)
        self._homes: dict[str | None, Home] = {}
        self._lock = threading.Lock()

    @property
    def root(self) -> Path:
        return Path(self._root.name).resolve()

    def new_run(self, visitor: str | None) -> Path:
        """An empty folder for the visitor's next run; all but the run before it are deleted."""
        now = time.monotonic()
        with self._lock:
            if visitor not in self._homes:
                self._homes[visitor] = Home(self._fresh(self.root))
            home = self._homes[visitor]
            old, home.runs = home.runs[:-1], [*home.runs[-1:], self._fresh(home.folder)]
            home.last_run = now
            silent = [
                name
                for name, other in self._homes.items()
                if name is not None and now - other.last_run > FORGET_AFTER
            ]
        for name in silent:
            self.forget(name)
        for run in old:
            shutil.rmtree(run, ignore_errors=True)
        return home.runs[-1]

    def forget(self, visitor: str | None) -> None:
        """Deletes all that the visitor made."""
        with self._lock:
            home = self._homes.pop(visitor, None)
        if home:
            shutil.rmtree(home.folder, ignore_errors=True)

    def close_run(self, run: Path) -> None:
        """Deletes what a run still wrote after its visitor had been forgotten."""
        with self._lock:
            known = any(home.folder == run.parent for home in self._homes.values())
        if not known:
            shutil.rmtree(run.parent, ignore_errors=True)

    @staticmethod
    def _fresh(parent: Path) -> Path:
        folder = parent / secrets.token_urlsafe(16)
        folder.mkdir(parents=True)
        return folder


class Studio:
    """The pipeline of one checkpoint, ready to be watched.

    Attributes:
        problem: why there is no pipeline; None if there is one.
    """

    def __init__(self, checkpoint: str | Path, device: str = "auto", dtype: str = "auto") -> None:
        self.folders = Folders()
        self.problem: str | None = None
        self._opening: Progress | None = None
        self._opened = threading.Event()
        where = pick_device(device)
        self.dtype = pick_dtype(where, dtype)
        try:
            self.pipeline = ECARPipeline.from_pretrained(str(resolve_checkpoint(checkpoint)))
        except EcarError as error:
            self.problem = str(error)
            return
        self.pipeline.to(where)
        self.colours = LatentColours.of(self.pipeline.tokenizer)

    @property
    def class_names(self) -> list[str]:
        return self.pipeline.model.class_names

    def defaults(self) -> Settings:
        """The model's own settings, for its first class."""
        model = self.pipeline.model
        return Settings(
            self.class_names[0], OPENING_SEED, tuple(model.inference_steps()), max(model.guidance())
        )

    def run(self, settings: Settings, visitor: str | None) -> Iterator[Progress]:
        """Streams one image; ends early, without a word, if the visitor's folder is deleted.

        Raises:
            EcarError: settings that the model does not take, or not enough memory.
        """
        folder = self.folders.new_run(visitor)
        try:
            yield from stream(self.pipeline, settings, folder, self.colours, dtype=self.dtype)
        except FileNotFoundError:
            if folder.exists():
                raise
        except torch.OutOfMemoryError as error:
            raise EcarError(
                "the device ran out of memory: close other programs, or start with --device cpu"
            ) from error
        finally:
            self.folders.close_run(folder)

    def open_in_background(self) -> None:
        """Makes the first image, which a page shows before anybody clicks."""
        threading.Thread(target=self._make_opening, daemon=True, name="ecar-opening").start()

    def _make_opening(self) -> None:
        try:
            for progress in self.run(self.defaults(), visitor=None):
                self._opening = progress
        except EcarError as error:
            self.problem = str(error)
        finally:
            self._opened.set()

    def opening(self, timeout: float = 60.0) -> Progress | None:
        """The first image once it is there; None if it does not come within ``timeout`` seconds."""
        self._opened.wait(timeout)
        return self._opening if self._opening and self._opening.image else None
