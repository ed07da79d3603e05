"""What is measured: distances between sets of features, floating-point operations, memory, speed.

Ground floor: nothing here knows a model or a data set. Features are matrices (N, D); where they
come from is the caller's business.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ecar_lab.errors import EcarError

Result = TypeVar("Result")


class _GivenFeatures(nn.Identity):
    """Tells torchmetrics that its 'images' are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def _checked(features: Tensor, name: str) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise EcarError(
            f"{name} features have shape {tuple(features.shape)}: give (N, D) with N of 2 or more"
        )
    return features.detach().cpu().double()


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½), Gaussians fitted to both sets.

    The square root's trace comes from the eigenvalues of Σ_a Σ_b, in float64, so that sets of
    fewer samples than features (singular Σ) are no special case. With N samples the estimate is
    biased upwards by a term that falls as 1/N: compare only distances of the same N.

    Args:
        features_a: (N, D); features_b: (M, D).

    Raises:
        EcarError: fewer than two samples, or not two matrices of one width.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # slow to import, rarely needed

    a, b = _checked(features_a, "the first"), _checked(features_b, "the second")
    if a.shape[1] != b.shape[1]:
        raise EcarError(f"features of width {a.shape[1]} and {b.shape[1]}: use one net for both")
    metric = FrechetInceptionDistance(feature=_GivenFeatures(a.shape[1]))
    metric.update(a, real=True)
    metric.update(b, real=False)
    return max(0.0, metric.compute().item())


def kernel_distance(
    features_a: Tensor,
    features_b: Tensor,
    *,
    subsets: int = 50,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Squared MMD under the kernel (xᵀy/D + 1)³, unbiased: mean and std over random subsets.

    On Inception features this is KID. It is zero on average for equal distributions, whatever the
    number of samples, and may come out slightly negative.

    Args:
        features_a: (N, D); features_b: (M, D).
        subset_size: samples per subset; at most N and M.
        seed: picks the subsets.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = _checked(features_a, "the first"), _checked(features_b, "the second")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torchmetrics warns that it keeps all features
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            feature=_GivenFeatures(a.shape[1]),
            subsets=subsets,
            subset_size=min(subset_size, len(a), len(b)),
        )
        metric.update(a, real=True)
        metric.update(b, real=False)
        mean, std = metric.compute()
    return mean.item(), std.item()


def precision_recall(
    real: Tensor, fake: Tensor, k: int = 3, *, block: int = 1024
) -> tuple[float, float]:
    """Improved precision and recall of Kynkäänniemi et al. (2019), arXiv 1904.06991.

    A set's manifold is the union of balls around its points, each reaching to its k-th nearest
    neighbour in the same set. Precision is the share of ``fake`` inside the manifold of ``real``
    (are they plausible?), recall the share of ``real`` inside the manifold of ``fake`` (is
    everything covered?). Memory is ``block`` × N numbers.

    Args:
        real: (N, D); fake: (M, D).
        k: neighbours; both sets need more than k points.

    Raises:
        EcarError: a set has no more than k points.
    """
    if min(len(real), len(fake)) <= k:
        raise EcarError(f"{min(len(real), len(fake))} samples for k = {k}: use more samples")
    real, fake = real.detach().cpu().double(), fake.detach().cpu().double()
    return _covered(fake, real, k, block), _covered(real, fake, k, block)


def _covered(points: Tensor, centres: Tensor, k: int, block: int) -> float:
    """Share of ``points`` that lie within the k-nearest-neighbour ball of any of ``centres``."""
    # The k + 1 smallest distances of a point to its own set include the zero to itself.
    nearest = [
        _distances(c, centres).topk(k + 1, largest=False).values for c in centres.split(block)
    ]
    radii = torch.cat(nearest)[:, -1]
    inside = [(_distances(rows, centres) <= radii).any(dim=1) for rows in points.split(block)]
    return torch.cat(inside).double().mean().item()


def _distances(rows: Tensor, columns: Tensor) -> Tensor:
    # Through a matrix product, ten times faster; in float64 it keeps near neighbours apart.
    return torch.cdist(rows, columns, compute_mode="use_mm_for_euclid_dist")


def boundary_score(images: Tensor, block: int = 2) -> float:
    """How much neighbours differ across the borders of a grid of blocks, against inside them.

    ``mean (x_i - x_{i+1})² over pairs with a border between them / the same over all others``, on
    both axes, the borders at multiples of ``block``. It is 1 where the statistics do not know the
    grid; above 1 blocks stand apart from one another, below 1 they are busier inside than at their
    borders. Nearest-neighbour upsampling alone gives infinity. Small pictures with their object in
    the middle are not the same everywhere: compare them with the score of real ones.

    Args:
        images: or latents, (B, C, H, W). block: side of a block, in pixels.

    Raises:
        EcarError: blocks of fewer than 2 pixels, or a picture that has not two of them a side.
    """
    if images.ndim != 4:
        raise EcarError(f"images have shape {tuple(images.shape)}: give (B, C, H, W)")
    if block < 2 or min(images.shape[2:]) < 2 * block:
        raise EcarError(
            f"blocks of {block} in pictures of {images.shape[2]}x{images.shape[3]}: "
            "use blocks of at least 2 that fit twice into a side"
        )
    images = images.detach().cpu().double()  # there first: MPS knows no float64
    across, inside = [], []
    for axis in (2, 3):
        squares = images.diff(dim=axis).square().movedim(axis, -1)  # (..., side - 1)
        is_border = torch.arange(1, images.shape[axis]) % block == 0
        across.append(squares[..., is_border].flatten())
        inside.append(squares[..., ~is_border].flatten())
    between, within = torch.cat(across).mean().item(), torch.cat(inside).mean().item()
    if within == 0:  # a picture of one colour has no borders, one of flat blocks nothing else
        return 1.0 if between == 0 else math.inf
    return between / within


def count_flops(call: Callable[[], object]) -> int:
    """Floating-point operations of one call: 2 per multiply-add of matrix products, convolutions.

    Attention is run unfused for the count: PyTorch's counter takes the CPU's fused kernel for
    free. Norms, activations and other element-wise work are not counted, as is the custom, and
    compiled code is invisible to it: count the eager module.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return counter.get_total_flops()


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
