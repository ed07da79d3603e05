"""What a person may set: kinds, ranges and finiteness, checked in one place before any work.

A switch of the command line, a field of a configuration file, an argument in Python and a setting
of the app are annotated with the same few types below. pydantic checks them strictly, so that
``"false"`` is no truth value and ``"1e-3"`` no number, and :func:`refusal` is the one place where
its findings become a sentence.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ecar_lab.errors import EcarError

STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", arbitrary_types_allowed=True)
MOST = 10**9  # of anything that is counted
MOST_IMAGES = 10**6  # made by one command
MOST_STEPS = 10**4  # of the flow in a stage
LARGEST_SEED = 2**32 - 1  # what every random generator in use takes
LONGEST_NAME, LONGEST_PATH = 200, 2000  # bytes; a file being written has a few letters more
SHOWN = 60  # letters of a wrong value
Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


def check_path(path: Any) -> Any:
    """The path itself, as long as a file system can hold such a name.

    Raises:
        EcarError: a name too long, or one with a character that no name has.
    """
    text = os.fspath(path)
    try:
        length = max(len(part.encode()) for part in text.replace(os.sep, "/").split("/"))
    except UnicodeEncodeError:
        length = -1
    if length < 0 or "\0" in text:
        raise EcarError(f"{short(text)} holds characters that no name has: use letters and digits")
    if length > LONGEST_NAME or len(text.encode()) > LONGEST_PATH:
        raise EcarError(
            f"{short(text)} is too long a name: use up to {LONGEST_NAME} letters for a file or "
            f"folder, {LONGEST_PATH} in all"
        )
    return path


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _pairs(value: Any) -> Any:
    """JSON has lists where Python has tuples, and None stands for all of a stage."""
    if isinstance(value, list | tuple):
        return tuple((0.0, 1.0) if one is None else _pairs(one) for one in value)
    return value


def _plain(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return value


def _whole(value: Any) -> Any:
    """numpy's whole numbers as Python's; a truth value stays what it is."""
    return int(value) if isinstance(value, np.integer) else value


_Int = Annotated[int, BeforeValidator(_whole)]
# The text after the range says what would be right: "... is 0: use 1 or more".
Count = Annotated[_Int, Field(ge=1, le=MOST), f"1 or more, up to {MOST:,}"]
Whole = Annotated[_Int, Field(ge=0, le=MOST), f"0 or more, up to {MOST:,}"]
Images = Annotated[_Int, Field(ge=1, le=MOST_IMAGES), f"1 or more, up to {MOST_IMAGES:,}"]
Steps = Annotated[_Int, Field(ge=1, le=MOST_STEPS), f"1 or more, up to {MOST_STEPS:,}"]
Seed = Annotated[_Int, Field(ge=0, le=LARGEST_SEED), f"a whole number from 0 to {LARGEST_SEED}"]
Port = Annotated[int, Field(ge=1, le=65535), "1 to 65535"]
Positive = Annotated[float, Field(gt=0), "a finite number above 0"]
NotNegative = Annotated[float, Field(ge=0), "a finite number from 0 on"]
Share = Annotated[float, Field(ge=0, le=1), "a number from 0 to 1"]
Decay = Annotated[float, Field(ge=0, lt=1), "a number from 0 to below 1"]
Text = Annotated[str, BeforeValidator(_text), AfterValidator(check_path), "text"]
# JSON has lists where Python has tuples; numbers inside a pair are checked as strictly.
Decays = Annotated[tuple[Decay, Decay], Strict(False), "two numbers from 0 to below 1"]
Pairs = Annotated[
    tuple[float, float] | Sequence[tuple[float, float]] | None, BeforeValidator(_pairs)
]
Arguments = Annotated[dict[str, Any], AfterValidator(_plain), "an object of names and plain values"]


@dataclass_transform()
def settings(cls: Class) -> Class:
    """Makes a dataclass whose every instance has been checked; ``dataclasses`` can work with it.

    Raises:
        EcarError: (from the constructor) a value of another kind or out of its range.
    """
    checked_class: Any = pydantic_dataclass(config=STRICT)(cls)
    build = checked_class.__init__

    @functools.wraps(build)
    def __init__(self: Any, *given: Any, **named: Any) -> None:
        try:
            build(self, *given, **named)
        except ValidationError as error:
            hints = {
                name: hint
                for name, hint in hints_of(checked_class).items()
                if get_origin(hint) is not ClassVar
            }
            positional = dict(zip(hints, given, strict=False))
            raise refusal(error, hints, {**positional, **named}) from None

    checked_class.__init__ = __init__
    return checked_class


def checked(function: Function) -> Function:
    """A function whose arguments are checked against its annotations before it runs.

    Raises:
        EcarError: (from the function) an argument of another kind or out of its range.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        check_values(hints_of(function), signature.bind(*given, **named).arguments)
        return function(*given, **named)

    return run  # ty: ignore[invalid-explicit-return]


@functools.cache
def hints_of(annotated: Any) -> dict[str, Any]:
    """The annotations of a function or class, ranges included."""
    return get_type_hints(annotated, include_extras=True)


def check_values(
    hints: Mapping[str, Any], values: Mapping[str, Any], spelled: Callable[[str], str] = str
) -> None:
    """Checks each value against the annotation of its name.

    Args:
        spelled: how a name is spelled for the person who set it.

    Raises:
        EcarError: a value of another kind or out of its range.
    """
    for name, value in values.items():
        if name not in hints:
            continue
        try:
            _adapter(hints[name]).validate_python(value)
        except (ValidationError, OverflowError) as error:
            said = error.errors()[0].get("ctx", {}) if isinstance(error, ValidationError) else {}
            if isinstance(said.get("error"), EcarError):
                raise EcarError(f"{spelled(name)}: {said['error']}") from None
            raise wrong(spelled(name), value, hints[name]) from None


def check_texts(values: Mapping[str, Any], spelled: Callable[[str], str] = str) -> None:
    """Checks every text, alone or in a list: nothing that is typed is longer than a name can be.

    Raises:
        EcarError: as :func:`check_path`.
    """
    for name, value in values.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            try:
                if isinstance(one, str | os.PathLike):
                    check_path(one)
            except EcarError as error:
                raise EcarError(f"{spelled(name)}: {error}") from None


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=STRICT)


def refusal(
    error: ValidationError, hints: Mapping[str, Any], values: Mapping[str, Any]
) -> EcarError:
    """The sentence for what pydantic found first."""
    first = error.errors(include_url=False, include_context=True)[0]
    where = first["loc"][0] if first["loc"] else ""
    name = list(hints)[where] if isinstance(where, int) else str(where)
    if first["type"] == "unexpected_keyword_argument" or name not in hints:
        return EcarError(
            f"the field {name!r} is unknown: the fields are {', '.join(sorted(hints))}"
        )
    said = first.get("ctx", {}).get("error")
    if isinstance(said, EcarError):
        return EcarError(f"{name}: {said}")
    return wrong(name, values.get(name), hints[name])


def wrong(name: str, value: Any, hint: Any) -> EcarError:
    """``<name> is <value>: use <what is right>``."""
    return EcarError(f"{name} is {short(value)}: use {wanted(hint)}")


def short(value: Any) -> str:
    """A value as it is quoted in a sentence: one line, never long."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a number of thousands of digits, a list within itself
        text = f"a {type(value).__name__}"
    return cut(text, SHOWN)


def cut(text: str, longest: int) -> str:
    """The text, or its beginning and three dots."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def wanted(hint: Any) -> str:
    """In words, what an annotation asks for."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        said = [entry for entry in inner[1:] if isinstance(entry, str)]
        return said[0] if said else wanted(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(wanted(one) for one in inner if one is not type(None))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is not None and origin is not dict and inner:
        return f"a list, each {wanted(inner[0])}"
    words = {
        bool: "true or false, without quotes",
        int: "a whole number",
        float: "a finite number",
        str: "text",
        dict: "an object",
    }
    return words.get(origin or hint, "another value")


def read_whole(text: str) -> int:
    """A whole number written in the digits 0 to 9.

    Raises:
        ValueError: anything else, other scripts' digits too.
    """
    if not text.isascii() or len(text) > SHOWN:
        raise ValueError(f"{short(text)} is no whole number")
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{short(text)} is no whole number") from None
    if abs(number) >= 2**63:
        raise ValueError(f"{short(text)} is beyond all whole numbers of 64 bits")
    return number


def read_number(text: str) -> float:
    """A number written in the digits 0 to 9; whether it is finite is checked with its range.

    Raises:
        ValueError: anything else, other scripts' digits too.
    """
    if not text.isascii():
        raise ValueError(f"{short(text)} is no number")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{short(text)} is no number") from None
