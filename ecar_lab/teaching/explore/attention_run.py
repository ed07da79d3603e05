"""Who looks where in a model's transformer, for notebook 2: one image's attention, and a look.

A *look* is one query token's row of the attention. One trace per layer is made beforehand,
and every redraw only reads from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.figures import hue
from ecar_lab.transformer import block_causal_mask
from ecar_lab.viz.colours import decode
from ecar_lab.viz.pictures import to_pil

MEAN = "mean"
BRIGHTEST = 4.0  # times the average weight at which the colours end


@dataclass(frozen=True)
class AttentionRun:
    """One image's attention, ready to be looked at.

    Attributes:
        weights: per layer, per stage: (h, N_s, tokens so far). sides: tokens per side of a stage.
        image: (1, 3, H, W), the finished picture.
    """

    weights: list[list[Tensor]]
    sides: tuple[int, ...]
    image: Tensor

    def token_at(self, stage: int, row: int, column: int) -> int:
        """The stage's token that covers a place, given in tokens of the finest grid."""
        side, finest = self.sides[stage], self.sides[-1]
        return row * side // finest * side + column * side // finest

    def row(self, stage: int, layer: int, head: int | str, token: int) -> Tensor:
        """(tokens so far,): how a token's attention is spread; it sums to 1."""
        weights = self.weights[layer][stage][:, token]
        return weights.mean(dim=0) if head == MEAN else weights[int(head)]

    def maps(self, row: Tensor) -> list[Tensor]:
        """The row cut at the stages' borders, each piece on its grid (side, side)."""
        lengths, left = [], len(row)
        for side in self.sides:
            if left:
                lengths.append(side * side)
                left -= side * side
        return [part.unflatten(0, (math.isqrt(len(part)), -1)) for part in row.split(lengths)]

    def shares(self, stage: int, layer: int) -> list[float]:
        """How much of a stage's attention goes to each stage so far, mean of heads and tokens."""
        row = self.weights[layer][stage].mean(dim=(0, 1))
        return [part.sum().item() for part in self.maps(row)]

    def covered(self, stage: int, layer: int, head: int | str) -> float:
        """Share of a stage's tokens that, of the stage before, look most at the token which covers
        them. By chance it would be 1 in as many tokens as the stage before has."""
        fine, coarse = self.sides[stage], self.sides[stage - 1]
        hits = 0
        for token in range(fine * fine):
            row, column = divmod(token, fine)
            favourite = self.maps(self.row(stage, layer, head, token))[stage - 1].argmax().item()
            hits += favourite == row * coarse // fine * coarse + column * coarse // fine
        return hits / fine**2


def attention_run(pipe: ECARPipeline, name: str, seed: int) -> AttentionRun:
    """Traces one image as often as there are layers, each time keeping one layer's attention."""
    transformer = pipe.model.transformer
    weights, latent = [], torch.empty(0)
    for layer in range(len(transformer.blocks)):
        generator = torch.Generator().manual_seed(seed)
        events = list(pipe.trace([name], generator=generator, attention_layer=layer))
        starts = [event.attention for event in events if event.attention is not None]
        weights.append([attention[0].float().cpu() for attention in starts])
        latent = events[-1].latent
    return AttentionRun(weights, transformer.token_sides, decode(pipe.tokenizer, latent))


def look(
    run: AttentionRun, stage: int, layer: int, head: int | str, row: int, column: int
) -> Figure:
    """The picture with the query's patch, its attention on every stage's grid, and its mask row."""
    token = run.token_at(stage, row, column)
    weights = run.row(stage, layer, head, token)
    maps = run.maps(weights)
    count = len(run.sides)
    figure = Figure(figsize=(2.15 * (count + 1), 3.1), facecolor="white", dpi=100)
    grid = figure.add_gridspec(2, count + 1, height_ratios=(7, 1))
    figure.set_layout_engine("constrained")
    _picture(figure.add_subplot(grid[0, 0]), run, stage, token)
    shade = None
    for index, side in enumerate(run.sides):
        axis = figure.add_subplot(grid[0, index + 1])
        _frame(axis, index)
        if index >= len(maps):
            axis.set(xlim=(0, 1), ylim=(0, 1))
            axis.text(0.5, 0.5, "not there yet", ha="center", va="center", color="#59626E")
            axis.set_title(f"stage {index + 1}", fontsize=9)
            axis.set_aspect("equal")
            continue
        times_average = maps[index] * len(weights)
        shade = axis.imshow(times_average.numpy(), cmap="viridis", vmin=0, vmax=BRIGHTEST)
        share = maps[index].sum().item()
        axis.set_title(f"stage {index + 1}: {share:.0%} of the attention", fontsize=9)
        if index == stage:
            _outline(axis, token, side, "white")
    if shade is not None:
        bar = figure.colorbar(shade, ax=figure.axes[1:], shrink=0.85, pad=0.01, extend="max")
        bar.set_label("times the average", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    _mask_row(figure.add_subplot(grid[1, :]), run.sides, stage)
    where = f"{head} of heads" if head == MEAN else f"head {head}"
    figure.suptitle(
        f"query: token {token} of stage {stage + 1}; layer {layer}, {where}", fontsize=10
    )
    return figure


def _picture(axis: Axes, run: AttentionRun, stage: int, token: int) -> None:
    """The finished image, with the part that the query's token covers."""
    axis.imshow(to_pil(run.image)[0], extent=(-0.5, 0.5, 0.5, -0.5), interpolation="nearest")
    side = run.sides[stage]
    y, x = divmod(token, side)
    corner = (x / side - 0.5, y / side - 0.5)
    axis.add_patch(Rectangle(corner, 1 / side, 1 / side, fill=False, edgecolor="black", lw=3.2))
    axis.add_patch(Rectangle(corner, 1 / side, 1 / side, fill=False, edgecolor="white", lw=1.4))
    axis.set_title("the query's place", fontsize=9)
    axis.axis("off")


def _frame(axis: Axes, stage: int) -> None:
    """No ticks, and a frame in the stage's hue."""
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(color=hue(stage), linewidth=2.5)


def _outline(axis: Axes, token: int, side: int, colour: str) -> None:
    y, x = divmod(token, side)
    axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=colour, lw=2))


def _mask_row(axis: Axes, sides: Sequence[int], stage: int) -> None:
    """Which of all tokens the query may look at, in the hues of their stages; the rest is white."""
    tokens = tuple(side * side for side in sides)
    row = block_causal_mask(tokens, torch.device("cpu"))[sum(tokens[:stage])]
    start = 0
    for index, length in enumerate(tokens):
        colour = hue(index) if row[start] else "white"
        axis.barh(0, length, left=start, color=colour, edgecolor="black")
        words = f"stage {index + 1}" if length / sum(tokens) > 0.1 else f"{index + 1}"
        axis.text(start + length / 2, 0, words, ha="center", va="center", fontsize=8)
        start += length
    axis.set(xlim=(0, start), yticks=[], ylim=(-0.4, 0.4))
    axis.set_xlabel("its row of the mask: coloured = may be looked at", fontsize=8)
    axis.tick_params(labelsize=7)
