"""Tables of encoded images: where a named data set lies, its splits, columns and class names.

Nothing is decoded here; `pixels.py` and `sources.py` turn the rows into tensors. What lies in a
folder is for `places.py` to say, which class a label means for `labels.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecar_lab import bounds
from ecar_lab.data.columns import NO_LABELS
from ecar_lab.data.fingerprint import of_pictures, of_rows, of_table, revision_of
from ecar_lab.data.labels import code_of
from ecar_lab.data.layout import Layout
from ecar_lab.data.shards import Pieces
from ecar_lab.errors import EcarError, reason

Pair = tuple[Any, int]  # encoded image as `datasets` holds it, or its pixels; class
Content = Iterable[bytes | str] | None


@dataclass
class Table:
    """Rows of one split, with the columns that matter; images stay encoded.

    Attributes:
        codes: value in the label column -> class; None: one class.
        pixel_type: numpy's name of what nested lists of pixels hold, "" where images are encoded.
        files: parquet files that the rows are in, or pictures, in the order of the rows.
        base: of a folder of pictures. hub_id: of a set of the Hub. taken: the limit.
        pieces: of a stream whose rows are counted piece by piece.
    """

    layout: Layout
    split: str
    rows: Any  # `datasets.Dataset`, or for a stream `datasets.IterableDataset`
    total: int | None  # number of rows where it is known without reading them
    image_column: str = "image"
    label_column: str = NO_LABELS
    codes: dict[Any, int] | None = None
    pixel_type: str = ""
    files: tuple[Path, ...] = ()
    base: Path | None = None
    hub_id: str = ""
    taken: int | None = None
    pieces: Pieces | None = None

    @property
    def name(self) -> str:
        """What the set was opened as."""
        return self.layout.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all splits together."""
        return self.layout.class_names

    @property
    def is_stream(self) -> bool:
        """Whether the rows can only be read from the beginning."""
        return not hasattr(self.rows, "__len__")

    def limit(self, count: int | None) -> None:
        """Keeps ``count`` rows: the first of a stream, else a fixed random choice."""
        if count is None:
            return
        self.taken = count
        if self.is_stream:
            self.rows, self.total, self.pieces = self.rows.take(count), None, None
        elif count < len(self.rows):
            chosen = np.random.RandomState(0).permutation(len(self.rows))[:count]
            self.rows, self.total = self.rows.select(np.sort(chosen)), count

    def content(self) -> Content:
        """What the fingerprint is made of; None if that cannot be told."""
        yields = [self.image_column, self.label_column, str(self.taken)]
        if self.base is not None:
            pairs = self.take(list(range(len(self.rows))))
            files = [(Path(image["path"]), label) for image, label in pairs]
            return itertools.chain(
                yields,
                of_pictures((f.relative_to(self.base).as_posix(), f, code) for f, code in files),
            )
        if self.files:
            order = ["stream"] if self.is_stream and self.taken else []
            return itertools.chain(yields, order, map(of_table, self.files))
        if self.is_stream:
            revision = revision_of(self.hub_id)
            return [*yields, self.hub_id, self.split, revision] if revision else None
        return [*yields, of_rows(self.rows)]

    def pairs(self, rows: Iterable[dict[str, Any]]) -> Iterator[Pair]:
        """(encoded image, class) of each of ``rows``."""
        try:
            for row in rows:
                yield (
                    self._image(row[self.image_column]),
                    self._class_of(row.get(self.label_column)),
                )
        except EcarError:
            raise
        except Exception as error:  # file system, Arrow and HTTP clients have nothing in common
            raise EcarError(
                f"reading {self.name!r} ({self.split}) failed ({reason(error)}): check the file "
                "or the network and start again"
            ) from error

    def take(self, indices: list[int]) -> list[Pair]:
        """(encoded image, class) of the rows ``indices``; not for a stream."""
        columns = self.rows[indices]
        images = map(self._image, columns[self.image_column])
        labels = columns.get(self.label_column, [None] * len(indices))
        return list(zip(images, map(self._class_of, labels), strict=True))

    def _image(self, value: Any) -> Any:
        return value if value is None or not self.pixel_type else as_pixels(value, self.pixel_type)

    def _class_of(self, value: Any) -> int:
        if self.codes is None:
            return 0
        return code_of(value, self.codes, f"{self.name!r} ({self.split})")


def as_pixels(value: Any, kind: str) -> np.ndarray:
    """Nested lists as an array of that type; ragged ones as one of no use, to be told later."""
    try:
        return np.asarray(value, dtype=kind)
    except (ValueError, TypeError):
        return np.asarray([], dtype=object)


def require_memory(name: str, needed: int) -> None:
    """Refuses to hold ``needed`` bytes where that would leave little of the free memory."""
    remedy = "use streaming (--streaming), a smaller image size or a limit"
    bounds.require_memory(repr(name), needed, remedy, share=0.8)
