"""Controls for looking around: what is computed stands apart from what is shown.

:func:`explorer` takes a function from settings to a picture and the controls for those settings.
It always shows a still row of examples, so that nothing is lost on GitHub or without a kernel, and
beside it, in a live notebook, the controls with one large picture. Only built-in widgets are used.
The modules beside this file hold one notebook's explorations each; begin with ``start.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import Markdown, display
from PIL import Image

from ecar_lab.errors import EcarError
from ecar_lab.teaching.figures import Drawable, picture, png, show
from ecar_lab.teaching.session import is_static
from ecar_lab.viz.pictures import image_grid

WIDE = {"style": {"description_width": "220px"}, "layout": {"width": "500px"}}


def whole(name: str, low: int, high: int, value: int, step: int = 1) -> widgets.IntSlider:
    """A slider over whole numbers; it tells when it is let go."""
    return widgets.IntSlider(
        value, low, high, step, description=name, continuous_update=False, **WIDE
    )


def real(name: str, low: float, high: float, value: float, step: float) -> widgets.FloatSlider:
    """A slider over real numbers; it tells when it is let go."""
    return widgets.FloatSlider(
        value, min=low, max=high, step=step, description=name, continuous_update=False, **WIDE
    )


def choice(name: str, options: Sequence[Any], value: Any = None) -> widgets.Dropdown:
    """One of several; the first unless told otherwise."""
    start = options[0] if value is None else value
    return widgets.Dropdown(options=list(options), value=start, description=name, **WIDE)


def flag(name: str, value: bool = False) -> widgets.Checkbox:
    """Yes or no."""
    return widgets.Checkbox(value, description=name, indent=False)


def explorer(
    draw: Callable[..., Drawable],
    controls: Mapping[str, Any],
    examples: Mapping[str, Mapping[str, Any]],
    caption: str,
    alt: str,
    *,
    columns: int | None = None,
) -> widgets.VBox | None:
    """A still row of examples, and the controls to look further.

    End the cell with the call: the controls are its value (None where they are left out).

    Args:
        draw: settings -> figure, image or images (B, 3, H, W). An EcarError it raises is shown.
        controls: argument of ``draw`` -> its control; :func:`whole`, :func:`real`, :func:`choice`,
            :func:`flag`, or any built-in widget with a ``value``.
        examples: label -> settings that differ from the controls' own values.
        caption, alt: see :func:`ecar_lab.teaching.show`.
        columns: pictures a row; by default all in one.

    Raises:
        EcarError: an example names a setting that has no control.
    """
    start = {name: control.value for name, control in controls.items()}
    for label, settings in examples.items():
        if unknown := set(settings) - set(start):
            raise EcarError(f"example {label!r} sets {sorted(unknown)}, which have no control")
    tiles = [picture(draw(**{**start, **settings})) for settings in examples.values()]
    if tiles:
        show(side_by_side(tiles, list(examples), columns), caption, alt)
    if is_static():
        display(Markdown("▸ *Run this cell in JupyterLab: it has controls.*"))
        return None
    return panel(draw, controls)


def panel(draw: Callable[..., Drawable], controls: Mapping[str, Any]) -> widgets.VBox:
    """The controls above one picture that follows them."""
    # At its own size: a column would stretch it to its width.
    view = widgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
    trouble = widgets.HTML()

    def update(_: Any = None) -> None:
        settings = {name: control.value for name, control in controls.items()}
        try:
            view.value, trouble.value = png(draw(**settings)), ""
        except EcarError as error:
            trouble.value = f"<b>✘ {error}</b>"

    for control in controls.values():
        control.observe(update, names="value")
    update()
    return widgets.VBox([*controls.values(), trouble, view])


def side_by_side(
    tiles: Sequence[Image.Image], labels: Sequence[str], columns: int | None = None
) -> Image.Image:
    """Pictures of any size in rows, centred in equal cells, each with its label below."""
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    cells = []
    for tile in tiles:
        cell = Image.new("RGB", (width, height), "white")
        cell.paste(tile, ((width - tile.width) // 2, (height - tile.height) // 2))
        cells.append(cell)
    named = list(labels) if any(labels) else None
    return image_grid(cells, columns or len(cells), labels=named)
