"""The figure of the experiment ``failure-signatures``, and the entries that it shares with the
table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.scores import plus_minus, spread

FIRED, SILENT, FRAME = "#D55E00", "#E3EEF6", "#1B2A38"


def make_figure(
    result: dict[str, Any], healthy: str, provoked: Sequence[str], leaky: str
) -> Figure:
    """The matrix of cases and diagnostics; the courses of the loss; the leak's deceptive loss.

    Args:
        healthy, provoked, leaky: names of the cases whose curves are shown.
    """
    figure = Figure(figsize=(11.5, 8.6), facecolor="white", dpi=110)
    axes = figure.subplot_mosaic([["matrix", "matrix"], ["course", "leak"]], height_ratios=(3, 2.2))
    figure.set_layout_engine("constrained")
    draw_matrix(axes["matrix"], result)
    rows = {row["name"]: row for row in result["rows"]}
    for axis in (axes["course"], axes["leak"]):
        axis.grid(color=figures.GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set(xlabel="images seen", yscale="log")
        axis.locator_params(axis="x", nbins=6)
    draw_courses(axes["course"], rows[healthy], [rows[name] for name in provoked])
    draw_last_stage(axes["leak"], [rows[healthy], rows[leaky]])
    return figure


def draw_matrix(axis: Axes, result: dict[str, Any]) -> None:
    """One coloured cell per case and diagnostic, framed where it is meant to fire."""
    rows, names = result["rows"], list(result["columns"])
    for y, row in enumerate(rows):
        for x, name in enumerate(names):
            text, share = cell(row, name)
            colour = "white" if share is None else tuple(
                (1 - share) * low + share * high
                for low, high in zip(to_rgb(SILENT), to_rgb(FIRED), strict=True)
            )  # fmt: skip
            axis.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white"))
            bold = "bold" if share else "normal"
            ink = "white" if share and share > 0.5 else FRAME
            axis.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=ink,
                      fontsize=9, fontweight=bold)  # fmt: skip
            if name in (row["expected"] or ()):
                box = Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, fill=False, edgecolor=FRAME)
                axis.add_patch(box)
    labels = [
        f"{n.replace('_', ' ', 1).replace('_', chr(10))}\n{result['columns'][n]}" for n in names
    ]
    axis.set_xticks([x + 0.5 for x in range(len(names))], labels, fontsize=8)
    axis.set_yticks([y + 0.5 for y in range(len(rows))], [row["name"] for row in rows], fontsize=9)
    axis.set(xlim=(0, len(names)), ylim=(len(rows), 0))
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    axis.set_title(
        "Median value over seeds; orange: fired; framed: meant to fire (one of them is enough)",
        fontsize=10, loc="left",
    )  # fmt: skip


def draw_courses(axis: Axes, healthy: dict[str, Any], provoked: list[dict[str, Any]]) -> None:
    """Logged losses of every seed; a cross where the trainer stopped the run."""
    last = 0
    for index, row in enumerate([healthy, *provoked]):
        look = figures.style(row["name"], index)
        for number, record in enumerate(row["seeds"]):
            curve = record["curve"]
            points = [(x, y) for x, y in zip(curve["images"], curve["loss"], strict=True) if y]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            label = row["name"] if number == 0 else None
            axis.plot(x, y, color=look["color"], marker=look["marker"], markersize=3,
                      linewidth=1.2, label=label)  # fmt: skip
            if record["stopped"]:
                axis.plot(x[-1], y[-1], "x", color=look["color"], markersize=10, markeredgewidth=2)
            last = max(last, x[-1] if row is not healthy else 0)
    axis.set_xlim(0, 1.4 * last if last else None)
    axis.set(ylabel="loss")
    axis.legend(fontsize=8, frameon=False)
    axis.set_title("Unstable, not falling, healthy (x: stopped by the trainer)", fontsize=10,
                   loc="left")  # fmt: skip


def draw_last_stage(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """The loss of the finest stage, mean over seeds, which a leak lowers; and what the samples are
    worth."""
    for index, row in enumerate(rows):
        curves = [record["curve"] for record in row["seeds"]]
        stages = [[entry[-1] for entry in curve["loss_stage"]] for curve in curves]
        means = [statistics.fmean(column) for column in zip(*stages, strict=False)]
        label = f"{row['name']} (Frechet distance {distance(row)})"
        figures.line(axis, label, curves[0]["images"][: len(means)], means, index, markersize=3)
    axis.set(ylabel="loss of the finest stage")
    axis.legend(fontsize=8, frameon=False)
    axis.set_title("Loss of the finest stage, with and without a leak", fontsize=10, loc="left")


def cell(row: dict[str, Any], name: str) -> tuple[str, float | None]:
    """The median value over seeds as text, and the share of seeds in which it fired; None: it was
    not measured."""
    found = [record["diagnoses"].get(name) for record in row["seeds"]]
    known = [one for one in found if one and (one["value"] is not None or one["fired"])]
    if not known:
        return "–", None
    share = statistics.fmean(one["fired"] for one in known)
    value = statistics.median(math.inf if one["value"] is None else one["value"] for one in known)
    text = "∞" if math.isinf(value) else f"{value:.3g}" if value < 1e4 else f"{value:.0e}"
    return text, share


def distance(row: dict[str, Any]) -> str:
    """Frechet distance over seeds, as a table shows it."""
    values = [record["frechet"] for record in row["seeds"] if "frechet" in record]
    return plus_minus(spread(values)) if values else "–"
