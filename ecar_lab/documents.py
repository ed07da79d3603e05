"""Text and JSON that someone else may have written: read only where it is a file, small and sound.

A device, a pipe or a file of /proc would never end; NaN, a name given twice or a number of
thousands of digits would pass ``json`` and be wrong.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ecar_lab.errors import EcarError

LARGEST = 16 * 2**20  # bytes of a configuration: no list of class names is longer
CONFIGURATIONS = ("config.json", "model_index.json")
READABLE = (".json", ".jsonl", ".safetensors", ".md", ".index", ".bin")


def read_text(path: str | Path, what: str, remedy: str) -> str:
    """The text of a UTF-8 file, a byte order mark left out.

    Args:
        what, remedy: of the sentence, e.g. "the configuration" and "give a config.json".

    Raises:
        EcarError: no regular file, too large, not readable, not UTF-8.
    """
    named = f"{what} {str(path)!r}"
    try:
        # Not to wait for the other end of a pipe, nor for a device to say something.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EcarError(f"cannot read {named} ({reason}): {remedy}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise EcarError(f"{named} is no regular file: {remedy}")
    with open(handle, "rb") as file:
        try:
            content = file.read(LARGEST + 1)
        except OSError as error:
            raise EcarError(f"cannot read {named} ({error.strerror}): {remedy}") from error
    if len(content) > LARGEST:
        raise EcarError(f"{named} is larger than {LARGEST // 2**20} MiB: {remedy}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EcarError(f"{named} is not UTF-8 text: save it as UTF-8, or {remedy}") from error


def read_json(path: str | Path, what: str, remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        EcarError: as :func:`read_text`, and for what is no sound JSON object.
    """
    text = read_text(path, what, remedy)
    try:
        content = loads(text)
    except ValueError as error:
        raise EcarError(f"{what} {str(path)!r} is no JSON ({error}): {remedy}") from error
    if not isinstance(content, dict):
        raise EcarError(f"{what} {str(path)!r} is no JSON object of names and values: {remedy}")
    return content


def loads(text: str) -> Any:
    """``json.loads``, without what is no JSON: NaN, names given twice, numbers beyond floats.

    Raises:
        ValueError: saying what is wrong, in one line.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:60]!r} is there twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:60]} is no finite number")
    return number


def check_files(folder: str | Path) -> None:
    """Refuses a checkpoint folder in which a file that will be read is a device, a pipe or a
    socket, or a configuration no sound JSON object.

    Raises:
        EcarError: naming it.
    """
    for file in sorted(one for pattern in ("*", "*/*") for one in Path(folder).glob(pattern)):
        if not file.name.endswith(READABLE):
            continue
        mode = stat.S_IFREG
        with contextlib.suppress(OSError):
            mode = file.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise EcarError(
                f"{str(file)!r} is no regular file: copy the checkpoint again, or name another"
            )
        if file.name in CONFIGURATIONS:
            read_json(file, "the configuration", "copy the checkpoint again, or train it again")
