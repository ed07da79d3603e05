"""`ecar doctor`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ecar_lab import doctor
from ecar_lab.verbs.switches import parse


@dataclass
class DoctorSwitches:
    """Say what this installation has, what is wrong, and how to put it right.

    Exit status 1 means that the demo cannot run.
    """

    data: str | None = None
    """Folder that holds the data sets; without it the variable ECAR_DATA is used."""
    json: bool = False
    """Print JSON."""


def run(arguments: list[str]) -> int:
    switches = parse(DoctorSwitches, "doctor", arguments)
    findings = doctor.examine(switches.data)
    verdict = doctor.as_dict(findings)
    print(json.dumps(verdict, indent=2) if switches.json else doctor.report(findings))
    return 0 if verdict["ok"] else 1
