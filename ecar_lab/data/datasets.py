"""Data sets: every source comes out as float images (B, 3, H, W) in [-1, 1] and integer labels.

``digits`` and ``shapes`` need no file; CIFAR-10, Imagenette, parquet files, folders of class
folders and Hub data sets are read through Hugging Face `datasets` (`tables.py`). The order of an
epoch is a pure function of (seed, epoch), whatever the number of processes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ecar_lab import files
from ecar_lab.data.fingerprint import combine
from ecar_lab.data.layout import Layout
from ecar_lab.data.opening import BUILT_IN, HUB_IDS, load_table, refuse_built_in_name
from ecar_lab.data.shapes import SHAPES
from ecar_lab.data.sources import (
    Decoder,
    Order,
    PixelSource,
    RowSource,
    ShapeSource,
    StreamSource,
    fold_seed,
    in_background,
    too_small,
)
from ecar_lab.data.splits import pick_split
from ecar_lab.data.tables import Table, require_memory
from ecar_lab.errors import EcarError
from ecar_lab.schema import Count, Seed, Text, checked

logger = logging.getLogger(__name__)
SHAPES_SIZES = {"train": 50_000, "test": 10_000}
SOME_CLASSES = 10  # that a message names
READ_CHUNK = 1024  # images decoded at a time, while a set is read into memory


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is; ``num_images`` is None for a stream, whose length may be unknown."""

    name: str
    split: str
    num_classes: int
    class_names: tuple[str, ...]
    image_size: int
    num_images: int | None


def dataset_names() -> list[str]:
    """The names that ``open_dataset`` knows by heart."""
    return [*BUILT_IN, *HUB_IDS]


@checked
def open_dataset(
    name: Text,
    *,
    split: str = "train",
    image_size: Count | None = None,
    data_root: str | Path | None = None,
    streaming: bool = False,
    flip: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    seed: Seed = 0,
    limit: Count | None = None,
) -> ImageDataset:
    """Opens a data set.

    Args:
        name: ``digits``, ``shapes``, ``cifar10``, ``imagenette``, a folder of the data root,
            ``hub:OWNER/NAME`` or ``hub:OWNER/NAME:CONFIG``, a parquet or tar file, or a folder of
            parquet files, of tar files of samples (WebDataset), or of class folders.
        split: ``test`` and ``validation`` stand for each other where a set has only one of them;
            ``training``, ``val``, ``eval`` and the like mean what they mean to `datasets`.
        image_size: pixels; images are scaled by the shorter side and cropped at the centre.
            Default: the set's own size, the median shorter side of its first images.
        data_root: folder of data sets, default ``$ECAR_DATA``; without one the Hub is asked.
        streaming: never hold the set in memory, nor on the disk if it comes from the Hub.
        flip: mirror half of the images, others in every epoch.
        image_column, label_column: found by type and name if not given; ``label_column="none"``
            takes a set without labels as one class.
        seed: chooses the images that ``shapes`` draws; every other set is what it is.
        limit: take that many images only: of a stream the first, else a fixed random choice.

    Raises:
        EcarError: an argument of another kind; the set, split or column does not exist, what it
            is cannot be told for certain, or no image of it can be read.
    """
    name, root = os.fspath(name), None
    limit = None if limit is None else int(limit)
    image_size = None if image_size is None else int(image_size)
    with contextlib.suppress(EcarError) if name in BUILT_IN else contextlib.nullcontext():
        root = files.data_root(data_root)  # which the built-in sets do not need
    refuse_built_in_name(name, root)
    if name == "digits":
        data = _open_digits(split, image_size or 8, flip, limit)
    elif name == "shapes":
        data = _open_shapes(split, image_size or 32, flip, limit, seed)
    else:
        columns = (image_column, label_column)
        table = load_table(name, split, root, streaming, *columns)
        table.limit(limit)
        data = _open_table(table, image_size, streaming, flip)
    stands_in = f"; {data.info.split} stands in for {split}" if data.info.split != split else ""
    _say(data.layout.line() + stands_in)
    return data


def _open_table(table: Table, image_size: int | None, streaming: bool, flip: bool) -> ImageDataset:
    decoder = Decoder(table, image_size)
    source = StreamSource(table, decoder) if table.is_stream else RowSource(table, decoder)
    names, count = table.class_names, None if table.is_stream else table.total
    info = DatasetInfo(table.name, table.split, len(names), names, decoder.size, count)
    return ImageDataset(info, source, table.layout, lazy=streaming, flip=flip)


@functools.cache
def _say(line: str) -> None:
    """Says once what was recognised."""
    logger.info("%s", line)


class ImageDataset:
    """Images and labels of one split; made by ``open_dataset``.

    Attributes:
        info: name, split, classes, size and number of images.
        layout: what was recognised: all splits, classes, and files that were left out.
    """

    def __init__(
        self,
        info: DatasetInfo,
        source: PixelSource | ShapeSource | RowSource | StreamSource,
        layout: Layout,
        *,
        lazy: bool = False,
        flip: bool = False,
    ) -> None:
        self.info, self.layout = info, layout
        self._source = source
        self._numbers = torch.arange(len(info.class_names))  # label in the source -> label
        self._pixels = source if isinstance(source, PixelSource) else None
        self._lazy = lazy  # decode (or draw) batch by batch instead of once
        self._flip = flip

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell one content from another; made when first asked for.

        It depends on the class names, the image size, the labels, the order of the images and
        their content: the whole of parquet files; of pictures their path within the set and their
        bytes (size and both ends of those beyond 64 KiB). It does not depend on where the set
        lies, on times or on its name. ``digits`` and ``shapes`` go by their pixels and by what
        draws them; a stream from the Hub by the Hub's revision.

        Empty for a stream whose revision the Hub does not tell: nothing can be said of its content.

        Raises:
            EcarError: a file of the set can be read no more.
        """
        content = self._source.content()
        if content is None:
            return ""
        return combine([str(self.info.image_size), *self.info.class_names, "|", *content])

    @property
    def skipped(self) -> int:
        """Images found unreadable so far."""
        return len(self._source.corrupt)

    def numbered_as(self, names: Sequence[str]) -> ImageDataset:
        """The same images, with the numbers that a model gives to these class names.

        One class stands for the one class of the other, whatever both are called.

        Raises:
            EcarError: the classes are others.
        """
        own = self.info.class_names
        if tuple(names) == own:
            return self
        if len(names) != len(own) or (len(own) > 1 and set(names) != set(own)):
            both = f"{_some(own)}; {_some(names)}"
            what = "other classes than the checkpoint"
            if len(names) != len(own):
                what = f"{len(own)} classes, the checkpoint {len(names)}"
            raise EcarError(
                f"{self.info.name!r} has {what} ({both}): "
                "give the data set it was trained on as dataset"
            )
        other = copy.copy(self)
        other.__dict__.pop("fingerprint", None)
        other.info = replace(self.info, class_names=tuple(names))
        order = [list(names).index(name) for name in own] if len(own) > 1 else [0]
        other._numbers = torch.tensor(order)[self._numbers]
        logger.info("%r has the model's classes in another order: matched by name", self.info.name)
        return other

    def arrays(self) -> tuple[Tensor, Tensor]:
        """The whole set: images (N, 3, H, W) uint8 and labels (N,) int64, decoded once and kept.

        Raises:
            EcarError: the set is a stream, or larger than the memory that is free.
        """
        if self._pixels is None:
            self._pixels = self._read_all()
            if not self._lazy:
                self.info = replace(self.info, num_images=len(self._pixels))
        return self._pixels.images, self._numbers[self._pixels.labels]

    def _read_all(self) -> PixelSource:
        if isinstance(self._source, StreamSource):
            raise EcarError(f"{self.info.name!r} is a stream: open it without streaming")
        count, size = len(self._source), self.info.image_size
        require_memory(self.info.name, count * 3 * size * size)
        images = torch.empty(count, 3, size, size, dtype=torch.uint8)
        labels = torch.empty(count, dtype=torch.int64)
        end = 0
        for indices in torch.arange(count).split(READ_CHUNK):
            batch = self._source.read(indices)
            begin, end = end, end + int(batch.good.sum())
            images[begin:end] = batch.images[batch.good]
            labels[begin:end] = batch.labels[batch.good]
        return PixelSource(images[:end], labels[:end])

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        drop_last: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch: images (B, 3, H, W) float32 in [-1, 1] and labels (B,) int64.

        Order and flips are a pure function of (seed, epoch). ``batch_size`` is that of all
        processes together; each takes its own stretch of every batch, so that two processes see
        what one would. ``start`` batches are passed over without being decoded. A set in memory is
        only indexed; otherwise threads in the background keep some batches ready. There, a
        neighbour takes the place of an unreadable image, so that the processes stay in step. With
        ``drop_last=False`` the last batch may leave some processes with less, or nothing.

        Raises:
            EcarError: the batch does not divide among the processes or is larger than the set.
        """
        if batch_size < 1 or batch_size % num_processes:
            raise EcarError(
                f"a batch of {batch_size} does not divide among {num_processes} processes: "
                f"use a multiple of {num_processes}"
            )
        if not self._lazy:
            self.arrays()  # first, since unreadable images count no more
        count = self.info.num_images
        if drop_last and count is not None and count < batch_size:
            raise too_small(self.info.name, self.info.split, batch_size)
        order = Order(
            batch_size, fold_seed(seed, epoch), start, process_index, num_processes, drop_last
        )
        return self._steps(order)

    def _steps(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        in_memory = self._pixels is not None and not self._lazy
        batches = (
            self._pixels.batches(order) if in_memory else in_background(self._source.batches(order))
        )
        for step, (images, labels, _) in enumerate(batches, order.start):
            if self._flip:
                generator = torch.Generator().manual_seed(fold_seed(order.seed, step))
                mirrored = torch.rand(order.batch_size, generator=generator) < 0.5
                mirrored = mirrored[order.share][: len(images), None, None, None]
                images = torch.where(mirrored, images.flip(-1), images)
            yield images.float().div_(127.5).sub_(1), self._numbers[labels]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SOME_CLASSES]) + (", ..." if len(names) > SOME_CLASSES else "")


def _open_digits(split: str, size: int, flip: bool, limit: int | None) -> ImageDataset:
    """scikit-learn's 1,797 grey 8x8 digits, a fixed fifth of them held out, classes balanced."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    split = pick_split("digits", split, ("train", "test"))
    require_memory("digits", 1797 * 12 * size * size)
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=0.2, stratify=labels, random_state=0)
    pixels, labels = parts[0::2] if split == "train" else parts[1::2]
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    if size != 8:
        images = torch.nn.functional.interpolate(
            images, (size, size), mode="bicubic", antialias=True
        )
    images = (images.clamp(0, 1) * 255).round().to(torch.uint8).repeat(1, 3, 1, 1)[:limit]
    names = tuple(str(digit) for digit in range(10))
    layout = Layout("digits", "scikit-learn's digits", {"train": 1437, "test": 360}, names)
    info = DatasetInfo("digits", split, 10, names, size, len(images))
    source = PixelSource(images, torch.from_numpy(labels).long()[:limit])
    return ImageDataset(info, source, layout, flip=flip)


def _open_shapes(split: str, size: int, flip: bool, limit: int | None, seed: int) -> ImageDataset:
    split = pick_split("shapes", split, SHAPES_SIZES)
    count = min(limit or SHAPES_SIZES[split], SHAPES_SIZES[split])
    source = ShapeSource(fold_seed(seed, list(SHAPES_SIZES).index(split)), count, size)
    layout = Layout("shapes", "drawn by the kit", SHAPES_SIZES, tuple(SHAPES))
    info = DatasetInfo("shapes", split, len(SHAPES), tuple(SHAPES), size, count)
    return ImageDataset(info, source, layout, lazy=True, flip=flip)
