"""The picture that opens every notebook: the whole of E-CAR, with this notebook's part lit."""

from __future__ import annotations

from dataclasses import dataclass

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
    Part(1, "tokenizer\nimage → latent", 0.0, 1.5, 1.9),
    Part(2, "AR transformer\n→ token map", 2.5, 1.5, 1.9),
    Part(3, "flow head\nnoise → data", 4.9, 1.5, 1.9),
    Part(4, "transition\n↑2 + re-noise", 7.3, 1.5, 1.9),
    Part(1, "tokenizer\nlatent → image", 9.7, 1.5, 1.9),
    Part(5, "the model: S stages of the three", 2.5, 2.75, 6.7, 0.5),
    Part(6, "training", 0.0, 0.55, 2.6, 0.5),
    Part(7, "generation", 3.0, 0.55, 2.6, 0.5),
    Part(8, "experiments", 6.0, 0.55, 2.6, 0.5),
    Part(9, "efficiency", 9.0, 0.55, 2.6, 0.5),
)


def place(number: int) -> Figure:
    """The pipeline with the part of notebook ``number`` (1 to 9) lit; 0 lights everything.

    Raises:
        EcarError: there is no such notebook.
    """
    if not 0 <= number <= 9:
        raise EcarError(f"there is no notebook {number}: use 0 to 9")
    figure = Figure(figsize=(8.6, 2.3), facecolor="white", dpi=110)
    axis = figure.add_axes((0.005, 0.01, 0.99, 0.98))
    axis.set(xlim=(-0.1, 11.7), ylim=(0.4, 3.4))
    axis.axis("off")
    for part in PARTS:
        _box(axis, part, lit=number in (0, part.number))
    for left in (1.9, 4.4, 6.8, 9.2):
        _arrow(axis, (left + 0.06, 1.95), (left + 0.54, 1.95))
    # From stage to stage: the transition's result is the next stage's start.
    back = dict(arrowstyle="-|>", color=FAINT, linewidth=1.2, connectionstyle="bar,fraction=-0.06")
    axis.annotate("", (3.3, 1.5), (8.4, 1.5), arrowprops=back)
    label = dict(facecolor="white", edgecolor="none", pad=1.5)
    axis.text(
        5.85, 1.23, "next stage", color=FAINT, fontsize=7.5, ha="center", va="center", bbox=label
    )
    return figure


def describe(number: int) -> str:
    """The picture in words."""
    lit = [part.words.replace("\n", " ") for part in PARTS if number in (0, part.number)]
    here = "all of it" if number == 0 else " and ".join(lit)
    return (
        "The pipeline: tokenizer, then per stage AR transformer, flow head and transition, then "
        f"the tokenizer's decoder; below it training, generation, experiments, efficiency. Lit: "
        f"{here}."
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


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = dict(arrowstyle="-|>", color=INK, linewidth=1.4, shrinkA=0, shrinkB=0)
    axis.annotate("", end, start, arrowprops=look)
