"""`ecar`: finds the command that was typed, and brings errors to the person who typed it.

Nothing is imported before it is needed: `ecar --help` answers at once. What a user can put right
arrives as :class:`EcarError`, is printed as ``error: <sentence>`` and ends with exit status 2.
Anything else is a fault of the kit and keeps its traceback.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ecar_lab.errors import EcarError, is_out_of_memory

USER_ERROR, INTERRUPTED = 2, 130
MEMORY_REMEDY = "make fewer or smaller images at a time, close other programs, or use --device cpu"


class Verb(NamedTuple):
    """One command: its line in the help, and the function in this package that runs it.

    The function takes the remaining arguments and returns the exit status, None for 0.
    """

    summary: str
    function: str


VERBS = {
    "train tokenizer": Verb("train a tokenizer: images to latents and back", "train.tokenizer"),
    "train model": Verb("train the generator on the latents of a tokenizer", "train.model"),
    "train turbo": Verb("teach a few-step head with a trained generator", "train.turbo"),
    "train features": Verb("train the classifier that evaluation measures with", "train.features"),
    "plan": Verb("hours, memory and cost of a training, before it begins", "plan.run"),
    "runs": Verb("list, compare and draw the runs that are here", "runs.run"),
    "sample": Verb("make images with a checkpoint", "sample.run"),
    "export onnx": Verb("write a checkpoint for where there is no PyTorch", "export.onnx"),
    "evaluate": Verb("measure a checkpoint against a data set", "evaluate.run"),
    "benchmark": Verb("FLOPs, time and memory against other models", "benchmark.run"),
    "experiment": Verb("put one of the paper's claims to the test", "experiment.run"),
    "grade": Verb("the points of notebooks that learners filled in", "grade.run"),
    "data": Verb("list the data sets that are here, look into one", "data.run"),
    "doctor": Verb("what is here, what is wrong, and the remedy", "doctor.run"),
    "app": Verb("serve the live page in the browser", "app.run"),
    "demo": Verb("another name for app", "app.demo"),
    "notebooks": Verb("copy the notebooks into a folder of yours", "notebooks.run"),
    "push": Verb("send a checkpoint to the Hub, with its card", "hub.push"),
    "pull": Verb("fetch a checkpoint from the Hub, weights only", "hub.pull"),
    "space": Verb("write a Gradio Space that serves the app", "hub.space"),
    "serve": Verb("serve images to programs, over HTTP", "serve.run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # Names in a script that the terminal's encoding lacks are written as \u escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ecar_lab").setLevel(logging.INFO)
    try:
        return dispatch(arguments)
    except EcarError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: the memory is full: {MEMORY_REMEDY}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` say, has seen enough; nothing more may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def dispatch(arguments: list[str]) -> int:
    """Runs the command that ``arguments`` begin with, or prints the list of commands.

    Raises:
        EcarError: there is no such command.
    """
    for length in (1, 2):
        verb = VERBS.get(" ".join(arguments[:length]))
        if verb:
            module, function = verb.function.split(".")
            run = getattr(importlib.import_module(f"ecar_lab.cli.{module}"), function)
            return run(arguments[length:]) or 0
    if arguments[:1] == ["--version"]:
        print(f"ecar_lab {importlib.metadata.version('ecar-lab')}")
        return 0
    words = [word for word in arguments if not word.startswith("-")]
    group = " ".join(words[:1])
    family = {name: verb for name, verb in VERBS.items() if name.split()[0] == group} or VERBS
    if not words or (words == [group] and family is not VERBS):
        print("usage: ecar COMMAND [--help | switches]\n")
        width = max(map(len, family))
        print("\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in family.items()))
        return 0
    raise EcarError(f"there is no command {' '.join(words[:2])!r}: use one of {', '.join(family)}")
