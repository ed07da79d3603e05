"""Drawings of notebook 10: solvers, grids and spans in the plane, images and their cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ecar_lab.experiments.lab.figures import line, logarithmic
from ecar_lab.flow import EVALUATIONS, SOLVERS
from ecar_lab.schedule import time_grid
from ecar_lab.teaching.explore import side_by_side
from ecar_lab.teaching.explore.flow_matching import FRAME, Field
from ecar_lab.teaching.explore.known_flow import EVALUATED, gap, order_of, walk
from ecar_lab.teaching.figures import hue, new_figure
from ecar_lab.viz.pictures import image_grid

GREY, INK = "#C3C9D0", "#1B1F24"
TRACED = 25  # particles whose way is drawn


def orders(errors: Mapping[str, Sequence[float]]) -> Figure:
    """Error over calls with both axes logarithmic, and grey lines of slope one and two."""
    figure, (axis,) = new_figure(width=6, height=3.4)
    for index, (name, found) in enumerate(errors.items()):
        slope = order_of(EVALUATED[2:], found[2:])
        line(axis, f"{name}: order {slope:.1f}", EVALUATED, found, index)
    first = max(found[0] for found in errors.values()) * 1.6
    for power in (1, 2):
        guide = [first * (EVALUATED[0] / n) ** power for n in EVALUATED]
        axis.plot(EVALUATED, guide, color="#9AA3AE", linestyle=":", linewidth=1)
        axis.annotate(f"1 / n{'²' * (power - 1)}", (EVALUATED[-1], guide[-1]), fontsize=8)
    axis.legend(frameon=False, fontsize=8)
    logarithmic(axis, "x", "y", xlabel="calls of the velocity, n", ylabel="error at the end")
    return figure


def believed(velocity: Field, start: Tensor, steps: int) -> Figure:
    """What Euler and Adams-Bashforth 2 take a velocity for between two calls, beside the real one.

    Drawn for the particle and the direction whose velocity changes most. Each panel's area between
    line and curve is, to first order, what the solver gets wrong.
    """
    fine = time_grid(200)
    path = walk(velocity, start, fine)
    real_one = torch.stack([velocity(x, t) for x, t in zip(path, fine, strict=True)])
    most = real_one.diff(dim=0).abs().sum(0).flatten().argmax().item()
    at, direction = divmod(int(most), real_one.shape[-1])
    curve, times = real_one[:, at, direction].tolist(), time_grid(steps)
    known = [real_one[round(200 * t), at, direction].item() for t in times[:-1]]
    figure, axes = new_figure(2, width=4.2, height=2.9)
    for axis, title in zip(axes, ("Euler", "Adams-Bashforth 2"), strict=True):
        axis.plot(fine, curve, color=INK, linewidth=1.2, label="the velocity on the way")
        for k, value in enumerate(known):
            remembered = k > 0 and axis is axes[1]
            slope = (value - known[k - 1]) / (times[k] - times[k - 1]) if remembered else 0.0
            here = [t for t in fine if times[k] <= t <= times[k + 1]]
            line_ = [value + slope * (t - times[k]) for t in here]
            between = [curve[round(200 * t)] for t in here]
            look: dict[str, Any] = {"color": hue(4), "linewidth": 1.6}
            axis.plot(here, line_, label=None if k else "what the solver takes it for", **look)
            axis.fill_between(here, line_, between, color=hue(4), alpha=0.25, linewidth=0)
        axis.plot(times[:-1], known, "o", color=hue(4), markersize=5)
        axis.set(title=title, xlabel="t")
    axes[0].set_ylabel("velocity of one particle")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].set_ylim(axes[0].get_ylim())
    return figure


def over_powers(powers: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]]):
    """Errors over the power of the grid, a panel for each model; a ring marks each curve's best."""
    figure, axes = new_figure(len(panels), width=4.2, height=3)
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for index, (name, errors) in enumerate(curves.items()):
            line(axis, name, powers, errors, index)
            best = min(range(len(powers)), key=errors.__getitem__)
            axis.plot(
                powers[best], errors[best], "o", markersize=12, markerfacecolor="none",
                markeredgecolor=INK,
            )  # fmt: skip
        axis.set(title=title, xlabel="power p of the grid", ylim=(0, None))
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("error at the end")
    return figure


def grids(steps: int, powers: Sequence[float]) -> Figure:
    """Where the steps of a grid begin and end, a row for each power."""
    figure, (axis,) = new_figure(width=6, height=0.5 + 0.35 * len(powers))
    for row, power in enumerate(powers):
        times = time_grid(steps, power)
        axis.plot((0, 1), (row, row), color=GREY, linewidth=1)
        axis.plot(times, [row] * len(times), "|", color=hue(row), markersize=14, markeredgewidth=2)
    axis.set(yticks=range(len(powers)), yticklabels=[f"p = {power:g}" for power in powers])
    axis.set(xlabel="local time", ylim=(len(powers) - 0.4, -0.6))
    axis.grid(visible=False)
    return figure


def rows_of_clouds(panels: Mapping[str, Tensor], behind: Tensor, columns: int) -> Figure:
    """Particles in square panels, row by row, over the grey ones of where they should be."""
    rows = math.ceil(len(panels) / columns)
    figure, axes = new_figure(columns, rows, width=2.2, height=1.9)
    for axis, (title, dots) in zip(axes, panels.items(), strict=False):
        axis.scatter(*behind[:1000].T, s=4, color=GREY, linewidths=0)
        axis.scatter(*dots[:1000].T, s=4, color=hue(0), linewidths=0)
        axis.set_title(title, fontsize=9)
    for axis in axes:
        axis.set(xlim=(-2.5, 2.5), ylim=(-2, 2), aspect="equal")
        axis.set_axis_off()
    return figure


def spans(velocity: Field, start: Tensor) -> Figure:
    """A path of the flow with the velocity at its start, and the mean velocities of its spans."""
    path = walk(velocity, start, time_grid(64))
    way = path[-1] - path[0]
    off = path - path[0]
    aside = (off[..., 0] * way[:, 1] - off[..., 1] * way[:, 0]).abs().amax(0) / way.norm(dim=1)
    at = int(aside.argmax())  # the path that goes furthest aside of a straight line
    one, first = path[:, at], velocity(path[0], 0.0)[at]
    figure, (axis,) = new_figure(width=6.4, height=3.6)
    axis.plot(*one.T, color=INK, linewidth=1.4, label="the flow")
    for name, begin, move, colour, kind in (
        ("½ of the velocity at the start", one[0], first / 2, hue(1), "--"),
        ("½ of the first half's mean velocity", one[0], one[32] - one[0], hue(2), "-"),
        ("½ of the second half's", one[32], one[64] - one[32], hue(4), "-"),
        ("the whole span's", one[0], one[64] - one[0], hue(0), "-"),
    ):
        axis.plot(*torch.stack((begin, begin + move)).T, kind, color=colour, label=name)
        head = {"arrowstyle": "-|>", "color": colour, "mutation_scale": 16, "linestyle": "none"}
        (x, y), (dx, dy) = begin.tolist(), move.tolist()
        axis.annotate("", (x + dx, y + dy), (x + 0.9 * dx, y + 0.9 * dy), arrowprops=head)
    axis.plot(*one[0], "o", color=INK)
    axis.set(aspect="equal", xlabel="x₁", ylabel="x₂")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@dataclass
class Tracks:
    """Walks by solver, number of calls and power of the grid; each is computed once and kept."""

    velocity: Field
    start: Tensor
    exact: Tensor
    runs: dict[tuple[str, int, float], Tensor] = field(default_factory=dict)

    def states(self, solver: str, calls: int, power: float) -> Tensor:
        """(K + 1, N, 2)."""
        key = (solver, calls, power)
        if key not in self.runs:
            times = time_grid(calls // EVALUATIONS[solver], power)
            self.runs[key] = walk(self.velocity, self.start, times, SOLVERS[solver])
        return self.runs[key]

    def draw(self, solver: str, calls: int, power: float) -> Figure:
        """The particles' ends and ways over the exact ends, and errors over calls."""
        figure, (plane, curve) = new_figure(2, width=3.4, height=3.3)
        states = self.states(solver, calls, power)
        plane.scatter(*self.exact.T, s=4, color=GREY, linewidths=0)
        plane.plot(states[:, :TRACED, 0], states[:, :TRACED, 1], color=hue(1), linewidth=0.7)
        plane.scatter(*states[-1].T, s=4, color=hue(0), linewidths=0)
        plane.set(xlim=(-FRAME, FRAME), ylim=(-FRAME, FRAME), aspect="equal")
        plane.set_axis_off()
        here = gap(states[-1], self.exact)
        plane.set_title(f"error {here:.3f}", fontsize=10)
        counts = [2, *EVALUATED[:4]]
        for index, name in enumerate(SOLVERS):
            errors = [gap(self.states(name, n, power)[-1], self.exact) for n in counts]
            line(curve, name, counts, errors, index)
        curve.plot(calls, here, "o", markersize=13, markerfacecolor="none", markeredgecolor=INK)
        curve.legend(frameon=False, fontsize=8)
        logarithmic(curve, "x", "y", xlabel="calls of the velocity", ylabel="error at the end")
        return figure


def gallery(rows: Mapping[str, Tensor], columns: int, scale: int = 3) -> Image.Image:
    """A row of images (B, 3, H, W) in [0, 1] for each arm, its name below."""
    tiles = [image_grid(2 * images.cpu() - 1, columns, scale=scale) for images in rows.values()]
    return side_by_side(tiles, list(rows), 1)


def costs(rows: Sequence[tuple[str, float, float]]) -> Figure:
    """Rows (name, GFLOP, error) as points; of a family, by its first word, they are joined."""
    figure, (axis,) = new_figure(width=6, height=3.4)
    families = list(dict.fromkeys(name.split(",")[0] for name, _, _ in rows))
    for index, family in enumerate(families):
        own = sorted(row[1:] for row in rows if row[0].split(",")[0] == family)
        line(axis, family, *map(list, zip(*own, strict=True)), index)
    for number, (name, gflop, error) in enumerate(rows):
        _, _, plan = name.partition(", ")
        place = ((5, 6), (-34, -12))[number % 2]  # neighbours differ in it
        axis.annotate(plan, (gflop, error), place, textcoords="offset points", fontsize=8)
    axis.legend(frameon=False, fontsize=8)
    logarithmic(axis, "x", "y", xlabel="GFLOP for one image", ylabel="distance to many steps")
    return figure
