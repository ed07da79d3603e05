"""Notebook 10: a flow in the plane that is known exactly, and what few steps do to it and cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from ecar_lab import flow
from ecar_lab.cost import total_flops
from ecar_lab.device import synchronize
from ecar_lab.experiments.lab.figures import line, logarithmic
from ecar_lab.flow import EVALUATIONS, SOLVERS
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schedule import time_grid
from ecar_lab.teaching import hue, new_figure
from ecar_lab.teaching.explore import choice, explorer, real, side_by_side
from ecar_lab.teaching.explore.flow_matching import FRAME, Field, points
from ecar_lab.viz.pictures import image_grid

GREY, INK = "#C3C9D0", "#1B1F24"
EVALUATED = (4, 8, 16, 32, 64, 128)  # calls of the velocity; Heun takes half as many steps
TRACED = 25  # particles whose way is drawn


@dataclass(frozen=True)
class Cloud:
    """Data whose mean velocity is known: a normal distribution of width ``blur`` about each centre.

    Given a centre m, x_t is normal about t m with variance ``s² = (1 - t)² + t² blur²``, so that
    ``E[x - eps | x_t, m] = m + (t blur² - (1 - t)) / s² (x_t - t m)``. The velocity is the mean of
    that over the centres, each with its probability given x_t.

    Args:
        centres: (M, 2).
    """

    centres: Tensor
    blur: float

    def __call__(self, state: Tensor, t: float) -> Tensor:
        """The velocity at states (N, 2) and a time from 0 to 1."""
        centres = self.centres.to(state)
        variance = (1 - t) ** 2 + (t * self.blur) ** 2
        distance = torch.cdist(state, t * centres)
        mean = (-distance.square() / (2 * variance)).softmax(-1) @ centres  # of m, given x_t
        return mean + (t * self.blur**2 - (1 - t)) / variance * (state - t * mean)

    def log_density(self, points: Tensor) -> Tensor:
        """Of the data, less a constant: (N,)."""
        distance = torch.cdist(points, self.centres.to(points))
        return (-distance.square() / (2 * self.blur**2)).logsumexp(1) - math.log(len(self.centres))


@dataclass(frozen=True)
class Fields:
    """Velocities with class and without: ``fields(state, t, with_class)``.

    Attributes:
        everything: without. each: one per class. labels: (N,), the class of every particle.
    """

    everything: Cloud
    each: Sequence[Cloud]
    labels: Tensor

    def __call__(self, state: Tensor, t: float, with_class: bool) -> Tensor:
        if not with_class:
            return self.everything(state, t)
        of_class = torch.stack([cloud(state, t) for cloud in self.each])  # (classes, N, 2)
        return of_class[self.labels, torch.arange(len(state))]

    def guided(self, scale: float | Tensor) -> Field:
        """``v_none + scale (v_class - v_none)``; scale: a number, or (N, 1)."""

        def velocity(state: Tensor, t: float) -> Tensor:
            without = self(state, t, False)
            return without + scale * (self(state, t, True) - without)

        return velocity

    def certainty(self, points: Tensor) -> float:
        """Mean probability of the particles' own class, given where they ended."""
        log = torch.stack([cloud.log_density(points) for cloud in self.each], dim=1)
        return log.softmax(1)[torch.arange(len(points)), self.labels].mean().item()


def moons(labels: Tensor, blur: float = 0.25, count: int = 100) -> Fields:
    """The two moons of notebook 3, blurred; a class for each."""
    centres, moon = points("moons", count, torch.Generator().manual_seed(1))
    each = [Cloud(centres[moon == kind], blur) for kind in (0, 1)]
    return Fields(Cloud(centres, blur), each, labels)


@torch.no_grad()
def walk(
    velocity: Field, start: Tensor, times: Sequence[float], step: Callable[..., Any] = flow.ab2_step
) -> Tensor:
    """All states of a run over any grid of times, (K + 1, N, 2). Every step is given what the step
    before returned as its velocity."""
    states, slope = [start], None
    for number in range(len(times) - 1):
        state, slope = step(lambda x, i: velocity(x, times[i]), states[-1], times, number, slope)
        states.append(state)
    return torch.stack(states)


def gap(one: Tensor, other: Tensor) -> float:
    """Root mean square of the difference."""
    return (one.double() - other.double()).square().mean().sqrt().item()


def order_of(calls: Sequence[int], errors: Sequence[float]) -> float:
    """p of an error that falls as ``calls ** -p``: the slope in logarithms, by least squares."""
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (calls, errors))
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / x.square().sum()).item()


def errors_of(
    step: Callable[..., Any], per_step: int, velocity: Field, start: Tensor, exact: Tensor
) -> list[float]:
    """A solver's errors at the end for each number of calls of ``EVALUATED``, on even grids."""
    ends = [walk(velocity, start, time_grid(n // per_step), step)[-1] for n in EVALUATED]
    return [gap(end, exact) for end in ends]


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


def solvers(velocity: Field, start: Tensor, exact: Tensor):
    """Controls for solver, calls and grid."""
    tracks = Tracks(velocity, start, exact)
    return explorer(
        tracks.draw,
        {
            "solver": choice("solver", list(SOLVERS), "ab2"),
            "calls": choice("calls of the velocity", [2, *EVALUATED[:4]], 4),
            "power": real("power of the grid", 0.4, 3.0, 1.0, 0.1),
        },
        {"Euler, 4 calls": {"solver": "euler"}, "Adams-Bashforth 2, 4 calls": {}},
        "Four calls of the velocity. Blue: where the particles end; orange: the way of some; grey: "
        "where they should end. The ring marks the run in the curves beside it.",
        "Two pairs of panels. With Euler's four steps the particles lie closer together than where "
        "they should end, with Adams-Bashforth's they nearly cover it; beside each, the errors of "
        "three solvers fall with the number of calls.",
        columns=1,
    )


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks are the same, number by number."""
    own, its = one.state_dict(), other.state_dict()
    return own.keys() == its.keys() and all(torch.equal(own[key], its[key]) for key in own)


def cost_of(pipe: ECARPipeline, plan: Sequence[int] | None = None, **how: Any) -> float:
    """GFLOP of one image by the model's own formula, ``model.flops``."""
    return total_flops(pipe.model.flops(plan, **how)) / 1e9


def seconds_of(pipe: ECARPipeline, label: str, plan: Sequence[int] | None, repeats: int) -> float:
    """Seconds for one image, without the decoder: the least of several runs after one that does not
    count. On a CPU the processor's time of all threads, on which other programs have no claim."""

    def run() -> float:
        clock = time.process_time if pipe.device.type == "cpu" else time.perf_counter
        synchronize(pipe.device)
        started = clock()
        list(pipe.trace([label], plan, generator=torch.Generator().manual_seed(0)))
        synchronize(pipe.device)
        return clock() - started

    run()
    return min(run() for _ in range(repeats))


def edges(images: Tensor) -> float:
    """Mean step in brightness from a pixel to its neighbours; images (B, 3, H, W) in [0, 1]."""
    grey = images.mean(dim=1)
    return (grey.diff(dim=-1).abs().mean() + grey.diff(dim=-2).abs().mean()).item() / 2


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
