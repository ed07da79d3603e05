"""Notebook 4, drawn: windows, eigenvalues, matrices, digits, signs of the leak; ``transitions.py``
has the captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ecar_lab.experiments.lab.figures import line
from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.figures import hue, new_figure
from ecar_lab.viz.pictures import enlarge, to_pil

INK = "#1B1F24"


def tile(one: Tensor) -> Image.Image:
    """A latent (1, R, R) in grey, enlarged without smoothing."""
    return enlarge(to_pil((one / 2).clamp(-1, 1).expand(3, -1, -1))[0], 96)


def windows(schedule: StageSchedule) -> Figure:
    """Windows in flow time and slices of conditioning time, a bar per stage."""
    figure, axes = new_figure(2, width=4.2, height=1.9)
    panels = {"flow time t": schedule.window, "conditioning time": schedule.time_slice}
    for axis, (title, part) in zip(axes, panels.items(), strict=True):
        for stage in range(schedule.num_stages):
            low, high = part(stage)
            words = f" {low:.2f} to {high:.2f}"
            axis.barh(f"stage {stage + 1}", high - low, left=low, color=hue(stage))
            axis.text(low, stage, words, va="center", fontsize=8, color="white")
        axis.set(xlim=(0, 1.02), xlabel=title)
        axis.invert_yaxis()
    return figure


def eigenvalues(curves: Mapping[float, tuple[Tensor, Tensor]]) -> Figure:
    """Smallest eigenvalue over the start a, one curve per end b; a dot at the last one >= 0."""
    figure, (axis,) = new_figure(width=5.6, height=2.9)
    for index, (end, (start, smallest)) in enumerate(curves.items()):
        axis.plot(start, smallest, color=hue(index), label=f"b = {end}")
        axis.plot(start[smallest >= 0][-1], 0, "o", color=hue(index))
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.set(xlabel="start a of the next window", ylabel="smallest eigenvalue", ylim=(-1.2, 1))
    axis.legend(frameon=False)
    return figure


def matrix(axis: Axes, values: Tensor, title: str, largest: float) -> None:
    """A covariance matrix as orange (positive) and violet (negative) squares, numbers inside."""
    axis.imshow(values.numpy(), cmap="PuOr_r", vmin=-largest, vmax=largest)
    for row, column in torch.cartesian_prod(torch.arange(4), torch.arange(4)).tolist():
        value = round(values[row, column].item(), 2) + 0.0  # no -0.00
        dark = abs(value) > 0.6 * largest
        axis.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
            color="white" if dark else INK,
        )  # fmt: skip
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    axis.grid(visible=False)


def covariances(matrices: Mapping[str, Sequence[Tensor]], largest: float) -> Figure:
    """Two rows of three matrices, one row per coupling: brought, added, both together."""
    figure, axes = new_figure(3, len(matrices), width=2.3, height=2.45)
    for row, (coupling, three) in enumerate(matrices.items()):
        titles = "brought by Up2(y)", f"added, {coupling}", "x_start"
        for axis, values, title in zip(axes[3 * row :], three, titles, strict=False):
            matrix(axis, values, title, largest)
    return figure


def samples(rows: Mapping[str, Tensor]) -> Figure:
    """One strip of small grey latents (N, 1, R, R) per name."""
    figure, axes = new_figure(1, len(rows), width=6.4, height=0.86)
    for axis, (name, made) in zip(axes, rows.items(), strict=True):
        axis.imshow(torch.cat(list(made[:, 0]), dim=1).cpu(), cmap="gray", vmin=-2, vmax=2)
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=9, loc="left")
        axis.grid(visible=False)
    return figure


def signs(
    losses: Mapping[str, Tensor],
    errors: Mapping[str, Sequence[float]],
    changes: Mapping[str, Sequence[float]],
    taus: Sequence[float],
) -> Figure:
    """Three signs of the leak, a line per model: loss over steps (as a running mean of 1/15 of
    them), error of block means over local time, change of their velocity while sampling."""
    figure, axes = new_figure(3, width=3.5, height=3.0)
    for index, name in enumerate(losses):
        wide = max(1, len(losses[name]) // 5) // 3 + 1
        smooth = losses[name].unfold(0, wide, 1).mean(1).cpu()
        line(axes[0], name, range(len(smooth)), smooth.tolist(), index, marker="")
        line(axes[1], name, taus, errors[name], index)
        line(axes[2], name, range(1, len(changes[name]) + 1), changes[name], index)
    titles = {
        "loss, stage 2": "training step",
        "error of block means": "local time τ",
        "change of their velocity": "step of stage 2",
    }
    for axis, (title, x) in zip(axes, titles.items(), strict=True):
        axis.set(xlabel=x, ylim=(0, None))
        axis.set_title(title, fontsize=10)
    axes[2].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def window_ends(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Distance over the end of the first window, a panel per experiment, a line per plan."""
    figure, axes = new_figure(len(results), width=4.0, height=3.1)
    for axis, (title, result) in zip(axes, results.items(), strict=True):
        found = {}
        for row in result["rows"]:
            if row["name"].startswith(("end 0.5", "first window")):
                found[row["model"].get("window_ends", [0.5])[0]] = row["quality"]
        tried = sorted(found)
        for index in range(3):
            entries = [found[end][index] for end in tried]
            label = f"{entries[0]['steps'][0]} steps per stage"
            line(axis, label, tried, [entry["frechet"] for entry in entries], index)
        axis.set(xlabel="end of the first window", ylabel="Frechet distance")
        axis.set_title(title, fontsize=10)
    axes[-1].legend(frameon=False, fontsize=8)
    return figure
