"""What is measured: distances between sets of features, and between neighbours in a picture.

Nothing here knows a model or a data set. Features are matrices (N, D); where they come
from is the caller's business.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from ecar_lab.errors import EcarError


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
    """``|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)``, Gaussians fitted to both sets.

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
