"""What lies in a folder: one pass over its files, then the rules by which they make up a set.

No file is opened here. Names of splits are those of Hugging Face `datasets`
(`datasets.data_files`). What can be read in two ways is refused.
"""

from __future__ import annotations

import functools
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ecar_lab.data.layout import Skipped
from ecar_lab.data.splits import keyword_of, splits_named, table_splits
from ecar_lab.errors import EcarError

CLASS_FOLDERS, PICTURES, METADATA, TABLES, TARS = (
    "class folders",
    "pictures of one class",
    "pictures and a metadata file",
    "parquet files",
    "tar files of samples",
)
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as `datasets` has them
MOST_OTHER_FILES = 100_000  # files that are no images: more, and this is no data set
OTHERS_FOLDERS = frozenset(  # hidden, and never part of a set
    {"__MACOSX", "__pycache__", ".git", ".cache", ".huggingface", ".ipynb_checkpoints", ".Trashes"}
)
NO_PICTURES = frozenset({"BUFR", "GRIB", "HDF5", "WMF", "EPS", "MPEG"})  # Pillow: needs a helper
OTHER_PICTURES = (".heic", ".heif", ".hif", ".avif", ".jxl", ".svg", ".dng", ".cr2", ".nef")
SOME = ".jpg, .png, .webp, .gif, .tif, ..."

Parts = tuple[str, ...]  # a path within the set


@dataclass
class Found:
    """Files of a set, by split; paths are relative to ``base``.

    Attributes:
        files: pictures, metadata files or parquet files of each split.
        labels: the class of each of ``files``, where folders are classes.
        classes: every class that has a folder. pictures: of each split, beside metadata files.
    """

    kind: str
    base: Path
    files: dict[str, list[str]]
    labels: dict[str, list[str]] = field(default_factory=dict)
    classes: frozenset[str] = frozenset()
    pictures: dict[str, list[str]] = field(default_factory=dict)
    skipped: Skipped = field(default_factory=Skipped)


@dataclass
class Tree:
    """Regular files and folders below ``base``, as paths relative to it, sorted."""

    base: Path
    files: list[str]
    folders: list[str]
    skipped: Skipped


@functools.cache
def picture_endings() -> frozenset[str]:
    """The endings of pictures that this Pillow reads; those of HEIC with `pillow-heif`."""
    import PIL.Image

    try:
        import pillow_heif  # an extra

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    PIL.Image.init()
    known = {
        ending
        for ending, kind in PIL.Image.EXTENSION.items()
        if kind in PIL.Image.OPEN and kind not in NO_PICTURES
    }
    return frozenset({*known, ".mpo"})  # the JPEG reader reads those


def recognise(place: Path) -> Found:
    """The set that a folder, or one parquet or tar file, makes up.

    Raises:
        EcarError: it holds no images, or what it holds can be read in two ways.
    """
    if not place.is_dir():
        kind = {".parquet": TABLES, ".tar": TARS}.get(place.suffix.lower())
        if kind is None or not is_regular(place):
            raise EcarError(
                f"{str(place)!r} is no data set: give a folder, a .parquet or a .tar file"
            )
        return Found(kind, place.parent, table_splits(place, [place.name]))
    tree = scan(place)
    pictures, tables, metadata = [], [], []
    endings = picture_endings()
    for file in tree.files:
        name = file.rpartition("/")[2].lower()
        ending = os.path.splitext(name)[1]
        if name in METADATA_FILES:
            metadata.append(file)
        elif ending == ".parquet":
            tables.append(file)
        elif ending in endings:
            pictures.append(file)
        else:
            tree.skipped.add(_why_no_picture(ending), file)
    if not pictures:
        tables += [file for file in metadata if file.lower().endswith(".parquet")]
    if tables:
        _leave_out(
            tree, "beside .parquet files", [(file,) for file in metadata if file not in tables]
        )
        return _tables(tree, sorted(tables), pictures)
    if not pictures and (tars := [file for file in tree.files if is_tar(file)]):
        tree.skipped.reasons.pop(_why_no_picture(".tar"), None)
        return Found(TARS, tree.base, table_splits(tree.base, tars), skipped=tree.skipped)
    if not pictures:
        left = f"; skipped: {tree.skipped}" if tree.skipped.reasons else ""
        raise EcarError(
            f"{str(place)!r} holds no images: give a folder with one folder of images "
            f"({SOME}) per class, of .parquet files or of .tar files of samples{left}"
        )
    return _pictures(tree, pictures, metadata)


def is_tar(file: str) -> bool:
    """Whether a file's name says so."""
    return file.lower().endswith(".tar")


def is_regular(path: Path) -> bool:
    """Whether a file can be read from end to end: no device, pipe or broken link."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def scan(base: Path) -> Tree:
    """All that lies below ``base``, without what is hidden; links are followed, never in a circle.

    Raises:
        EcarError: a folder cannot be read, or there are too many files that are no images.
    """
    tree = Tree(base, [], [], Skipped())
    endings = picture_endings() | {".parquet"}
    others = 0
    seen = {_identity(folder) for folder in (base.resolve(), *base.resolve().parents)}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(base / folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            raise EcarError(
                f"cannot read the folder {str(base / folder)!r} ({error.strerror}): "
                "allow it to be read, or take it out of the data set"
            ) from error
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith((".", "__")):
                if _is_folder(entry) and entry.name not in OTHERS_FOLDERS:
                    tree.skipped.add("hidden by its name", path)
                continue
            if not _is_text(entry.name):
                tree.skipped.add("whose name is no UTF-8", ascii(path))
            elif _is_folder(entry):
                identity = _identity(Path(entry.path))
                if identity in seen:
                    tree.skipped.add("linked a second time", path)
                    continue
                seen.add(identity)
                tree.folders.append(path)
                waiting.append(path)
            elif is_regular(Path(entry.path)):
                tree.files.append(path)
                others += os.path.splitext(entry.name)[1].lower() not in endings
            else:
                tree.skipped.add("no regular file", path)
        if others > MOST_OTHER_FILES:
            raise EcarError(
                f"{str(base)!r} holds more than {MOST_OTHER_FILES:,} files that are no images: "
                "name the folder of the data set itself"
            )
    tree.files.sort()
    tree.folders.sort()
    return tree


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _why_no_picture(ending: str) -> str:
    if ending in (".heic", ".heif", ".hif"):
        return f"{ending}, which pip install 'ecar-lab[heif]' makes readable"
    if ending == ".arrow":
        return ".arrow, which to_parquet of `datasets` makes readable"
    if ending in OTHER_PICTURES:
        return f"{ending}, which cannot be read here"
    return f"{ending} and no image" if ending else "without an ending"


def _tables(tree: Tree, tables: list[str], pictures: list[str]) -> Found:
    foldered = [file for file in pictures if "/" in file]
    if foldered:
        raise EcarError(
            f"{str(tree.base)!r} holds .parquet files ({tables[0]}) beside folders of pictures "
            f"({foldered[0]}): keep one of them in a folder of its own"
        )
    if pictures:
        tree.skipped.add("beside .parquet files", *pictures)
    return Found(TABLES, tree.base, table_splits(tree.base, tables), skipped=tree.skipped)


def _pictures(tree: Tree, pictures: list[str], metadata: list[str]) -> Found:
    paths = [tuple(file.split("/")) for file in pictures]
    tables = [tuple(file.split("/")) for file in metadata]
    top = _unwrap((), paths, tree, tables)
    splits = _picture_splits(tree, top, paths)
    if metadata:
        return _with_metadata(tree, splits, paths, tables)
    roots = {root: _unwrap(root, paths, tree, []) for roots in splits.values() for root in roots}
    members: dict[str, list[tuple[Parts, str | None]]] = {split: [] for split in splits}
    classes: set[str] = set()
    for split, folders in splits.items():
        for folder in folders:
            inside = [path for path in paths if path[: len(folder)] == folder]
            root = roots[folder]
            _refuse_two_levels(tree, root, inside)
            for path in inside:
                name = path[len(root)] if len(path) > len(root) + 1 else None
                members[split].append((path, name))
                classes |= {name} if name is not None else set()
    used = {path for pairs in members.values() for path, _ in pairs}
    _leave_out(tree, "beside the splits", [path for path in paths if path not in used])
    if not classes:
        return _one_class(tree, members)
    empty = {
        name
        for root in roots.values()
        for name in _empty_folders(tree, root)
        if name not in classes
    }
    found = Found(CLASS_FOLDERS, tree.base, {}, classes=frozenset(classes | empty))
    found.skipped = tree.skipped
    for split, pairs in members.items():
        inside = [(path, name) for path, name in pairs if name is not None]
        stray = [path for path, name in pairs if name is None]
        if inside and len(stray) >= len(inside):
            raise EcarError(
                f"{str(tree.base)!r} has {len(stray)} pictures in no class folder (such as "
                f"{'/'.join(stray[0])}) beside {len(inside)} in class folders: move them into "
                "the folders of their classes, or away"
            )
        _leave_out(tree, "in no class folder", stray)
        if inside:
            found.files[split] = ["/".join(path) for path, _ in inside]
            found.labels[split] = [name for _, name in inside]
    return found


def _unwrap(root: Parts, paths: list[Parts], tree: Tree, metadata: list[Parts]) -> Parts:
    """Goes down as long as all pictures lie in one folder that is neither a class nor a split."""
    while True:
        depth = len(root)
        inside = [path for path in paths if path[:depth] == root]
        children = {path[depth] for path in inside}
        if len(children) != 1 or any(len(path) <= depth + 2 for path in inside):
            return root
        (child,) = children
        has_table = any(path[:-1] == root for path in metadata)
        if has_table or splits_named(child) or _empty_folders(tree, root):
            return root
        root = (*root, child)


def _empty_folders(tree: Tree, root: Parts) -> list[str]:
    """Folders beside the class folders that hold nothing, or only pictures that cannot be read."""
    prefix = "/".join((*root, ""))
    within = [folder.removeprefix(prefix) for folder in tree.folders if folder.startswith(prefix)]
    names = {name for name in within if "/" not in name and not keyword_of(name)}
    endings = (*picture_endings(), ".parquet")
    for file in tree.files:  # one pass: a set may have a thousand classes and a million files
        if file.startswith(prefix):
            lower = file.lower()
            if lower.endswith(endings) or not lower.endswith(OTHER_PICTURES):
                names.discard(file[len(prefix) :].partition("/")[0])
    return sorted(names)


def _picture_splits(tree: Tree, top: Parts, paths: list[Parts]) -> dict[str, list[Parts]]:
    """split -> the folders that make it up."""
    depth = len(top)
    children = sorted({path[depth] for path in paths if len(path) > depth + 1})
    nested = {path[depth] for path in paths if len(path) > depth + 2}
    marked = {child: splits_named(child) for child in children}
    marked = {child: splits.pop() for child, splits in marked.items() if len(splits) == 1}
    others = [child for child in children if child not in marked]
    exact = [child for child in marked if keyword_of(child)]
    if (marked and not others) or (exact and any(child in nested for child in exact)):
        pass
    elif exact or any(child in nested for child in marked):
        one, other = (exact or list(marked))[0], others[0]
        raise EcarError(
            f"{str(tree.base)!r} holds {one!r}, which names a split, beside {other!r}, which names "
            "none: put the class folders into a folder train, or take one of the two away"
        )
    else:
        return {"train": [top]}
    splits: dict[str, list[Parts]] = {}
    for child, split in marked.items():
        splits.setdefault(split, []).append((*top, child))
    return {
        (keyword_of(folders[0][-1]) if len(folders) == 1 else None) or split: folders
        for split, folders in splits.items()
    }


def _refuse_two_levels(tree: Tree, root: Parts, inside: list[Parts]) -> None:
    """Pictures two folders below ``root`` throughout: `datasets` takes the inner name for the
    class, torchvision the outer one."""
    depth = len(root)
    if inside and all(len(path) > depth + 2 for path in inside):
        outer, inner = inside[0][depth], inside[0][-2]
        raise EcarError(
            f"every picture of {str(tree.base)!r} lies two folders deep ({'/'.join(inside[0])}), "
            f"so the class may be {outer!r} or {inner!r}: put each picture directly "
            "into the folder of its class"
        )


def _one_class(tree: Tree, members: dict[str, list[tuple[Parts, str | None]]]) -> Found:
    files = {split: ["/".join(path) for path, _ in pairs] for split, pairs in members.items()}
    named = [splits_named(path.rpartition("/")[2]) for paths in files.values() for path in paths]
    words = set().union(*named)
    if len(files) == 1 and len(words) > 1 and all(named):
        raise EcarError(
            f"the names of the pictures in {str(tree.base)!r} speak of "
            f"{' and '.join(sorted(words))}: put them into folders of these names"
        )
    name = tree.base.resolve().name or "image"
    labels = {split: [name] * len(paths) for split, paths in files.items()}
    return Found(PICTURES, tree.base, files, labels, frozenset({name}), skipped=tree.skipped)


def _with_metadata(
    tree: Tree, splits: dict[str, list[Parts]], paths: list[Parts], metadata: list[Parts]
) -> Found:
    """As `datasets` does: metadata files take the place of folder names, in every split."""
    found = Found(METADATA, tree.base, {}, skipped=tree.skipped)
    twice = [folder for folder, n in Counter(path[:-1] for path in metadata).items() if n > 1]
    if twice:
        raise EcarError(
            f"{str(tree.base.joinpath(*twice[0]))!r} holds more than one metadata file: keep one"
        )
    left = set(metadata)
    for split, folders in splits.items():
        inside = [path for path in metadata if any(path[: len(f)] == f for f in folders)]
        if not inside:
            raise EcarError(
                f"{str(tree.base)!r} has a metadata file ({'/'.join(metadata[0])}) that does not "
                f"belong to the split {split!r}: put one into the folder of each split"
            )
        left -= set(inside)
        found.files[split] = ["/".join(path) for path in inside]
        pictures = [path for path in paths if any(path[: len(f)] == f for f in folders)]
        found.pictures[split] = ["/".join(path) for path in pictures]
    used = {path for pictures in found.pictures.values() for path in pictures}
    lost = ["/".join(path) for path in paths]
    _leave_out(tree, "beside the splits", [tuple(p.split("/")) for p in lost if p not in used])
    if left:
        raise EcarError(
            f"the metadata file {'/'.join(sorted(left)[0])} of {str(tree.base)!r} lies outside the "
            f"splits ({', '.join(splits)}): put one into the folder of each split"
        )
    return found


def _leave_out(tree: Tree, reason: str, paths: Iterable[Parts]) -> None:
    names = [str(PurePosixPath(*path)) for path in paths]
    if names:
        tree.skipped.add(reason, *names)
