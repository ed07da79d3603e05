"""One model, several visitors: whose turn it is to compute, also in the middle of a run.

A job keeps the model until it is done, or until it has had it for a while and somebody else waits:
then the next event of its run waits instead. So a long run delays a short one by a moment and not
by its whole length, and no two compute at the same time. Where nobody gave out turns (a notebook, a
test), :func:`breathe` does nothing.

So nobody may hold a lock while a run goes on: the run may wait for its turn, and whoever has the
turn for the lock. What is computed once for several is ``apps.shared.once``'s.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gradio as gr

from apps.server.visitors import Shares, Visitor

SLICE = 0.15  # seconds after which a job lets others go first
Item = TypeVar("Item")
_own = threading.local()


class Left(gr.Error):
    """Ends a job whose sender has left or stopped it."""

    def __init__(self) -> None:
        super().__init__("this run was stopped: its page was closed", print_exception=False)


class Turn:
    """A job's claim to the model. ``gone``: whether nobody waits for the job any more."""

    def __init__(self, turns: Turns, visitor: Visitor, gone: Callable[[], bool]) -> None:
        self.turns, self.visitor, self.gone = turns, visitor, gone
        self.computing = False
        self.until = 0.0


class Turns:
    """The one model and those who wait for it."""

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self._free = threading.Condition()
        self._holder: Turn | None = None
        self._waiting: list[Turn] = []

    def take(self, turn: Turn) -> None:
        """Waits until it is this job's turn.

        Raises:
            Left: its sender has left meanwhile.
        """
        with self._free:
            if self._holder is turn:  # it had only paused to show something
                turn.computing = True
                return
            self._waiting.append(turn)
            try:
                while not self._may(turn):
                    if turn.gone():
                        raise Left
                    self._free.wait(0.05)
            finally:
                self._waiting.remove(turn)
            self.shares.serve(turn.visitor)
            self._holder, turn.computing = turn, True
            turn.until = time.monotonic() + SLICE

    def pause(self, turn: Turn) -> None:
        """The job shows something; it keeps its turn for as long as that would have lasted."""
        with self._free:
            turn.computing = False
            if self._holder is turn and time.monotonic() > turn.until:
                self._holder = None
            self._free.notify_all()

    def give_back(self, turn: Turn) -> None:
        """The job is done, or waits for another one."""
        with self._free:
            turn.computing = False
            if self._holder is turn:
                self._holder = None
            self._free.notify_all()

    def breathe(self, turn: Turn) -> None:
        """Lets others go first if this job has had its time.

        Raises:
            Left: its sender has left.
        """
        if turn.gone():
            raise Left
        if time.monotonic() > turn.until and self._waiting:
            self.give_back(turn)
            self.take(turn)

    def _may(self, turn: Turn) -> bool:
        holder = self._holder
        if holder is not None and (holder.computing or time.monotonic() <= holder.until):
            return False
        return turn is min(self._waiting, key=lambda one: self.shares.rank(one.visitor))


def breathe() -> None:
    """To be called between the steps of a computation; see :meth:`Turns.breathe`."""
    turn: Turn | None = getattr(_own, "turn", None)
    if turn is not None:
        turn.turns.breathe(turn)


def paced(events: Iterable[Item]) -> Generator[Item, None, None]:
    """The events of a run, with time to breathe before each; closes the run in the end."""
    try:
        for event in events:
            yield event
            breathe()
    finally:
        if (close := getattr(events, "close", None)) is not None:
            close()


@contextmanager
def resting() -> Generator[None]:
    """While something is waited for that another job computes, that other one may have the model.

    Raises:
        Left: the sender has left meanwhile.
    """
    turn: Turn | None = getattr(_own, "turn", None)
    if turn is None:
        yield
        return
    turn.turns.give_back(turn)
    try:
        yield
    finally:
        turn.turns.take(turn)


@contextmanager
def claimed(turns: Turns, visitor: Visitor) -> Generator[None]:
    """What is computed past the queue (a picture that a slider asks for) waits its turn, too."""
    turn = Turn(turns, visitor, lambda: False)
    try:
        with _has(turn):
            yield
    finally:
        turns.give_back(turn)


def in_turns(function: Callable, turn_of: Callable[[], Turn]) -> Callable:
    """A function of the page, or a generator of what the page shows, that computes in turns."""

    @functools.wraps(function)
    def once(*args: Any, **kwargs: Any) -> Any:
        turn = turn_of()
        try:
            with _has(turn):
                return function(*args, **kwargs)
        finally:
            turn.turns.give_back(turn)

    @functools.wraps(function)
    def step_by_step(*args: Any, **kwargs: Any) -> Iterator[Any]:
        turn = turn_of()
        steps = function(*args, **kwargs)
        try:
            while True:
                with _has(turn):
                    item = next(steps, steps)
                if item is steps:
                    return
                yield item
        finally:
            turn.turns.give_back(turn)
            steps.close()

    told = step_by_step if inspect.isgeneratorfunction(function) else once
    # Gradio reads it; that of a method would name self, too.
    vars(told)["__signature__"] = inspect.signature(function)
    return told


@contextmanager
def _has(turn: Turn) -> Generator[None]:
    """What this thread computes within is this job's."""
    turn.turns.take(turn)
    _own.turn = turn
    try:
        yield
    finally:
        _own.turn = None
        turn.turns.pause(turn)
