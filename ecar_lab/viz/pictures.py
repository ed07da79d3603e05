"""Pictures of what happens: latents as colours, grids, the strip of stages, GIFs.

Images are (B, 3, H, W) in [-1, 1]; everything here draws on the CPU and leaves as PIL images.
Pixels are enlarged by nearest neighbour, so that a 4x4 stage reads as 4x4, and every picture brings
its own background. The figure for documents, matplotlib's, is in ``overview.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.files import write_error
from ecar_lab.viz.colours import STAGE_HUES, LatentColours, decode

if TYPE_CHECKING:
    from ecar_lab.events import TraceEvent
    from ecar_lab.tokenizers.base import Tokenizer

PAPER, INK, FAINT = "#FFFFFF", "#1B1F24", "#59626E"
ROWS = ("Noisy latent", "Clean estimate", "Decoded")


def to_pil(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) or (3, H, W) in [-1, 1] -> one PIL image each."""
    images = images.detach().float().cpu()
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[1] != 3:
        raise EcarError(f"images of shape {tuple(images.shape)} cannot be drawn: give (B, 3, H, W)")
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(image) for image in pixels.movedim(1, -1).contiguous().numpy()]


def enlarge(image: Image.Image, width: int, height: int | None = None) -> Image.Image:
    """To ``width`` x ``height`` pixels by nearest neighbour."""
    return image.resize((width, height or width), Image.Resampling.NEAREST)


def image_grid(
    images: Tensor | Sequence[Image.Image],
    columns: int | None = None,
    *,
    scale: int = 1,
    labels: Sequence[str] | None = None,
    gap: int = 4,
) -> Image.Image:
    """Images side by side, row by row, each with its label below.

    Args:
        columns: by default as square as it gets.
        scale: enlargement by nearest neighbour.
        gap: white pixels between cells.

    Raises:
        EcarError: no image, or not one label per image.
    """
    tiles = to_pil(images) if isinstance(images, Tensor) else list(images)
    if not tiles:
        raise EcarError("there is no image to draw: give at least one")
    if labels is not None and len(labels) != len(tiles):
        raise EcarError(f"{len(labels)} labels for {len(tiles)} images: give one each")
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = (side * scale for side in tiles[0].size)
    font = _font(14)
    caption = 20 if labels else 0
    cell = max([width, *(math.ceil(font.getlength(label)) + 4 for label in labels or ())])
    sheet = Image.new(
        "RGB", (columns * (cell + gap) + gap, rows * (height + caption + gap) + gap), PAPER
    )
    pen = ImageDraw.Draw(sheet)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        x, y = gap + column * (cell + gap), gap + row * (height + caption + gap)
        sheet.paste(enlarge(tile, width, height), (x + (cell - width) // 2, y))
        if labels:
            pen.text((x + cell / 2, y + height + 2), labels[index], INK, font, anchor="ma")
    return sheet


def last_events(events: Iterable[TraceEvent]) -> dict[int, list[TraceEvent]]:
    """Per stage its first and its last event so far, in the order of the stages."""
    seen: dict[int, list[TraceEvent]] = {}
    for event in events:
        seen[event.stage] = [seen.get(event.stage, [event])[0], event]
    return dict(sorted(seen.items()))


def stage_strip(
    events: Iterable[TraceEvent],
    tokenizer: Tokenizer,
    *,
    index: int = 0,
    num_stages: int | None = None,
    side: int = 192,
    colours: LatentColours | None = None,
    first: int = 1,
) -> Image.Image:
    """The stages of one image: a column each, at true relative size.

    Rows: the noisy latent where the stage stands, the clean estimate, that estimate decoded. With
    the events of an unfinished run the strip shows how far it has come.

    Args:
        index: which image of the batch.
        num_stages: leaves room for stages that have no event yet.
        side: pixels of the largest stage.
        colours: by default those of the tokenizer.
        first: number of the coarsest stage in words; beside code, which counts from 0, give 0.

    Raises:
        EcarError: there is no event.
    """
    stages = last_events(events)
    if not stages:
        raise EcarError("there is no event to draw: run the trace first")
    colours = colours or LatentColours.of(tokenizer)
    count = max(num_stages or 0, max(stages) + 1)
    # Stages double, so one known resolution gives all the others.
    known = next(iter(stages.items()))
    sizes = [round(known[1][0].latent.shape[-1] * 2.0 ** (s - known[0])) for s in range(count)]
    sides = [max(1, round(side * size / sizes[-1])) for size in sizes]
    columns = [max(width, 92) for width in sides]
    arrow, margin, head, label = 96, 16, 48, 24
    width = 2 * margin + sum(columns) + arrow * (count - 1)
    strip = Image.new("RGB", (width, 2 * margin + head + len(ROWS) * (label + side + 8)), PAPER)
    pen = ImageDraw.Draw(strip)
    x = margin
    for stage in range(count):
        centre = x + columns[stage] / 2
        hue = STAGE_HUES[stage % len(STAGE_HUES)]
        pen.text((centre, margin), f"Stage {stage + first}", INK, _font(16, bold=True), anchor="ma")
        caption = f"{sizes[stage]}\u00d7{sizes[stage]}"
        if stage in stages:
            caption += f", t = {float(stages[stage][1].t):.2f}"
        pen.text((centre, margin + 20), caption, FAINT, _font(13), anchor="ma")
        pen.rectangle((x, margin + 41, x + columns[stage], margin + 44), fill=hue)
        tiles = stage_tiles(stages[stage][1], tokenizer, colours, index) if stage in stages else ()
        for row, name in enumerate(ROWS):
            top = margin + head + row * (label + side + 8)
            if stage == 0:
                pen.text((margin, top + 3), name, INK, _font(14))
            box = (round(centre - sides[stage] / 2), top + label + (side - sides[stage]) // 2)
            frame = (box[0] - 1, box[1] - 1, box[0] + sides[stage], box[1] + sides[stage])
            if row < len(tiles):
                strip.paste(enlarge(tiles[row], sides[stage]), box)
            pen.rectangle(frame, outline=hue if row < len(tiles) else "#C9CFD6")
        if stage + 1 < count:
            left = x + columns[stage] + 8
            _arrow(pen, left, left + arrow - 16, margin + head + label + side // 2)
        x += columns[stage] + arrow
    return strip


def stage_tiles(
    event: TraceEvent, tokenizer: Tokenizer, colours: LatentColours, index: int = 0
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The rows of one column at native size: noisy latent, clean estimate, decoded."""
    one = slice(index, index + 1)
    pictures = (
        colours(event.latent[one]),
        colours(event.clean_estimate[one]),
        decode(tokenizer, event.clean_estimate[one]),
    )
    noisy, clean, decoded = (to_pil(picture)[0] for picture in pictures)
    return noisy, clean, decoded


def strip_frames(
    events: Sequence[TraceEvent], tokenizer: Tokenizer, **options
) -> list[Image.Image]:
    """One strip per event: the run as it grew, ready for :func:`save_gif`.

    ``options`` are those of :func:`stage_strip`.
    """
    options.setdefault("colours", LatentColours.of(tokenizer))
    options.setdefault("num_stages", max((event.stage for event in events), default=0) + 1)
    return [stage_strip(events[: n + 1], tokenizer, **options) for n in range(len(events))]


def contact_sheet(
    events: Sequence[TraceEvent],
    tokenizer: Tokenizer,
    *,
    title: str = "",
    index: int = 0,
    tile: int = 64,
    per_row: int = 12,
    colours: LatentColours | None = None,
    first: int = 1,
) -> Image.Image:
    """Every event of a run in order, with the rows of :func:`stage_strip` below each other.

    Each stage begins anew, below a bar in its hue that names it.

    Args:
        title: the first line. index: which image of the batch.
        tile: pixels of a picture. per_row: events beside each other.
        colours: by default those of the tokenizer.
        first: number of the coarsest stage in words, see :func:`stage_strip`.

    Raises:
        EcarError: there is no event.
    """
    if not events:
        raise EcarError("there is no event to draw: run the trace first")
    colours = colours or LatentColours.of(tokenizer)
    stages = {s: [e for e in events if e.stage == s] for s in sorted({e.stage for e in events})}
    margin, gap, names, head, caption = 16, 6, 116, 38, 20
    block = caption + len(ROWS) * (tile + gap)
    columns = min(per_row, max(map(len, stages.values())))
    lines = sum(math.ceil(len(own) / per_row) for own in stages.values())
    width = max(names + columns * (tile + gap), math.ceil(_font(15, bold=True).getlength(title)))
    height = 2 * margin + 24 + len(stages) * head + lines * block
    sheet = Image.new("RGB", (2 * margin + width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((margin, margin), title, INK, _font(15, bold=True))
    y = margin + 24
    for stage, own in stages.items():
        side = own[0].latent.shape[-1]
        hue = STAGE_HUES[stage % len(STAGE_HUES)]
        pen.rectangle((margin, y + 6, margin + width, y + 10), fill=hue)
        words = f"Stage {stage + first}: {side}\u00d7{side}, t = {own[0].t:.2f} to {own[-1].t:.2f}"
        pen.text((margin, y + 15), words, INK, _font(14, bold=True))
        y += head
        for place, event in enumerate(own):
            line, column = divmod(place, per_row)
            x, top = margin + names + column * (tile + gap), y + line * block
            when = f"step {event.step}" if event.step else "start"
            pen.text((x + tile / 2, top + 2), when, INK, _font(12), anchor="ma")
            for row, picture in enumerate(stage_tiles(event, tokenizer, colours, index)):
                below = top + caption + row * (tile + gap)
                sheet.paste(enlarge(picture, tile), (x, below))
                if column == 0:
                    pen.text((margin, below + tile / 2), ROWS[row], FAINT, _font(13), anchor="lm")
        y += math.ceil(len(own) / per_row) * block
    return sheet


def save_gif(
    frames: Sequence[Image.Image], path: str | Path, *, seconds: float = 0.12, hold: float = 1.5
) -> Path:
    """An endless GIF: ``seconds`` per frame, the last one held for ``hold`` seconds.

    Raises:
        EcarError: no frame, or a place that cannot be written.
    """
    if not frames:
        raise EcarError("there is no frame to save: give at least one image")
    path = Path(path)
    times = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * hold)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    except OSError as error:
        raise write_error(path, error) from error
    return path


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: the same letters on every machine."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _arrow(pen: ImageDraw.ImageDraw, left: float, right: float, y: float) -> None:
    """The hand-over between two stages, named."""
    middle = (left + right) / 2
    pen.text((middle, y - 38), "upsample \u00d72", INK, _font(12), anchor="ma")
    pen.text((middle, y - 23), "+ noise", INK, _font(12), anchor="ma")
    pen.line((left, y, right - 6, y), fill=INK, width=2)
    pen.polygon([(right, y), (right - 8, y - 5), (right - 8, y + 5)], fill=INK)
