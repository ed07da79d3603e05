"""Notebook 2, drawn: masks, grids, places, growth; ``autoregression.py`` has the captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.experiments.lab.figures import MARKERS, STYLES, line, logarithmic, new_figure
from ecar_lab.flow import upsample
from ecar_lab.layers import token_coordinates
from ecar_lab.teaching.figures import hue
from ecar_lab.viz.colours import LatentColours


def order_of_calls(sides: Sequence[int]) -> Figure:
    """In which call each token is made: token by token on the finest grid, then stage by stage."""
    figure, axes = new_figure(1 + len(sides), width=2.1, height=2.4)
    for stage, axis in enumerate(axes, start=-1):
        side = sides[stage]
        axis.set(title="token by token" if stage < 0 else f"stage {stage + 1}", aspect="equal")
        axis.title.set_fontsize(9)
        axis.set_facecolor("#E9ECF0" if stage < 0 else to_rgba(hue(stage), alpha=0.3))
        _grid_lines(axis, side)
        for token, (y, x) in enumerate(token_coordinates(side).tolist()):
            call = token + 1 if stage < 0 else stage + 1
            axis.text(x * side, y * side, str(call), ha="center", va="center", fontsize=7)
    return figure


def mask_pictures(masks: Mapping[str, Tensor], tokens_per_stage: Sequence[int]) -> Figure:
    """Masks (N, N) beside each other: what is open is coloured, in the hue of the row's stage."""
    figure, axes = new_figure(len(masks), width=3.5, height=3.7)
    stages = torch.repeat_interleave(
        torch.arange(len(tokens_per_stage)), torch.tensor(tokens_per_stage)
    )
    hues = torch.tensor([to_rgb(hue(stage)) for stage in stages.tolist()])
    for axis, (name, mask) in zip(axes, masks.items(), strict=True):
        open_ = mask.cpu()[:, :, None]
        axis.imshow(torch.where(open_, hues[:, None], 1.0).numpy(), interpolation="nearest")
        axis.set(title=name, xlabel="may be looked at", ylabel="who looks")
        axis.grid(visible=False)
        for border in torch.tensor(tokens_per_stage).cumsum(0)[:-1].tolist():
            axis.axvline(border - 0.5, color="#59626E", linewidth=0.7, linestyle=":")
    return figure


def same_grid(end_state: Tensor, token_map: Tensor, colours: LatentColours) -> Figure:
    """An end state, the same upsampled, and the next stage's token map, cut by the same lines."""
    side = math.isqrt(token_map.shape[1])
    finer = upsample(end_state)
    norms = token_map[0].norm(dim=-1).view(side, side).cpu()
    rgb = [(colours(latent)[0].movedim(0, -1) + 1) / 2 for latent in (end_state, finer)]
    shapes = [f"{x.shape[-2]}×{x.shape[-1]}" for x in (end_state, finer)]
    names = [f"end state, {shapes[0]}", f"Up2, {shapes[1]}", f"token map, {side}×{side} tokens"]
    figure, axes = new_figure(3, width=2.5, height=2.8)
    for axis, picture, name in zip(axes, [*rgb, norms], names, strict=True):
        axis.imshow(picture.numpy(), extent=(0, side, side, 0), cmap="cividis")
        _grid_lines(axis, side)
        axis.set_title(name, fontsize=9)
    for pixel in range(finer.shape[-1]):  # of a patch
        place = pixel * side / finer.shape[-1]
        axes[1].axhline(place, color="white", linewidth=0.6, linestyle=":")
        axes[1].axvline(place, color="white", linewidth=0.6, linestyle=":")
    return figure


def token_places(coordinates: Sequence[Tensor]) -> Figure:
    """Where the tokens of the stages lie; one (N, 2) of (y, x) per stage, coarsest first."""
    figure, (axis,) = new_figure(width=3.6, height=3.6)
    for stage, places in enumerate(coordinates):
        y, x = places.T.numpy()
        size, marker = 200 / 4**stage + 5, MARKERS[stage]
        axis.scatter(x, y, s=size, color=hue(stage), marker=marker, label=f"stage {stage + 1}")
    axis.set(xlim=(0, 1), ylim=(1, 0), xlabel="x", ylabel="y", aspect="equal")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, fontsize=8, frameon=False)
    return figure


def logit_maps(cases: Mapping[str, tuple[Tensor, float, float]]) -> Figure:
    """Logits of one query with all keys of a grid (side, side), each with the query's place (y, x)
    in [0, 1] marked."""
    figure, axes = new_figure(len(cases), width=2.5, height=2.7)
    low = min(logits.min().item() for logits, _, _ in cases.values())
    high = max(logits.max().item() for logits, _, _ in cases.values())
    for axis, (name, (logits, y, x)) in zip(axes, cases.items(), strict=True):
        axis.imshow(logits.numpy(), vmin=low, vmax=high, extent=(0, 1, 1, 0))
        axis.plot(x, y, "x", color="black", markersize=8, markeredgewidth=2)
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=9)
    return figure


def changes(moved: Mapping[str, Sequence[float]]) -> Figure:
    """One panel per mask: how far the token map of each stage moved."""
    figure, axes = new_figure(len(moved), width=3.3, height=2.5)
    highest = max(map(max, moved.values()))
    for axis, (name, values) in zip(axes, moved.items(), strict=True):
        names = [f"$M_{stage}$" for stage in range(len(values))]
        bars = axis.bar(names, values, color=[hue(stage) for stage in range(len(values))])
        axis.bar_label(bars, fmt="%.3f", fontsize=8)
        axis.set(title=name, ylim=(0, 1.2 * highest), ylabel="change (RMS)")
    return figure


def growth_lines(
    tokens: Sequence[int], panels: Mapping[str, Mapping[str, tuple[Sequence[float], float]]]
) -> Figure:
    """One panel per quantity, one line per way to generate: name -> (values, exponent to quote)."""
    looks = {"stage by stage": STYLES["E-CAR"]}
    figure, axes = new_figure(len(panels), width=4.3, height=4.0)
    for axis, (label, lines) in zip(axes, panels.items(), strict=True):
        for name, (values, power) in lines.items():
            look = looks.get(name) or STYLES[name]
            line(axis, f"{name}: n^{power:.2f}", tokens, values, **look)
        logarithmic(axis, "x", "y", xlabel="tokens n", ylabel=label)
        axis.legend(fontsize=8)
    return figure


def one_call(together: Sequence[int], work: Sequence[float], times: Sequence[float]) -> Figure:
    """FLOPs and seconds of one call over the tokens in it, both in those of one token."""
    figure, (axis,) = new_figure(width=5.4, height=3.2)
    line(axis, "FLOPs", together, work, 1)
    line(axis, "seconds", together, times, 0)
    logarithmic(axis, "x", "y", xlabel="tokens in one call", ylabel="times a call with one token")
    axis.legend(fontsize=8)
    return figure


def _grid_lines(axis: Axes, side: int) -> None:
    """Lines between the tokens of a grid, and no ticks."""
    axis.set(xlim=(0, side), ylim=(side, 0), xticks=range(side + 1), yticks=range(side + 1))
    axis.tick_params(length=0, labelbottom=False, labelleft=False)
    axis.set_axisbelow(False)
    axis.grid(color="white", linewidth=1.4)
