"""The record of what a learner has solved: ``my_progress.json`` beside the notebooks.

Checks write into it from every notebook's kernel, one after the other; what cannot be read is put
aside. Nothing here raises: a lesson does not end because a disk is full.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ecar_lab.documents import read_json
from ecar_lab.errors import EcarError
from ecar_lab.files import write_json

NAME = "my_progress.json"
PATIENCE = 10.0  # seconds that another notebook may take to write
Solved = dict[str, str]  # number of an exercise -> when it was first solved
_open = False


def begin() -> None:
    """From now on this kernel's checks write into the record: a notebook's first cell calls it."""
    global _open
    _open = True


def file() -> Path:
    """The record in the folder that the notebook runs in, or the one in $ECAR_LAB_PROGRESS."""
    return Path(os.environ.get("ECAR_LAB_PROGRESS") or Path.cwd() / NAME)


def solved() -> Solved:
    """What has been solved so far; a record that cannot be read is put aside, with a sentence."""
    found: Solved = {}
    _locked(lambda: found.update(_read()))
    return found


def add(number: str) -> None:
    """Notes that an exercise was solved, if a notebook is open."""
    if not _open:
        return

    def write() -> None:
        there = _read()
        if number not in there:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(file(), {"solved": {**there, number: now}})

    _locked(write)


def reset() -> None:
    """Begins a new record; the earlier one is kept beside it."""

    def put_away() -> None:
        kept = f"; the earlier one is kept as {_put_aside('before').name}" if _exists() else ""
        print(f"{file().name} is empty{kept}.")

    _locked(put_away)


def _locked(work: Callable[[], None]) -> None:
    """Does what no other notebook may do at the same time; what hinders it is said."""
    try:
        with FileLock(file().with_suffix(".lock"), timeout=PATIENCE):
            work()
    except Timeout:
        print(f"{file().name} was not read or written: another notebook holds it, try again.")
    except (EcarError, OSError) as error:
        print(f"{file().name} was not read or written: {error}")


def _exists() -> bool:
    return os.path.lexists(file())


def _read() -> Solved:
    if not _exists():
        return {}
    try:
        content = read_json(file(), "the record", "a new one begins").get("solved")
        if not isinstance(content, dict):
            raise EcarError("it has no list of what was solved")
        wrong = [key for key, value in content.items() if not isinstance(value, str)]
        if wrong:
            raise EcarError(f"{wrong[0]!r} has no date")
    except EcarError as error:
        aside = _put_aside("broken")
        print(f"{file().name} cannot be read ({error}): it is kept as {aside.name}, and a new one "
              "begins.")  # fmt: skip
        return {}
    return content


def _put_aside(why: str) -> Path:
    """Renames the record to a name that is free."""
    for count in itertools.count(1):
        aside = file().with_suffix(f".{why}{'' if count == 1 else count}.json")
        if not os.path.lexists(aside):
            return file().replace(aside)
    raise AssertionError
