"""Small pictures that can be told apart, files that hold them, and what of them comes back."""

import io
import itertools
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import torch

CLASSES = ["cat", "dog", "frog"]


def picture(number: int) -> PIL.Image.Image:
    """8x8 pixels of the value ``number``, with a mark below that tells left from right."""
    pixels = np.full((8, 8, 3), number, dtype=np.uint8)
    pixels[-1, :4] = 255 - number
    return PIL.Image.fromarray(pixels)


def encoded(number: int) -> dict:
    stream = io.BytesIO()
    picture(number).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def put(root: Path, *names: str, number: int = 1) -> None:
    """Writes a picture under each of these names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number)["bytes"])


BROKEN = {"bytes": b"no image at all", "path": None}


def write_parquet(
    path: Path, images: Sequence[dict | None], row_group: int = 1000, **columns
) -> Path:
    """A file as the Hub has them: image and class label columns, ``row_group`` rows per group."""
    labels = {"label": [n % len(CLASSES) for n in range(len(images))]}
    features = {"image": datasets.Image()}
    for name in columns or labels:
        is_class = name in ("label", "labels")
        features[name] = (
            datasets.ClassLabel(names=CLASSES) if is_class else datasets.Value("string")
        )
        if is_class and isinstance((columns or labels)[name][0], str):
            features[name] = datasets.Value("string")
    table = datasets.Dataset.from_dict(
        {"image": images, **(columns or labels)}, features=datasets.Features(features)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, batch_size=row_group)
    return path


def write_tar(path: Path, images: Sequence[dict], **labels: Sequence) -> Path:
    """Samples as WebDataset has them; by default the class is in ``.cls``, else in the endings
    given, of which ``json`` is written as such; None leaves a file out."""
    labels = labels or {"cls": [n % len(CLASSES) for n in range(len(images))]}
    with tarfile.open(path, "w") as tar:
        for n, image in enumerate(images):
            parts = {"png": image and image["bytes"]}
            for ending, values in labels.items():
                text = json.dumps(values[n]) if ending == "json" else str(values[n])
                parts[ending] = None if values[n] is None else text.encode()
            for ending, content in parts.items():
                if content is not None:
                    member = tarfile.TarInfo(f"{n:06}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return path


def numbers(images: torch.Tensor) -> list[int]:
    """The pixel value of each picture of ``picture``."""
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def epoch_of(data, batch_size: int = 12, **options) -> list[list[int]]:
    return [numbers(images) for images, _ in data.batches(batch_size, **options)]
