"""`ecar doctor`: of this installation; `ecar doctor RUN`: of a training run or a checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tyro.conf import Positional

from ecar_lab.cli.switches import parse
from ecar_lab.doctor.findings import as_dict, report
from ecar_lab.doctor.installation import examine
from ecar_lab.schema import Images, Text


@dataclass
class DoctorSwitches:
    """Say what this installation has, what is wrong, and how to put it right; or, given a run or a
    checkpoint, which of the known ways to fail it shows.

    Exit status 1 means that the demo cannot run, or that the run's result is of no use.
    """

    run: Positional[Text | None] = None
    """Run folder of `ecar train`, folder of a checkpoint, or name of one that ships."""
    data: Text | None = None
    """Folder that holds the data sets; without it the variable ECAR_DATA is used."""
    images: Images = 64
    """Images that the model of a run generates to be looked at."""
    device: str = "auto"
    """Device that they are generated on: auto, cpu, cuda or mps."""
    json: bool = False
    """Print JSON."""


def run(arguments: list[str]) -> int:
    switches = parse(DoctorSwitches, "doctor", arguments)
    if switches.run is None:
        findings = examine(switches.data)
        text = report(findings)
    else:
        from ecar_lab.doctor import run as checkup

        findings = checkup.examine(switches.run, switches.data, switches.images, switches.device)
        text = report(findings, "nothing is wrong with it")
    verdict = as_dict(findings)
    print(json.dumps(verdict, indent=2) if switches.json else text)
    return 0 if verdict["ok"] else 1
