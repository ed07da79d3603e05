"""`ecar grade`: the points of learners' notebooks."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ecar_lab.cli.switches import parse
from ecar_lab.errors import EcarError
from ecar_lab.files import check_output, output_file
from ecar_lab.schema import Positive, Text


@dataclass
class GradeSwitches:
    """Grade notebooks that learners filled in: every exercise is judged by the kit's own check.

    THIS RUNS THE CODE IN THEM, with all that you may do on this machine. Grade what strangers wrote
    as a user of its own, in a container or on a machine that holds nothing else. What a notebook
    prints counts for nothing, and a cell that raises does not stop the rest. Each notebook runs in
    an empty folder, offline, in the fast profile.

    Exit status 2 means that some of the files could not be graded.
    """

    notebooks: Positional[tuple[Text, ...]]
    """The files, e.g. submissions/*.ipynb."""
    limit: Positive = 120.0
    """Seconds that a cell may take before it is stopped."""
    out: Path | None = None
    """Write all of it to this .json file, or one row per notebook to this .csv file."""
    json: bool = False
    """Print JSON in place of tables."""


def run(arguments: list[str]) -> int:
    switches = parse(GradeSwitches, "grade", arguments)
    if not switches.notebooks:
        raise EcarError("there is nothing to grade: name notebooks, e.g. submissions/*.ipynb")
    if switches.out is not None:
        check_output(switches.out, (".json", ".csv"))
    from ecar_lab.teaching.grading.grader import grade
    from ecar_lab.teaching.grading.report import as_csv, table

    reports, refused = [], {}
    for name in dict.fromkeys(switches.notebooks):
        try:
            reports.append(grade(name, switches.limit))
        except EcarError as error:
            refused[name] = str(error)
            print(f"error: {error}", file=sys.stderr)
            continue
        if not switches.json:
            print(table(reports[-1]), flush=True)
    found = {"notebooks": [one.as_dict() for one in reports], "refused": refused}
    document = json.dumps(found, indent=2, ensure_ascii=False)
    if switches.json:
        print(document)
    if switches.out is not None:
        is_table = switches.out.suffix.lower() == ".csv"
        with output_file(switches.out) as fresh:
            fresh.write_text(as_csv(reports) if is_table else f"{document}\n", "utf-8")
    return 2 if refused else 0
