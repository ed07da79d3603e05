"""Checks of the exercises: each says what is wrong, not only that something is.

A check is a function of the reader's attempt, made by :func:`exercise` from a diagnosing function.
It prints its verdict and returns what the notebook goes on with: the attempt where it is right, the
kit's own version where it is missing or wrong. So no exercise blocks the way. There is one
module for each notebook; begin with ``start.py``.

    >>> velocity = check.velocity(velocity)  # doctest: +SKIP
    ✔ exercise 3.1: right

What holds for every exercise is seen to here. A diagnosing function runs in several *settings*; it
reaches the attempt through an :class:`Attempt`, which hands out copies, so that no attempt can
change what it is compared with, and says so where one tries. An attempt that is found right goes on
as an :class:`Answer`, which gives way to the kit's version if it fails after all.
"""

from __future__ import annotations

import functools
import html
import inspect
import numbers
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from IPython.display import HTML, display
from torch import Tensor

from ecar_lab.teaching.expect import (
    Wrong,
    expect_close,
    expect_gradients,
    expect_list,
    expect_pair,
    expect_something,
    expect_tensor,
)
from ecar_lab.teaching.question import BAD, GOOD, NEUTRAL, badge
from ecar_lab.teaching.session import is_strict

__all__ = [
    "Answer",
    "Attempt",
    "Counted",
    "Exercise",
    "Verdict",
    "Wrong",
    "beside_the_kit",
    "exercise",
    "expect_close",
    "expect_gradients",
    "expect_list",
    "expect_pair",
    "expect_something",
    "expect_tensor",
    "judge",
]


@dataclass(frozen=True)
class Verdict:
    """What a check found: ``right``, ``wrong`` or ``missing``, and the sentence that says it."""

    state: str
    sentence: str


def judge(diagnose: Callable[..., None], attempt: Any, *context: Any) -> Verdict:
    """Runs a diagnosing function on an attempt and catches all that an attempt may do."""
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(20_241_218)  # the same verdict every time
            diagnose(attempt, *context)
    except NotImplementedError:
        return Verdict("missing", "not done yet")
    except Wrong as wrong:
        return Verdict("wrong", str(wrong))
    except Exception as error:  # whatever a reader's code may raise
        return Verdict("wrong", f"it raised {type(error).__name__}: {_first_line(error)}")
    return Verdict("right", "right")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else "no further words"


class Attempt:
    """The reader's function for a diagnosing function: called with copies of what it is given.

    Args:
        changes: the number of the argument that it is asked to change in place, if any.

    Raises:
        Wrong: by a call that changes another argument, or draws random numbers of its own.
    """

    def __init__(self, function: Callable[..., Any], changes: int | None = None) -> None:
        self.function, self.changes = function, changes

    def __call__(self, *given: Any) -> Any:
        copies = [v if n == self.changes else _copied(v) for n, v in enumerate(given)]
        before = torch.get_rng_state()
        result = self.function(*copies)
        if not torch.is_grad_enabled():
            raise Wrong(
                "your function switches gradients off for all that comes after: use torch.no_grad "
                "around a block, if at all"
            )
        if not torch.equal(before, torch.get_rng_state()):
            raise Wrong(
                "your function draws random numbers of its own: all that is random is given to it"
            )
        for number, (value, copy) in enumerate(zip(given, copies, strict=True)):
            if number != self.changes and not _same(value, copy):
                name = self._name(number)
                remedy = f"{name}.clone()" if isinstance(value, Tensor) else "a copy of it"
                raise Wrong(
                    f"your function changed its argument {name} in place: whoever called it still "
                    f"needs it as it was; work on {remedy}, without += and operations that end in _"
                )
        return result

    def _name(self, number: int) -> str:
        try:
            return list(inspect.signature(self.function).parameters)[number].lstrip("*")
        except (TypeError, ValueError, IndexError):
            return str(number + 1)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    if type(value) is dict:
        return {key: _copied(one) for key, one in value.items()}
    return value


def _same(value: Any, copy: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(copy, Tensor) and value.shape == copy.shape and torch.equal(value, copy)
    if type(value) in (list, tuple):
        return len(value) == len(copy) and all(map(_same, value, copy))
    if type(value) is dict:
        return value.keys() == copy.keys() and all(_same(value[key], copy[key]) for key in value)
    return value is copy or (isinstance(value, numbers.Number) and value == copy)


class Counted:
    """A function that remembers its calls: where each is one of a network, their number matters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function: Callable[..., Any] = function
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self.function(*arguments)


@dataclass(frozen=True)
class Exercise:
    """A check: call it with the reader's attempt, and with whatever else it needs to judge it.

    Attributes:
        name: number and title. diagnose: raises :class:`Wrong` at a wrong attempt.
        reference: the kit's own version, which the notebook goes on with if need be.
    """

    name: str
    diagnose: Callable[..., None]
    reference: Any

    def __call__(self, attempt: Any, *context: Any) -> Any:
        verdict = judge(self.diagnose, attempt, *context)
        _say(self.name, verdict)
        if verdict.state == "wrong" and is_strict():
            raise AssertionError(f"exercise {self.name}: {verdict.sentence}")
        return Answer(self, attempt) if verdict.state == "right" else self.reference


def exercise(
    name: str,
    reference: Any,
    settings: Iterable[Sequence[Any]] = ((),),
    changes: int | None = None,
) -> Callable[[Callable[..., None]], Exercise]:
    """Makes an :class:`Exercise` of a function ``diagnose(attempt, *setting, ...)``.

    Args:
        settings: it is run once with each; what tells mistakes apart best comes first.
        changes: the number of the argument that an attempt shall change in place.
    """
    every = tuple(settings)

    def make(diagnose: Callable[..., None]) -> Exercise:
        @functools.wraps(diagnose)
        def in_all_settings(attempt: Any, *context: Any) -> None:
            for setting in every:
                diagnose(Attempt(attempt, changes), *setting, *context)

        return Exercise(name, in_all_settings, reference)

    return make


class Answer:
    """An attempt that its check found right; it gives way to the kit's version if it fails later.

    A check looks at a few settings, a notebook at more. Where the attempt raises there, or differs
    from the kit (:func:`beside_the_kit`), a sentence says so and the notebook goes on.
    """

    def __init__(self, exercise: Exercise, attempt: Callable[..., Any]) -> None:
        self.exercise, self.attempt, self.in_use = exercise, attempt, True
        functools.update_wrapper(self, attempt)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.in_use:
            try:
                return self.attempt(*arguments, **options)
            except Exception as error:
                if is_strict():
                    raise
                self.give_way(f"it raised {type(error).__name__} here: {_first_line(error)}")
        return self.exercise.reference(*arguments, **options)

    def give_way(self, why: str) -> None:
        """From now on the kit's version is called."""
        self.in_use = False
        _say(self.exercise.name, Verdict("wrong", f"the check found no fault, but {why}"))


@contextmanager
def beside_the_kit(*answers: Any) -> Generator[None]:
    """Around assertions that hold if ``answers``, what checks returned, do as the kit does.

    Where one fails, the attempts among them give way to the kit's versions. Where all were the
    kit's from the start, or the notebook is strict, the error is raised.
    """
    try:
        yield
    except Exception as error:
        doubtful = [one for one in answers if isinstance(one, Answer)]
        if is_strict() or not doubtful:
            raise
        for one in doubtful:  # one that gave way before may have left wrong numbers behind
            one.give_way(f"beside the kit it does something else: {_first_line(error)}")


def _say(name: str, verdict: Verdict) -> None:
    mark, colour = {
        "right": ("✔", GOOD),
        "wrong": ("✘", BAD),
        "missing": ("○", NEUTRAL),
    }[verdict.state]
    rest = "" if verdict.state == "right" else " — the notebook goes on with the kit's version"
    sentence = html.escape(verdict.sentence)
    display(HTML(f"{badge(f'{mark} exercise {name}', colour)} {sentence}{rest}"))
