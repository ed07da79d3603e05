"""Runs the cells of a submission in a process of its own, within a time for each, and collects."""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ecar_lab
from ecar_lab.errors import EcarError
from ecar_lab.teaching.grading import judging
from ecar_lab.teaching.grading.report import Grade, Report
from ecar_lab.teaching.grading.submission import Located, Submission, read

COMMAND = [sys.executable, "-m", judging.__name__]
START = 300.0  # seconds for the process to be up: it imports torch
GRACE = 20.0  # seconds that a cell gets to end once it is interrupted
STARTS = 4  # a cell that ends the process is left out the next time; a notebook of them is given up
ALL = 20  # the whole notebook gets as much time as this many cells
# What a notebook may see of the environment: no keys and no passwords.
SEEN = (
    *("PATH", "HOME", "USER", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "PYTHONPATH"),
    *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
    *("ECAR_CHECKPOINTS", "MPLCONFIGDIR", "PYTHONHASHSEED", "USERPROFILE"),
)


@dataclass
class Run:
    """What came of running a submission's cells.

    Attributes:
        verdicts: number of an exercise -> state and sentence.
        notes: about the notebook.
        ended: place of a cell that ended the process, and is not run again -> how.
        spent: seconds in processes that are over.
    """

    limit: float
    verdicts: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    spent: float = 0.0


def grade(path: str | Path, limit: float = 120.0) -> Report:
    """Grades one notebook.

    It runs the learner's code, with all that this user may do.

    Args:
        limit: seconds that a cell may take.

    Raises:
        EcarError: it is no notebook of this kit, or the process does not start.
    """
    submission = read(path)
    run = Run(limit)
    if any(one.cells for one in submission.exercises):
        _run(submission, run)
    grades = [_grade(one, run) for one in submission.exercises]
    notes = [*submission.notes, *run.notes]
    if all(one.state == "missing" for one in grades):
        notes.append("nothing is filled in yet")
    return Report(str(path), submission.number, grades, notes)


def _grade(one: Located, run: Run) -> Grade:
    task = one.task
    if one.trouble:
        state, sentence = "absent", one.trouble
    else:
        unrun = ("wrong", "it was not reached: the notebook was given up before it")
        state, sentence = run.verdicts.get(task.number, unrun)
    points = task.points if state == "right" else 0
    return Grade(task.number, task.title, state, points, task.points, sentence, one.notes)


def _run(submission: Submission, run: Run) -> None:
    """Runs the cells up to the last exercise; without one that ended the process, if one did."""
    holds = {place: one for one in submission.exercises for place in one.cells}
    end = max(holds)
    cells = [cell for cell in submission.cells if cell.kind == "code" and cell.place <= end]
    for _ in range(STARTS):
        todo = []
        for cell in cells:
            one = holds.get(cell.place)
            is_last = one is not None and one.cells[-1] == cell.place
            if one and is_last and cell.place in run.ended:
                why = f"cell {cell.place} {run.ended[cell.place]}"
                run.verdicts[one.task.number] = ("wrong", why)
            number = one.task.number if one and one.task.number not in run.verdicts else ""
            if cell.place not in run.ended:
                todo.append((cell.place, cell.text, number, is_last))
        if _attempt(todo, run):
            return
    run.notes["its cells ended the process again and again: the rest was not run"] = None


def _attempt(cells: list[tuple[int, str, str, bool]], run: Run) -> bool:
    """One process; whether it came to the end of the cells."""
    order = {"token": secrets.token_hex(16), "cells": cells}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=folder, env=_environment(), start_new_session=True,
        )  # fmt: skip
        try:
            return _follow(process, order, run)
        finally:
            _kill(process)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in SEEN}
    root = str(Path(ecar_lab.__file__).resolve().parents[1])
    return {
        **kept,
        **{"ECAR_LAB_PROFILE": "fast", "ECAR_LAB_STATIC": "1", "HF_HUB_OFFLINE": "1"},
        **{"MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"},
        "PYTHONPATH": os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH")))),
    }


def _kill(process: subprocess.Popen) -> None:
    """Ends the process and all that the notebook started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def _follow(process: subprocess.Popen, order: dict[str, Any], run: Run) -> bool:
    """Reads what the process says, interrupts what takes too long; whether it came to the end."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def listen() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    def speak() -> None:
        try:
            assert process.stdin
            process.stdin.write(json.dumps(order).encode())
            process.stdin.close()
        except OSError:  # it is gone already, and its end says so
            pass

    for work in (listen, speak):
        threading.Thread(target=work, daemon=True).start()
    place, number, ready, interrupted = 0, "", False, False
    began = time.monotonic()
    while True:
        allowed = (GRACE if interrupted else run.limit) if ready else START
        try:
            line = lines.get(timeout=allowed)
        except queue.Empty:
            if ready and not interrupted and hasattr(os, "killpg"):
                interrupted = True
                _note_slow(run, place, number)
                process.send_signal(signal.SIGINT)
                continue
            line = None
            why = f"ran longer than {run.limit:g} s"
        else:
            why = "ended the process"
        if line is None:
            run.spent += time.monotonic() - began
            _give_up(run, place, number, ready, why)
            return False
        said = _message(line, order["token"])
        kind = said.get("kind")
        if kind is None:
            continue
        if kind == judging.READY:
            ready, began = True, time.monotonic()
        elif kind == judging.CELL:
            place, number, interrupted = said["place"], "", False
            if run.spent + time.monotonic() - began > ALL * run.limit:
                run.notes[f"it ran longer than {ALL * run.limit:g} s: not run from cell {place} on"
                          ] = None  # fmt: skip
                return True
        elif kind == judging.BEGIN:
            number, interrupted = said["number"], False
        elif kind == judging.RAISED:
            run.notes[f"cell {said['place']} raised {said['words']}"] = None
        elif kind == judging.CHANGED:
            run.notes[f"it changed {said['name']}, which was put back: read it"] = None
        elif kind == judging.VERDICT:
            state, sentence = said["state"], said["sentence"]
            if sentence == judging.STOPPED:
                sentence = f"it ran longer than {run.limit:g} s and was stopped"
            run.verdicts[said["number"]] = (state, sentence)
        elif kind == judging.END:
            return True


def _message(line: bytes, token: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(said, dict) or said.get("token") != token:
        return {}
    return {name: plain(value) if isinstance(value, str) else value for name, value in said.items()}


def plain(text: str) -> str:
    """Words of a learner's notebook as a terminal and a file can take them: no control characters,
    no halves of characters, no end of length."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text[:500])


def _note_slow(run: Run, place: int, number: str) -> None:
    if not number:
        run.notes[f"cell {place} ran longer than {run.limit:g} s and was stopped"] = None


def _give_up(run: Run, place: int, number: str, ready: bool, why: str) -> None:
    """Remembers which cell, or which check, ended the process.

    Raises:
        EcarError: it was not up yet.
    """
    if not ready:
        raise EcarError(
            "the process that runs notebooks did not start: see whether `python -m "
            f"{judging.__name__} < /dev/null` can import what it needs"
        )
    if number:
        run.verdicts[number] = ("wrong", f"it {why}")
    else:
        run.notes.pop(f"cell {place} ran longer than {run.limit:g} s and was stopped", None)
        run.notes[f"cell {place} {why}: left out"] = None
        run.ended[place] = why
