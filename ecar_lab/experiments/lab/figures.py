"""How the figures of experiments look: one style, safe for the colour-blind and in grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ecar_lab.viz.colours import STAGE_HUES

# Who is who in every figure: a hue (Okabe and Ito's), a marker and a line of its own.
STYLES: dict[str, dict[str, Any]] = {
    "E-CAR": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "few-step E-CAR": {"color": "#009E73", "marker": "D", "linestyle": "-."},
    "E-CAR, windows": {"color": "#0072B2", "marker": "*", "linestyle": "--"},
    "DiT": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "full denoise per scale": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "token by token": {"color": "#CC79A7", "marker": "D", "linestyle": ":"},
    "token by token, no KV cache": {"color": "#CC79A7", "marker": "x", "linestyle": ":"},
    "masked AR": {"color": "#E69F00", "marker": "v", "linestyle": "--"},
    "one stage": {"color": "#56B4E9", "marker": "P", "linestyle": "-"},
}
MARKERS = "osD^vPXx"
GRID = "#D8DCE1"


def new_figure(
    columns: int = 1, rows: int = 1, *, width: float = 4.6, height: float = 3.5
) -> tuple[Figure, list[Axes]]:
    """A white figure and its axes, row by row."""
    figure = Figure(figsize=(width * columns, height * rows), facecolor="white", dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False)
    flat = [axis for row in axes for axis in row]
    for axis in flat:
        axis.grid(color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.set_layout_engine("constrained")
    return figure, flat


def style(name: str, index: int = 0) -> dict[str, Any]:
    """The look of a named competitor; of another line, by its number."""
    hue, marker = STAGE_HUES[index % len(STAGE_HUES)], MARKERS[index % len(MARKERS)]
    return STYLES.get(name, {"color": hue, "marker": marker, "linestyle": "-"})


def line(
    axis: Axes,
    name: str,
    x: Sequence[float],
    entries: Sequence[Any],
    index: int = 0,
    **options: Any,
) -> None:
    """A line through numbers or through ``spread`` entries, those with error bars."""
    means = [entry["mean"] if isinstance(entry, dict) else entry for entry in entries]
    errors = [(entry["std"] or 0) if isinstance(entry, dict) else 0 for entry in entries]
    look: dict[str, Any] = {**style(name, index), "markersize": 5, "linewidth": 1.6, **options}
    axis.errorbar(x, means, yerr=errors if any(errors) else None, label=name, capsize=3, **look)


def logarithmic(axis: Axes, *axes: str, **labels: Any) -> None:
    """Logarithmic axes ("x", "y") with plain numbers at their ticks; ``labels`` as of ``Axes.set``.
    Call it when everything is drawn: where less than a decade is shown, more ticks get a number."""
    axis.set(**{f"{name}scale": "log" for name in axes}, **labels)
    for name in axes:
        side = axis.xaxis if name == "x" else axis.yaxis
        low, high = axis.get_xlim() if name == "x" else axis.get_ylim()
        decades = math.log10(high / low)
        steps = (1, 2, 3, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
        side.set_major_locator(LogLocator(subs=steps, numticks=12))
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_formatter(NullFormatter())


def bars(axis: Axes, names: Sequence[str], entries: Sequence[Any], **options: Any) -> None:
    """Horizontal bars, the first on top, with the value at the end of each."""
    means = [entry["mean"] if isinstance(entry, dict) else entry for entry in entries]
    errors = [(entry["std"] or 0) if isinstance(entry, dict) else 0 for entry in entries]
    look: dict[str, Any] = {"color": STAGE_HUES[0], "height": 0.62, **options}
    axis.barh(range(len(names)), means, xerr=errors if any(errors) else None, capsize=3, **look)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.16)
    for row, (mean, error) in enumerate(zip(means, errors, strict=True)):
        value = f"{mean:,.0f}" if mean >= 1000 else f"{mean:.3g}"
        axis.annotate(
            value, (mean + error, row), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def guidance_text(row: dict[str, Any]) -> str:
    """The scale of each stage, with the local times between which it acts if not all the way; one
    value of either is that of all stages. (Results from before there were intervals name none.)"""
    scales = row["guidance_scale"]
    scales = scales if isinstance(scales, list) else [scales]
    intervals: Any = row.get("guidance_interval") or [0, 1]
    if not isinstance(intervals[0], list):
        intervals = [intervals] * len(scales)
    return " / ".join(
        f"{scale:g}" if scale == 1 or [low, high] == [0, 1] else f"{scale:g} in {low:g}–{high:.2g}"
        for scale, (low, high) in zip(scales, intervals, strict=True)
    )


def power_text(row: dict[str, Any]) -> str:
    """The power of each stage's time grid, or of all stages'. (Old results name none: even.)"""
    powers = row.get("time_power", 1)
    return " / ".join(f"{power:g}" for power in (powers if isinstance(powers, list) else [powers]))
