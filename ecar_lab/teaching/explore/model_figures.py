"""Notebook 5, drawn: shares, times, token maps, losses; ``model.py`` has the captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ecar_lab.experiments.lab.figures import bars, new_figure
from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.figures import hue
from ecar_lab.viz.colours import latent_to_rgb
from ecar_lab.viz.pictures import enlarge, image_grid, to_pil

INK = "#1B1F24"


def shares(panels: Mapping[str, Mapping[str, float]]) -> Figure:
    """One panel per quantity: which share of it each part has, in percent."""
    figure, axes = new_figure(len(panels), width=4.2, height=1.7)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        whole = sum(values.values())
        bars(axis, list(values), [100 * value / whole for value in values.values()])
        axis.set(xlabel=f"% of {title}", xlim=(0, 115))
    return figure


def times(schedule: StageSchedule, moment: float) -> Figure:
    """Windows and slices of all stages as bars; a dotted line at one moment of flow time."""
    figure, axes = new_figure(2, width=4.4, height=1.9)
    for stage in range(schedule.num_stages):
        both = schedule.window(stage), schedule.time_slice(stage)
        for axis, (low, high) in zip(axes, both, strict=True):
            words, middle = f"{low:.2f} to {high:.2f}", (low + high) / 2
            axis.barh(f"stage {stage + 1}", high - low, left=low, color=hue(stage))
            axis.text(middle, stage, words, ha="center", va="center", fontsize=8)
    for axis, label in zip(axes, ("flow time t", "conditioning time"), strict=True):
        axis.set(xlabel=label, xlim=(0, 1))
        axis.invert_yaxis()
    axes[0].axvline(moment, color=INK, linestyle=":")
    return figure


def token_maps(maps: Tensor, own_part: Tensor, images: Tensor, names: Sequence[str]) -> Image.Image:
    """One row per image: its token map (N, D) as colours, the map less the mean of all, itself."""
    side = round(maps.shape[1] ** 0.5)
    columns = []
    for kind in (maps, own_part):
        columns.append(to_pil(latent_to_rgb(kind.movedim(1, -1).unflatten(-1, (side, side)))))
    columns.append(to_pil(images))
    tiles = [enlarge(column[row], 112) for row in range(len(names)) for column in columns]
    what = ("token map", "less the mean", "image")
    return image_grid(tiles, 3, labels=[f"{name}: {word}" for name in names for word in what])


def spoiled(found: Mapping[str, Sequence[float]], standing_still: Sequence[float]) -> Figure:
    """One panel per stage: the velocity error with each token map; dotted: that of velocity 0."""
    figure, axes = new_figure(len(standing_still), width=4.6, height=2.4)
    for stage, axis in enumerate(axes):
        bars(axis, list(found), [loss[stage] for loss in found.values()], color=hue(stage))
        axis.axvline(standing_still[stage], color=INK, linestyle=":")
        axis.set_title(f"stage {stage + 1}", fontsize=10, loc="left")
        axis.set_xlabel("velocity error")
        for number in axis.texts:
            number.set_bbox(dict(facecolor="white", edgecolor="none", pad=0.5))
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    return figure


def error_over_time(share: Tensor) -> Figure:
    """Error over local time, (S, bins), one line per stage."""
    figure, (axis,) = new_figure(width=6, height=2.8)
    centres = (torch.arange(share.shape[1]) + 0.5) / share.shape[1]
    for stage, row in enumerate(share):
        axis.plot(centres, row, marker="osD"[stage], color=hue(stage), label=f"stage {stage + 1}")
    axis.set(xlabel="local time", ylabel="error / error of standing still", ylim=(0, None))
    axis.legend(frameon=False)
    return figure


def learning(curve: Tensor) -> Figure:
    """Losses over the steps of a training, (steps, S), one line per stage."""
    figure, (axis,) = new_figure(width=6, height=2.8)
    for stage, (losses, kind) in enumerate(zip(curve.T, ("-", "--"), strict=True)):
        axis.semilogy(losses, kind, color=hue(stage), label=f"stage {stage + 1}")
    axis.set(xlabel="step", ylabel="velocity error")
    axis.legend(frameon=False)
    return figure
