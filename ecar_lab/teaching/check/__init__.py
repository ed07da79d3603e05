"""Checks of the exercises: each says what is wrong, not only that something is.

A check is a function of the reader's attempt, made by :func:`exercise` from a diagnosing function.
It prints its verdict and returns what the notebook goes on with: the attempt where it is right, the
kit's own version where it is missing or wrong. So no exercise blocks the way. There is one
module for each notebook; begin with ``start.py``.

    >>> velocity = check.velocity(velocity)  # doctest: +SKIP
    ✔ exercise 3.1: right
"""

from __future__ import annotations

import html
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from IPython.display import HTML, display
from torch import Tensor

from ecar_lab.teaching.question import BAD, GOOD, NEUTRAL, badge
from ecar_lab.teaching.session import is_strict


class Wrong(Exception):
    """Raised by a diagnosing function: what is wrong with the attempt, in one sentence."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: ``right``, ``wrong`` or ``missing``, and the sentence that says it."""

    state: str
    sentence: str


def judge(diagnose: Callable[..., None], attempt: Any, *context: Any) -> Verdict:
    """Runs a diagnosing function on an attempt and catches all that an attempt may do."""
    try:
        with torch.random.fork_rng(devices=[]):
            diagnose(attempt, *context)
    except NotImplementedError:
        return Verdict("missing", "not done yet")
    except Wrong as wrong:
        return Verdict("wrong", str(wrong))
    except Exception as error:  # whatever a reader's code may raise
        said = str(error).splitlines()[0][:200] if str(error) else "no further words"
        return Verdict("wrong", f"it raised {type(error).__name__}: {said}")
    return Verdict("right", "right")


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
        return attempt if verdict.state == "right" else self.reference


def exercise(name: str, reference: Any) -> Callable[[Callable[..., None]], Exercise]:
    """Makes an :class:`Exercise` of a function ``diagnose(attempt, ...)``."""
    return lambda diagnose: Exercise(name, diagnose, reference)


def _say(name: str, verdict: Verdict) -> None:
    mark, colour = {
        "right": ("✔", GOOD),
        "wrong": ("✘", BAD),
        "missing": ("○", NEUTRAL),
    }[verdict.state]
    rest = "" if verdict.state == "right" else " — the notebook goes on with the kit's version"
    sentence = html.escape(verdict.sentence)
    display(HTML(f"{badge(f'{mark} exercise {name}', colour)} {sentence}{rest}"))


def expect_something(value: Any, what: str = "the result") -> None:
    """Refuses None, which a function without return gives.

    Raises:
        Wrong: it is None.
    """
    if value is None:
        raise Wrong(f"{what} is None: is a return missing?")


def expect_pair(value: Any, what: str) -> tuple[Any, Any]:
    """The value, if it is a pair; ``what`` goes on after "return two".

    Raises:
        Wrong: it is something else.
    """
    expect_something(value)
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Wrong(f"return two {what}")
    return value[0], value[1]


def expect_tensor(value: Any, shape: tuple[int, ...], what: str = "the result") -> Tensor:
    """The value, if it is a tensor of this shape without NaN.

    Raises:
        Wrong: it is something else.
    """
    expect_something(value, what)
    if not isinstance(value, Tensor):
        raise Wrong(f"{what} is a {type(value).__name__}: return a tensor {shape}")
    if tuple(value.shape) != tuple(shape):
        raise Wrong(f"{what} has shape {tuple(value.shape)}: it should be {tuple(shape)}")
    if value.is_floating_point() and not value.isfinite().all():
        raise Wrong(f"{what} holds NaN or infinity: is something divided by zero?")
    return value


def expect_close(
    value: Any,
    expected: Tensor | float,
    mistakes: Mapping[str, Tensor | float],
    what: str = "the result",
    tolerance: float = 1e-4,
) -> None:
    """Compares a value with what it should be, and if it differs, with what typical mistakes give.

    Args:
        mistakes: diagnosis -> the value that the mistake leads to.
        tolerance: largest difference allowed, absolute and relative.

    Raises:
        Wrong: with the diagnosis of the mistake that gives exactly this value, or with the size of
            the difference where none does.
    """
    expect_something(value, what)
    target = torch.as_tensor(expected)
    if target.ndim == 0 and not isinstance(value, Tensor):
        if not isinstance(value, numbers.Real):  # NumPy's too
            raise Wrong(f"{what} is {type(value).__name__}: return a number")
        value = torch.tensor(float(value))
    value = expect_tensor(value, tuple(target.shape), what)
    if _close(value, target, tolerance):
        return
    for diagnosis, mistaken in mistakes.items():
        wrong = torch.as_tensor(mistaken)
        if wrong.shape == value.shape and _close(value, wrong, tolerance):
            raise Wrong(diagnosis)
    gap = (value.double() - target.double()).abs().max().item()
    if target.ndim == 0:
        raise Wrong(f"{what} is {value.item():.6g}, it should be {target.item():.6g}")
    raise Wrong(f"{what} has the right shape but differs by up to {gap:.3g}")


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance)
