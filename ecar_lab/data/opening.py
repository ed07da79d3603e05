"""From a name to a table: finds the place, recognises what lies there, opens one split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecar_lab.data import columns, labels, shards
from ecar_lab.data.columns import NO_LABELS
from ecar_lab.data.layout import Layout, Skipped
from ecar_lab.data.places import METADATA, TABLES, TARS, Found, recognise
from ecar_lab.data.splits import pick_split
from ecar_lab.data.tables import Table, require_memory
from ecar_lab.data.tars import tar_shard
from ecar_lab.errors import EcarError, reason

BUILT_IN = ("digits", "shapes")
HUB_IDS = {"cifar10": "uoft-cs/cifar10", "imagenette": "frgfm/imagenette:320px"}
ONE_CLASS = ("image",)  # of a set whose labels are not asked for


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
        EcarError: there is no such set, split or column, it cannot be read, or what it is cannot be
            told for certain.
    """
    place = locate(name, root)
    if isinstance(place, str):
        table = _load_hub(name, place, split, streaming, image_column, label_column)
    else:
        found = recognise(place)
        split = pick_split(name, split, found.files)
        if found.kind in (METADATA, TABLES, TARS):
            table = _load_shards(name, split, found, streaming, image_column, label_column)
        else:
            table = _load_pictures(name, split, found, image_column, label_column)
    if table.total == 0:
        raise EcarError(f"{name!r} ({table.split}) is empty: give a data set with images")
    return table


def refuse_built_in_name(name: str, root: Path | None) -> None:
    """A folder of the data root must not be passed over for a set that the kit brings."""
    if name in BUILT_IN and root is not None and _exists(root / name):
        raise EcarError(
            f"{name!r} is a set that the kit brings and also a folder of the data root: rename the "
            f"folder, or give its path {str(root / name)!r}"
        )


def survey(root: str | Path) -> dict[str, dict[str, int] | EcarError]:
    """The folders of ``root``: name -> split -> images (0: unreadable), or why it is no data set.

    Raises:
        EcarError: the folder cannot be listed.
    """
    try:
        folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    except OSError as error:
        raise EcarError(
            f"cannot list the data root {str(root)!r} ({error.strerror}): name another with --data"
        ) from error
    result: dict[str, dict[str, int] | EcarError] = {}
    for folder in folders:
        if folder.name.startswith((".", "__")):
            continue
        try:
            refuse_built_in_name(folder.name, Path(root))
            result[folder.name] = _counts(recognise(folder))
        except EcarError as error:
            result[folder.name] = error
    return result


def find_datasets(root: str | Path) -> dict[str, dict[str, int]]:
    """The data sets in the folders of ``root``: name -> split -> images (0: unreadable)."""
    return {name: splits for name, splits in survey(root).items() if isinstance(splits, dict)}


def _counts(found: Found) -> dict[str, int]:
    if found.kind == METADATA:
        return {split: len(pictures) for split, pictures in found.pictures.items()}
    if found.kind == TARS:
        return {
            split: sum(tar_shard(found.base / file, split, file).rows for file in files)
            for split, files in found.files.items()
        }
    if found.kind != TABLES:
        return {split: len(files) for split, files in found.files.items()}
    counts = {}
    for split, files in found.files.items():
        counts[split] = sum(shards.count_rows(found.base / file) for file in files)
        first = found.base / files[0]
        if counts[split]:
            columns.image_column(
                found.base.name, "", shards.parquet_shard(first, split, files[0]).features, None
            )
    return counts


def locate(name: str, root: Path | None) -> Path | str:
    """A local file or folder, or a Hub id.

    Raises:
        EcarError: there is none; the sentence lists those that there are.
    """
    if name.startswith("hub:"):
        return name.removeprefix("hub:")
    if root and name and _exists(root / name):
        return _as_text(root / name)
    if name in HUB_IDS and not root:
        return HUB_IDS[name]
    path = Path(name).expanduser()
    if name and name not in HUB_IDS and _exists(path):
        return _as_text(path)
    here = ", ".join(find_datasets(root)) or "nothing" if root else ""
    raise EcarError(
        f"there is no data set {name!r}"
        + (f" in {str(root)!r} (which holds {here})" if root else "")
        + f": use digits, shapes, {', '.join(HUB_IDS)}, a folder, a .parquet or .tar file, or "
        "hub:OWNER/NAME, or name another data root with --data or the variable ECAR_DATA"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or no right to look
        return False


def _as_text(path: Path) -> Path:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise EcarError(f"the path {str(path)!a} is no UTF-8: rename the folder") from None
    return path


def _load_pictures(
    name: str, split: str, found: Found, image: str | None, label: str | None
) -> Table:
    """Class folders, or pictures of one class."""
    import datasets

    text = datasets.Value("string")
    features = {"image": datasets.Image(decode=False), "label": text}
    columns.image_column(name, "", features, image)
    label = columns.label_column(name, "", features, label)
    parts = [
        labels.LabelColumn(part, part, text, lambda part=part: set(found.labels[part]))
        for part in found.files
    ]
    held = labels.unify(name, parts).names
    known = {folder: labels.normal(folder) for folder in found.classes}
    names = tuple(labels.sort_names({*held, *known.values()}))
    number = {folder: names.index(text) for folder, text in known.items()}
    files = [found.base / file for file in found.files[split]]
    codes = np.asarray([number[folder] for folder in found.labels[split]], dtype=np.int64)
    empty = tuple(text for text in names if text not in held)
    layout = _layout(name, found, {s: len(f) for s, f in found.files.items()}, names, label, empty)
    features["label"] = datasets.Value("int64")
    rows = shards.in_memory([shards.picture_rows(files, codes)], datasets.Features(features))
    table = Table(layout, split, rows, len(rows), "image", label, base=found.base)
    table.codes = None if label == NO_LABELS else {code: code for code in range(len(names))}
    return table


def _load_shards(
    name: str, split: str, found: Found, streaming: bool, image: str | None, label: str | None
) -> Table:
    """Parquet or tar files, or pictures with metadata files."""
    import datasets

    parts = _open_shards(found)
    mine = [shard for shard in parts if shard.split == split]
    image = columns.image_column(name, "", mine[0].features, image)
    label = columns.label_column(name, "", mine[0].features, label)
    for shard in mine:
        columns.image_column(name, f" in {shard.where}", shard.features, image)
        columns.label_column(name, f" in {shard.where}", shard.features, label)
    labelled = [shard for shard in parts if label in shard.features] if label != NO_LABELS else []
    classes = labels.unify(
        name,
        [
            labels.LabelColumn(s.where, s.split, s.features[label], lambda s=s: s.distinct(label))
            for s in labelled
        ],
    )
    for shard in labelled:
        shards.refuse_two_classes(name, shard, image, label)
    codes = {shard.where: part for shard, part in zip(labelled, classes.codes, strict=True)}
    counts = dict.fromkeys(found.files, 0)
    for shard in parts:
        counts[shard.split] += shard.rows
    layout = _layout(name, found, counts, classes.names, label)
    wanted = [image] if label == NO_LABELS else [image, label]
    what = f"{name!r} ({split})"
    converts = [shards.columns_of(s, image, label, codes.get(s.where, {}), what) for s in mine]
    kind = columns.pixel_type(mine[0].features[image])
    total = counts[split]
    table = Table(layout, split, None, total, image, label, pixel_type=kind)
    if found.kind == METADATA:
        table.base = found.base
    else:
        table.files = tuple(shard.path for shard in mine)
    if label != NO_LABELS:
        table.codes = {code: code for code in range(len(classes.names))}
    features = _row_features(mine[0], image, label)
    if streaming and found.kind != METADATA:
        table.pieces = shards.Pieces(mine, converts, wanted, features) if total else None
        table.rows = table.pieces.rows(table.pieces.all()) if table.pieces else []
        return table
    if found.kind != METADATA:
        require_memory(name, sum(shard.path.stat().st_size for shard in mine))
    tables = [shards.read_all(s, c, wanted) for s, c in zip(mine, converts, strict=True)]
    table.rows = shards.in_memory(tables, datasets.Features(features))
    return table


def _row_features(shard: shards.Shard, image: str, label: str) -> Any:
    import datasets

    encoded = datasets.Image(decode=False)
    kept = shard.features[image] if columns.pixel_type(shard.features[image]) else encoded
    if isinstance(kept, datasets.Array2D | datasets.Array3D):
        depth, kept = len(kept.shape), datasets.Value(kept.dtype)
        for _ in range(depth):
            kept = datasets.List(kept)
    features = {image: kept} | ({label: datasets.Value("int64")} if label != NO_LABELS else {})
    return datasets.Features(features)


def _open_shards(found: Found) -> list[shards.Shard]:
    """Every file of every split, train first; of metadata files the pictures they name."""
    if found.kind != METADATA:
        open_shard = tar_shard if found.kind == TARS else shards.parquet_shard
        parts = [
            open_shard(found.base / file, split, file)
            for split, files in found.files.items()
            for file in files
        ]
        without = [name for part in parts for name in getattr(part, "without", ())]
        if without:
            found.skipped.add("without an image", *without)
        return parts
    parts = []
    for split, files in found.files.items():
        named: set[str] = set()
        for file in files:
            shard, pictures = shards.metadata_shard(found, split, file, found.skipped)
            parts.append(shard)
            named |= pictures
        if unnamed := [file for file in found.pictures[split] if file not in named]:
            found.skipped.add("not named in the metadata file", *unnamed)
    return parts


def _layout(
    name: str,
    found: Found,
    counts: Mapping[str, int | None],
    names: tuple[str, ...],
    label: str,
    empty: tuple[str, ...] = (),
) -> Layout:
    labelled = label != NO_LABELS
    if not labelled:
        names, empty = ONE_CLASS, ()
    return Layout(name, found.kind, counts, names, empty, found.skipped.reasons, labelled)


def _load_hub(
    name: str, hub_id: str, split: str, streaming: bool, image: str | None, label: str | None
) -> Table:
    import datasets  # takes a second: not for those who want digits or shapes

    repository, _, config = hub_id.partition(":")
    try:
        splits: Any = datasets.load_dataset(repository, config or None, streaming=streaming)
    except Exception as error:  # the Hub's clients raise a dozen unrelated types
        raise _hub_error(name, error) from error
    split = pick_split(name, split, splits)
    rows = splits[split]
    features = rows.features or {}
    image = columns.image_column(name, "", features, image)
    label = columns.label_column(name, "", features, label)
    labelled = {
        part: other
        for part, other in splits.items()
        if label != NO_LABELS and label in (other.features or {})
    }

    def values(part: Any) -> list[Any]:
        if streaming:
            raise EcarError(
                f"the labels of {name!r} have no class names, which a stream cannot count: "
                "open it without streaming"
            )
        return part.unique(label)

    classes = labels.unify(
        name,
        [
            labels.LabelColumn(f"the split {s}", s, part.features[label], lambda p=part: values(p))
            for s, part in labelled.items()
        ],
    )
    counts = {part: _length(other, part) for part, other in splits.items()}
    found = Found(f"the Hub's {hub_id}", Path(), {}, skipped=Skipped())
    layout = _layout(name, found, counts, classes.names, label)
    kind = columns.pixel_type(features[image])
    table = Table(layout, split, rows, counts[split], image, label, pixel_type=kind, hub_id=hub_id)
    if label != NO_LABELS:
        table.codes = dict(zip(labelled, classes.codes, strict=True))[split]
    if not kind:
        table.rows = table.rows.cast_column(image, datasets.Image(decode=False))
    table.rows = table.rows.select_columns([image] if label == NO_LABELS else [image, label])
    return table


def _length(rows: Any, split: str) -> int | None:
    if hasattr(rows, "__len__"):
        return len(rows)
    declared = (rows.info.splits or {}).get(split)
    return declared.num_examples if declared else None


def _hub_error(name: str, error: Exception) -> EcarError:
    lines = str(error).splitlines()
    if lines and lines[0].startswith("Config name is missing"):
        return EcarError(
            f"{name!r} has several configurations ({' '.join(lines[1:2])}): name one, as in "
            "hub:OWNER/NAME:CONFIG"
        )
    if isinstance(error, OSError) and error.filename and error.errno:
        return EcarError(
            f"{name!r} cannot be kept in {str(error.filename)!r} ({error.strerror}): name a folder "
            "that can be written with the variable HF_HOME"
        )
    return EcarError(
        f"{name!r} cannot be had from the Hugging Face Hub ({reason(error)}): check the name "
        "and the network, or name a folder that holds it with --data or the variable ECAR_DATA"
    )
