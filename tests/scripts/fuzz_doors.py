"""Tries the doors of the kit with seeded random input: command line, files, folders, Python.

    python tests/scripts/fuzz_doors.py --cases 300 --seed 0

Each case must end as a right result (as many images as asked for, all numbers finite, classes that
exist) or as one sentence of an ``EcarError``. Tracebacks, hangs and silent wrong results are listed
with the number that repeats them (``--only 17``), and the exit status is 1. Before all that, three
cases that are wrong on purpose must be found.
"""

import argparse
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ecar_lab.errors import EcarError  # noqa: E402
from tests.scripts.doors import DOORS, House, Silent, holds  # noqa: E402

METHOD = "fork" if sys.platform == "linux" else "spawn"


# -- faults on purpose -----------------------------------------------------------------------------


def crashes(house: House, draw: random.Random) -> str:
    raise ZeroDivisionError("on purpose")


def hangs(house: House, draw: random.Random) -> str:
    while True:
        time.sleep(1)


def lies(house: House, draw: random.Random) -> str:
    holds(math.isfinite(math.nan), "on purpose")
    return "a result"


ON_PURPOSE = {"traceback": crashes, "hang": hangs, "silent": lies}

# -- running them ----------------------------------------------------------------------------------


def judge(door: Callable, house: House, draw: random.Random) -> tuple[str, str]:
    """(verdict, detail): right, sentence, silent or traceback."""
    try:
        return "right", door(house, draw)
    except EcarError as error:
        text = str(error)
        if "\n" in text or ": " not in text or len(text) > 2000:
            return "silent", f"no sentence with a remedy: {text[:400]!r}"
        return "sentence", text
    except Silent as wrong:
        return "silent", str(wrong)
    except BaseException:
        return "traceback", traceback.format_exc(limit=-4)


def work(connection, house: House, seed: int) -> None:
    """Answers case after case until it is told to end."""
    torch.set_num_threads(1)
    mute = os.open(os.devnull, os.O_WRONLY)
    os.dup2(mute, 1)
    os.dup2(mute, 2)
    while (case := connection.recv()) is not None:
        name, number = case
        door = {**DOORS, **ON_PURPOSE}[name]
        with tempfile.TemporaryDirectory(dir=house.folder) as folder:
            os.chdir(folder)
            try:
                verdict = judge(door, house, random.Random(f"{seed} {number}"))
            finally:
                os.chdir(house.folder)
        connection.send(verdict)


class Pool:
    """One worker, begun anew whenever a case does not come back."""

    def __init__(self, house: House, seed: int, patience: float):
        self.house, self.seed, self.patience = house, seed, patience
        self.context: Any = multiprocessing.get_context(METHOD)
        self.start()

    def start(self) -> None:
        self.here, there = self.context.Pipe()
        self.process = self.context.Process(target=work, args=(there, self.house, self.seed))
        self.process.start()
        there.close()

    def ask(self, name: str, number: int) -> tuple[str, str]:
        self.here.send((name, number))
        try:
            if self.here.poll(self.patience):
                return self.here.recv()
            verdict = "hang", f"no answer within {self.patience:g} seconds"
        except EOFError:
            verdict = "traceback", "the process died"
        self.end()
        self.start()
        return verdict

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=120, help="seconds before it is a hang")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of cases to repeat")
    parser.add_argument("--door", choices=list(DOORS), help="one door only")
    chosen = parser.parse_args()
    if chosen.cases < 1:
        parser.error("--cases is below 1: nothing would be tried")
    started, verdicts, faults = time.monotonic(), Counter(), 0
    with tempfile.TemporaryDirectory(prefix="doors-") as folder:
        house = House(Path(folder))
        pool = Pool(house, chosen.seed, chosen.patience)
        for expected in ON_PURPOSE:
            pool.patience = 2.0 if expected == "hang" else chosen.patience
            found, _ = pool.ask(expected, 0)
            if found != expected:
                print(f"a {expected} on purpose was taken for: {found}. This check checks nothing.")
                return 1
        pool.patience = chosen.patience
        numbers = chosen.only if chosen.only is not None else range(chosen.cases)
        names = list(DOORS)
        for number in numbers:
            name = names[number % len(names)]
            if chosen.door not in (None, name):
                continue
            verdict, detail = pool.ask(name, number)
            verdicts[verdict] += 1
            if verdict not in ("right", "sentence"):
                faults += 1
                print(f"-- case {number}, {name}: {verdict}\n{detail}", flush=True)
            elif chosen.only is not None:
                print(f"-- case {number}, {name}: {verdict}\n{detail}", flush=True)
        pool.end()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    minutes = (time.monotonic() - started) / 60
    print(f"{sum(verdicts.values())} cases in {minutes:.1f} min, seed {chosen.seed}: {counts}")
    return 1 if faults or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
