"""Runs as a plot and as a page: distance over minutes, and the curves of every run."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ecar_lab.errors import EcarError
from ecar_lab.runs.records import Run
from ecar_lab.runs.table import HEADER, best, cells
from ecar_lab.viz.colours import STAGE_HUES as HUES

GRID = "#D8DCE1"
NONE_EVALUATED = (
    "none of these runs was evaluated: `ecar evaluate --checkpoint RUN/final --output "
    "RUN/evaluation.json`, then plot again"
)
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Training runs</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light">
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1c2024; background: #fff }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
.wide {{ overflow-x: auto }}
th, td {{ padding: .25rem .75rem; border-bottom: 1px solid #d8dce1; text-align: right }}
th:nth-child(-n+3), td:nth-child(-n+3), td:last-child {{ text-align: left }}
svg {{ max-width: 100%; height: auto }}
figure {{ margin: 1.5rem 0 }}
</style>
<h1>Training runs</h1>
<div class="wide"><table>
<thead><tr>{header}</tr></thead>
<tbody>
{rows}
</tbody></table></div>
{figures}
</html>
"""


def new_figure(x: str, y: str) -> tuple[Figure, Any]:
    """A white figure and its axes, named."""
    figure = Figure(figsize=(7.5, 4), facecolor="white", dpi=110)
    axis = figure.subplots()
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xlabel=x, ylabel=y)
    figure.set_layout_engine("constrained")
    return figure, axis


def pareto(runs: Sequence[Run]) -> Figure:
    """Distance over minutes; a line through the runs that no other beats in both.

    Raises:
        EcarError: no run has a distance.
    """
    if not runs:
        raise EcarError(NONE_EVALUATED)
    figure, axis = new_figure("minutes of training", "Frechet distance")
    front = best(runs)
    for run in runs:
        assert run.distance is not None
        axis.plot(run.minutes, run.distance.value, "o", color=HUES[0 if run in front else 1])
        axis.annotate(
            run.name, (run.minutes or 0, run.distance.value), textcoords="offset points",
            xytext=(6, 4), fontsize=8,
        )  # fmt: skip
    ends = [(run.minutes, run.distance.value) for run in front if run.distance]
    axis.plot(*zip(*ends, strict=True), color=HUES[0], linewidth=1.4)
    axis.set_title(runs[0].distance.described if runs[0].distance else "", fontsize=9)
    return figure


def curves(run: Run) -> Figure:
    """The losses of a run over the images that it has seen."""
    figure, axis = new_figure("images seen", "loss")
    for number, (name, points) in enumerate(run.curves().items()):
        axis.plot(*zip(*points, strict=True), label=name, color=HUES[number % len(HUES)],
                  linewidth=2 if name == "loss" else 1.2)  # fmt: skip
    axis.legend(frameon=False, fontsize=8)
    return figure


def page(runs: Sequence[Run], compared: Sequence[Run]) -> str:
    """A page of its own, which fetches nothing: the table, the plot where runs can be compared, and
    every run's curves."""
    parts = []
    if compared:
        parts.append(("Distance over minutes", pareto(compared)))
    parts += [(run.name, curves(run)) for run in runs if run.rows]
    return PAGE.format(
        header="".join(f"<th>{html.escape(word)}</th>" for word in HEADER),
        rows="\n".join(
            "<tr>" + "".join(f"<td>{html.escape(word)}</td>" for word in cells(run)) + "</tr>"
            for run in runs
        ),
        figures="\n".join(
            f"<figure><h2>{html.escape(title)}</h2>\n{as_svg(figure, title)}\n</figure>"
            for title, figure in parts
        ),
    )


def as_svg(figure: Figure, title: str) -> str:
    """A figure as an element of a page, its letters as outlines."""
    held = io.StringIO()
    figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    text = held.getvalue()
    label = f'<svg role="img" aria-label="{html.escape(title)}"'
    return label + text[text.index("<svg") + len("<svg") :]
