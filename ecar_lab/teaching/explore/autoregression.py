"""Pictures of notebook 2, and its exploration: who looks where in the shipped model's transformer.

A *look* is one query token's row of the attention. One trace per layer is made beforehand,
and every redraw only reads from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ecar_lab.experiments.lab.figures import MARKERS, STYLES, line, logarithmic, new_figure
from ecar_lab.flow import upsample
from ecar_lab.layers import token_coordinates
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.explore import choice, explorer, whole
from ecar_lab.teaching.figures import hue
from ecar_lab.transformer import block_causal_mask
from ecar_lab.viz.colours import LatentColours, decode
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
            axis.set_title(f"stage {index}", fontsize=9)
            axis.set_aspect("equal")
            continue
        times_average = maps[index] * len(weights)
        shade = axis.imshow(times_average.numpy(), cmap="viridis", vmin=0, vmax=BRIGHTEST)
        share = maps[index].sum().item()
        axis.set_title(f"stage {index}: {share:.0%} of the attention", fontsize=9)
        if index == stage:
            _outline(axis, token, side, "white")
    if shade is not None:
        bar = figure.colorbar(shade, ax=figure.axes[1:], shrink=0.85, pad=0.01, extend="max")
        bar.set_label("times the average", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    _mask_row(figure.add_subplot(grid[1, :]), run.sides, stage)
    where = f"{head} of heads" if head == MEAN else f"head {head}"
    figure.suptitle(f"query: token {token} of stage {stage}; layer {layer}, {where}", fontsize=10)
    return figure


def attention(pipe: ECARPipeline, name: str = "ship", seed: int = 3):
    """Controls for stage, layer, head and place of the query above its attention."""
    run = attention_run(pipe, name, seed)
    layers, heads, finest = len(run.weights), len(run.weights[0][0]), run.sides[-1]
    last = len(run.sides) - 1

    def draw(stage: int, layer: int, head: int | str, row: int, column: int) -> Figure:
        return look(run, stage, layer, head, row, column)

    return explorer(
        draw,
        {
            "stage": choice("stage of the query", range(last + 1), last),
            "layer": choice("layer", range(layers)),
            "head": choice("head", [MEAN, *range(heads)]),
            "row": whole("row", 0, finest - 1, finest // 2),
            "column": whole("column", 0, finest - 1, finest // 2),
        },
        {f"layer {layer}": {"layer": layer} for layer in range(layers)},
        caption(run),
        "One panel a layer: the generated picture with the query's patch outlined, beside it the "
        "grids of the three stages coloured by attention weight, below them the row of the mask.",
        columns=1,
    )


def caption(run: AttentionRun) -> str:
    """What the examples show, with the shares as they were measured."""
    last = len(run.sides) - 1
    parts = []
    for layer in range(len(run.weights)):
        shares = " / ".join(f"{share:.0%}" for share in run.shares(last, layer))
        parts.append(f"layer {layer}: {shares}, {run.covered(last, layer, MEAN):.0%}")
    return (
        f"Figure 2.10. The same query in each layer, mean of the heads. Over all queries of stage "
        f"{last}: attention to stages 0 to {last}, then the share of queries whose favourite in "
        f"stage {last - 1} is the token that covers them (by chance {1 / run.sides[-2] ** 2:.0%}): "
        f"{'; '.join(parts)}."
    )


def order_of_calls(sides: Sequence[int]) -> Figure:
    """In which call each token is made: token by token on the finest grid, then stage by stage."""
    figure, axes = new_figure(1 + len(sides), width=2.1, height=2.4)
    for stage, axis in enumerate(axes, start=-1):
        side = sides[stage]
        axis.set(title="token by token" if stage < 0 else f"stage {stage}", aspect="equal")
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
    """Where the tokens of the stages lie; one (N, 2) of (y, x) a stage, coarsest first."""
    figure, (axis,) = new_figure(width=3.6, height=3.6)
    for stage, places in enumerate(coordinates):
        y, x = places.T.numpy()
        size, marker = 200 / 4**stage + 5, MARKERS[stage]
        axis.scatter(x, y, s=size, color=hue(stage), marker=marker, label=f"stage {stage}")
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
    """One panel a mask: how far the token map of each stage moved."""
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
    """One panel a quantity, one line a way to generate: name -> (values, exponent to quote)."""
    looks = {"stage by stage": STYLES["E-CAR"]}
    figure, axes = new_figure(len(panels), width=4.3, height=4.0)
    for axis, (label, lines) in zip(axes, panels.items(), strict=True):
        for name, (values, power) in lines.items():
            look = looks.get(name) or STYLES[name]
            line(axis, f"{name}: n^{power:.2f}", tokens, values, **look)
        logarithmic(axis, "x", "y", xlabel="tokens n", ylabel=label)
        axis.legend(fontsize=8)
    return figure


def _grid_lines(axis: Axes, side: int) -> None:
    """Lines between the tokens of a grid, and no ticks."""
    axis.set(xlim=(0, side), ylim=(side, 0), xticks=range(side + 1), yticks=range(side + 1))
    axis.tick_params(length=0, labelbottom=False, labelleft=False)
    axis.set_axisbelow(False)
    axis.grid(color="white", linewidth=1.4)


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
        words = f"stage {index}" if length / sum(tokens) > 0.1 else f"{index}"
        axis.text(start + length / 2, 0, words, ha="center", va="center", fontsize=8)
        start += length
    axis.set(xlim=(0, start), yticks=[], ylim=(-0.4, 0.4))
    axis.set_xlabel("its row of the mask: coloured = may be looked at", fontsize=8)
    axis.tick_params(labelsize=7)
