"""`ecar benchmark`: what E-CAR costs on this machine, beside other models."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ecar_lab.benchmark.costs import run_benchmark, table
from ecar_lab.cli.switches import parse_call
from ecar_lab.files import check_output, write_json


@dataclass
class OutputSwitch:
    output: Annotated[Path | None, tyro.conf.arg(aliases=["--out"])] = None
    """JSON file to write."""


def run(arguments: list[str]) -> None:
    options = parse_call(
        run_benchmark, "benchmark", arguments, leave_out=["report"], further=OutputSwitch
    )
    output = options.pop("output")
    if output is not None:
        check_output(output, [".json"])
    result = run_benchmark(**options, report=lambda line: print(line, file=sys.stderr))
    print(table(result))
    if output is not None:
        write_json(output, result)
        print(f"\n{output}: these numbers with all settings")
