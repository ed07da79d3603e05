"""Figures of the notebooks: one style, one hue a stage, a caption and a text in words."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ecar_lab.experiments.lab.figures import markdown_table, new_figure
from ecar_lab.viz.colours import STAGE_HUES
from ecar_lab.viz.pictures import image_grid

__all__ = ["hue", "new_figure", "picture", "png", "show", "table"]

Drawable = Figure | Image.Image | Tensor
WIDEST = 1400  # pixels; what is wider would only make the notebook heavy


def hue(stage: int) -> str:
    """The colour of a stage, the same in every figure of the kit."""
    return STAGE_HUES[stage % len(STAGE_HUES)]


def picture(drawing: Drawable) -> Image.Image:
    """A figure, a PIL image or images (B, 3, H, W) in [-1, 1] as one PIL image."""
    if isinstance(drawing, Figure):
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", facecolor="white")
        drawing = Image.open(buffer)
    elif isinstance(drawing, Tensor):
        drawing = image_grid(drawing, scale=max(1, 96 // drawing.shape[-1]))
    drawing = drawing.convert("RGB")
    if drawing.width > WIDEST:
        drawing = drawing.resize((WIDEST, round(drawing.height * WIDEST / drawing.width)))
    return drawing


def png(drawing: Drawable) -> bytes:
    """The drawing as a PNG file; with 256 colours where no more are needed to draw it."""
    image = picture(drawing)
    if image.getcolors(256) or isinstance(drawing, Figure):
        image = image.quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def show(drawing: Drawable, caption: str, alt: str) -> None:
    """Displays a drawing, its caption below it.

    Args:
        caption: what to see in it; Markdown.
        alt: the same for who cannot see: what is drawn and what it says. It goes beside the PNG in
            the notebook file, where screen readers and exports look for it.
    """
    data: dict[str, Any] = {"image/png": png(drawing), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})
    display(Markdown(f"*{caption}*"))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Displays a table."""
    display(Markdown(markdown_table(header, rows)))
