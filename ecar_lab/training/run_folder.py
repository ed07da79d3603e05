"""The folder of a run: one process at a time, nothing half-written, still where it was."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from ecar_lab.errors import EcarError
from ecar_lab.files import write_error, write_json
from ecar_lab.training.checkpoints import list_checkpoints

logger = logging.getLogger(__name__)
LOCK, OWNER = ".lock", ".owner.json"
# What a killed run leaves beside complete files: each was about to take the place of one.
HALF_WRITTEN = (
    *(".final-*", ".config.json.*", ".metrics.jsonl.*", ".latents-*", ".owner.json.*"),
    *("checkpoints/.step-*", "samples/.step-*"),
)


class RunFolder(contextlib.ExitStack):
    """A run folder that this process alone writes in, from here to the end of the block.

    The lock is the system's: it goes with the process, even with a killed one.

    Attributes:
        relaunched: the launcher has started this run's processes anew, after one was lost.
        found: names of the checkpoints that were there before this launch.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.relaunched, self.found = False, frozenset[str]()
        self._place: os.stat_result | None = None

    def open(self, anew: bool) -> None:
        """Makes the folder, locks it and clears away what a killed run left half-written.

        Args:
            anew: an old run in it is moved out of the way, unless it is this launch's own.

        Raises:
            EcarError: it cannot be written, or another process trains in it.
        """
        fresh = not self.path.exists()
        try:
            self._lock()
            before = record_of(self.path)
            self.relaunched = is_own_launch(before.get("launch"))
            if fresh:
                self.callback(self._leave_nothing)
            old = any(entry.name not in (LOCK, OWNER) for entry in self.path.iterdir())
            if anew and old and not self.relaunched:
                set_aside(self.path)  # the lock moves along, and is held on
                self._lock()
            there = [folder.name for folder in list_checkpoints(self.path)]
            noted = before.get("found") if self.relaunched else there
            self.found = frozenset(map(str, noted if isinstance(noted, list) else ()))
            self._sign()
            with tempfile.TemporaryFile(dir=self.path):
                pass
            clear(self.path)
        except OSError as error:
            raise write_error(self.path, error) from error
        self._place = self.path.stat()

    def _lock(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.enter_context(FileLock(self.path / LOCK, timeout=0))
        except Timeout as error:
            raise EcarError(
                f"another process trains in {str(self.path)!r}{owner(self.path)}: wait for it, "
                "stop it, or give this run a folder of its own with --output"
            ) from error
        except NotImplementedError:  # some network file systems
            logger.warning("%s cannot be locked: train there with one process only", self.path)

    def _sign(self) -> None:
        """Says who is at work here: for others, and for this run if its processes are replaced."""
        started = datetime.fromtimestamp(psutil.Process().create_time()).isoformat(" ", "seconds")
        who = {"process": os.getpid(), "started": started}
        write_json(self.path / OWNER, {**who, "launch": own_launch(), "found": sorted(self.found)})

    def _leave_nothing(self) -> None:
        """Of a run that ended before it wrote anything no folder stays."""
        with contextlib.suppress(OSError):
            if {entry.name for entry in self.path.iterdir()} <= {LOCK, OWNER}:
                shutil.rmtree(self.path)

    def check(self) -> None:
        """Refuses to write where the folder is no longer the one that was opened.

        Raises:
            EcarError: it was moved or deleted.
        """
        try:
            same = self._place is None or os.path.samestat(self._place, self.path.stat())
        except OSError:
            same = False
        if not same:
            raise EcarError(
                f"the run folder {str(self.path)!r} was moved or deleted while the run wrote in "
                "it: put it back under this name and train again, it goes on from its newest "
                "checkpoint"
            )


def owner(folder: Path) -> str:
    """Who holds the lock, in words."""
    record = record_of(folder)
    return f" (process {record.get('process')}, started {record.get('started')})" if record else ""


def record_of(folder: Path) -> dict[str, Any]:
    """What the last owner of a run folder left about itself; empty where nothing can be read."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((folder / OWNER).read_text("utf-8"))
        if isinstance(record, dict):
            return record
    return {}


def own_launch() -> list[str] | None:
    """What torchrun calls this launch, and the number of its process; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name is None else [name, str(os.getppid())]


def is_own_launch(noted: Any) -> bool:
    """Whether a noted launch is this one, whose processes torchrun has replaced.

    Its names are often all alike, "none", so the launcher's process has to be the same, too, unless
    torchrun says itself that it has started processes before (on another machine, then).
    """
    own = own_launch()
    if own is None or not isinstance(noted, list) or noted[:1] != own[:1]:
        return False
    return noted == own or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def clear(folder: Path) -> None:
    """Removes what a killed run left half-written; what it was about to replace comes back."""
    for pattern in HALF_WRITTEN:
        for entry in folder.glob(pattern):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    for old in [*folder.glob("final.old"), *folder.glob("checkpoints/step-*.old")]:
        if old.with_suffix("").exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(old.with_suffix(""))


def set_aside(folder: Path) -> Path:
    """Moves a folder to the first free ``<folder>.1``, ``.2``, ... and returns that path."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(target)
    logger.warning("%s was moved to %s", folder, target)
    return target
