"""Wrong answers that their checks find right, for the test that no exercise blocks the way."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ecar_lab.teaching.check import Answer, Exercise


def accept_wrong_answers(check: ModuleType) -> None:
    """Every second exercise of a notebook, from its first one on, accepts a wrong answer."""
    exercises = [(name, one) for name, one in vars(check).items() if isinstance(one, Exercise)]
    for name, one in sorted(exercises, key=lambda item: item[1].name)[::2]:
        setattr(check, name, lambda attempt, *context, one=one: Answer(one, spoiled(one.reference)))


def spoiled(function):
    """The function with a result that is a little off, or of another kind; so for a class."""
    if isinstance(function, type):
        made_of = {"forward": spoiled(function.forward)}
        return type(function.__name__, (function,), made_of)

    def wrong(*arguments: Any) -> Any:
        return off(function(*arguments))

    return wrong


def off(value: Any) -> Any:
    """What comes out of a plausible mistake: near, but not the same."""
    if isinstance(value, Tensor):
        return ~value if value.dtype == torch.bool else value + 1
    if isinstance(value, dict):
        return {key: off(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(off, value))
    return value if value is None else value + 1
