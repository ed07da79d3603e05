"""The picture that opens every notebook: the whole of E-CAR, with this notebook's part lit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ecar_lab.errors import EcarError
from ecar_lab.viz.colours import STAGE_HUES

INK, FAINT, QUIET = "#1B1F24", "#59626E", "#E9ECF0"
LIT = STAGE_HUES[0]


@dataclass(frozen=True)
class Part:
    """A box of the picture: notebook number, words, left, bottom, width, height."""

    number: int
    words: str
    left: float
    bottom: float
    width: float
    height: float = 0.9


PARTS = (
    Part(1, "tokenizer\nimage → latent", 0.0, 1.9, 1.9),
    Part(2, "AR transformer\n→ token map", 3.0, 1.9, 1.9),
    Part(3, "flow head\nnoise → data", 5.9, 1.9, 1.9),
    Part(4, "transition\n↑2 + re-noise", 4.45, 3.35, 1.9),
    Part(1, "tokenizer\nlatent → image", 9.7, 1.9, 1.9),
    Part(5, "the model: S stages of the three", 8.2, 3.55, 3.4, 0.5),
    Part(6, "training", 0.0, 0.15, 2.0, 0.5),
    Part(7, "generation", 2.4, 0.15, 2.0, 0.5),
    Part(8, "experiments", 4.8, 0.15, 2.0, 0.5),
    Part(9, "efficiency", 7.2, 0.15, 2.0, 0.5),
    Part(10, "fewer steps", 9.6, 0.15, 2.0, 0.5),
    Part(11, "your own images", 0.0, 3.55, 2.0, 0.5),
)
# What goes in from outside: words, left, bottom, and where its arrows end.
GIVEN = (
    ("class", 5.05, 1.0, ((4.3, 1.9), (6.3, 1.9))),
    ("noise", 7.0, 1.0, ((7.35, 1.9),)),
    ("noise", 5.05, 4.55, ((5.4, 4.25),)),
)
GIVEN_SIZE = (0.7, 0.32)


def place(number: int) -> Figure:
    """The pipeline with the part of notebook ``number`` (1 to 11) lit; 0 lights everything.

    Raises:
        EcarError: there is no such notebook.
    """
    if not 0 <= number <= 11:
        raise EcarError(f"there is no notebook {number}: use 0 to 11")
    figure = Figure(figsize=(8.6, 3.5), facecolor="white", dpi=110)
    axis = figure.add_axes((0.005, 0.01, 0.99, 0.98))
    axis.set(xlim=(-0.1, 11.7), ylim=(0.05, 4.95))
    axis.axis("off")
    frame: Any = dict(
        boxstyle="round,pad=0,rounding_size=0.1", facecolor="none", edgecolor="#C9CFD6"
    )
    axis.add_patch(FancyBboxPatch((2.75, 1.65), 5.3, 2.75, linestyle="--", **frame))
    for part in PARTS:
        _box(axis, part, lit=number in (0, part.number))
    for words, left, bottom, ends in GIVEN:
        width, height = GIVEN_SIZE
        axis.add_patch(FancyBboxPatch((left, bottom), width, height, **frame))
        middle = left + width / 2
        axis.text(
            middle, bottom + height / 2, words, color=INK, fontsize=8, ha="center", va="center"
        )
        for x, y in ends:
            _arrow(axis, (middle, bottom if y < bottom else bottom + height), (x, y))
    _arrow(axis, (4.9, 2.35), (5.9, 2.35))
    # From stage to stage: what the flow ends with is handed to the next stage.
    _arrow(axis, (7.1, 2.8), (6.35, 3.75), "angle,angleA=90,angleB=0,rad=4")
    _arrow(axis, (4.45, 3.75), (3.95, 2.8), "angle,angleA=0,angleB=90,rad=4")
    _arrow(axis, (5.9, 3.35), (6.3, 2.8))
    _say(axis, (3.5, 3.98), "next stage")
    # What only one of training and sampling has is dotted.
    _arrow(axis, (1.9, 2.35), (3.0, 2.35), style=":")
    _say(axis, (2.3, 2.68), "training\nonly")
    _arrow(axis, (7.8, 2.35), (9.7, 2.35), style=":")
    _say(axis, (8.8, 2.68), "sampling only,\nafter stage S")
    return figure


def describe(number: int) -> str:
    """The picture in words."""
    lit = [part.words.replace("\n", " ") for part in PARTS if number in (0, part.number)]
    here = "all of it" if number == 0 else " and ".join(lit)
    return (
        "The pipeline. In every stage the AR transformer, told the class, gives a token map to the "
        "flow head, which is told the class too and starts from noise; the transition adds noise "
        "and hands over to the next stage. In training only, the tokenizer's encoder gives the "
        "history; in sampling only, the end of the last stage goes to its decoder. Below: "
        "training, generation, experiments, efficiency, fewer steps. Above the encoder: your own "
        f"images. Lit: {here}."
    )


def _box(axis: Axes, part: Part, lit: bool) -> None:
    box = FancyBboxPatch(
        (part.left, part.bottom), part.width, part.height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=LIT if lit else QUIET, edgecolor=LIT if lit else "#C9CFD6",
    )  # fmt: skip
    axis.add_patch(box)
    words = f"{part.number}  {part.words}" if part.height < 0.9 else f"{part.number}\n{part.words}"
    axis.text(
        part.left + part.width / 2, part.bottom + part.height / 2, words,
        ha="center", va="center", fontsize=8, color="white" if lit else INK, linespacing=1.25,
    )  # fmt: skip


def _arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    bend: str = "arc3",
    style: str = "-",
) -> None:
    look = dict(arrowstyle="-|>", color=INK, linewidth=1.4, shrinkA=0, shrinkB=0)
    axis.annotate("", end, start, arrowprops={**look, "connectionstyle": bend, "linestyle": style})


def _say(axis: Axes, at: tuple[float, float], words: str) -> None:
    axis.text(*at, words, color=FAINT, fontsize=7.5, ha="center", va="center", linespacing=1.1)
