"""Arguments as people write them, made plain: one place for every kind of value.

Numbers and labels come as Python's, as arrays and as tensors of any library; what cannot be meant
is refused in one sentence, here and nowhere else.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch

from ecar_lab.errors import EcarError
from ecar_lab.schema import short

DTYPES = {
    **dict.fromkeys(("float32", "fp32", "float"), torch.float32),
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float16", "fp16", "half"), torch.float16),
}


def plain(value: Any) -> Any:
    """Lists, numbers and strings in place of tuples, arrays and tensors; all else as it is.

    Example:
        >>> plain((1, torch.tensor([2, 3])))
        [1, [2, 3]]
    """
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    # torch, numpy with its scalars, jax and pandas call it the same.
    to_list = None if isinstance(value, type) else getattr(value, "tolist", None)
    with contextlib.suppress(NotImplementedError, RuntimeError):  # a tensor that holds no numbers
        return plain(to_list()) if callable(to_list) else value
    return value


def whole_number(value: Any) -> int | None:
    """The value as an int if it is a whole number (2, 2.0), else None; a bool is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real_number(value: Any) -> float | None:
    """The value as a float if it is a number, else None; a bool and a text are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def given(value: Any, kind: type, make: Callable, name: str, wanted: str) -> Any:
    """``make(value)`` of a value of some kind.

    Raises:
        EcarError: it is of another kind; ``wanted`` says what it should be.
    """
    if not isinstance(value, kind) or isinstance(value, str):
        raise EcarError(f"{name} is {short(value)}: give {wanted}")
    return make(value)


def flags(values: list, name: str) -> list[bool]:
    """The values themselves.

    Raises:
        EcarError: one is neither True nor False: a text, say, is no answer.
    """
    for value in values:
        if not isinstance(value, bool):
            raise EcarError(f"{name} is {short(value)}: use True or False")
    return values


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating-point type, by itself or by name (``bfloat16``, ``bf16``); None stays None.

    Raises:
        EcarError: it is no such type.
    """
    if dtype is None:
        return None
    known = isinstance(dtype, torch.dtype | str)
    name = str(dtype).removeprefix("torch.") if known else ""
    if name not in DTYPES:
        raise EcarError(f"dtype {short(dtype)} is unknown: use float32, bfloat16 or float16")
    return DTYPES[name]


def as_generators(
    generator: Any, count: int, device: torch.device
) -> torch.Generator | list[torch.Generator] | None:
    """One torch.Generator, a list of one per image, or None.

    Raises:
        EcarError: something else, e.g. a seed; a list of another length; a generator of another
            device, other than the CPU.
    """
    several = list(generator) if isinstance(generator, Sequence) else [generator]
    if generator is None:
        return None
    for one in several:
        if isinstance(one, torch.Generator):
            if one.device.type not in ("cpu", device.type):
                raise EcarError(
                    f"a generator on {one.device} for a model on {device}: "
                    f"use torch.Generator({device.type!r}) or one on the CPU"
                )
            continue
        seed = whole_number(plain(one))
        remedy = "torch.Generator().manual_seed({})".format("seed" if seed is None else seed)
        raise EcarError(f"generator {short(one)} is no torch.Generator: use {remedy}")
    if not isinstance(generator, Sequence):
        return generator
    if len(several) != count:
        raise EcarError(f"{len(several)} generators for {count} images: give one, or one each")
    return several


def check_keywords(
    given: Iterable[str], known: Iterable[str], remedies: Mapping[str, str], caller: str
) -> None:
    """Refuses keywords that the caller does not have, with the nearest that it has.

    Args:
        remedies: what to use instead, for names that are known from elsewhere.

    Raises:
        EcarError: naming the first such keyword.
    """
    known = list(known)
    for name in given:
        if name in known:
            continue
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        remedy = remedies.get(name) or (f"use {near[0]}" if near else f"use {', '.join(known)}")
        raise EcarError(f"{caller} takes no {name!r}: {remedy}")
