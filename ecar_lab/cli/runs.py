"""`ecar runs`: local training runs, listed, compared and drawn."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from ecar_lab.cli.switches import parse
from ecar_lab.errors import EcarError
from ecar_lab.files import check_outputs, output_file
from ecar_lab.runs.records import Run, find_runs
from ecar_lab.runs.table import comparable, table
from ecar_lab.schema import Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = (".png", ".svg", ".pdf")


@dataclass
class RunsSwitches:
    """List the training runs in a folder: size, images, minutes, loss, and the distance of those
    that were evaluated (ecar evaluate --output RUN/evaluation.json)."""

    folder: Positional[Text] = "runs"
    """The folder that runs lie in, or one run."""
    plot: Path | None = None
    """Draw distance over minutes into this file: .png, .svg or .pdf."""
    curves: Path | None = None
    """Draw the losses of one run over the images it has seen into this file: .png, .svg or .pdf."""
    page: Path | None = None
    """Write table, plot and every run's curves to this .html file, which needs nothing else."""
    json: bool = False
    """Print JSON."""


def run(arguments: list[str]) -> None:
    switches = parse(RunsSwitches, "runs", arguments)
    check_outputs(
        {
            "--plot": (switches.plot, PLOTS),
            "--curves": (switches.curves, PLOTS),
            "--page": (switches.page, (".html",)),
        }
    )
    found, problems = find_runs(switches.folder)
    compared, left_out = comparable(found)
    single = only(found, switches.folder) if switches.curves is not None else None
    drawn = switches.plot is not None or switches.page is not None
    for sentence in [*problems, *(left_out if drawn else [])]:
        print(sentence, file=sys.stderr)
    if switches.json:
        print(json.dumps([as_dict(one) for one in found], indent=2))
    else:
        print(table(found) if found else f"no runs in {switches.folder}")
    if switches.plot is not None:
        from ecar_lab.runs.pages import pareto

        save(pareto(compared), switches.plot, "distance over minutes")
    if switches.curves is not None and single is not None:
        from ecar_lab.runs.pages import curves

        save(curves(single), switches.curves, f"the losses of {single.name}")
    if switches.page is not None:
        from ecar_lab.runs.pages import page

        text = page(found, compared)
        with output_file(switches.page) as fresh:
            Path(fresh).write_text(text, encoding="utf-8")
        print(f"{switches.page}: the runs and their curves", file=sys.stderr)


def save(figure: Figure, path: Path, what: str) -> None:
    """Writes a figure, whole or not at all, and says so."""
    with output_file(path) as fresh:
        figure.savefig(fresh)
    print(f"{path}: {what}", file=sys.stderr)


def only(found: Sequence[Run], folder: str) -> Run:
    """The run whose curves are drawn.

    Raises:
        EcarError: there are none with a log, or several.
    """
    logged = [run for run in found if run.rows]
    if len(logged) != 1:
        names = ", ".join(run.name for run in logged[:3]) or "none"
        raise EcarError(
            f"--curves draws one run, and {folder!r} holds {len(logged)} that have logged a loss "
            f"({names}): name the folder of one"
        )
    return logged[0]


def as_dict(one: Run) -> dict:
    """A line of the table, as JSON."""
    return {
        "run": one.name,
        "kind": one.kind,
        "preset": one.preset,
        "parameters": one.parameters,
        "images": one.images,
        "minutes": one.minutes,
        "loss": one.loss,
        "distance": one.distance and one.distance.value,
        "measured_on": one.distance and one.distance.described,
        "finished": one.finished,
    }
