"""Notebook 8: any lines of the committed results, on axes of one's own choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from ecar_lab.errors import EcarError
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.shipped import present
from ecar_lab.experiments.steps_and_guidance import front, mark_front
from ecar_lab.teaching.explore import WIDE, choice, explorer, flag
from ecar_lab.teaching.session import Session

# What is on an axis -> its name among the measures of a point.
ACROSS = {"GFLOP per image": "gflop", "steps, all stages": "steps", "ms per image": "ms"}
UPWARDS = {
    "Frechet distance": "frechet",
    "recall": "recall",
    "precision": "precision",
    "classified correctly": "named_right",
}
RESULTS = (
    *("quality", "single-stage", "two-stage", "resolution-scaling", "stage-ablation"),
    *("flow-vs-diffusion", "windows-and-couplings", "shipped", "steps-and-guidance"),
)
USUAL = ("E-CAR", "DiT", "one stage", "full denoise per scale")  # of experiment quality
BUDGETS = {"equal_images": "equal images", "equal_flops": "equal training FLOPs"}


@dataclass(frozen=True)
class Line:
    """A line of a result.

    Attributes:
        name: of what was measured, without the experiment's. judged: what images were compared
            with and how many; only lines that agree in it have distances that compare.
        points: ``gflop``, ``steps`` and, where it was timed, ``ms``; then the measures, each a
            number or a ``spread`` over seeds. joined: whether a line may be drawn through them.
    """

    name: str
    judged: str
    points: tuple[dict[str, Any], ...]
    joined: bool = True


def collect(results: Mapping[str, dict[str, Any]]) -> dict[str, Line]:
    """All lines of results, as ``experiment · line``.

    Args:
        results: name of an experiment -> its result JSON.
    """
    return {
        f"{name} · {label}": Line(
            label, judged(result), tuple(points), joined=name != "steps-and-guidance"
        )
        for name, result in results.items()
        for label, points in lines_of(result)
    }


def judged(result: Mapping[str, Any]) -> str:
    """Data set and number of images, e.g. ``1,000 images of digits``."""
    name, images = result["size"]["preset"], result["size"]["num_samples"]
    if result["experiment"] == "shipped":
        name, images = result["E-CAR"]["checkpoint"], result["E-CAR"]["images"]
    name, images = result.get("checkpoint", name), result.get("samples", images)
    return f"{images:,} images of {name}"


def lines_of(result: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and points of every line of a result."""
    experiment = result["experiment"]
    if experiment == "shipped":
        for name in present(result):
            entries = result[name]["points"]
            yield name, sorted((point(e) for e in entries), key=lambda p: p["gflop"])
    elif experiment == "steps-and-guidance":
        for kind in dict.fromkeys(row["kind"] for row in result["rows"]):
            entries = [point(row) for row in result["rows"] if row["kind"] == kind]
            yield kind, sorted(entries, key=lambda p: p["gflop"])
    elif experiment == "single-stage":
        yield "one stage", [point(row) for row in result["rows"]]
    elif experiment == "flow-vs-diffusion":
        for name, entries in result["end_to_end"].items():
            # These steps are per stage; a DiT has one stage.
            stages = len(result["real"]) if name in result["per_stage"] else 1
            yield name, [point({**e, "steps": [e["steps"]] * stages}) for e in entries]
    else:
        for row in result["rows"]:
            yield from lines_of_row(row, result)


def lines_of_row(
    row: Mapping[str, Any], result: Mapping[str, Any]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The lines of a row that has its ``quality`` at several step counts."""
    timed = result.get("time", {}).get(row["name"], row).get("seconds_per_image")
    budgets = {budget: row[budget]["quality"] for budget in BUDGETS if budget in row}
    for budget, entries in (budgets or {"": row["quality"]}).items():
        name = ", ".join(filter(None, (row["name"], BUDGETS.get(budget))))
        yield name, [point(entry, timed, result.get("timed_steps")) for entry in entries]


def point(
    entry: Mapping[str, Any], seconds: float | None = None, timed_steps: int | None = None
) -> dict[str, Any]:
    """One point of a line; ``seconds`` were measured at ``timed_steps`` steps per stage."""
    steps = entry["num_inference_steps" if "num_inference_steps" in entry else "steps"]
    steps = steps if isinstance(steps, list) else [steps]
    measures = {name: entry.get(name) for name in UPWARDS.values()}
    timed = seconds is not None and steps[0] == timed_steps
    return {
        "gflop": entry["gflop"],
        "steps": sum(steps),
        "ms": 1e3 * seconds if timed else None,
        **measures,
    }


def chart(
    lines: Mapping[str, Line],
    names: Sequence[str],
    x: str = "GFLOP per image",
    y: str = "Frechet distance",
    logarithmic: bool = True,
    pareto: bool = True,
) -> Figure:
    """The lines called ``names`` on the chosen axes, with what is on the front ringed.

    Raises:
        EcarError: nothing chosen, lines that do not compare, or a measure that they do not have.
    """
    if not names:
        raise EcarError("no line is chosen: mark one or several")
    chosen = [lines[name] for name in names]
    judges = sorted({line.judged for line in chosen})
    if len(judges) > 1:
        raise EcarError(
            f"these lines do not compare, they were measured on {' and on '.join(judges)}: choose "
            "lines of one kind"
        )
    across, upwards = ACROSS[x], UPWARDS[y]
    held = [[p for p in line.points if None not in (p[across], p[upwards])] for line in chosen]
    if not any(held):
        raise EcarError(f"none of these lines has {y!r} over {x!r}: choose other axes")

    figure, (axis,) = figures.new_figure(width=7.2, height=4.0)
    alone = len({line.name for line in chosen}) == len(chosen)
    for index, (name, line, points) in enumerate(zip(names, chosen, held, strict=True)):
        if points:
            values = [p[upwards] for p in points]
            look = figures.style(line.name if alone else "", index)
            look = look if line.joined else {**look, "linestyle": "none"}
            label = line.name if alone else name
            figures.line(axis, label, [p[across] for p in points], values, index, **look)
    if pareto:
        ring(axis, [p for points in held for p in points], across, upwards)
    axis.set(xlabel=x, ylabel=y)
    axis.set_title(judges[0], fontsize=10, loc="left")
    if logarithmic:
        # Shares stay on a plain axis: it begins at 0, which has no logarithm.
        figures.logarithmic(axis, "x", *(["y"] if upwards == "frechet" else []))
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def ring(axis: Any, points: Sequence[dict[str, Any]], across: str, upwards: str) -> None:
    """Rings around the points that no other one beats: small is good on the x axis and for
    distances, large for shares."""
    sign = 1 if upwards == "frechet" else -1
    rows: list[dict[str, Any]] = [
        {"gflop": p[across], "frechet": sign * mean_of(p[upwards])} for p in points
    ]
    mark_front(rows)
    best = front(rows)
    axis.plot(
        [row["gflop"] for row in best], [sign * row["frechet"] for row in best],
        "o", markersize=12, markerfacecolor="none", markeredgecolor="#1B1F24", label="front",
    )  # fmt: skip


def mean_of(entry: Any) -> float:
    """Of a ``spread``, or the number itself."""
    return entry["mean"] if isinstance(entry, Mapping) else entry


def results(lab: Session):
    """Controls for lines and axes above the figure that they make."""
    lines = collect({name: lab.result(f"{name}-cpu") for name in RESULTS})
    usual = [f"quality · {name}" for name in USUAL]

    def draw(names: Sequence[str], x: str, y: str, logarithmic: bool, pareto: bool) -> Figure:
        return chart(lines, names, x, y, logarithmic, pareto)

    marked = widgets.SelectMultiple(
        options=list(lines), value=usual, rows=10, description="lines (Ctrl, Shift)",
        style=WIDE["style"], layout={"width": "630px"},
    )  # fmt: skip
    return explorer(
        draw,
        {
            "names": marked,
            "x": choice("across", list(ACROSS)),
            "y": choice("upwards", list(UPWARDS)),
            "logarithmic": flag("logarithmic axes", True),
            "pareto": flag("ring the front", True),
        },
        {
            "distance over FLOPs": {},
            "recall over FLOPs": {"y": "recall"},
        },
        "Experiment `quality` twice; rings mark what no other point beats. Top: a smaller distance "
        "is better. Bottom: a larger recall is better. Which line has the rings depends on what is "
        "asked.",
        "Two charts of E-CAR, DiT, one stage and full denoise per scale over FLOPs per image. Top: "
        "the distance; the front leads from the cheapest points of E-CAR, DiT and one stage to "
        "full denoise per scale, and DiT's other points lie far above it. Bottom: recall, which "
        "rises with FLOPs for all four and puts points of all four on the front.",
        columns=1,
    )
