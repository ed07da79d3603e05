"""A painting in place of an image's first stages, as settings and recipes hold it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schema import Whole, check_values, hints_of, short

MOST_CELLS = 256  # beside each other


@dataclass(frozen=True)
class Painted:
    """A painting in place of the stages up to one: the later ones complete it.

    Attributes:
        stage: the last one that it decides.
        cells: rows from the top, each with six hexadecimal digits (rrggbb) for every cell.
    """

    stage: Whole
    cells: tuple[str, ...]

    def __post_init__(self) -> None:
        check_values(hints_of(Painted), vars(self))
        side = len(self.cells)
        if not 1 <= side <= MOST_CELLS:
            raise EcarError(f"a painting of {side} rows of cells: use 1 to {MOST_CELLS}")
        row = re.compile(f"[0-9a-f]{{{6 * side}}}")
        if wrong_rows := [cells for cells in self.cells if not row.fullmatch(cells)]:
            raise EcarError(
                f"the row {short(wrong_rows[0])} of a painting: use {side} cells of six digits "
                "each, 0 to 9 and a to f"
            )

    @classmethod
    def of(cls, stage: int, colours: Sequence[str]) -> Painted:
        """From ``#rrggbb`` of every cell, row by row."""
        side = round(len(colours) ** 0.5)
        plain = [colour.removeprefix("#") for colour in colours]
        rows = ("".join(plain[first : first + side]) for first in range(0, side**2, side))
        return cls(stage, tuple(rows))

    @classmethod
    def from_json(cls, values: Any) -> Painted | None:
        """From what ``dataclasses.asdict`` makes of it, perhaps by way of JSON; None is none.

        Raises:
            EcarError: something else.
        """
        if values is None:
            return None
        if not isinstance(values, Mapping) or set(values) != {"stage", "cells"}:
            raise EcarError(f"painted is {short(values)}: give an object with stage and cells")
        cells = values["cells"]
        return cls(values["stage"], tuple(cells) if isinstance(cells, list) else cells)

    def picture(self, size: int) -> Tensor:
        """(1, 3, size, size) in [-1, 1], each cell a square."""
        levels = torch.tensor([list(bytes.fromhex(row)) for row in self.cells]).float()
        cells = levels.unflatten(1, (-1, 3)).permute(2, 0, 1)[None] / 127.5 - 1
        return F.interpolate(cells, (size, size), mode="nearest")

    def latent(self, pipeline: ECARPipeline) -> Tensor:
        """The clean latent (1, C, R, R) of the picture."""
        picture = self.picture(pipeline.image_size)
        with torch.no_grad():
            tokenizer = pipeline.tokenizer
            return tokenizer.encode(picture.to(pipeline.device, tokenizer.dtype)).float()

    def __str__(self) -> str:
        side = len(self.cells)
        return f"stage {self.stage + 1} painted, {side}×{side} cells"
