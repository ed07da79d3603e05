"""Notebook 3, drawn: points in the plane, their ways, distances, losses; ``flow_matching.py`` has
the captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.experiments.lab.figures import line, logarithmic, new_figure
from ecar_lab.teaching.figures import hue

FRAME = 2.9  # the plane is drawn from -FRAME to FRAME


def clouds(
    panels: Mapping[str, Tensor],
    *,
    behind: Tensor | None = None,
    width: float = 2.1,
    frame: float = FRAME,
    size: float = 2,
) -> tuple[Figure, list[Axes]]:
    """A row of square panels, each with up to 1,000 points; ``behind``: grey ones under them."""
    figure, axes = new_figure(len(panels), width=width, height=1.1 * width)
    for axis, (title, dots) in zip(axes, panels.items(), strict=True):
        if behind is not None:
            axis.scatter(*behind[:1000].T, s=size, color="#C3C9D0", linewidths=0)
        axis.scatter(*dots[:1000].T, s=size, color=hue(0), linewidths=0)
        axis.set(xlim=(-frame, frame), ylim=(-frame, frame), aspect="equal", xticks=(), yticks=())
        axis.set_title(title, fontsize=10)
    return figure, axes


def pairs_and_paths(begin: Tensor, targets: Tensor, times: Sequence[float], path: Tensor) -> Figure:
    """Left: a line from every start (N, 1) to every target (M, 1). Right: paths (K, N, 1)."""
    figure, (left, right) = new_figure(2, width=4.2, height=2.8)
    for target in targets.flatten():
        for start in begin.flatten():
            left.plot((0, 1), (start, target), color=hue(0), linewidth=0.7)
    right.plot(times, path.squeeze(-1), color=hue(4), linewidth=1.2)
    left.set(title="pairs", xlabel="t", ylabel="x")
    right.set(title="the mean velocity", xlabel="t", ylim=left.get_ylim())
    return figure


@torch.no_grad()
def field_and_crowd(
    states: Tensor, shown: Sequence[int], velocity: Callable[[Tensor, float], Tensor]
) -> Figure:
    """Particles of a run (K + 1, N, 2) at some of its steps, over the field of arrows there."""
    last = len(states) - 1
    grid = torch.cartesian_prod(torch.linspace(-2.6, 2.6, 12), torch.linspace(-2.6, 2.6, 12))
    figure, axes = clouds({f"t = {step / last:.2g}": states[step] for step in shown}, width=2.4)
    for axis, step in zip(axes, shown, strict=True):
        arrow = velocity(grid, step / last)
        axis.quiver(*grid.T, *arrow.T, color="#1B1F24", width=0.005, alpha=0.7)
    return figure


def ways(runs: Mapping[str, Tensor]) -> Figure:
    """The end of each run (K + 1, N, 2), and the way of 25 particles."""
    figure, axes = clouds({name: run[-1] for name, run in runs.items()}, width=2.4)
    for axis, run in zip(axes, runs.values(), strict=True):
        axis.plot(run[:, :25, 0], run[:, :25, 1], color=hue(1), linewidth=0.7, alpha=0.8)
    return figure


def pairings(starts: Mapping[str, Tensor], data: Tensor) -> Figure:
    """Lines from noise to data (N, 2), in the order that each of ``starts`` has."""
    figure, axes = clouds(starts, behind=data, width=2.9, size=9)
    for axis, start in zip(axes, starts.values(), strict=True):
        axis.plot(*torch.stack((start, data)).unbind(-1), color=hue(1), linewidth=0.6)
    return figure


def curves(
    arms: Mapping[str, tuple[Sequence[int], Sequence[float]]], floor: float, dashed: str = ""
) -> Figure:
    """Distance over network calls, (calls, distances) per arm; ``dashed``: how those begin that get
    a dashed line."""
    figure, (axis,) = new_figure(width=6, height=3.3)
    for index, (name, (calls, distances)) in enumerate(arms.items()):
        kind = "--" if dashed and name.startswith(dashed) else "-"
        line(axis, name, calls, distances, index, linestyle=kind)
    axis.axhline(floor, color="#59626E", linestyle=":", label="other real data")
    axis.legend(frameon=False, fontsize=8)
    logarithmic(axis, "x", "y", xlabel="network calls", ylabel="distance to the data")
    return figure


def loss_over_time(bins: Tensor, target: Sequence[float]) -> Figure:
    """Loss per bin of local time, (S, bins): as it is, and as a share of each stage's target."""
    figure, axes = new_figure(2, width=3.8, height=2.8)
    middle = [(k + 0.5) / bins.shape[1] for k in range(bins.shape[1])]
    for stage, whole in enumerate(target):
        look: dict[str, Any] = {"color": hue(stage), "marker": "os"[stage]}
        line(axes[0], f"stage {stage + 1}", middle, bins[stage].tolist(), **look)
        line(axes[1], f"stage {stage + 1}", middle, (bins[stage] / whole).tolist(), **look)
    axes[0].set(xlabel="local time", ylabel="squared error", ylim=(0, None))
    axes[1].set(xlabel="local time", ylabel="share of the target", ylim=(0, None))
    axes[0].legend(frameon=False)
    return figure
