"""What stands behind a page: one pipeline, the folders and runs of its visitors, a first image."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from apps.shared.models import Loaded, Models, check_stamp, stamp_of
from apps.shared.settings import Settings
from apps.shared.stream import Progress, stream
from ecar_lab.device import pick_device, pick_dtype, told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.files import resolve_checkpoint
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.colours import LatentColours, decode

# A visitor whose browser never said goodbye loses the folder after this many seconds without a run.
FORGET_AFTER = 3600.0
# Folders (a run each, as a rule) that a visitor can go back to; older ones are deleted, but for
# those that an open page shows: so many in each of its places.
KEEP_RUNS, KEEP_SHOWN = 48, 12
# Visitors of whom it is known that they have left.
REMEMBERED = 10_000
LEFT = "the session has ended: load the page again"
OPENING_SEED = 0
# What a page opens with, picked by eye among the seeds 0 to 79 (of imagenette's, 0 to 7): by the
# checkpoint's name.
OPENINGS = {
    "cifar10": ("horse", 68),
    "cifar10-turbo": ("ship", 31),
    "imagenette64": ("church", 4),
    "imagenette128": ("church", 4),
    "imagenette128-turbo": ("parachute", 4),
}


@dataclass(frozen=True)
class Run:
    """A finished run of a visitor. ``number`` counts that visitor's runs from 1."""

    number: int
    settings: Settings
    folder: Path
    progress: Progress

    @property
    def image(self) -> Path:
        assert self.progress.image is not None
        return self.progress.image


@dataclass
class Home:
    """Where a visitor's files lie. ``opened``: a folder per run, the oldest first; ``shown``: those
    that are in sight, by their place on the page."""

    folder: Path
    last_run: float = 0.0
    opened: list[Path] = field(default_factory=list)
    shown: dict[str, list[Path]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    count: int = 0


class Folders:
    """A folder per visitor below one temporary folder, which vanishes with the process.

    Names are random: a path can be fetched by whoever knows it, and by nobody else. The visitor
    called None is the house itself, which is never forgotten.
    """

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="ecar-demo-", ignore_cleanup_errors=True)
        self._homes: dict[str | None, Home] = {}
        self._pages: Counter[str] = Counter()
        self._left: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def root(self) -> Path:
        return Path(self._root.name).resolve()

    @contextmanager
    def page_open(self, visitor: str) -> Generator[None]:
        """While a page of the visitor's is open: it is not forgotten, nor what it shows deleted."""
        with self._lock:
            self._pages[visitor] += 1
            self._left.pop(visitor, None)
        try:
            yield
        finally:
            with self._lock:
                self._pages[visitor] -= 1
                self._pages = +self._pages
                if visitor in self._homes:
                    self._homes[visitor].last_run = time.monotonic()

    def show(self, visitor: str | None, place: str, folders: Iterable[Path]) -> None:
        """Notes which folders a place on the visitor's page shows from now on."""
        with self._lock:
            if (home := self._homes.get(visitor)) is not None:
                home.shown[place] = list(folders)[-KEEP_SHOWN:]

    def new_run(self, visitor: str | None, place: str | None = None) -> Path:
        """An empty folder for the visitor's next run, shown at ``place``. Only the last
        ``KEEP_RUNS`` stay, and those that are shown on an open page.

        Raises:
            EcarError: the visitor has left, or the server is closing.
        """
        now = time.monotonic()
        with self._lock:
            if visitor in self._left:
                raise EcarError(LEFT)
            home = self._home(visitor)
            newest = self._fresh(home.folder)
            home.opened.append(newest)
            if place is not None:
                home.shown[place] = [newest]
            old = self._outdated(visitor, home)
            home.opened = [run for run in home.opened if run not in old]
            home.runs = [run for run in home.runs if run.folder not in old]
            home.last_run = now
            silent = [
                name
                for name, other in self._homes.items()
                if name is not None
                and name not in self._pages
                and now - other.last_run > FORGET_AFTER
            ]
        for name in silent:
            self.forget(name)
        for run in old:
            shutil.rmtree(run, ignore_errors=True)
        return newest

    def _outdated(self, visitor: str | None, home: Home) -> set[Path]:
        old = set(home.opened[:-KEEP_RUNS])
        if visitor is None or visitor in self._pages:
            old -= {folder for folders in home.shown.values() for folder in folders}
        return old

    def new_file(self, visitor: str | None, name: str) -> Path:
        """A path in a fresh folder of the visitor's, for a file that is not part of a run."""
        return self.new_run(visitor) / name

    def record(self, visitor: str | None, progress: Progress, folder: Path) -> None:
        """Notes a finished run in the visitor's history."""
        with self._lock:
            home = self._homes.get(visitor)
            if home is not None and folder in home.opened:
                home.count += 1
                home.runs.append(Run(home.count, progress.settings, folder, progress))

    def runs(self, visitor: str | None) -> list[Run]:
        """The visitor's finished runs, oldest first."""
        with self._lock:
            home = self._homes.get(visitor)
            return list(home.runs) if home else []

    def leave(self, visitor: str) -> None:
        """The visitor has closed the page: deletes all that they made, and what still runs for them
        makes nothing new."""
        with self._lock:
            if self._pages[visitor] > 1:  # it has come back before its leaving was noticed
                return
            self._left[visitor] = None
            while len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        self.forget(visitor)

    def return_to(self, visitor: str) -> None:
        """A visitor who had left asks for something new."""
        with self._lock:
            self._left.pop(visitor, None)

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

    def close(self) -> None:
        """Deletes what all visitors made, even while a run goes on writing."""
        self._closed = True
        # Under another name first: what is still written finds no folder any more.
        gone = self.root.with_name(f"{self.root.name}-gone")
        with suppress(OSError):
            self.root.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        self._root.cleanup()

    def _home(self, visitor: str | None) -> Home:
        if self._closed:
            raise EcarError("the server is closing: start it again, `ecar app`")
        if visitor not in self._homes:
            self._homes[visitor] = Home(self._fresh(self.root))
        return self._homes[visitor]

    @staticmethod
    def _fresh(parent: Path) -> Path:
        folder = parent / secrets.token_urlsafe(16)
        folder.mkdir(parents=True)
        return folder


class Studio:
    """The pipeline of one checkpoint, ready to be watched.

    Its model is loaded when it is needed, and may make room for others' when it is not: ``models``
    and ``folders`` are shared by all studios of a server.

    Attributes:
        problem: why there is no pipeline; None if there is one.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        models: Models | None = None,
        folders: Folders | None = None,
    ) -> None:
        self.folders, self.models = folders or Folders(), models or Models()
        self.problem: str | None = None
        self._opening: Progress | None = None
        self._opened, self._beginning, self._wanted = threading.Event(), threading.Lock(), False
        self.device, self.dtype_name = pick_device(device), dtype
        self.dtype = pick_dtype(self.device, dtype)
        try:
            self.checkpoint = resolve_checkpoint(checkpoint)
            self.stamp = stamp_of(self.checkpoint)
            self.models.get(self.checkpoint, self.device)
        except EcarError as error:
            self.problem = str(error)

    @property
    def loaded(self) -> Loaded:
        """The model; who holds it keeps it.

        Raises:
            EcarError: the checkpoint has been deleted or replaced meanwhile.
        """
        check_stamp(self.checkpoint, self.stamp)
        return self.models.get(self.checkpoint, self.device)

    @property
    def pipeline(self) -> ECARPipeline:
        return self.loaded.pipeline

    @property
    def colours(self) -> LatentColours:
        return self.loaded.colours

    @property
    def class_names(self) -> list[str]:
        return self.pipeline.model.class_names

    def defaults(self) -> Settings:
        """The model's own settings, for the image that a page opens with."""
        first = (self.class_names[0], OPENING_SEED)
        class_name, seed = OPENINGS.get(self.checkpoint.name, first)
        if class_name not in self.class_names:  # a checkpoint of another's name
            class_name, seed = first
        return Settings.of(self.pipeline.model, class_name, seed)

    def run(
        self, settings: Settings, visitor: str | None, place: str | None = None
    ) -> Iterator[Progress]:
        """Streams one image; ends early, without a word, if the visitor's folder is deleted.
        ``place``: where the page shows it.

        Raises:
            EcarError: settings that the model does not take, or not enough memory.
        """
        folder = self.folders.new_run(visitor, place)
        try:
            with told_when_memory_is_full():
                for progress in stream(
                    self.pipeline, settings, folder, self.colours, dtype=self.dtype
                ):
                    if not folder.exists():
                        return
                    if progress.image:
                        self.folders.record(visitor, progress, folder)
                    yield progress
        except FileNotFoundError:
            if folder.exists():
                raise
        finally:
            self.folders.close_run(folder)

    def trace(self, settings: Settings, **options) -> Generator[TraceEvent]:
        """The events of a run, for those who want tensors; ``options`` go to ``trace()``, too.

        Raises:
            EcarError: settings that the model does not take.
        """
        return settings.events(self.pipeline, self.dtype, **options)

    def open_in_background(self, at_once: bool = True) -> None:
        """Makes the first image, which a page shows before anybody clicks, after a short one that
        warms up the libraries: the times shown should be those of a run, not of a first run.

        ``at_once``: else when somebody first asks for it.
        """
        self._wanted = True
        if at_once:
            self._begin_opening()

    def _begin_opening(self) -> None:
        with self._beginning:
            wanted, self._wanted = self._wanted, False
        if wanted:
            threading.Thread(target=self._make_opening, daemon=True, name="ecar-opening").start()

    def _make_opening(self) -> None:
        try:
            plain = self.defaults()
            brief = replace(plain, steps=(1,) * len(plain.steps))
            for event in self.trace(brief):
                decode(self.pipeline.tokenizer, event.clean_estimate)
            for progress in self.run(plain, visitor=None):
                self._opening = progress
        except EcarError as error:
            self.problem = str(error)
        finally:
            self._opened.set()

    def is_opened(self, timeout: float) -> bool:
        """Whether the first image is there, or will never be, after ``timeout`` seconds."""
        self._begin_opening()
        return self._opened.wait(timeout)

    def opening(self, timeout: float = 60.0) -> Progress | None:
        """The first image once it is there; None if it does not come within ``timeout`` seconds."""
        self.is_opened(timeout)
        return self._opening if self._opening and self._opening.image else None


@contextmanager
def a_folder(studio: Studio, visitor: str | None, place: str | None = None) -> Generator[Path]:
    """A fresh folder of the visitor's, shown at ``place``; what is written there after they left
    does not stay.

    Raises:
        EcarError: they left meanwhile.
    """
    folder = studio.folders.new_run(visitor, place)
    try:
        with told_when_memory_is_full():
            yield folder
    except FileNotFoundError as error:
        if folder.exists():
            raise
        raise EcarError(LEFT) from error
    finally:
        studio.folders.close_run(folder)
