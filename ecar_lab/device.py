"""Where the kit computes: device, precision, and what a CPU does with freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Generator
from contextvars import ContextVar

import torch

from ecar_lab.errors import EcarError, is_out_of_memory

# glibc's M_MMAP_MAX (no block of its own for a large tensor), M_TRIM_THRESHOLD (never shrink the
# heap) and M_TOP_PAD (grow it by 256 MiB).
MALLOC_OPTIONS = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))
# Instruction sets that oneDNN, which multiplies for PyTorch on a CPU, has fast bfloat16 in.
ONEDNN_WITH_BFLOAT16 = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` takes CUDA, then MPS, then the CPU.

    Args:
        name: a kind of device, perhaps with a number, as in ``cuda:1``.

    Raises:
        EcarError: the name is unknown, or this machine has no such device.
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    kind = name.split(":")[0]
    if kind not in counts:
        raise EcarError(f"device {name!r} is unknown: use auto, {', '.join(counts)}")
    numbered = [f"{kind}:{number}" for number in range(counts[kind])]
    if not numbered or name not in (kind, *numbered):
        raise EcarError(f"device {name!r} is not available on this machine: use auto or cpu")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products outrun float32 ones: any recent GPU, CPUs with AMX tiles or
    AVX-512 BF16, unless oneDNN's own variable ``ONEDNN_MAX_CPU_ISA`` keeps it from using them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu":
        return False
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "ALL"))
    if not any(name in allowed.upper() for name in ONEDNN_WITH_BFLOAT16):
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


class Casts(dict):
    """The weights of linear layers in the dtype of an autocast, by layer and dtype: made at first
    use and kept while they do not change, for a run. Autocast forgets them after every call."""


CASTS: ContextVar[Casts | None] = ContextVar("casts", default=None)


@contextlib.contextmanager
def casting_once(device: torch.device, dtype: torch.dtype, casts: Casts) -> Generator[None]:
    """As :func:`autocast`, and a linear layer of the kit looks into ``casts`` for its weights."""
    if dtype == torch.float32:
        yield
        return
    token = CASTS.set(casts)
    try:
        with torch.autocast(device.type, dtype=dtype):
            yield
    finally:
        CASTS.reset(token)


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was given; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def told_when_memory_is_full(
    remedy: str = "close other programs, or start with --device cpu",
) -> Generator[None]:
    """Says in one sentence what to do when the device has no memory left; a decorator, too.

    Raises:
        EcarError: it has none.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise EcarError(f"the device ran out of memory: {remedy}") from error


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
