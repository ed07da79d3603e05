"""The figure of the whole process, for documents: what each stage gets, does and hands on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image

from ecar_lab.errors import EcarError
from ecar_lab.viz.colours import STAGE_HUES, LatentColours, decode, latent_to_rgb
from ecar_lab.viz.pictures import FAINT, INK, PAPER, last_events, to_pil

if TYPE_CHECKING:
    from ecar_lab.events import TraceEvent
    from ecar_lab.tokenizers.base import Tokenizer

# Inches: side of the finest latent, between start and end, between stages, around everything.
LARGEST, GAP, ARROW, MARGIN = 1.5, 0.55, 1.05, 0.3
# Height of the middle of each row above the lower edge.
ROW_TOKENS, ROW_FLOW, ROW_DECODED, ROW_TIME = 6.2, 4.15, 1.95, 0.58
HEIGHT = 8.0


def stage_overview(
    events: Iterable[TraceEvent],
    tokenizer: Tokenizer,
    *,
    index: int = 0,
    title: str | None = None,
    first: int = 1,
) -> Figure:
    """The whole process in one figure; save it with ``figure.savefig(path)``.

    A column per stage: its token map (three main directions as colours), the latent where the stage
    starts and ends, the clean estimate decoded; below, the part of the way from noise to data that
    each stage covers. White background of its own, hues a colour-blind reader can tell apart.

    Args:
        events: a complete run. index: which image of the batch. title: above the figure.
        first: number of the coarsest stage in words; beside code, which counts from 0, give 0.

    Raises:
        EcarError: there is no event.
    """
    stages = list(last_events(events).values())
    if not stages:
        raise EcarError("there is no event to draw: run the trace first")
    finest = stages[-1][1].latent.shape[-1]
    sides = [LARGEST * end.latent.shape[-1] / finest for _, end in stages]
    widths = [max(2 * side + GAP, 1.75) for side in sides]
    sheet = _Sheet(2 * MARGIN + sum(widths) + ARROW * (len(stages) - 1), HEIGHT, first)
    if title:
        sheet.text(sheet.width / 2, HEIGHT - 0.28, title, 13, weight="bold")
    colours = LatentColours.of(tokenizer)
    x, previous_edge = MARGIN, None
    for (start, end), side, width in zip(stages, sides, widths, strict=True):
        centre = x + width / 2
        _draw_stage(sheet, centre, side, start, end, tokenizer, colours, index)
        edge = side + GAP / 2  # from the column's middle to its outer tile edges
        if previous_edge is not None:
            middle = (previous_edge + centre - edge) / 2
            sheet.arrow(previous_edge + 0.08, ROW_FLOW, centre - edge - 0.08, ROW_FLOW)
            sheet.text(middle, ROW_FLOW + 0.28, "upsample \u00d72\n+ noise", 9)
        previous_edge = centre + edge
        x += width + ARROW
    _draw_time(sheet, stages)
    return sheet.figure


def _draw_stage(
    sheet: _Sheet,
    centre: float,
    side: float,
    start: TraceEvent,
    end: TraceEvent,
    tokenizer: Tokenizer,
    colours: LatentColours,
    index: int,
) -> None:
    """One column, from the token map down to the decoded estimate."""
    hue = STAGE_HUES[end.stage % len(STAGE_HUES)]
    one = slice(index, index + 1)
    size = end.latent.shape[-1]
    sheet.text(
        centre,
        HEIGHT - 0.72,
        f"Stage {end.stage + sheet.first}: {size}\u00d7{size} latent",
        12,
        weight="bold",
    )
    tokens = end.token_map[one].detach().float().cpu()
    grid = round(tokens.shape[1] ** 0.5)
    token_image = tokens.movedim(1, -1).unflatten(-1, (grid, grid))
    sheet.text(
        centre, ROW_TOKENS + LARGEST / 2 + 0.16, f"transformer, once: {grid * grid} tokens", 10
    )
    sheet.tile(centre, ROW_TOKENS, side, to_pil(latent_to_rgb(token_image))[0], hue)
    sheet.arrow(centre, ROW_TOKENS - side / 2 - 0.05, centre, ROW_FLOW + LARGEST / 2 + 0.36)

    steps = f"{end.num_steps} step" + ("s" if end.num_steps > 1 else "")
    sheet.text(centre, ROW_FLOW + LARGEST / 2 + 0.2, f"flow head: {steps}", 10)
    shift = (side + GAP) / 2
    for event, x in ((start, centre - shift), (end, centre + shift)):
        sheet.tile(x, ROW_FLOW, side, to_pil(colours(event.latent[one]))[0], hue)
        sheet.text(x, ROW_FLOW - side / 2 - 0.15, f"t = {float(event.t):.2f}", 9.5)
    sheet.arrow(centre - GAP / 2 + 0.06, ROW_FLOW, centre + GAP / 2 - 0.06, ROW_FLOW)

    picture = to_pil(decode(tokenizer, end.clean_estimate[one]))[0]
    final = "decoded: the image" if end.is_final else "decoded estimate"
    x = centre + shift
    sheet.arrow(x, ROW_FLOW - side / 2 - 0.27, x, ROW_DECODED + side / 2 + 0.28)
    sheet.text(x, ROW_DECODED + side / 2 + 0.16, final, 10)
    sheet.tile(x, ROW_DECODED, side, picture, hue)


def _draw_time(sheet: _Sheet, stages: list[list[TraceEvent]]) -> None:
    """Each stage's window of flow time, as a bar between noise and data."""
    left, right = MARGIN + 0.75, sheet.width - MARGIN - 0.65
    sheet.text(left - 0.1, ROW_TIME, "noise\nt = 0", 9.5, ha="right")
    sheet.text(right + 0.1, ROW_TIME, "data\nt = 1", 9.5, ha="left")
    height = 0.75 / len(stages)
    for number, (start, end) in enumerate(stages):
        a, b = (left + float(event.t) * (right - left) for event in (start, end))
        y = ROW_TIME + 0.375 - (number + 1) * height
        sheet.bar(left, y + height / 2 - 0.005, right - left, 0.01, FAINT)
        sheet.bar(a, y + 0.03, b - a, height - 0.06, STAGE_HUES[end.stage % len(STAGE_HUES)])
        beside = (a - 0.06, "right") if a - left > 1.2 else (b + 0.06, "left")
        label = f"stage {end.stage + sheet.first}: {float(start.t):.2f} to {float(end.t):.2f}"
        sheet.text(beside[0], y + height / 2, label, 9, ha=beside[1], backgroundcolor=PAPER)


class _Sheet:
    """A figure on which everything is placed in inches from the lower left corner."""

    def __init__(self, width: float, height: float, first: int) -> None:
        self.width, self.height, self.first = width, height, first
        self.figure = Figure(figsize=(width, height), facecolor=PAPER, dpi=160)

    def text(self, x: float, y: float, text: str, points: float, **style) -> None:
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": INK} | style
        if background := style.pop("backgroundcolor", None):
            style["bbox"] = {"facecolor": background, "edgecolor": "none", "pad": 1}
        self.figure.text(x / self.width, y / self.height, text, fontsize=points, **style)

    def tile(self, x: float, y: float, side: float, picture: Image.Image, hue: str) -> None:
        left, low = (x - side / 2) / self.width, (y - side / 2) / self.height
        axes = self.figure.add_axes((left, low, side / self.width, side / self.height))
        axes.imshow(picture, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=hue, linewidth=2)

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        ends = (x / self.width, y / self.height), (to_x / self.width, to_y / self.height)
        arrow = FancyArrowPatch(
            *ends,
            arrowstyle="-|>",
            mutation_scale=12,
            color=INK,
            linewidth=1.3,
            shrinkA=0,
            shrinkB=0,
        )
        self.figure.add_artist(arrow)

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        corner = (x / self.width, y / self.height)
        box = Rectangle(corner, width / self.width, height / self.height, facecolor=colour)
        self.figure.add_artist(box)
