"""What a training step reads: images or cached latents, in an order that only seed and step fix.

Nothing here keeps hidden random state. The batch of step n is a pure function of (seed, n), so a
resumed run reads what the undisturbed run would have read, and several processes cut the batch of
one process into equal shares.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from ecar_lab.data.datasets import ImageDataset
from ecar_lab.data.identity import Identity, difference
from ecar_lab.data.progress import Bar
from ecar_lab.errors import EcarError
from ecar_lab.files import (
    clear_half_written,
    hash_tensors,
    load_metadata,
    load_tensors,
    output_file,
    save_tensors,
)
from ecar_lab.tokenizers.base import Tokenizer

logger = logging.getLogger(__name__)
Batch = tuple[Tensor, ...]


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A CPU generator whose stream depends on nothing but its three arguments."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@dataclass(frozen=True)
class Share:
    """How a global batch falls to processes and, within each, to micro-batches."""

    batch_size: int
    grad_accum: int = 1
    num_processes: int = 1
    process_index: int = 0

    @property
    def global_batch(self) -> int:
        """Images of one optimizer step."""
        return self.batch_size * self.grad_accum * self.num_processes

    @property
    def parts(self) -> list[slice]:
        """The rows of the global batch that this process reads, one slice per micro-batch."""
        first = self.process_index * self.grad_accum * self.batch_size
        starts = range(first, first + self.grad_accum * self.batch_size, self.batch_size)
        return [slice(start, start + self.batch_size) for start in starts]


class Store(Protocol):
    """Training examples in memory."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor, mirrored: Tensor) -> Batch:
        """The examples at ``indices`` (B,), those with ``mirrored`` (B,) true as mirror images."""
        ...


class ImageStore:
    """Images (N, 3, H, W) uint8 and labels (N,); gives floats in [-1, 1]."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor, mirrored: Tensor) -> Batch:
        """(images (B, 3, H, W), labels (B,))."""
        return mirror(to_float(self.images[indices]), mirrored), self.labels[indices]


class LatentStore:
    """Latent moments of every image: mean and std (N, V, C, h, w) float16, V = 2 with mirrors.

    ``std`` is None when the tokenizer is deterministic. ``images`` (N, 3, H, W) uint8 come along
    where a training needs them.
    """

    def __init__(
        self, mean: Tensor, std: Tensor | None, labels: Tensor, images: Tensor | None = None
    ):
        self.mean, self.std, self.labels, self.images = mean, std, labels, images

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, indices: Tensor, mirrored: Tensor) -> Batch:
        """(mean, std, labels) and perhaps images (B, 3, H, W) in [-1, 1]; std is a zero of shape
        (B, 1, 1, 1) where there is none."""
        view = mirrored.long()
        mean = self.mean[indices, view].float()
        std = mean.new_zeros(len(mean), 1, 1, 1)
        if self.std is not None:
            std = self.std[indices, view].float()
        if self.images is None:
            return mean, std, self.labels[indices]
        return mean, std, self.labels[indices], mirror(to_float(self.images[indices]), mirrored)

    def without(self, classes: Sequence[int]) -> LatentStore:
        """The same examples, less those of some classes."""
        keep = ~torch.isin(self.labels, torch.tensor(list(classes), dtype=self.labels.dtype))
        std, images = (None if part is None else part[keep] for part in (self.std, self.images))
        return LatentStore(self.mean[keep], std, self.labels[keep], images)


def to_float(images: Tensor) -> Tensor:
    """uint8 0 ... 255 -> float -1 ... 1."""
    return images.float() / 127.5 - 1.0


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Flips left and right those images whose flag is set."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


class IndexedFeed:
    """Batches from a store: endless passes over it, each in its own order, none cut short."""

    def __init__(self, store: Store, share: Share, seed: int, flip: bool):
        if len(store) == 0:
            raise EcarError("the data set has no image to train on: choose another one")
        self.store, self.share, self.seed, self.flip = store, share, seed, flip
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of this process at ``step``."""
        size = self.share.global_batch
        indices = self._indices(step * size, size)
        mirrored = mirror_flags(self.seed, step, size, self.flip)
        return [self.store.take(indices[part], mirrored[part]) for part in self.share.parts]

    def _indices(self, start: int, count: int) -> Tensor:
        pieces = []
        while count > 0:
            epoch, offset = divmod(start, len(self.store))
            piece = self._order(epoch)[offset : offset + count]
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return torch.cat(pieces)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            order = torch.randperm(len(self.store), generator=generator(self.seed, "order", epoch))
            self._orders = {epoch: order}
        return self._orders[epoch]

    def position(self, step: int) -> dict[str, int]:
        """Where the data stands before ``step``, for the record: the step alone fixes it."""
        epoch, offset = divmod(step * self.share.global_batch, len(self.store))
        return {"epoch": epoch, "start": offset}

    def restore(self, position: dict[str, int]) -> None:
        """Nothing to do: see ``position``."""

    def close(self) -> None:
        """Nothing to do: nothing is open."""


class StreamFeed:
    """Batches from a stream that can only be read in order; ``encode`` is applied to the images."""

    def __init__(
        self,
        dataset: ImageDataset,
        share: Share,
        seed: int,
        flip: bool,
        encode: Callable[[Tensor, Tensor], Batch] = lambda images, labels: (images, labels),
    ):
        self.dataset, self.share, self.seed, self.flip = dataset, share, seed, flip
        self.encode = encode
        self.epoch, self.start = 0, 0  # of the next global batch
        self._positions: dict[int, dict[str, int]] = {}
        self._batches: Iterator[Batch] | None = None

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of this process at ``step``; steps must follow one another."""
        images, labels = self._next()
        self._positions = {step + 1: {"epoch": self.epoch, "start": self.start}} | {
            known: place for known, place in self._positions.items() if known >= step
        }
        share = self.share
        mirrored = mirror_flags(self.seed, step, share.global_batch, self.flip)
        offset = share.parts[0].start
        batches = []
        for part in share.parts:
            local = slice(part.start - offset, part.stop - offset)
            batches.append(self.encode(mirror(images[local], mirrored[part]), labels[local]))
        return batches

    def _next(self) -> Batch:
        for _ in range(2):
            if self._batches is None:
                self._batches = iter(
                    self.dataset.batches(
                        self.share.global_batch,
                        seed=self.seed,
                        epoch=self.epoch,
                        start=self.start,
                        process_index=self.share.process_index,
                        num_processes=self.share.num_processes,
                    )
                )
            batch = next(self._batches, None)
            if batch is not None:
                self.start += 1
                return batch
            self._batches, self.epoch, self.start = None, self.epoch + 1, 0
        raise EcarError(
            f"the data set {self.dataset.info.name!r} has fewer images than one batch of "
            f"{self.share.global_batch}: use a smaller --batch-size"
        )

    def position(self, step: int) -> dict[str, int]:
        """Epoch and global batch that ``step`` will read."""
        if not self._positions:  # nothing was read since the start or the last restore
            return {"epoch": self.epoch, "start": self.start}
        return self._positions[step]

    def restore(self, position: dict[str, int]) -> None:
        """Goes to a stored position."""
        self.epoch, self.start = position["epoch"], position["start"]
        self._batches, self._positions = None, {}

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._batches = None


def mirror_flags(seed: int, step: int, count: int, flip: bool) -> Tensor:
    """(count,) bool: which images of the global batch appear mirrored."""
    if not flip:
        return torch.zeros(count, dtype=torch.bool)
    return torch.rand(count, generator=generator(seed, "mirror", step)) < 0.5


class Prefetcher:
    """Loads the next step's batch on a thread of its own while the current step computes."""

    def __init__(self, load: Callable[[int], Any]):
        self._load = load
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._pending: dict[int, Future] = {}

    def __call__(self, step: int) -> Any:
        """What ``load(step)`` returns; starts loading step + 1."""
        future = self._pending.pop(step, None) or self._thread.submit(self._load, step)
        batch = future.result()
        self._pending[step + 1] = self._thread.submit(self._load, step + 1)
        return batch

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def cache_latents(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    flip: bool,
    file: Path,
    autocast: Callable[[], Any],
    identity: Identity,
    batch_size: int = 256,
    quiet: bool = False,
) -> LatentStore:
    """Encodes every image, with ``flip`` also its mirror image, once; reads ``file`` if it exists.

    The file carries the ``identity`` of its images and a hash of its tensors. If either is not what
    it should be, that is said and the file is made anew. It is a convenience: a disk too full for
    it costs a warning, not the run.
    """
    clear_half_written(file.parent, ".latents-*.safetensors")
    if file.is_file():
        try:
            return load_latents(file, identity)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            if not quiet:
                logger.warning("the latents in %s are made anew: %s", file, error)
    images, labels = dataset.arrays()
    mean, std = encode_all(tokenizer, images, flip, autocast, batch_size, quiet)
    named = {"mean": mean, "labels": labels} | ({} if std is None else {"std": std})
    metadata = {"identity": json.dumps(identity), "hash": hash_tensors(named)}
    try:
        with output_file(file) as fresh:
            save_tensors(fresh, named, metadata)
    except EcarError as error:
        logger.warning("the latents are kept in memory only: %s", error)
    return LatentStore(mean, std, labels)


def load_latents(file: Path, identity: Identity) -> LatentStore:
    """What :func:`cache_latents` wrote.

    Raises:
        ValueError: it is damaged, or made from other images; OSError and SafetensorError, too.
    """
    metadata, named = load_metadata(file), load_tensors(file)
    if metadata.get("hash") != hash_tensors(named):
        raise ValueError("they are damaged, or were made before latents had a checksum")
    made_from = json.loads(metadata["identity"])
    if not isinstance(made_from, dict):
        raise ValueError("they do not say which images they were made from")
    changed = difference(made_from, identity)
    if changed:
        raise ValueError(changed)
    return LatentStore(named["mean"], named.get("std"), named["labels"])


@torch.no_grad()
def encode_all(
    tokenizer: Tokenizer,
    images: Tensor,
    flip: bool,
    autocast: Callable[[], Any],
    batch_size: int,
    quiet: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Moments (N, V, C, h, w) float16 of uint8 images; the std is None if it is zero throughout."""
    mean = std = torch.empty(0)
    deterministic = True
    views = 2 if flip else 1
    for start in Bar(range(0, len(images), batch_size), desc="latents", disable=quiet):
        rows = slice(start, start + batch_size)
        batch = to_float(images[rows]).to(tokenizer.device)
        for view in range(views):
            with autocast():
                moments = tokenizer.moments(batch.flip(-1) if view else batch)
            if start == 0 and view == 0:
                shape = (len(images), views, *moments[0].shape[1:])
                mean = torch.empty(shape, dtype=torch.float16)
                std = torch.zeros(shape, dtype=torch.float16)
            mean[rows, view] = moments[0].to("cpu", torch.float16)
            if moments[1].any():
                deterministic = False
                std[rows, view] = moments[1].to("cpu", torch.float16)
    return mean, None if deterministic else std
