"""`ecar evaluate`: measures a checkpoint against a data set."""

from __future__ import annotations

from ecar_lab.cli.switches import parse_call
from ecar_lab.evaluation.evaluate import evaluate, markdown


def run(arguments: list[str]) -> None:
    options = parse_call(evaluate, "evaluate", arguments)
    print(markdown(evaluate(**options)))
    if options["output"] is not None:
        print(f"\n{options['output']}: these numbers with all settings")
