"""Tables of encoded images: where a named data set lies, its splits, columns and class names.

Nothing is decoded here; `sources.py` turns the rows into tensors.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet

from ecar_lab.data.fingerprint import of_pictures, of_table
from ecar_lab.errors import EcarError

HUB_IDS = {"cifar10": "uoft-cs/cifar10", "imagenette": "frgfm/imagenette:320px"}
HELD_OUT = ("test", "validation", "val", "valid", "dev")  # names of the split one evaluates on
IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
NO_LABELS = "none"

Pair = tuple[dict[str, Any], int]  # encoded image as `datasets` holds it, class
Content = Iterable[bytes | str] | None


@dataclass
class Table:
    """Rows of one split, with the columns that matter; images stay encoded."""

    name: str
    split: str
    rows: Any  # `datasets.Dataset`, or for a stream `datasets.IterableDataset`
    total: int | None  # number of rows where it is known without reading them
    image_column: str = ""
    label_column: str = NO_LABELS
    class_names: tuple[str, ...] = ("image",)
    codes: dict[Any, int] | None = None  # value in the label column -> class; None: one class
    files: tuple[Path, ...] = ()  # parquet files that the rows are in
    base: Path | None = None  # of a folder of pictures
    hub_id: str = ""
    taken: int | None = None  # the limit

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
            self.rows, self.total = self.rows.take(count), None
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
            revision = _revision(self.hub_id)
            return [*yields, self.hub_id, self.split, revision] if revision else None
        return [*yields, _digest_rows(self.rows)]

    def pairs(self, rows: Iterable[dict[str, Any]]) -> Iterator[Pair]:
        """(encoded image, class) of each of ``rows``."""
        try:
            for row in rows:
                yield row[self.image_column], self._class_of(row.get(self.label_column))
        except EcarError:
            raise
        except Exception as error:  # file system, Arrow and HTTP clients have nothing in common
            raise EcarError(
                f"reading {self.name!r} ({self.split}) failed ({_reason(error)}): check the file "
                "or the network and start again"
            ) from error

    def take(self, indices: list[int]) -> list[Pair]:
        """(encoded image, class) of the rows ``indices``; not for a stream."""
        columns = self.rows[indices]
        labels = columns.get(self.label_column, [None] * len(indices))
        return list(zip(columns[self.image_column], map(self._class_of, labels), strict=True))

    def _class_of(self, value: Any) -> int:
        if self.codes is None:
            return 0
        if value not in self.codes:
            raise EcarError(
                f"{self.name!r} ({self.split}) has the label {value!r}, none of its "
                f"{len(self.codes)} classes: use another split, or name the label column"
            )
        return self.codes[value]


def load_table(
    name: str,
    split: str,
    root: Path | None,
    streaming: bool,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Table:
    """The rows of ``split`` of the data set ``name``; see ``data.open_dataset``.

    Raises:
        EcarError: there is no such set, split or column, or it cannot be read.
    """
    place = _locate(name, root)
    files: list[Path] = []
    if isinstance(place, str):
        table = _load_hub(name, place, split, streaming)
        table.hub_id = place
    elif files_of := _parquet_splits(place):
        split = pick_split(name, split, files_of)
        files = files_of[split]
        table = _load_parquet(name, split, files, streaming)
        table.files = tuple(files)
    else:
        table = _load_folder(name, split, place)
        table.base = place
    if table.total == 0:
        raise EcarError(f"{name!r} ({table.split}) is empty: give a data set with images")
    _find_columns(table, image_column, label_column, files)
    return table


def pick_split(name: str, wanted: str, available: Iterable[str]) -> str:
    """``wanted``, or for a held-out split whatever the set calls its own."""
    available = list(available)
    for candidate in (wanted, *(HELD_OUT if wanted in HELD_OUT else ())):
        if candidate in available:
            return candidate
    raise EcarError(f"{name!r} has no split {wanted!r}: use one of {', '.join(available)}")


def find_datasets(root: str | Path) -> dict[str, dict[str, int]]:
    """The data sets in the folders of ``root``: name -> split -> images (0: unreadable)."""
    found: dict[str, dict[str, int]] = {}
    for folder in sorted(path for path in Path(root).iterdir() if path.is_dir()):
        if files := _parquet_splits(folder):
            found[folder.name] = {split: _count_rows(paths) for split, paths in files.items()}
        else:
            images = {split: _image_files(base) for split, base in _folder_splits(folder).items()}
            if any(images.values()):
                found[folder.name] = {split: len(paths) for split, paths in images.items()}
    return found


def _locate(name: str, root: Path | None) -> Path | str:
    """A local file or folder, or a Hub id."""
    if name.startswith("hub:"):
        return name.removeprefix("hub:")
    if root and name and (root / name).exists():
        return root / name
    if name in HUB_IDS and not root:
        return HUB_IDS[name]
    path = Path(name).expanduser()
    if name and name not in HUB_IDS and path.exists():
        if path.is_dir() or path.suffix == ".parquet":
            return path
        raise EcarError(f"{name!r} is no data set: give a folder or a .parquet file")
    here = ", ".join(find_datasets(root)) or "nothing" if root else ""
    raise EcarError(
        f"there is no data set {name!r}"
        + (f" in {str(root)!r} (which holds {here})" if root else "")
        + f": use digits, shapes, {', '.join(HUB_IDS)}, a folder, a .parquet file or "
        "hub:OWNER/NAME, or name another data root with --data or the variable ECAR_DATA"
    )


def _load_hub(name: str, hub_id: str, split: str, streaming: bool) -> Table:
    import datasets  # takes a second: not for those who want digits or shapes

    repository, _, config = hub_id.partition(":")
    try:
        splits: Any = datasets.load_dataset(repository, config or None, streaming=streaming)
    except Exception as error:  # the Hub's clients raise a dozen unrelated types
        raise EcarError(
            f"{name!r} cannot be had from the Hugging Face Hub ({_reason(error)}): check the name "
            "and the network, or name a folder that holds it with --data or the variable ECAR_DATA"
        ) from error
    split = pick_split(name, split, splits)
    rows = splits[split]
    if not streaming:
        return Table(name, split, rows, len(rows))
    declared = (rows.info.splits or {}).get(split)
    return Table(name, split, rows, declared.num_examples if declared else None)


def _load_parquet(name: str, split: str, files: list[Path], streaming: bool) -> Table:
    import datasets

    paths = [str(path) for path in files]
    try:
        total = sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
        if streaming:
            rows = datasets.load_dataset("parquet", data_files=paths, split="train", streaming=True)
            return Table(name, split, rows.reshard(), total)  # row groups shuffle better than files
        require_memory(name, sum(path.stat().st_size for path in files))
        # `load_dataset` would copy the files into its cache first
        return Table(name, split, datasets.Dataset(pyarrow.parquet.read_table(paths)), total)
    except (OSError, pyarrow.ArrowException) as error:
        names = ", ".join(paths)
        raise EcarError(f"cannot read {names} ({_reason(error)}): fetch it again") from error


def _load_folder(name: str, split: str, folder: Path) -> Table:
    """A folder of class folders, with or without ``train``, ``test``, ... above them."""
    import datasets

    bases = _folder_splits(folder)
    split = pick_split(name, split, bases)
    images = {kind: _image_files(base) for kind, base in bases.items()}
    if not images[split]:
        raise EcarError(
            f"{str(bases[split])!r} holds no images: give a folder with one folder of images "
            f"({', '.join(IMAGE_SUFFIXES)}) per class, or of .parquet files"
        )
    classes = {
        kind: [_class_folder(bases[kind], path, folder) for path in images[kind]] for kind in bases
    }
    names = sorted(set().union(*classes.values()))  # over all splits: the same numbers in each
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    columns = {"image": [str(path) for path in images[split]], "label": classes[split]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    return Table(name, split, rows, len(rows))


def _class_folder(base: Path, path: Path, folder: Path) -> str:
    parts = path.relative_to(base).parts
    return parts[0] if len(parts) > 1 else folder.resolve().name


def _image_files(base: Path) -> list[Path]:
    """Every image below ``base``, sorted; hidden files and folders do not count."""
    files = []
    for parent, folders, names in os.walk(base, followlinks=True):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        files += [
            Path(parent, name)
            for name in names
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    return sorted(files)


def _folder_splits(folder: Path) -> dict[str, Path]:
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    named = {path.name.lower(): path for path in folders}
    if named and set(named) <= {"train", *HELD_OUT}:  # else `train` is a class, beside `car`
        return named
    return {"train": folder}


def _parquet_splits(place: Path) -> dict[str, list[Path]]:
    """split -> its files, by the first word of the file's or of its folder's name."""
    base = place.parent if place.is_file() else place
    files = [place] if place.is_file() else sorted(place.glob("*.parquet"))
    files = files or sorted(place.glob("*/*.parquet"))
    splits: dict[str, list[Path]] = {}
    for path in files:
        names = [path.stem] if path.parent == base else [path.stem, path.parent.name]
        words = [re.split(r"[-_.]", name.lower())[0] for name in names]
        split = next((word for word in words if word in ("train", *HELD_OUT)), "train")
        splits.setdefault(split, []).append(path)
    return splits


def _count_rows(files: list[Path]) -> int:
    try:
        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in files)
    except (OSError, pyarrow.ArrowException):
        return 0


def _find_columns(table: Table, image: str | None, label: str | None, files: list[Path]) -> None:
    """Fills in the columns and classes of ``table`` and keeps its images encoded."""
    import datasets

    features = table.rows.features or {}
    columns = ", ".join(features)
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    named = [key for key in IMAGE_COLUMNS if key in features]
    image = (
        image or next((key for key in named if key in images), None) or (images + named + [None])[0]
    )
    if image not in features:
        raise EcarError(
            f"{table.name!r} has no image column {image or ''!r} among {columns}: "
            "name it with image_column (--image-column)"
        )
    classes = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [key for key in LABEL_COLUMNS if key in features]
    label = (
        label
        or next((key for key in named if key in classes), None)
        or (named + classes + [None])[0]
    )
    if label != NO_LABELS and label not in features:
        raise EcarError(
            f"{table.name!r} has no label column {label or ''!r} among {columns}: name it with "
            f"label_column (--label-column), or {NO_LABELS!r} to take the set as one class"
        )
    table.image_column, table.label_column = image, label
    table.rows = table.rows.cast_column(image, datasets.Image(decode=False))
    kept = [image] if label == NO_LABELS else [image, label]
    table.rows = table.rows.select_columns(kept)
    if label == NO_LABELS:
        return
    if isinstance(features[label], datasets.ClassLabel):
        table.class_names = tuple(features[label].names)
        table.codes = {code: code for code in range(len(table.class_names))}
        return
    if isinstance(table.rows, datasets.Dataset):
        values = table.rows.unique(label)
    elif files:
        values = pyarrow.parquet.read_table(files, columns=[label])[label].unique().to_pylist()
    else:
        raise EcarError(
            f"the labels of {table.name!r} have no class names, which a stream cannot count: "
            "open it without streaming"
        )
    values = sorted(value for value in values if value is not None)
    table.class_names = tuple(str(value) for value in values)
    table.codes = {value: code for code, value in enumerate(values)}


def _digest_rows(rows: Any) -> bytes:
    """Digest of a data set's own columns, whatever files they lie in."""
    digest = hashlib.blake2b(digest_size=16)
    sink = pyarrow.PythonFile(_Hashing(digest), mode="w")
    table = rows.with_format("arrow")[:]
    with pyarrow.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata().combine_chunks())
    return digest.digest()


class _Hashing(io.RawIOBase):
    """A file that only a digest is kept of."""

    def __init__(self, digest: Any) -> None:
        self.digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)


def _revision(hub_id: str) -> str:
    """The commit of a Hub data set, "" where the Hub does not answer."""
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().dataset_info(hub_id.partition(":")[0], timeout=10).sha or ""
    except Exception:  # the Hub's clients raise a dozen unrelated types
        return ""


def require_memory(name: str, needed: int) -> None:
    """Refuses to hold ``needed`` bytes where that would leave little of the free memory."""
    free = psutil.virtual_memory().available
    if needed > 0.8 * free:
        raise EcarError(
            f"{name!r} needs {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are "
            "free: use streaming (--streaming), a smaller image size or a limit"
        )


def _reason(error: Exception) -> str:
    """The first line of an error, to stand in a sentence of our own."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
