"""The content of a data set as one short word: whether stored work still belongs to it.

A fingerprint follows what the images and labels are, not where they lie, when they were written or
what the set is called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ecar_lab.errors import EcarError

WHOLE = 64 * 1024  # bytes: a picture up to this size is read whole
ENDS = 16 * 1024  # bytes read at either end of a larger one


def combine(parts: Iterable[bytes | str]) -> str:
    """32 hexadecimal digits of a sequence; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def of_table(file: Path) -> bytes:
    """Digest of a whole file.

    Raises:
        EcarError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").digest()[:16]
    except OSError as error:
        raise _unreadable(file, error) from error


def of_picture(file: Path) -> bytes:
    """Digest of a picture's size and content: all of it up to ``WHOLE`` bytes, else both ends.

    Raises:
        EcarError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            if size <= WHOLE:
                content = stream.read(WHOLE)
            else:
                content = stream.read(ENDS)
                stream.seek(-ENDS, 2)
                content += stream.read(ENDS)
    except OSError as error:
        raise _unreadable(file, error) from error
    return hashlib.blake2b(content, digest_size=16, person=size.to_bytes(8, "little")).digest()


def of_pictures(files: Iterable[tuple[str, Path, int]]) -> Iterator[bytes | str]:
    """What ``combine`` takes for pictures: (path within the set, file, class) of each."""
    for name, file, label in files:
        yield name
        yield str(label)
        yield of_picture(file)


def _unreadable(file: Path, error: OSError) -> EcarError:
    return EcarError(
        f"cannot read {str(file)!r} ({error.strerror or error}): "
        "the data set was changed while it was open, so open it again"
    )
