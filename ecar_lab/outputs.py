"""Files that a command leaves behind: checked before the work, complete or absent after it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

from ecar_lab.errors import EcarError
from ecar_lab.runtime import write_error

IMAGE_FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def check_output(path: str | Path, formats: Sequence[str]) -> Path:
    """The path, once it is certain that a file can be written there; creates nothing.

    Args:
        formats: the endings allowed, e.g. ``(".png", ".jpg")``.

    Raises:
        EcarError: another ending, a folder of that name, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in formats:
        raise EcarError(f"the output {str(path)!r} has another ending: use {' or '.join(formats)}")
    if path.is_dir():
        raise EcarError(f"the output {str(path)!r} is a folder: name a file in it")
    try:
        _probe(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def check_folder(folder: str | Path) -> Path:
    """The folder, which need not exist yet, once it is certain that files can be written there.

    Raises:
        EcarError: they cannot.
    """
    folder = Path(folder)
    try:
        _probe(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def _probe(folder: Path) -> None:
    """Writes a byte, for a moment, where ``folder`` is or would be created."""
    folder = folder.absolute()
    # Something that is no folder ends the search too, and the system refuses a file in it.
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    with tempfile.TemporaryFile(dir=nearest) as probe:
        probe.write(b"\0")


@contextlib.contextmanager
def output_file(path: str | Path) -> Generator[Path]:
    """A fresh name of the same ending, beside ``path``; takes its place once the block ends well.

    If the block fails, the fresh file vanishes and ``path`` keeps what it held.

    Raises:
        EcarError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        with open(fresh, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
