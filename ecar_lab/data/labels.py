"""Classes have names, and the names are what is the same across files, splits, sets and models.

Every file may number its classes in its own way; ``unify`` makes one list of names for all of them
and tells, for each file, which class a value means.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow

from ecar_lab.errors import EcarError

NAMED, TEXT, NUMBER, FLAG = "class names", "text", "whole numbers", "true or false"
LARGEST_NUMBER = 2**53  # up to which a float tells whole numbers apart
REMEDY = "name another label column with label_column (--label-column), or 'none' for one class"


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one file or split.

    Attributes:
        where: what to call it. split: of the set. feature: its type, in terms of `datasets`.
        values: reads the values that occur; not called where the type names the classes.
    """

    where: str
    split: str
    feature: Any
    values: Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class Classes:
    """names: of all columns together. codes: for each column, value -> class."""

    names: tuple[str, ...]
    codes: list[dict[Any, int]]


def sort_names(names: Iterable[str]) -> list[str]:
    """Alphabetically; names that are all numbers in the order of the numbers."""
    names = list(names)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def unify(name: str, columns: list[LabelColumn]) -> Classes:
    """One list of class names for all columns, and what each column's values mean in it.

    Columns that name their classes keep the first one's order; what others add follows.

    Raises:
        EcarError: labels that are no classes, of different types, missing, or of splits that share
            no class.
    """
    kinds = [_kind(name, column) for column in columns]
    for kind, column in zip(kinds, columns, strict=True):
        if {kind, kinds[0]} not in ({kind}, {NAMED, TEXT}):
            raise EcarError(
                f"the labels of {name!r} are {kinds[0]} in {columns[0].where} and {kind} in "
                f"{column.where}: write them alike in all files"
            )
    named = [
        {code: normal(text) for code, text in enumerate(column.feature.names)}
        if kind == NAMED
        else {value: _name(name, column, kind, value) for value in _present(name, column)}
        for kind, column in zip(kinds, columns, strict=True)
    ]
    declared = [text for kind, part in zip(kinds, named, strict=True) if kind == NAMED
                for text in part.values()]  # fmt: skip
    rest = {text for part in named for text in part.values()} - set(declared)
    names = tuple(dict.fromkeys([*declared, *sort_names(rest)]))
    _refuse_strangers(name, columns, named)
    _refuse_twins(name, columns, named)
    number = {text: code for code, text in enumerate(names)}
    return Classes(names, [{value: number[t] for value, t in part.items()} for part in named])


def encode(column: pyarrow.ChunkedArray, codes: dict[Any, int], what: str) -> np.ndarray:
    """(N,) int64: the classes of a column of labels.

    Raises:
        EcarError: a value that stands for no class.
    """
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pyarrow.ChunkedArray):
        encoded = encoded.combine_chunks()
    if encoded.null_count:
        raise no_class(what, None, len(codes))
    values = [code_of(value, codes, what) for value in encoded.dictionary.to_pylist()]
    return np.asarray(values, dtype=np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]


def code_of(value: Any, codes: dict[Any, int], what: str) -> int:
    """The class that a value means.

    Raises:
        EcarError: none.
    """
    if value not in codes:
        raise no_class(what, value, len(codes))
    return codes[value]


def no_class(what: str, value: Any, count: int) -> EcarError:
    return EcarError(
        f"{what} has the label {value!r}, none of its {count} classes: "
        "use another split, or name the label column"
    )


def _kind(name: str, column: LabelColumn) -> str:
    import datasets

    feature = column.feature
    if isinstance(feature, datasets.ClassLabel):
        return NAMED
    word = feature.dtype if isinstance(feature, datasets.Value) else ""
    if word in ("string", "large_string", "string_view"):
        return TEXT
    if word == "bool":
        return FLAG
    if word.startswith(("int", "uint", "float")):
        return NUMBER
    held = word or type(feature).__name__.lower()
    raise EcarError(
        f"the labels of {name!r} in {column.where} are of the type {held}, not one class an image: "
        + REMEDY
    )


def _present(name: str, column: LabelColumn) -> list[Any]:
    values = list(column.values())
    missing = [value for value in values if value in (None, "") or value != value]
    if missing:
        raise EcarError(
            f"some labels of {name!r} in {column.where} are missing ({missing[0]!r}): "
            "give every image a label, or use label_column='none' (--label-column none)"
        )
    return values


def _name(name: str, column: LabelColumn, kind: str, value: Any) -> str:
    if kind != NUMBER:
        return normal(str(value))
    beyond = isinstance(value, float) and abs(value) > LARGEST_NUMBER
    if value < 0 or beyond or value != int(value):
        what = "negative, which often says that none is known" if value < 0 else "a fraction"
        what = f"beyond {LARGEST_NUMBER}" if beyond else what
        raise EcarError(
            f"the label {value!r} of {name!r} in {column.where} is {what}: "
            "write whole numbers from 0 on, or names"
        )
    return str(int(value))


def normal(text: str) -> str:
    """One spelling of an accented letter, whichever system wrote it."""
    return unicodedata.normalize("NFC", text)


def _refuse_twins(name: str, columns: list[LabelColumn], named: list[dict[Any, str]]) -> None:
    """``Cat`` in one split and ``cat`` in another are one class; in one and the same split, as of
    letters, they may be two. A space around a name is never meant."""
    held: dict[str, set[str]] = {}
    for column, part in zip(columns, named, strict=True):
        held.setdefault(column.split, set()).update(part.values())
    known: dict[str, str] = {}
    for text in sort_names(set().union(*held.values())):
        plain = text.strip()
        plain = str(int(plain)) if plain.isdecimal() else plain.casefold()
        twin = known.setdefault(plain, text)
        together = any({text, twin} <= classes for classes in held.values())
        if twin != text and not (together and text.strip() == text and twin.strip() == twin):
            raise EcarError(
                f"{name!r} has the classes {twin!r} and {text!r}, which look like one: "
                "name them alike in all files, or so that they differ by more than that"
            )


def _refuse_strangers(name: str, columns: list[LabelColumn], named: list[dict[Any, str]]) -> None:
    classes: dict[str, set[str]] = {}
    for column, part in zip(columns, named, strict=True):
        classes.setdefault(column.split, set()).update(part.values())
    train = classes.pop("train", None)
    for split, others in classes.items():
        if train and others and not train & others:
            raise EcarError(
                f"the splits train and {split} of {name!r} have no class in common "
                f"({sort_names(train)[0]!r}, {sort_names(others)[0]!r}, ...): "
                "name the classes alike, or open the splits as sets of their own"
            )
