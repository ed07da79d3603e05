"""`ecar plan`: what a training would take, before it is begun."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ecar_lab.cli.switches import parse_call
from ecar_lab.training.plan import described, plan_training


@dataclass
class PrintSwitch:
    json: bool = False
    """Print JSON."""


def run(arguments: list[str]) -> None:
    options = parse_call(plan_training, "plan", arguments, further=PrintSwitch)
    as_json = options.pop("json")
    plan = plan_training(**options)
    print(json.dumps(plan.as_dict(), indent=2) if as_json else described(plan))
