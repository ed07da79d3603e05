"""Tar files of samples, as WebDataset has them: files of one name and several endings, ``0001.jpg``
and ``0001.cls`` or ``0001.json``, are one image with its labels. Nothing is unpacked.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow

from ecar_lab.data.columns import LABEL_COLUMNS
from ecar_lab.data.places import picture_endings
from ecar_lab.data.shards import Shard, reading
from ecar_lab.errors import EcarError, reason

IMAGE = "image"
TEXTS = (*LABEL_COLUMNS, "txt", "text")  # endings of files that hold one label
LARGEST_TEXT = 64 * 1024  # bytes of a label, or of a sample's JSON
GROUP = 256  # samples that a stream reads at a time


@dataclass
class Sample:
    """One image of a tar file: its name there, where its bytes are, and its labels."""

    name: str = ""
    offset: int = 0
    size: int = 0
    labels: dict[str, Any] = field(default_factory=dict)


class TarShard(Shard):
    """A tar file as a table of images and labels; ``without``: names of samples with no image."""

    samples: list[Sample]
    without: list[str]

    @property
    def groups(self) -> list[int]:
        whole, rest = divmod(self.rows, GROUP)
        return [GROUP] * whole + [rest] * bool(rest)

    def read(self, columns: list[str], group: int | None = None) -> pyarrow.Table:
        samples = self.samples
        if group is not None:
            samples = samples[group * GROUP :][:GROUP]
        read: dict[str, Any] = {}
        for column in columns:
            if column == IMAGE:
                read[column] = pyarrow.array(
                    reading(self.path, lambda: list(_images(self.path, samples))),
                    pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
                )
            else:
                kind = self.features[column].pa_type
                values = [_as(kind, sample.labels.get(column)) for sample in samples]
                read[column] = pyarrow.array(values, kind)
        return pyarrow.table(read)


def tar_shard(path: Path, split: str, where: str) -> TarShard:
    """Looks through a tar file.

    Raises:
        EcarError: it is damaged, or a label in it cannot be read.
    """
    import datasets

    named = reading(path, lambda: _look_through(path))
    samples = [sample for sample in named.values() if sample.name]
    features: dict[str, Any] = {IMAGE: datasets.Image()}
    for column in dict.fromkeys(name for sample in samples for name in sample.labels):
        values = [sample.labels.get(column) for sample in samples]
        whole = all(type(value) is int for value in values if value is not None)
        features[column] = datasets.Value("int64" if whole else "string")
    shard = TarShard(path, split, where, len(samples), features)
    shard.samples = samples
    shard.without = [f"{where}: {key}" for key, sample in named.items() if not sample.name]
    return shard


def _look_through(path: Path) -> dict[str, Sample]:
    """Name without endings -> sample, in the order of the file."""
    samples: dict[str, Sample] = {}
    pictures = picture_endings()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isreg() or not stem or not ending or stem.startswith("__"):
                    continue
                sample = samples.setdefault(f"{folder}/{stem}".lstrip("./"), Sample())
                ending = ending.lower()
                if f".{ending}" in pictures and not sample.name:
                    sample.name, sample.offset = member.name, member.offset_data
                    sample.size = member.size
                elif ending == "json" or ending in TEXTS:
                    file = tar.extractfile(member)
                    content = b"" if file is None else file.read(LARGEST_TEXT + 1)
                    sample.labels |= _labels(f"{member.name} in {path}", ending, content)
    except tarfile.TarError as error:
        raise EcarError(f"cannot read {path} ({reason(error)}): fetch it again") from error
    return samples


def _labels(what: str, ending: str, content: bytes) -> dict[str, Any]:
    """What a small file beside an image says of it."""
    try:
        if len(content) > LARGEST_TEXT:
            raise ValueError(f"it is longer than {LARGEST_TEXT} bytes")
        text = content.decode("utf-8").strip()
        if ending != "json":
            return {ending: int(text) if text.removeprefix("-").isdecimal() else text}
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EcarError(
            f"the labels {what} cannot be read ({reason(error)}): write UTF-8 text or JSON"
        ) from error
    if not isinstance(held, dict):
        return {}
    held.pop(IMAGE, None)  # often a name of the file
    return {key: value for key, value in held.items() if isinstance(value, str | int | float)}


def _images(path: Path, samples: list[Sample]) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for sample in samples:
            file.seek(sample.offset)
            yield {"bytes": file.read(sample.size), "path": sample.name}


def _as(kind: pyarrow.DataType, value: Any) -> Any:
    return str(value) if kind == pyarrow.string() and value is not None else value
