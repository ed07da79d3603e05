"""From a painting to images: what the page sends, as a stage's end state, and completed from there.

Nothing is written to the disk: a message holds one picture per moment, all images side by side.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from apps.server.turns import paced
from apps.shared.inline import data_url, side_by_side
from apps.shared.painted import Painted
from apps.shared.settings import MAX_SEED, seed_of, whole
from apps.shared.studio import Studio
from ecar_lab.data.sources import picture_of
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.interventions import stage_end_of, stage_noise
from ecar_lab.schema import short
from ecar_lab.viz.colours import decode
from ecar_lab.viz.pictures import to_pil

MOST_CLASSES, MOST_SEEDS = 4, 6
GREY = "#808080"
COLOUR = re.compile("#[0-9a-f]{6}")


@dataclass(frozen=True)
class Painting:
    """``side`` x ``side`` cells, row by row, each a colour such as ``#0072b2``.

    Raises:
        EcarError: as many colours as no square has, or something that is no colour.
    """

    colours: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.colours or self.side**2 != len(self.colours):
            raise EcarError(f"a painting of {len(self.colours)} cells is no square: use 16 or 64")
        for colour in self.colours:
            if not isinstance(colour, str) or not COLOUR.fullmatch(colour):
                raise EcarError(f"the colour {str(colour)[:40]!r} is unknown: write #rrggbb")

    @property
    def side(self) -> int:
        return round(len(self.colours) ** 0.5)

    @classmethod
    def of_page(cls, value: Any, sides: list[int]) -> Painting:
        """The painting in what the page sends.

        Raises:
            EcarError: something else, or another number of cells than the page offers.
        """
        colours = value.get("colours") if isinstance(value, Mapping) else None
        if not isinstance(colours, list) or len(colours) not in [side**2 for side in sides]:
            raise EcarError("there is no painting yet: colour some cells, or choose a beginning")
        return cls(tuple(colours))

    @classmethod
    def of_picture(cls, picture: Tensor, side: int) -> Painting:
        """The mean colour of each cell of (1, 3, H, W) in [-1, 1]."""
        small = F.adaptive_avg_pool2d(picture, side)[0].flatten(1)
        levels = ((small.clamp(-1, 1) + 1) * 127.5).round().int().T.tolist()
        return cls(tuple("#{:02x}{:02x}{:02x}".format(*level) for level in levels))

    def at(self, stage: int) -> Painted:
        """The painting in place of the stages up to ``stage``, as a part of settings."""
        return Painted.of(stage, self.colours)

    def picture(self, size: int) -> Tensor:
        """(1, 3, size, size) in [-1, 1], each cell a square."""
        return self.at(0).picture(size)


@dataclass(frozen=True)
class Wish:
    """What a painting is to become. ``stage``: the last one that it decides.

    Raises:
        EcarError: no class or no seed, or more than are made at a time.
    """

    painting: Painting
    stage: int
    classes: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values, most in (
            ("classes", self.classes, MOST_CLASSES),
            ("seeds", self.seeds, MOST_SEEDS),
        ):
            if not 1 <= len(values) <= most:
                raise EcarError(f"{len(values)} {name}: choose 1 to {most}")
        for seed in self.seeds:
            if not 0 <= seed <= MAX_SEED:
                raise EcarError(f"seed {seed} is out of range: use 0 to {MAX_SEED}")

    @classmethod
    def of_page(cls, painting: Painting, stage: Any, classes: Any, seed: Any, count: Any) -> Wish:
        """What the page's controls say; ``count`` seeds, from ``seed`` on.

        Raises:
            EcarError: a value of another kind, or out of its range.
        """
        if not isinstance(classes, list | tuple | NoneType):
            raise EcarError(f"classes are {short(classes)}: choose some from the list")
        first, seeds = seed_of(seed), whole(count, "seeds")
        if not 1 <= seeds <= MOST_SEEDS:  # before a thousand million are made
            raise EcarError(f"{seeds} seeds: choose 1 to {MOST_SEEDS}")
        chosen = range(first, first + seeds)
        return cls(painting, whole(stage, "stage"), tuple(classes or ()), tuple(chosen))

    @property
    def labels(self) -> list[str]:
        """One per image: the classes below each other, the seeds side by side."""
        return [name for name in self.classes for _ in self.seeds]


def complete(studio: Studio, wish: Wish) -> Iterator[dict[str, Any]]:
    """Yields what the page shows: at once how the painting is handed over, then all images after
    every later stage.

    Raises:
        EcarError: a stage or class that the model does not have.
    """
    begin = time.perf_counter()
    pipeline, labels, count = studio.pipeline, wish.labels, len(wish.labels)
    model, tokenizer = pipeline.model, pipeline.tokenizer
    painted = wish.painting.picture(pipeline.image_size)
    clean = wish.painting.at(wish.stage).latent(pipeline)
    noise = [
        torch.cat(stage).repeat(len(wish.classes), 1, 1, 1).to(pipeline.device)
        for stage in zip(*(stage_noise(model, seed) for seed in wish.seeds), strict=True)
    ]
    latent = clean.expand(count, *clean.shape[1:])
    start = stage_end_of(model, latent, wish.stage, labels, noise)
    view = {
        "classes": list(wish.classes),
        "seeds": list(wish.seeds),
        "stage": wish.stage + 1,
        "colours": list(wish.painting.colours),
        "stages": model.schedule.num_stages,
        "handed": handed_over(studio, painted, clean, start),
        "sprite": None,
        "done": False,
    }
    yield view
    events = pipeline.trace(
        labels, start_from=start, noise=dict(enumerate(noise)), dtype=studio.dtype
    )
    for event in paced(events):
        if event.is_stage_end:
            shown = event.latent if event.is_final else event.clean_estimate
            view = {
                **view,
                "sprite": data_url(side_by_side(decode(tokenizer, shown))),
                "at": event.stage + 1,
                "done": event.is_final,
                "seconds": round(time.perf_counter() - begin, 3),
            }
            yield view


def handed_over(
    studio: Studio, painted: Tensor, clean: Tensor, start: TraceEvent
) -> list[dict[str, str]]:
    """The way of a painting to the stage's end state, as pictures with words."""
    pipeline, model = studio.pipeline, studio.pipeline.model
    pooled = model.pyramid(clean)[start.stage]
    side = pooled.shape[-1]
    steps = [
        ("Painted", f"{pipeline.image_size} px", painted),
        ("Tokenizer and back", "what the latent keeps", decode(pipeline.tokenizer, clean)),
        (
            f"Pooled to {side}×{side}",
            "all that later stages learn of it",
            studio.colours(pooled),
        ),
        (
            f"With noise to t = {start.t:.2f}",
            f"stage {start.stage + 1} ends here; the first seed's noise",
            studio.colours(start.latent[:1]),
        ),
    ]
    return [
        {"label": label, "note": note, "picture": data_url(to_pil(picture)[0])}
        for label, note, picture in steps
    ]


# -- beginnings ------------------------------------------------------------------------------------

Place = Callable[[Tensor, Tensor], Tensor]
# Each a ground colour, then layers of (colour, where): x to the right, y down, both 0 to 1.
BEGINNINGS: dict[str, tuple[str, list[tuple[str, Place]]]] = {
    "red car": (
        "#909090",
        [
            ("#c82828", lambda x, y: (y > 0.5) & (y < 0.75)),
            ("#c82828", lambda x, y: (y > 0.25) & (y < 0.5) & (x > 0.25) & (x < 0.75)),
            ("#202020", lambda x, y: (y > 0.75) & ((x < 0.25) | (x > 0.75))),
        ],
    ),
    "ship at sea": (
        "#8fbce6",
        [
            ("#1e2a50", lambda x, y: y > 0.5),
            ("#f0f0f0", lambda x, y: (y > 0.25) & (y < 0.75) & (x > 0.25) & (x < 0.75)),
        ],
    ),
    "sky over grass": ("#78b4f0", [("#4a8a3a", lambda x, y: y > 0.5)]),
    "evening": (
        "#f0a050",
        [
            ("#7a4a78", lambda x, y: y < 0.25),
            ("#2a2438", lambda x, y: y > 0.75),
        ],
    ),
}


def beginning(name: str, side: int) -> Painting:
    """A painting to begin with.

    Raises:
        EcarError: an unknown name.
    """
    if name not in BEGINNINGS:
        raise EcarError(f"there is no beginning {name!r}: choose {', '.join(BEGINNINGS)}")
    ground, layers = BEGINNINGS[name]
    middles = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    colours = [ground] * side**2
    for colour, where in layers:
        for index in where(x, y).flatten().nonzero().flatten().tolist():
            colours[index] = colour
    return Painting(tuple(colours))


def painting_of_file(image: Image.Image, side: int, size: int) -> Painting:
    """A painting of a picture's middle square."""
    return Painting.of_picture(picture_of(image, size), side)
