"""Where the kit runs and where it reads and writes: device, precision, folders, safe files."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ecar_lab.errors import EcarError

# glibc's M_MMAP_MAX (no block of its own for a large tensor), M_TRIM_THRESHOLD (never shrink the
# heap) and M_TOP_PAD (grow it by 256 MiB).
MALLOC_OPTIONS = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        EcarError: the name is unknown, or this machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.split(":")[0]
    if kind not in available:
        raise EcarError(f"device {name!r} is unknown: use auto, {', '.join(available)}")
    if not available[kind]:
        raise EcarError(f"device {name!r} is not available on this machine: use auto or cpu")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products outrun float32 ones: any recent GPU, CPUs with AMX tiles or
    AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def pick_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The compute dtype; ``auto`` is bfloat16 where the hardware multiplies it fast, else float32.

    Raises:
        EcarError: the name is not one of auto, float32, bfloat16.
    """
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise EcarError(f"dtype {name!r} is unknown: use auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Mixed precision for one piece of work; nothing at all for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was given; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def told_when_memory_is_full() -> Generator[None]:
    """Says in one sentence what to do when the device has no memory left.

    Raises:
        EcarError: it has none.
    """
    try:
        yield
    except RuntimeError as error:
        # A GPU has an error of its own for that; the CPU's allocator says it in words only.
        full = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not full:
            raise
        raise EcarError(
            "the device ran out of memory: close other programs, or start with --device cpu"
        ) from error


def keep_freed_memory(device: torch.device) -> bool:
    """Lets a training on a CPU reuse the memory of its tensors; returns whether that was set.

    The C library of Linux gives every large block back to the system and takes it anew, page by
    page. Keeping it trained imagenet256-s 1.1 times as fast, with 4.1 instead of 10.4 CPU seconds
    spent in the kernel (measured on two cores). Other systems and devices are left alone.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return False
    return all(mallopt(option, value) for option, value in MALLOC_OPTIONS)


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


def checkpoints_root() -> Path:
    """``$ECAR_CHECKPOINTS``, else ``data/checkpoints`` of this repository."""
    named = os.environ.get("ECAR_CHECKPOINTS")
    return Path(named) if named else Path(__file__).resolve().parents[1] / "data" / "checkpoints"


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """A checkpoint folder, given as a path or as the name of one that ships.

    Raises:
        EcarError: neither exists; the sentence lists the names that do.
    """
    for candidate in (Path(name_or_path).expanduser(), checkpoints_root() / str(name_or_path)):
        if candidate.is_dir():
            return candidate
    root = checkpoints_root()
    patterns = ("[!.]*/model_index.json", "[!.]*/tokenizer/config.json")
    found = [file for pattern in patterns for file in root.glob(pattern)]
    names = sorted({file.relative_to(root).parts[0] for file in found})
    raise EcarError(
        f"there is no checkpoint {str(name_or_path)!r}: give a folder or one of "
        f"{', '.join(names) or '(none is shipped here)'}"
    )


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
