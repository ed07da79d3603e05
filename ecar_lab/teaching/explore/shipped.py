"""Notebooks 8 and 9: what the file of experiment `shipped` says, in words that follow its numbers.

The file is measured again whenever other weights ship. So nothing of its outcome stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from IPython.display import Markdown, display

from ecar_lab.experiments import load_experiment
from ecar_lab.experiments.shipped import cheapest_as_good, present
from ecar_lab.schedule import plan_text
from ecar_lab.teaching.figures import show, table

Point = Mapping[str, Any]
Result = Mapping[str, Any]


def points(result: Result) -> Iterator[tuple[str, Point]]:
    """Every (name, point) of the file."""
    for name in present(result):
        for point in result[name]["points"]:
            yield name, point


def best(result: Result, name: str) -> Point:
    """The point of a checkpoint with the smallest distance."""
    return min(result[name]["points"], key=lambda point: point["frechet"])


def nearest(result: Result, name: str, gflop: float) -> Point:
    """The point of a checkpoint whose cost comes nearest to `gflop`, by their ratio."""
    return min(result[name]["points"], key=lambda p: max(p["gflop"] / gflop, gflop / p["gflop"]))


def standing(one: Point, other: Point) -> str:
    """``lower``, ``higher`` or ``level``: level if the intervals of both distances overlap, where
    the file has any."""
    gap = one["frechet"] - other["frechet"]
    if abs(gap) <= one.get("interval", 0.0) + other.get("interval", 0.0):
        return "level"
    return "lower" if gap < 0 else "higher"


def steps_of(point: Point) -> str:
    """``8 + 6 + 6 steps``, ``50 steps``."""
    return f"{plan_text(point['num_inference_steps'])} steps"


def distance_of(point: Point) -> str:
    """The distance, with half the width of its interval where it is known."""
    interval = point.get("interval")
    return f"{point['frechet']:.2f}" + ("" if interval is None else f" ± {interval:.2f}")


def described(name: str, point: Point) -> str:
    """``DiT, 50 steps: 1.31 at 78.9 GFLOP``."""
    return f"{name}, {steps_of(point)}: {distance_of(point)} at {point['gflop']:.3g} GFLOP"


def figure(result: Result, number: str) -> None:
    """Shows distance over cost of all points; caption and text name them from the lowest up."""
    ranked = sorted(points(result), key=lambda entry: entry[1]["frechet"])
    drawn = load_experiment("shipped").draw(result)
    over = "GFLOP per image" if len(drawn.axes) == 1 else "GFLOP and milliseconds per image"
    first, last = ranked[0], ranked[-1]
    show(
        drawn,
        f"Figure {number}. The CIFAR-10 checkpoints that ship, {result['E-CAR']['images']:,} "
        f"images per point; smaller is better. Lowest: {described(*first)}.",
        f"Distance over {over}, {len(ranked)} points. Lowest is {described(*first)}; highest is "
        f"{described(*last)}. From the lowest: {'; '.join(described(*one) for one in ranked)}.",
    )


def headline(result: Result) -> None:
    """Says how the paper's headline stands in this file: cost, quality, quality at equal cost."""
    display(Markdown("\n".join(f"- {line}" for line in verdict_lines(result))))


def verdict_lines(result: Result) -> list[str]:
    """The three answers, and for every DiT the cheapest E-CAR that is no worse."""
    ours, dit = best(result, "E-CAR"), best(result, "DiT")
    ratio, equal = dit["gflop"] / ours["gflop"], nearest(result, "DiT", ours["gflop"])
    as_good = {"lower": "better", "level": "yes", "higher": "no"}[standing(ours, dit)]
    ahead = {"lower": "ahead of", "level": "level with", "higher": "behind"}
    lines = [
        f"**Cheaper?** E-CAR at its best takes {ours['gflop']:.3g} GFLOP, DiT at its best "
        f"{dit['gflop']:.3g}: {ratio:.1f}×.",
        f"**As good?** {as_good.capitalize()}: E-CAR's smallest distance is {distance_of(ours)} "
        f"({steps_of(ours)}), DiT's {distance_of(dit)} ({steps_of(dit)}).",
        f"**At the nearest cost that was measured** (DiT, {steps_of(equal)}, "
        f"{equal['gflop']:.3g} GFLOP, {distance_of(equal)}) E-CAR is "
        f"{ahead[standing(ours, equal)]} DiT.",
    ]
    return lines + [no_worse(result, other) for other in result["DiT"]["points"]]


def no_worse(result: Result, other: Point) -> str:
    """The cheapest E-CAR whose distance is no larger than that of a point of DiT, or none."""
    told = f"No worse than DiT at {steps_of(other)} ({distance_of(other)}): "
    found = cheapest_as_good(result, other["frechet"])
    if found is None:
        return told + "none."
    name, point = found
    return told + (
        f"{name} at {steps_of(point)} ({distance_of(point)}), "
        f"{other['gflop'] / point['gflop']:.1f}× fewer FLOPs."
    )


def all_points(result: Result) -> None:
    """Shows every point of the file, one row each."""
    _table(points(result))


def at_equal_cost(rows: Mapping[str, Point]) -> None:
    """Shows chosen points, one row each: steps, cost, distance, recall, classified correctly."""
    _table(rows.items())


def _table(rows: Iterable[tuple[str, Point]]) -> None:
    table(
        ["CIFAR-10", "steps", "GFLOP", "Frechet distance", "recall", "classified correctly"],
        [
            (
                *(name, plan_text(p["num_inference_steps"]), f"{p['gflop']:.1f}"),
                *(distance_of(p), f"{p['recall']:.2f}"),
                "-" if p["named_right"] is None else f"{p['named_right']:.0%}",
            )
            for name, p in rows
        ],
    )
