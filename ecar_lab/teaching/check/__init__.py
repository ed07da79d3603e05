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
as an :class:`Answer`, which gives way to the kit's version if it fails after all. Where a class is
to be written the diagnosing function gets the class itself and makes its own instances.
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
from torch import Tensor, nn

from ecar_lab.teaching import record
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
    except NotImplementedError as stub:
        return Verdict("missing", _not_done(stub))
    except Wrong as wrong:
        return Verdict("wrong", str(wrong))
    except Exception as error:  # whatever a reader's code may raise
        return Verdict("wrong", f"it raised {type(error).__name__}: {_first_line(error)}")
    return Verdict("right", "right")


def _not_done(stub: NotImplementedError) -> str:
    """In an exercise of several steps the stub of each ends in its letter: ``exercise 2.5b``."""
    step = str(stub)[-1:]
    return f"step {step} is not done yet" if step.isalpha() else "not done yet"


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
        before, gradients = torch.get_rng_state(), torch.is_grad_enabled()
        result = self.function(*copies)
        if gradients and not torch.is_grad_enabled():
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
        given: makes what else it needs where no notebook is there to give it.
    """

    name: str
    diagnose: Callable[..., None]
    reference: Any
    given: Callable[[], tuple[Any, ...]] = tuple

    def __call__(self, attempt: Any, *context: Any) -> Any:
        verdict = judge(self.diagnose, attempt, *context)
        _say(self.name, verdict)
        if verdict.state == "wrong" and is_strict():
            raise AssertionError(f"exercise {self.name}: {verdict.sentence}")
        if verdict.state == "right":
            record.add(self.name.split()[0])
        return Answer(self, attempt) if verdict.state == "right" else self.reference


def exercise(
    name: str,
    reference: Any,
    settings: Iterable[Sequence[Any]] = ((),),
    changes: int | None = None,
    given: Callable[[], tuple[Any, ...]] = tuple,
) -> Callable[[Callable[..., None]], Exercise]:
    """Makes an :class:`Exercise` of a function ``diagnose(attempt, *setting, *given)``.

    Args:
        settings: it is run once with each; what tells mistakes apart best comes first.
        changes: the number of the argument that an attempt shall change in place.
        given: makes what a notebook gives the check beyond the attempt, for who has no notebook.
    """
    every = tuple(settings)

    def make(diagnose: Callable[..., None]) -> Exercise:
        @functools.wraps(diagnose)
        def in_all_settings(attempt: Any, *context: Any) -> None:
            if isinstance(reference, type) and not isinstance(attempt, type):
                raise Wrong(f"that is no class: define class {reference.__name__}")
            handed = attempt if isinstance(reference, type) else Attempt(attempt, changes)
            for setting in every:
                diagnose(handed, *setting, *context)

        return Exercise(name, in_all_settings, reference, given)

    return make


class Answer:
    """An attempt that its check found right; it gives way to the kit's version if it fails later.

    A check looks at a few settings, a notebook at more. Where the attempt raises there, or differs
    from the kit (:func:`beside_the_kit`), a sentence says so and the notebook goes on. What a class
    has made by then turns into the kit's version, with the weights it has (``_watched``).
    """

    def __init__(self, exercise: Exercise, attempt: Callable[..., Any]) -> None:
        self.exercise, self.attempt, self.in_use = exercise, attempt, True
        functools.update_wrapper(self, attempt, updated=())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.in_use:
            try:
                made = self.attempt(*arguments, **options)
            except Exception as error:
                if is_strict():
                    raise
                self.raised(error)
            else:
                if isinstance(made, nn.Module) and isinstance(self.attempt, type):
                    _watch(self, made, lambda: self.exercise.reference(*arguments, **options))
                return made
        return self.exercise.reference(*arguments, **options)

    def raised(self, error: Exception) -> None:
        """Gives way because of an error."""
        self.give_way(f"it raised {type(error).__name__} here: {_first_line(error)}")

    def give_way(self, why: str) -> None:
        """From now on the kit's version is called."""
        self.in_use = False
        _say(self.exercise.name, Verdict("wrong", f"the check found no fault, but {why}"))


def _watch(answer: Answer, made: nn.Module, make_kit_s: Callable[[], nn.Module]) -> None:
    """Lets a learner's module become the kit's once a call of it fails or its answer gave way."""
    own = type(made)

    def watched(name: str) -> Callable[..., Any]:
        def call(self: nn.Module, *arguments: Any, **options: Any) -> Any:
            if answer.in_use:
                try:
                    return getattr(own, name)(self, *arguments, **options)
                except Exception as error:
                    if is_strict():
                        raise
                    answer.raised(error)
            _become(self, make_kit_s())
            return getattr(self, name)(*arguments, **options)

        return call

    kinds = [
        kind for kind in answer.exercise.reference.__mro__ if kind.__module__[:8] == "ecar_lab"
    ]
    public = {name for kind in kinds for name, it in vars(kind).items() if inspect.isfunction(it)}
    called = [name for name in public if not name.startswith("_") and name != "forward"]
    methods = {name: watched(name) for name in ("__call__", *called)}
    made.__class__ = type(own.__name__, (own,), methods)


def _become(module: nn.Module, other: nn.Module) -> None:
    """Makes ``module`` what ``other`` is, but with its own weights wherever names and shapes agree:
    an optimizer that holds them still trains the right ones."""
    own = dict(module.named_parameters())
    other.to(next(iter(own.values())).device if own else "cpu")
    for name, parameter in list(other.named_parameters()):
        if name in own and own[name].shape == parameter.shape:
            place, _, last = name.rpartition(".")
            setattr(other.get_submodule(place), last, own[name])
    object.__setattr__(module, "__dict__", other.train(module.training).__dict__)
    module.__class__ = type(other)


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
