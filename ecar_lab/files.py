"""All that touches the disk: where data and checkpoints lie, and files that are whole or absent.

A file is checked before the work and complete or absent after it; tensors are safetensors, and
nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ecar_lab.documents import CONFIGURATIONS, check_files
from ecar_lab.download import ID, Repository
from ecar_lab.errors import EcarError
from ecar_lab.home import checkpoint_roots, checkpoints_root, fetched_root, hub_owner, left_behind
from ecar_lab.schema import check_path

logger = logging.getLogger(__name__)

CHECKSUMS, INDEX = "SHA256SUMS", "model_index.json"
DECIDING = (*CONFIGURATIONS, ".safetensors")  # the files of a checkpoint that its images depend on
IMAGE_FORMATS = (".png", ".jpg", ".jpeg", ".webp")
Tensors = dict[str, Tensor]


def data_root(path: str | Path | None = None) -> Path | None:
    """The folder of data sets: the argument, else ``$ECAR_DATA``, else None.

    Raises:
        EcarError: the folder that was named does not exist.
    """
    named, source = (path, "--data") if path else (os.environ.get("ECAR_DATA"), "ECAR_DATA")
    if not named:
        return None
    root = Path(named).expanduser()
    if not root.is_dir():
        raise EcarError(
            f"the data root {str(root)!r} (from {source}) is no folder: "
            "point --data or the variable ECAR_DATA at the folder that holds the data sets"
        )
    return root


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """A checkpoint folder, given as a path, as a training's folder or as the name of one that
    ships.

    Raises:
        EcarError: neither exists; the sentence lists the names that do.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise EcarError(f"a checkpoint {name_or_path!r}: give a folder, or the name of one")
    check_path(name_or_path)
    name = os.fspath(name_or_path)
    for candidate in (Path(name).expanduser(), *(root / name for root in checkpoint_roots())):
        if name and candidate.is_dir():
            final = candidate / "final"  # of a training, whose own config.json is no network's
            whole = (candidate / "model_index.json").is_file()
            found = final if not whole and any(final.glob("*.json")) else candidate
            check_files(found)
            return found
        if name and candidate.is_file():
            raise EcarError(f"{name!r} is a file: give the folder of the checkpoint that it is in")
    root = checkpoints_root()
    if not root.is_dir() and "ECAR_CHECKPOINTS" in os.environ:
        raise EcarError(
            f"there is no checkpoint {name!r}, and {str(root)!r} (from ECAR_CHECKPOINTS) is no "
            "folder: give a folder, or point the variable at the folder of the checkpoints"
        )
    if name in left_behind():
        return fetch_shipped(name)
    patterns = ("[!.]*/model_index.json", "[!.]*/tokenizer/config.json")
    found = [file for pattern in patterns for file in root.glob(pattern)]
    names = sorted({file.relative_to(root).parts[0] for file in found} | left_behind().keys())
    hint = f", or fetch it from the Hub with `ecar pull {name}`" if ID.fullmatch(name) else ""
    raise EcarError(
        f"there is no checkpoint {name!r}: give a folder or one of "
        f"{', '.join(names) or '(none is shipped here)'}{hint}"
    )


def fetch_shipped(name: str) -> Path:
    """Fetches a checkpoint that the wheel left behind, once, and checks it against the checksums
    that the wheel carries.

    Raises:
        EcarError: nobody keeps it on the Hub, the Hub does not give it, it is another one.
    """
    known = left_behind()[name]
    repository = Repository(f"{hub_owner(name)}/{name}")
    target = fetched_root() / name
    logger.info("fetching %s into %s, once", repository.name, target)
    with atomic_directory(target) as fresh:
        repository.fetch(repository.wanted, fresh)
        for index in known.glob(INDEX):  # as it ships; on the Hub it is written for diffusers
            shutil.copyfile(index, fresh / INDEX)
        # Its card and its record may have changed since; what it computes with may not.
        sums = (known / CHECKSUMS).read_text(encoding="utf-8").splitlines(True)
        kept = [line for line in sums if line.rstrip().endswith(DECIDING)]
        (fresh / CHECKSUMS).write_text("".join(kept), encoding="utf-8")
        try:
            verify_checksums(fresh)
        except EcarError as error:
            raise EcarError(
                f"{repository.name!r} is not the checkpoint {name!r} that this version of the kit "
                "ships: take it from a clone, or name another owner in ECAR_HUB"
            ) from error
    return target


def as_folder(place: Any) -> Path:
    """A folder to write into, ``~`` expanded; it need not exist.

    Raises:
        EcarError: it is no path, or empty, or a name that no file system holds.
    """
    if not isinstance(place, str | os.PathLike) or not os.fspath(place):
        raise EcarError(f"a folder {place!r}: give a path")
    check_path(place)
    return Path(place).expanduser()


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Generator[Path]:
    """A fresh folder that takes the place of ``path`` once the block ends well.

    Until then ``path`` keeps what it held; if the block fails, the fresh folder vanishes. At every
    moment a complete folder stands under ``path`` or, for the blink between two renames, beside it
    as ``<name>.old``.

    Raises:
        EcarError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    fresh: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        fresh.chmod(0o755)
        yield fresh
        sync_tree(fresh)
        old = path.with_name(f"{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.replace(path, old)
        os.replace(fresh, path)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # the latter wraps a full disk
        raise write_error(path, error) from error
    finally:
        if fresh is not None and fresh.exists():
            shutil.rmtree(fresh, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Flushes every file below ``folder`` to the disk, so that a rename never precedes its data."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())


def write_error(path: str | Path, error: Exception) -> EcarError:
    """The sentence for a file that could not be written."""
    return EcarError(
        f"cannot write {str(path)!r} ({getattr(error, 'strerror', None) or error}): "
        "free some space or choose another, writable, output"
    )


def write_json(path: str | Path, content: Any) -> None:
    """Writes ``content`` as JSON in one step: readers see the old file or the new one.

    Raises:
        EcarError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(fresh, "w", encoding="utf-8") as handle:
            json.dump(content, handle, indent=2, ensure_ascii=False)
            handle.write("\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise write_error(path, error) from error


def check_output(path: str | Path, formats: Sequence[str]) -> Path:
    """The path, once it is certain that a file can be written there; creates nothing.

    Args:
        formats: the endings allowed, e.g. ``(".png", ".jpg")``.

    Raises:
        EcarError: another ending, a folder of that name, or a place that cannot be written.
    """
    path = Path(check_path(path))
    if path.suffix.lower() not in formats:
        raise EcarError(f"the output {str(path)!r} has another ending: use {' or '.join(formats)}")
    if path.is_dir():
        raise EcarError(f"the output {str(path)!r} is a folder: name a file in it")
    try:
        _probe(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def check_outputs(wanted: Mapping[str, tuple[str | Path | None, Sequence[str]]]) -> None:
    """Checks all the files that a command is to write, as :func:`check_output` does.

    Args:
        wanted: by switch, the path, None for none, and the endings allowed.

    Raises:
        EcarError: as there; two of them are one file.
    """
    switches: dict[Path, str] = {}
    for switch, (path, formats) in wanted.items():
        if path is None:
            continue
        before = switches.setdefault(check_output(path, formats).resolve(), switch)
        if before != switch:
            raise EcarError(f"{before} and {switch} are both {str(path)!r}: name two files")


def check_folder(folder: str | Path) -> Path:
    """The folder, which need not exist yet, once it is certain that files can be written there.

    Raises:
        EcarError: they cannot.
    """
    folder = Path(check_path(folder))
    try:
        _probe(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def _probe(folder: Path) -> None:
    """Writes a byte, for a moment, where ``folder`` is or would be created."""
    folder = folder.absolute()
    # Something that is no folder ends the search too, and the system refuses a file in it.
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    with tempfile.TemporaryFile(dir=nearest) as probe:
        probe.write(b"\0")


@contextlib.contextmanager
def output_file(path: str | Path) -> Generator[Path]:
    """A fresh name of the same ending, beside ``path``; takes its place once the block ends well.

    If the block fails, the fresh file vanishes and ``path`` keeps what it held.

    Raises:
        EcarError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        with open(fresh, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def clear_half_written(folder: Path, pattern: str) -> None:
    """Removes what :func:`output_file` had begun in processes that are no more.

    A process of another machine that shares the folder may be taken for one: it then fails to
    write, as on a full disk.
    """
    for entry in folder.glob(pattern):
        number = entry.stem.rpartition("-")[2]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            with contextlib.suppress(OSError):
                entry.unlink()


def save_tensors(path: Path, named: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Writes named tensors as one safetensors file, with words about them in its header.

    Raises:
        OSError: the disk is full or the place cannot be written.
    """
    named = {name: tensor.detach().to("cpu").contiguous() for name, tensor in named.items()}
    try:
        save_file(named, path, metadata)
    except SafetensorError as error:  # safetensors wraps what the system said
        raise OSError(f"{error}") from error


def load_tensors(path: Path) -> Tensors:
    """All tensors of a safetensors file."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def load_metadata(path: Path) -> dict[str, str]:
    """The words in the header of a safetensors file."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return file.metadata() or {}


def hash_tensors(named: Tensors) -> str:
    """The SHA-256 of names, types, shapes and values, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_checksums(folder: str | Path, parts: Sequence[str] = ("",)) -> None:
    """Writes ``SHA256SUMS``: a line ``<hash>  <path>`` for every file below the folder but itself.

    The format is that of sha256sum(1): ``sha256sum -c SHA256SUMS`` checks it, too.

    Args:
        parts: only these files and folders of the folder.

    Raises:
        EcarError: the disk is full or the place cannot be written.
    """
    folder = Path(folder)
    places = [folder / part for part in parts]
    found = {file for place in places for file in (place, *place.rglob("*")) if file.is_file()}
    lines = [
        f"{hash_file(file)}  {file.relative_to(folder).as_posix()}\n"
        for file in sorted(found - {folder / CHECKSUMS})
    ]
    with output_file(folder / CHECKSUMS) as fresh:
        fresh.write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: str | Path, suffix: str = "") -> None:
    """Compares the files of a folder with its ``SHA256SUMS``, or with that of the folder above.

    Without such a file nothing is checked; files that it does not list are not looked at.

    Args:
        suffix: only files with this ending, e.g. ``.safetensors``; "" = all.

    Raises:
        EcarError: a file is missing, or is not the one that was written; a line cannot be read.
    """
    folder = Path(folder).resolve()
    sums = next((home for home in (folder, folder.parent) if (home / CHECKSUMS).is_file()), None)
    if sums is None:
        return
    remedy = f"copy the folder again, or delete {CHECKSUMS} if you changed it on purpose"
    for line in (sums / CHECKSUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        if len(expected) != 64 or not name:
            raise EcarError(f"{CHECKSUMS} in {str(sums)!r} is damaged at {line[:80]!r}: {remedy}")
        file = sums / name
        if not name.endswith(suffix) or not file.is_relative_to(folder):
            continue
        if not file.is_file():
            raise EcarError(f"{str(file)!r} is missing, {CHECKSUMS} lists it: {remedy}")
        if hash_file(file) != expected:
            raise EcarError(
                f"{str(file)!r} cannot be loaded, it is not the file that was saved: {remedy}"
            )


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
