"""Runs the code of a notebook in a process that has torch and the kit imported already.

A Jupyter kernel spends longer on its imports than on many a notebook. Here a server imports once
and forks for every notebook, which then runs in IPython's shell, as it does in a kernel. What only
a kernel has is left to ``test_jupyterlab.py``.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

PRELOADED = ["tests.notebooks.preloaded"]


class Shell(InteractiveShell):
    """IPython without a terminal and without a kernel; figures are shown inline."""

    def enable_gui(self, gui=None):
        """There is no window to be opened."""


def outputs_of(cells: list[str], environment: dict[str, str], folder: Path) -> str:
    """All that the cells print and show, as JSON; each cell runs as in a notebook in ``folder``.

    Raises:
        AssertionError: a cell raised, which ends the notebook; with the cell and its traceback.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(cells, environment, folder, theirs))
    process.start()
    theirs.close()
    try:
        done, said = ours.recv()
    except EOFError:
        done, said = False, "the process ended without an answer"
    except BaseException:  # the test is given up
        process.kill()
        raise
    process.join()
    ours.close()
    assert done, said
    return said


def _run(cells: list[str], environment: dict[str, str], folder: Path, answer: Connection) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # from the variable
    os.chdir(folder)
    sys.path.insert(0, str(folder))  # as in a kernel: where the notebook lies
    quiet = Config({"HistoryManager": {"enabled": False}})
    shell = Shell.instance(config=quiet)
    shell.enable_matplotlib("inline")
    said = []
    for source in cells:
        with capture_output() as captured:
            result = shell.run_cell(source, store_history=True)
        shown = [output.data for output in captured.outputs]
        said.append([captured.stdout, captured.stderr, shown])
        if not result.success:
            answer.send((False, f"{source}\n\n{captured.stdout}{captured.stderr}"))
            return
    answer.send((True, json.dumps(said, ensure_ascii=False, default=str)))
