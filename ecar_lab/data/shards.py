"""Files of rows: parquet files and the metadata files beside pictures, read column by column.

Every file is read by its own types; images and classes come out alike from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from ecar_lab.data.columns import NO_LABELS, pixel_type
from ecar_lab.data.labels import encode
from ecar_lab.data.layout import Skipped
from ecar_lab.data.places import Found
from ecar_lab.errors import EcarError, reason

FILE_NAME = "file_name"  # the column of metadata files that names the picture, as in `datasets`


@dataclass
class Shard:
    """One file: its split, name within the set, number of rows and columns.

    ``table`` holds the rows of a metadata file, which is small; parquet is read on demand.
    """

    path: Path
    split: str
    where: str
    rows: int
    features: dict[str, Any]
    table: pyarrow.Table | None = None

    @property
    def groups(self) -> list[int]:
        """How many rows the parts have that can be read by themselves, of a parquet file."""
        file = reading(self.path, lambda: open_parquet(self.path))
        return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]

    def read(self, columns: list[str], group: int | None = None) -> pyarrow.Table:
        """Some columns, of all rows or of one part.

        Raises:
            EcarError: the file is damaged.
        """
        if self.table is not None:
            return self.table.select(columns)

        def read() -> pyarrow.Table:
            file = open_parquet(self.path)
            if group is None:
                return file.read(columns=columns)
            return file.read_row_group(group, columns=columns)

        return reading(self.path, read)

    def distinct(self, name: str) -> list[Any]:
        """The values of a column, each once."""
        return self.read([name])[name].unique().to_pylist()


def reading(path: Path, read: Callable[[], Any], remedy: str = "fetch it again") -> Any:
    """What ``read`` returns.

    Raises:
        EcarError: the file is damaged.
    """
    try:
        return read()
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        if isinstance(error, EcarError):
            raise
        raise EcarError(f"cannot read {path} ({reason(error)}): {remedy}") from error


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """The file, by its very name: no patterns, no partitions read out of its path."""
    return pyarrow.parquet.ParquetFile(pyarrow.OSFile(str(path)))


def count_rows(path: Path) -> int:
    """Rows of a parquet file; 0 if it cannot be read."""
    try:
        return reading(path, lambda: open_parquet(path).metadata.num_rows)
    except EcarError:
        return 0


def parquet_shard(path: Path, split: str, where: str) -> Shard:
    """Opens a parquet file.

    Raises:
        EcarError: it is damaged.
    """
    file = reading(path, lambda: open_parquet(path))
    return Shard(path, split, where, file.metadata.num_rows, features_of(path, file.schema_arrow))


def metadata_shard(found: Found, split: str, file: str, skipped: Skipped) -> tuple[Shard, set[str]]:
    """Reads a metadata file; the pictures it names become a column ``image`` of paths.

    Returns:
        the shard, and the pictures of ``found`` that it names.

    Raises:
        EcarError: it is damaged, or has no column ``file_name``.
    """
    path = found.base / file
    readers = {".csv": pyarrow.csv.read_csv, ".jsonl": pyarrow.json.read_json}
    read = readers.get(path.suffix.lower(), lambda name: open_parquet(Path(name)).read())
    table = reading(path, lambda: read(str(path)), "mend it, or take it away to go by folders")
    if not len(table):
        raise EcarError(f"the metadata file {str(path)!r} has no rows: name the pictures in it")
    if path.suffix.lower() == ".csv" and pyarrow.binary() in table.schema.types:
        raise EcarError(f"the metadata file {str(path)!r} is no UTF-8: save it as UTF-8")
    kind = table.schema.field(FILE_NAME).type if FILE_NAME in table.column_names else None
    if kind not in (pyarrow.string(), pyarrow.large_string()):
        raise EcarError(
            f"the metadata file {str(path)!r} has no text column {FILE_NAME!r} among "
            f"{', '.join(table.column_names)}: add it, or take the file away to go by folders"
        )
    there = set(found.pictures[split])
    names = [
        str(PurePosixPath(file).parent / (name or "").replace("\\", "/"))  # written on Windows
        for name in table[FILE_NAME].to_pylist()
    ]
    lost = [name for name in names if name not in there]
    if len(lost) == len(names):
        raise EcarError(
            f"none of the {len(names)} pictures that {str(path)!r} names is there "
            f"({table[FILE_NAME][0].as_py()!r}, ...): {FILE_NAME} is a path that begins in the "
            "folder of the metadata file"
        )
    if lost:
        skipped.add(f"named in {path.name} and not there", *lost)
    images = pyarrow.array([str(found.base / name) for name in names], pyarrow.string())
    table = table.drop_columns([c for c in (FILE_NAME, "image") if c in table.column_names])
    table = table.append_column("image", images).filter(
        pyarrow.array([name in there for name in names])
    )
    shard = Shard(path, split, file, len(table), features_of(path, table.schema), table)
    return shard, there & set(names)


def refuse_two_classes(name: str, shard: Shard, image: str, label: str) -> None:
    """One picture has one class, however often a metadata file names it.

    Raises:
        EcarError: it has two.
    """
    if shard.table is None:
        return
    classes: dict[str, Any] = {}
    rows = zip(shard.table[image].to_pylist(), shard.table[label].to_pylist(), strict=True)
    for path, value in rows:
        if classes.setdefault(path, value) != value:
            raise EcarError(
                f"{shard.where} of {name!r} gives {Path(path).name} the classes "
                f"{classes[path]!r} and {value!r}: keep one of them"
            )


def features_of(path: Path, schema: pyarrow.Schema) -> dict[str, Any]:
    """column -> its type in terms of `datasets`.

    Raises:
        EcarError: two columns of one name, or types that `datasets` does not know.
    """
    import datasets

    twice = {name for name in schema.names if schema.names.count(name) > 1}
    if twice:
        raise EcarError(f"{str(path)!r} has two columns {min(twice)!r}: rename one of them")
    known: dict[str, Any] = {}
    declared = reading(path, lambda: _declared(schema))
    for field in schema:
        plain = field.type
        if pyarrow.types.is_dictionary(plain):
            plain = plain.value_type
        try:
            one = datasets.Features.from_arrow_schema(pyarrow.schema([(field.name, plain)]))
            known[field.name] = declared.get(field.name, one[field.name])
        except (ValueError, TypeError, KeyError, NotImplementedError):
            known[field.name] = str(plain)  # nothing that holds images or classes
    return known


def _declared(schema: pyarrow.Schema) -> dict[str, Any]:
    """Types that `datasets` wrote into the file: images and classes with their names."""
    import datasets

    if b"huggingface" not in (schema.metadata or {}):
        return {}
    features = datasets.Features.from_arrow_schema(schema)
    return {
        key: kind
        for key, kind in features.items()
        if isinstance(kind, datasets.Image | datasets.ClassLabel)
    }


def storage(column: pyarrow.ChunkedArray, feature: Any) -> pyarrow.ChunkedArray:
    """A column of images as `datasets` stores them (bytes and path); lists of pixels stay."""
    import datasets

    if pixel_type(feature):
        if isinstance(column.type, pyarrow.ExtensionType):
            return pyarrow.chunked_array([chunk.storage for chunk in column.chunks])
        return column
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    image = datasets.Image(decode=False)
    return pyarrow.chunked_array(map(image.cast_storage, column.chunks), type=image.pa_type)


def columns_of(
    shard: Shard, image: str, label: str, codes: dict[Any, int], what: str
) -> Callable[[pyarrow.Table], pyarrow.Table]:
    """Turns rows of a shard into images as stored, and classes as integers."""

    def convert(rows: pyarrow.Table) -> pyarrow.Table:
        columns = {image: storage(rows[image], shard.features[image])}
        if label != NO_LABELS:
            columns[label] = pyarrow.array(encode(rows[label], codes, what))
        return pyarrow.table(columns)

    return convert


def read_all(shard: Shard, convert: Callable, wanted: list[str]) -> pyarrow.Table:
    """All rows of a shard, converted."""
    return reading(shard.path, lambda: convert(shard.read(wanted)))


class Piece(NamedTuple):
    """Rows ``start`` to ``stop`` of part ``group`` of a shard."""

    shard: int
    group: int
    start: int
    stop: int


@dataclass
class Pieces:
    """A stream in pieces, of which every reader may be given its own."""

    shards: list[Shard]
    converts: list[Callable]
    wanted: list[str]
    features: Any

    def all(self) -> list[Piece]:
        """Every part of every shard as one piece."""
        return [
            Piece(number, group, 0, rows)
            for number, shard in enumerate(self.shards)
            for group, rows in enumerate(shard.groups)
            if rows
        ]

    def rows(self, pieces: list[Piece]) -> Any:
        """The rows of some pieces as a `datasets.IterableDataset`, one of its shards to a piece."""
        import datasets
        from datasets.iterable_dataset import ArrowExamplesIterable

        def generate(pieces: list[Piece]) -> Iterator[tuple[str, pyarrow.Table]]:
            for number, group, start, stop in pieces:
                rows = self.shards[number].read(self.wanted, group).slice(start, stop - start)
                yield f"{number}/{group}/{start}", self.converts[number](rows)

        info = datasets.DatasetInfo(features=self.features)
        return datasets.IterableDataset(
            ArrowExamplesIterable(generate, {"pieces": pieces}), info=info
        )


def cut(pieces: list[Piece], count: int) -> list[list[Piece]]:
    """The rows of all pieces in ``count`` stretches of equal length, up to one row."""
    total = sum(piece.stop - piece.start for piece in pieces)
    stretches: list[list[Piece]] = []
    for index in range(count):
        first, last = index * total // count, (index + 1) * total // count
        inside, begin = [], 0
        for piece in pieces:
            length = piece.stop - piece.start
            start, stop = max(first - begin, 0), min(last - begin, length)
            if start < stop:
                inside.append(piece._replace(start=piece.start + start, stop=piece.start + stop))
            begin += length
        stretches.append(inside)
    return stretches


def in_memory(tables: list[pyarrow.Table], features: Any) -> Any:
    """Tables of equal columns as one `datasets.Dataset`.

    Raises:
        EcarError: their images are of different types.
    """
    import datasets

    try:
        rows = pyarrow.concat_tables(tables)
        return datasets.Dataset(rows, info=datasets.DatasetInfo(features=features))
    except (ValueError, pyarrow.ArrowException) as error:
        raise EcarError(
            f"the files of one split store their images differently ({reason(error)}): "
            "write them alike"
        ) from error


def picture_rows(files: list[Path], codes: np.ndarray) -> pyarrow.Table:
    """Pictures as rows: path and class."""
    paths = pyarrow.chunked_array([pyarrow.array([str(f) for f in files], pyarrow.string())])
    return pyarrow.table({"image": storage(paths, None), "label": pyarrow.array(codes)})
