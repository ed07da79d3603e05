"""The machine that a number was made on: its name, its versions, its speed, its memory.

Ground floor: nothing here knows a model or a data set.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import math
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

PACKAGES = ("ecar-lab", "torch", "diffusers", "accelerate", "datasets", "safetensors")
Result = TypeVar("Result")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def command_line() -> str:
    """The command of this process, without the folders of this machine."""
    program = Path(sys.argv[0])
    # `python -m ecar_lab.cli` is the command `ecar` under another name.
    is_ecar = program.parts[-2:] == ("cli", "__main__.py")
    return shlex.join(["ecar" if is_ecar else program.name or "python", *sys.argv[1:]])


def count_flops(call: Callable[[], object]) -> int:
    """Floating-point operations of one call: 2 per multiply-add of matrix products, convolutions.

    Attention is run unfused for the count: PyTorch's counter takes the CPU's fused kernel for
    free. Of a depthwise convolution's backward pass it takes the weight's gradient for an
    ungrouped one's, which is put right here. Norms, activations and other element-wise work are
    not counted, as is the custom, and compiled code is invisible to it: count the eager module.
    """
    backward = {torch.ops.aten.convolution_backward: _convolution_backward}
    counter = FlopCounterMode(display=False, custom_mapping=backward)
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return counter.get_total_flops()


def _convolution_backward(grad_out, x, weight, *rest: Any, **_: Any) -> int:
    """Of the shapes of aten's operator: as many as forward for each gradient that is wanted."""
    transposed, wanted = rest[4], rest[7]
    places = x if transposed else grad_out
    forward = 2 * places[0] * math.prod(places[2:]) * math.prod(weight)
    return forward * sum(map(bool, wanted[:2]))


def matmul_rate(
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    shape: tuple[int, int, int] = (4096, 1024, 1024),
    *,
    repeats: int = 5,
) -> float:
    """FLOP/s of an (m, k) by (k, n) matrix product, measured now; the fastest of ``repeats``.

    This is the yardstick of utilisation figures (MFU): what the machine gives to a plain product,
    and no data sheet's number.
    """
    m, k, n = shape
    a = torch.randn(m, k, device=device).to(dtype)
    b = torch.randn(k, n, device=device).to(dtype)
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        a @ b
        if a.is_cuda:
            torch.cuda.synchronize(a.device)
        seconds.append(time.perf_counter() - start)
    return 2 * m * k * n / min(seconds[1:])


def peak_memory(
    call: Callable[[], Result], device: torch.device | str = "cpu"
) -> tuple[Result, int]:
    """The call's result, and the bytes that its peak took above what was held at the start.

    CUDA: the allocator's own peak. CPU: resident memory of the process, from Linux's high-water
    mark or, where that cannot be reset, from a thread that samples every millisecond.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    _release_freed_memory()
    before = psutil.Process().memory_info().rss
    with _resident_peak() as peak:
        result = call()
    return result, max(0, peak() - before)


def _release_freed_memory() -> None:
    """Gives freed heap back to the system: memory used again would not show as a rise."""
    gc.collect()
    if platform.system() == "Linux":
        with contextlib.suppress(OSError, AttributeError):  # a libc other than glibc
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _resident_peak() -> Generator[Callable[[], int]]:
    """Yields a function that tells, after the block, the highest resident memory within it."""
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    except OSError:
        pass
    else:
        yield lambda: 1024 * int(status.read_text("ascii").split("VmHWM:")[1].split()[0])
        return

    process, done = psutil.Process(), threading.Event()
    highest = process.memory_info().rss

    def sample() -> None:
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield lambda: max(highest, process.memory_info().rss)
    finally:
        done.set()
        thread.join()


def machine(device: torch.device | str = "cpu") -> str:
    """What a number was measured on: cores, processor, memory, and the GPU if one was used."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        information = Path("/proc/cpuinfo").read_text("utf-8")
        processor = information.split("model name")[1].split(":")[1].splitlines()[0].strip()
    gigabytes = psutil.virtual_memory().total / 2**30
    text = f"{os.cpu_count()} cores of {processor}, {gigabytes:.0f} GiB"
    device = torch.device(device)
    return f"{torch.cuda.get_device_name(device)}, {text}" if device.type == "cuda" else text


@contextlib.contextmanager
def no_proxies() -> Generator[None]:
    """Hides the variables that send requests through a proxy.

    A server that looks at its own address would ask the proxy for it, and none but this machine
    knows that; with a SOCKS proxy named, the client that looks would not even start.
    """
    hidden = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
