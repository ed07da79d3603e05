"""The process that runs a learner's notebook and judges its exercises: ``python -m`` this module.

It reads an order from its input, one JSON object, and answers in lines of JSON on what was its
output; the learner's code gets an empty input and an output that leads nowhere. It is stopped from
outside: an interrupt ends the cell, or the check, that runs.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import torch
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from ecar_lab.teaching import check
from ecar_lab.teaching.check import Answer, Wrong, judge
from ecar_lab.teaching.exercises import Task, every

CELL, BEGIN, VERDICT, RAISED, CHANGED = "cell", "begin", "verdict", "raised", "changed"
READY, END = "ready", "end"
STOPPED = "stopped"  # the verdict of what was interrupted; who did so says why
NOT_YOURS = "it is the kit's own version: write it yourself"


class Shell(InteractiveShell):
    """IPython without a terminal and without a kernel."""

    def enable_gui(self, gui: Any = None) -> None:
        """There is no window to be opened."""

    def ask_exit(self) -> None:
        """``exit()`` ends nothing here."""


class Judge:
    """Runs cells and judges what they define.

    Args:
        tell: called with the kind of an event and its words.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self.tell, self.busy = tell, False
        self.judging = ""  # the number of the exercise whose answer runs
        self.tasks = every()
        self.diagnose = {number: task.check.diagnose for number, task in self.tasks.items()}
        for task in self.tasks.values():
            self._guard(task)
        self.kit = dict(_kit())
        self.shell = Shell.instance(config=Config({"HistoryManager": {"enabled": False}}))

    def _guard(self, task: Task) -> None:
        """Lets the kit's own version be called by the notebook, but not by an answer."""
        own = task.check.reference
        if isinstance(own, type):
            return

        @functools.wraps(own)
        def guarded(*given: Any, **named: Any) -> Any:
            if self.judging == task.number:
                raise Wrong(NOT_YOURS)
            return own(*given, **named)

        object.__setattr__(task.check, "reference", guarded)

    def interrupt(self, *_: Any) -> None:
        """The time of a cell is over; between cells nothing is to be stopped."""
        if self.busy:
            raise KeyboardInterrupt

    @contextmanager
    def _interruptible(self) -> Generator[None]:
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    def run(self, place: int, text: str, task: Task | None, is_last: bool) -> None:
        """Runs a cell, and judges the exercise that it holds."""
        space = self.shell.user_ns
        before = space.pop(task.defines, None) if task else None
        self.tell(CELL, place=place)
        signal.signal(signal.SIGINT, self.interrupt)  # a cell before may have changed it
        with self._interruptible():
            result = self.shell.run_cell(text, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        stopped = isinstance(error, KeyboardInterrupt)
        if error is not None and not stopped:
            self.tell(RAISED, place=place, words=_words(error))
        if task is None:
            return
        if task.defines in space:
            self.tell(BEGIN, number=task.number)
            state, sentence = self._verdict(task, space[task.defines])
        else:
            space[task.defines] = before
            why = "does not define it" if error is None else f"raised {_words(error)}"
            state, sentence = "wrong", STOPPED if stopped else f"cell {place} {why}"
        if is_last:
            self.tell(VERDICT, number=task.number, state=state, sentence=sentence)
        if state != "right":  # as the check does: the notebook goes on with the kit's
            space[task.defines] = task.check.reference

    def _verdict(self, task: Task, attempt: Any) -> tuple[str, str]:
        for name in self._put_back():
            self.tell(CHANGED, name=name)
        attempt = attempt.attempt if isinstance(attempt, Answer) else attempt
        if _is_the_kit_s(task, attempt):
            return "wrong", NOT_YOURS
        if not callable(attempt):
            return "wrong", f"`{task.defines}` is a {type(attempt).__name__}: define it as it was"
        self.judging = task.number
        try:
            with self._interruptible():
                found = judge(self.diagnose[task.number], attempt, *task.check.given())
        except KeyboardInterrupt:
            return "wrong", STOPPED
        except BaseException as error:  # SystemExit, and whatever is made to get past a check
            return "wrong", f"it raised {_words(error)}"
        finally:
            self.judging = ""
        return found.state, found.sentence

    def _put_back(self) -> list[str]:
        """Undoes what the notebook changed in the kit's checks; returns the names."""
        changed = []
        for (owner, name), value in self.kit.items():
            if vars(owner).get(name) is not value:
                setattr(owner, name, value)
                changed.append(f"{owner.__name__}.{name}")
        return changed


def _is_the_kit_s(task: Task, attempt: Any) -> bool:
    own = task.check.reference
    if isinstance(own, type) and isinstance(attempt, type):
        return issubclass(attempt, own)
    return str(getattr(attempt, "__module__", "")).startswith("ecar_lab")


def _kit() -> Iterator[tuple[tuple[Any, str], Any]]:
    """(Owner, name) and value of the functions and classes that judging stands on."""
    kit_s = [it for name, it in sys.modules.items() if name.startswith("ecar_lab.") and it]
    methods = [it for it in vars(check).values() if isinstance(it, type)]
    for owner in (*kit_s, torch, *methods):
        for name, value in vars(owner).items():
            if callable(value) and name not in ("__class__", "__doc__", "__dict__"):
                yield (owner, name), value


def _words(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def answers_only_here() -> TextIO:
    """What was the output; from now on printing leads nowhere, and there is nothing to read."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return answers


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    answers = answers_only_here()

    def tell(kind: str, **words: Any) -> None:
        line = json.dumps({"kind": kind, "token": order["token"], **words})
        answers.write(line + "\n")
        answers.flush()

    judge_of = Judge(tell)
    tell(READY)
    for place, text, number, is_last in order["cells"]:
        judge_of.run(place, text, judge_of.tasks.get(number), is_last)
    tell(END)
    os._exit(0)  # whatever threads the notebook left


if __name__ == "__main__":
    main()
