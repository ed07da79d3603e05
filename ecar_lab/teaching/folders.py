"""The folder of notebook 11: the reader's, with a test split, or one that is drawn."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from PIL import Image
from torch import Tensor

from ecar_lab.data import open_dataset
from ecar_lab.data.feeds import to_float
from ecar_lab.errors import EcarError
from ecar_lab.teaching.drawn import make_folder
from ecar_lab.teaching.session import Session

SIZE = 32  # pixels, of the shipped model


def folder(lab: Session, given: str | Path = "") -> Path:
    """The reader's folder, with a test split; one that is drawn where none is given.

    Raises:
        EcarError: it cannot be opened, or has no test split and is no folder of class folders.
    """
    if not given:
        train, test = lab.pick((250, 50), (8, 6))
        drawn = make_folder(lab.workspace / "pictures", train, test)
        print(f"no folder given: {drawn} holds pictures drawn by code")
        return drawn
    place = Path(given).expanduser()
    layout = open_dataset(str(place), image_size=SIZE).layout
    if len(layout.splits) > 1:
        return place
    if layout.kind != "class folders":
        raise EcarError(
            f"{str(place)!r} has no test split: put a few of its images into one, beside train"
        )
    apart = hold_out(place, lab.workspace / place.name)
    print(f"every fifth picture is held out for a test: {apart}")
    return apart


def hold_out(source: Path, target: Path, every: int = 5) -> Path:
    """The class folders of ``source`` as ``train`` and ``test`` in ``target``; every fifth file of
    each is for the test. Files are linked where the disk can do that, else copied."""
    if target.exists():
        return target
    for one in sorted(path for path in source.iterdir() if path.is_dir()):
        files = sorted(path for path in one.rglob("*") if path.is_file())
        for number, file in enumerate(files):
            split = "test" if number % every == every - 1 else "train"
            place = target / split / one.name / file.relative_to(one)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:
                shutil.copy2(file, place)
    return target


def pictures(place: Path, split: str) -> tuple[Tensor, tuple[str, ...]]:
    """A split as the model sees it, (N, 3, H, W) in [-1, 1], and the names of its classes."""
    data = open_dataset(str(place), split=split, image_size=SIZE)
    return to_float(data.arrays()[0]), data.info.class_names


def some_pictures(place: Path, count: int = 6) -> list[Image.Image]:
    """Whole pictures of the folder's first split, from all over it."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    found: list[Image.Image] = []
    for file in files[:: max(1, len(files) // (2 * count))]:
        try:
            with Image.open(file) as image:
                found.append(image.convert("RGB"))
        except OSError:  # it is no picture, or a broken one
            continue
    return found[:count]
