"""Where the pixels come from: memory, the drawing of shapes, a table of encoded images, a stream.

Every source hands out uint8 batches in an order that ``Order`` fixes; `datasets.py` makes floats of
them. Unreadable images are counted, and the first one is named.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import warnings
from collections import deque
from collections.abc import Hashable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ecar_lab.data.pixels import Unreadable, Unscaled, open_image, shorten, square_pixels
from ecar_lab.data.shapes import SHAPES, draw_shapes
from ecar_lab.data.shards import cut
from ecar_lab.data.tables import Content, Pair, Table, require_memory
from ecar_lab.errors import EcarError

if TYPE_CHECKING:
    from datasets import IterableDataset

SHUFFLE_BUFFER = 2048  # encoded images a stream holds to draw the next one from
STREAM_READERS = 8  # parts of a stream that are read side by side, at most
PREFETCH = 4  # batches made ready in the background
SIZED_IMAGES = 16  # images whose sizes are looked at to find the set's own
SMALLEST = 8  # px: a set of smaller images must be asked for by size
WIDEST_SPREAD = 4  # between the shorter sides of the first images
RANGES = {255.0: "0 ... 1", 1.0: "0 ... 255", 1 / 257: "16 bits"}  # by their scale
DECODE_CHUNK = 32  # images per task of the decoding threads


class Batch(NamedTuple):
    """images (B, 3, H, W) uint8, labels (B,) int64, good (B,) bool: False where unreadable."""

    images: Tensor
    labels: Tensor
    good: Tensor


class Order(NamedTuple):
    """Which batches one process takes of one epoch; see ``ImageDataset.batches``."""

    batch_size: int
    seed: int
    start: int
    process_index: int
    num_processes: int
    drop_last: bool

    @property
    def share(self) -> slice:
        size = self.batch_size // self.num_processes
        return slice(self.process_index * size, (self.process_index + 1) * size)


class IndexedSource:
    """A source that can read any image at any time."""

    corrupt: Set[Hashable] = frozenset()

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: Tensor) -> Batch:
        """The images ``indices`` (B,)."""
        raise NotImplementedError

    def content(self) -> Content:
        """What the fingerprint is made of; None if that cannot be told."""
        raise NotImplementedError

    def batches(self, order: Order) -> Iterator[Batch]:
        """One epoch: a permutation of all images, cut into batches."""
        generator = torch.Generator().manual_seed(order.seed)
        permutation = torch.randperm(len(self), generator=generator)
        for indices in permutation.split(order.batch_size)[order.start :]:
            if order.drop_last and len(indices) < order.batch_size:
                return
            if len(share := indices[order.share]):
                yield self.read(share)


class PixelSource(IndexedSource):
    """Everything in memory: reading is indexing."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Tensor) -> Batch:
        return _whole(self.images[indices], self.labels[indices])

    def content(self) -> Content:
        return [self.images.numpy().tobytes(), self.labels.numpy().tobytes()]


class ShapeSource(IndexedSource):
    """The first ``count`` images of the set of shapes ``key``, drawn as they are asked for."""

    def __init__(self, key: int, count: int, size: int) -> None:
        self.key, self.count, self.size = key, count, size

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Tensor) -> Batch:
        return _whole(*draw_shapes(self.key, indices, self.size))

    def content(self) -> Content:
        few = draw_shapes(self.key, torch.arange(min(self.count, len(SHAPES))), self.size)
        return [str(self.key), str(self.count), *(part.numpy().tobytes() for part in few)]


class RowSource(IndexedSource):
    """A table on this machine, decoded as it is read."""

    def __init__(self, table: Table, decoder: Decoder) -> None:
        self.table, self.decoder, self.corrupt = table, decoder, decoder.corrupt

    def __len__(self) -> int:
        return self.table.total or 0

    def read(self, indices: Tensor) -> Batch:
        return self.decoder(self.table.take(indices.tolist()), indices.tolist())

    def content(self) -> Content:
        return self.table.content()

    def batches(self, order: Order) -> Iterator[Batch]:
        return map(self.decoder.fill, super().batches(order))


class StreamSource:
    """A table that can only be read from its beginning, shuffled in a buffer.

    Several readers share the rows of the stream, each a stretch of its own of equal length, and
    every batch takes the same number of rows from each. So no row is read twice in an epoch, the
    order (of a given batch size) does not depend on the number of processes, and yet a process
    reads its own stretches only. Where that cannot be (rows that nobody has counted, such as the
    Hub's, or all of the last batch wanted), every process reads all rows and decodes its share.
    """

    def __init__(self, table: Table, decoder: Decoder) -> None:
        self.table, self.decoder, self.corrupt = table, decoder, decoder.corrupt

    def content(self) -> Content:
        return self.table.content()

    def batches(self, order: Order) -> Iterator[Batch]:
        """One epoch; of the rows, less than a batch may be left over in their number, which are
        other ones in every epoch."""
        size, total = order.batch_size, self.table.total
        if total is not None and total < size and order.drop_last:
            raise too_small(self.table.name, self.table.split, size)
        parts = self._parts(order)
        count = len(parts)
        apart = count % order.num_processes == 0
        own = range(count)
        if apart:
            per_process = count // order.num_processes
            own = own[order.process_index * per_process :][:per_process]
        readers = [self._read(parts[index], order.seed, count) for index in own]
        self.corrupt.clear()  # a row of a stream has no number by which to know it again
        for step in range(total // size if total and count > 1 else sys.maxsize):
            pairs = [pair for reader in readers for pair in itertools.islice(reader, size // count)]
            if len(pairs) < size // count * len(own) and (order.drop_last or not pairs):
                if step == 0:
                    raise too_small(self.table.name, self.table.split, size)
                return
            pairs = pairs if apart else pairs[order.share]
            if step >= order.start and pairs:
                keys = [(step, slot) for slot in range(len(pairs))]
                yield self.decoder.fill(self.decoder(pairs, keys))

    def _parts(self, order: Order) -> list[IterableDataset]:
        """The rows of an epoch, in as many parts as are read side by side."""
        pieces = self.table.pieces
        if pieces is None or not order.drop_last:
            return [self.table.rows]
        everything = pieces.all()
        generator = torch.Generator().manual_seed(order.seed)
        mixed = [everything[i] for i in torch.randperm(len(everything), generator=generator)]
        count = math.gcd(order.batch_size, STREAM_READERS)
        return [pieces.rows(part) for part in cut(mixed, count)]

    def _read(self, rows: IterableDataset, seed: int, count: int) -> Iterator[Pair]:
        # One input shard at a time: interleaving them inside `shuffle` costs a pause of 20 seconds
        # at every end.
        size = SHUFFLE_BUFFER // count
        mixed = rows.shuffle(seed=seed, buffer_size=size, max_buffer_input_shards=1)
        return self.table.pairs(mixed)


class Decoder:
    """Encoded images in, pixels out; ``corrupt`` holds the keys of those that cannot be read.

    Raises:
        EcarError: not one image of the table can be read, or they are too small or of sizes too
            different for one of them to be the size of all.
    """

    def __init__(self, table: Table, size: int | None) -> None:
        self.name = table.name
        if size:
            require_memory(self.name, 8 * size**2)  # before the first image is scaled
        self.corrupt: set[Hashable] = set()
        self.animated = 0
        self.scales: dict[float, str] = {}  # of numbers wider than 8 bits -> an image of it
        self.pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
        first: list[tuple[PIL.Image.Image, int]] = []
        why = ""
        for index, (value, label) in enumerate(table.pairs(table.rows)):
            try:
                image = self._open(value, size)
                if not first:
                    square_pixels(image, size or 1)
                first.append((image, label))
            except EcarError:
                raise
            except Exception as error:  # a broken file can raise anything
                if not first:  # later ones are counted when they are read
                    why = why or explain(error)
                    self._skip(index, value, error)
            if len(first) == (1 if size else SIZED_IMAGES):
                break
        if not first:
            raise EcarError(
                f"no image of {table.name!r} ({table.split}) can be read "
                f"({len(self.corrupt)} tried): give a data set with whole image files"
                + (f" (the first: {why})" if why else "")
            )
        self.size = size or self._own_size([min(image.size) for image, _ in first])
        require_memory(self.name, 8 * self.size**2)
        pixels = square_pixels(first[0][0], self.size)
        self.first = torch.from_numpy(pixels).permute(2, 0, 1), first[0][1]

    def _own_size(self, sides: list[int]) -> int:
        """The median of the first images' shorter sides."""
        if min(sides) < SMALLEST or max(sides) > WIDEST_SPREAD * min(sides):
            spread = f"{min(sides)} to {max(sides)}" if len(set(sides)) > 1 else f"{sides[0]}"
            raise EcarError(
                f"the first images of {self.name!r} are {spread} px: choose the size with "
                "image_size (--image-size)"
            )
        return sorted(sides)[len(sides) // 2]

    def __call__(self, pairs: list[Pair], keys: Sequence[Hashable]) -> Batch:
        """Decodes in parallel; what cannot be read is black, with ``good`` False."""
        values = [value for value, _ in pairs]
        chunks = [values[i : i + DECODE_CHUNK] for i in range(0, len(values), DECODE_CHUNK)]
        decoded = itertools.chain.from_iterable(self.pool.map(self._decode, chunks))
        images = np.zeros((len(pairs), self.size, self.size, 3), dtype=np.uint8)
        good = torch.ones(len(pairs), dtype=torch.bool)
        for slot, result in enumerate(decoded):
            if isinstance(result, Exception):
                good[slot] = False
                self._skip(keys[slot], values[slot], result)
            else:
                images[slot] = result
        labels = torch.tensor([label for _, label in pairs])
        return Batch(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, good)

    def fill(self, batch: Batch) -> Batch:
        """Puts the next readable image (else the set's first) in the place of an unreadable one."""
        images, labels, good = batch
        there = good.nonzero()[:, 0]
        for hole in (~good).nonzero()[:, 0]:
            if len(there):
                source = there[torch.searchsorted(there, hole) % len(there)]
                images[hole], labels[hole] = images[source], labels[source]
            else:
                images[hole], labels[hole] = self.first
        return _whole(images, labels)

    def _decode(self, values: list[Any]) -> list[np.ndarray | Exception]:
        results: list[np.ndarray | Exception] = []
        for value in values:
            try:
                image = self._open(value, self.size)
                results.append(square_pixels(image, self.size))
            except EcarError:
                raise
            except Exception as error:  # a broken file can raise anything
                results.append(error)
            else:
                self._note_frames(value, image.info.get("frames", 1))
        return results

    def _open(self, value: Any, size: int | None) -> PIL.Image.Image:
        """Opens an image; one scale must serve all numbers of the set."""
        try:
            image = open_image(value, size)
        except Unscaled as error:
            raise EcarError(
                f"{self.name!r}: {name_of(value, 'an image')} has {error}, in all images alike"
            ) from error
        if scale := image.info.get("scale"):
            self.scales.setdefault(scale, name_of(value, "one image"))
        if len(self.scales) > 1:
            one, other = list(self.scales.values())[:2]
            ranges = " and ".join(RANGES[scale] for scale in list(self.scales)[:2])
            raise EcarError(
                f"the images of {self.name!r} hold numbers of two ranges, {ranges} ({one}; "
                f"{other}): write them alike, such as 0 ... 255 in 8 bits"
            )
        return image

    def _note_frames(self, value: Any, frames: int) -> None:
        if frames > 1 and not self.animated:
            warnings.warn(
                f"{self.name!r}: {name_of(value, 'an image')} has {frames} frames, of which the "
                "first is taken; so it is with others",
                stacklevel=2,
            )
        self.animated += frames > 1

    def _skip(self, key: Hashable, value: Any, error: Exception) -> None:
        if not self.corrupt:
            warnings.warn(
                f"{self.name!r}: {name_of(value, f'row {key}')} is no readable image "
                f"({explain(error)}) and was skipped; more of them are only counted",
                stacklevel=3,
            )
        self.corrupt.add(key)


def name_of(value: Any, otherwise: str) -> str:
    """What to call an image: its path where it has one."""
    path = value.get("path") if isinstance(value, dict) else None
    return shorten(path) if path else otherwise


def explain(error: Exception) -> str:
    """Why an image cannot be read: our own words, else the kind of the error."""
    return str(error) if isinstance(error, Unreadable) else type(error).__name__


def picture_of(image: PIL.Image.Image, size: int) -> Tensor:
    """(1, 3, size, size) in [-1, 1]: the middle square, scaled."""
    pixels = torch.from_numpy(square_pixels(image, size))
    return pixels.movedim(-1, 0)[None].float() / 127.5 - 1


def _whole(images: Tensor, labels: Tensor) -> Batch:
    return Batch(images, labels, torch.ones(len(labels), dtype=torch.bool))


def fold_seed(*numbers: int) -> int:
    """One seed out of several numbers; near seeds do not give near streams."""
    entropy = [number % 2**64 for number in numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def in_background(iterator: Iterator[Batch]) -> Iterator[Batch]:
    """Keeps ``PREFETCH`` items of ``iterator`` ready; its exceptions surface here."""

    def advance() -> Batch | None:
        return next(iterator, None)

    reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        ready = deque(reader.submit(advance) for _ in range(PREFETCH))
        while (item := ready.popleft().result()) is not None:
            ready.append(reader.submit(advance))
            yield item
    finally:
        reader.shutdown(cancel_futures=True)


def too_small(name: str, split: str, batch_size: int) -> EcarError:
    return EcarError(
        f"a batch of {batch_size} is larger than the set {name!r} ({split}): "
        "use a smaller batch or drop_last=False"
    )
