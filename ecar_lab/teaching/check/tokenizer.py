"""Checks of notebook 1: the size of a latent, the parts of a VAE, quantising, bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ecar_lab.teaching.check import (
    Wrong,
    exercise,
    expect_close,
    expect_gradients,
    expect_pair,
    expect_tensor,
)
from ecar_lab.teaching.check._bits import code_bits, quality_at
from ecar_lab.tokenizers.networks import nearest_pairs

__all__ = [
    "code_bits",
    "compression",
    "kl_divergence",
    "normalise",
    "quality_at",
    "quantise",
    "reparameterise",
]


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SHAPES = [((2, 3, 4, 4),), ((4, 2, 6, 3),)]  # of latents


def _compression(image_size: int, factor: int, channels: int) -> tuple[int, float]:
    positions = (image_size // factor) ** 2
    return positions, 3 * image_size**2 / (channels * positions)


@exercise("1.1 what a latent saves", _compression)
def compression(attempt: Callable[[int, int, int], Any]) -> None:
    """``compression(image_size, factor, channels) -> positions, ratio``: latent pixels, and how
    many colour values stand for one latent number."""
    for size, factor, channels in ((32, 2, 4), (256, 8, 4), (64, 4, 16), (64, 2, 5)):
        positions, ratio = _compression(size, factor, channels)
        found = attempt(size, factor, channels)
        asked = f"compression({size}, {factor}, {channels})"
        found = expect_pair(found, "numbers: the latent's positions, and the ratio")
        expect_close(
            found[0],
            positions,
            {
                "the two results have changed places: positions first": ratio,
                "the positions are those of one row: a latent is a square of them": size // factor,
                "the factor holds for both sides: it divides the pixels by its square": (
                    size**2 // factor
                ),
                "these are the latent's numbers: a position holds all channels": (
                    channels * positions
                ),
            },
            f"the positions of {asked}",
        )
        expect_close(
            found[1],
            ratio,
            {
                "the ratio is upside down: colour values over latent numbers": 1 / ratio,
                "a pixel has three colour values, and the ratio counts one": ratio / 3,
                "a position has several channels, and the ratio counts one": ratio * channels,
                "the ratio counts pixels over positions: count colours and channels too": (
                    ratio * channels / 3
                ),
                "the ratio is rounded: divide with /, not with //": ratio // 1,
                "the two results have changed places: positions first": positions,
            },
            f"the ratio of {asked}",
        )


def _reparameterise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    return mean + (0.5 * log_variance).exp() * noise


@exercise("1.2 the reparameterised latent", _reparameterise, settings=SHAPES)
def reparameterise(
    attempt: Callable[[Tensor, Tensor, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """``reparameterise(mean, log_variance, noise) -> z``, a draw of N(mean, variance)."""
    mean, log_variance, noise = (_draw(*shape, seed=seed) for seed in range(3))
    mean, log_variance = mean.requires_grad_(), log_variance.requires_grad_()
    std, variance = (0.5 * log_variance).exp(), log_variance.exp()
    found, right = attempt(mean, log_variance, noise), mean + std * noise
    expect_close(
        found,
        right,
        {
            "the noise is multiplied by the variance: take its square root, the standard "
            "deviation": mean + variance * noise,
            "the noise is missing: this is the mean": mean,
            "the noise is missing: add the standard deviation times noise": mean + std,
            "the noise is not scaled: multiply it by the standard deviation": mean + noise,
            "the log variance is used as it is: exp of half of it is the standard deviation": (
                mean + log_variance * noise
            ),
            "half the log variance is the log of the standard deviation: take its exp": (
                mean + 0.5 * log_variance * noise
            ),
            "the sign of the exponent is wrong: exp(log_variance / 2)": mean + noise / std,
            "the exponent is twice too large: half of the log variance": (
                mean + variance.square() * noise
            ),
            "mean and standard deviation have changed places: the noise is multiplied by the "
            "standard deviation, the mean is added": std + mean * noise,
            "the mean is missing: it is where the draw is centred": std * noise,
            "the mean is scaled too: the standard deviation multiplies the noise only": (
                std * (mean + noise)
            ),
            "the noise is subtracted: as likely a draw, but not the one that is asked for": (
                mean - std * noise
            ),
        },
        "the latent",
    )
    expect_gradients(found, right, {"mean": mean, "log_variance": log_variance})


def _kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


@exercise("1.3 the KL term", _kl_divergence, settings=SHAPES)
def kl_divergence(attempt: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    """``kl_divergence(mean, log_variance) -> KL(N(mean, variance) || N(0, 1))`` per number."""
    mean, log_variance = (_draw(*shape, seed=seed).requires_grad_() for seed in range(2))
    std, variance = (0.5 * log_variance).exp(), log_variance.exp()
    right = _kl_divergence(mean, log_variance)
    found = attempt(mean, log_variance)
    if isinstance(found, Tensor) and found.shape == mean.shape:
        raise Wrong("the result is one KL per number: take their mean, one number for all")
    expect_close(
        found,
        right,
        {
            "the sign is reversed: a KL divergence is never negative": -right,
            "the factor 1/2 is missing": 2 * right,
            "it is summed over all numbers: take the mean": right * mean.numel(),
            "it is summed within an image: take the mean over everything": (
                right * mean[0].numel()
            ),
            "the log variance has the wrong sign: the formula subtracts it": (
                0.5 * (mean.square() + variance - 1 + log_variance).mean()
            ),
            "the -1 is missing: at mean 0 and variance 1 the KL is 0": right + 0.5,
            "it takes the standard deviation where the variance belongs": (
                0.5 * (mean.square() + std - 1 - log_variance).mean()
            ),
            "it takes the variance squared: exp(log_variance) already is the variance": (
                0.5 * (mean.square() + variance.square() - 1 - log_variance).mean()
            ),
            "the log variance is halved, which makes it the log of the standard deviation": (
                0.5 * (mean.square() + variance - 1 - 0.5 * log_variance).mean()
            ),
            "the mean is not squared": 0.5 * (mean + variance - 1 - log_variance).mean(),
            "it is the other divergence, of N(0, 1) from N(mean, variance): change their places": (
                0.5 * ((1 + mean.square()) / variance - 1 + log_variance).mean()
            ),
            "the mean's part is missing: its square": 0.5 * (variance - 1 - log_variance).mean(),
            "the factor 1/2 holds for the whole bracket, not for a part of it": (
                (0.5 * mean.square() + variance - 1 - log_variance).mean()
            ),
        },
        "the KL term",
    )
    expect_gradients(found, right, {"mean": mean, "log_variance": log_variance})


def _normalise(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (z - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


# First as wide as it has channels: there a wrong axis raises nothing.
@exercise("1.4 shift and scale", _normalise, settings=[((2, 4, 4, 4),), ((3, 4, 6, 5),)])
def normalise(attempt: Callable[[Tensor, Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    """``normalise(z, mean, std) -> latent`` with mean 0 and standard deviation 1 per channel."""
    z = 1 + 3 * _draw(*shape)
    wide, high = (torch.zeros(shape), torch.zeros(shape))  # where the wrong axis raises
    mean, std = torch.tensor([0.5, -1.0, 2.0, 1.5]), torch.tensor([0.4, 2.0, 3.0, 0.7])
    m, s = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
    if shape[2] == shape[3] == len(mean):
        wide, high = (z - mean) / std, (z - mean[:, None]) / std[:, None]
    of_these = z.mean((0, 2, 3), keepdim=True)
    expect_close(
        attempt(z, mean, std),
        _normalise(z, mean, std),
        {
            "it multiplies by the standard deviation: divide": (z - m) * s,
            "it shifts after it scales: subtract the mean first": z / s - m,
            "the mean is added: subtract it": (z + m) / s,
            "it shifts and does not scale: divide by the standard deviation": z - m,
            "it scales and does not shift: subtract the mean": z / s,
            "it divides by the variance: divide by the standard deviation": (z - m) / s.square(),
            "mean and std run along the width: they belong to the channels, so give them the "
            "shape (1, C, 1, 1)": wide,
            "mean and std run along the height: they belong to the channels, so give them the "
            "shape (1, C, 1, 1)": high,
            "it takes mean and deviation of these very latents: those of the training set are "
            "given": (z - of_these) / z.std((0, 2, 3), keepdim=True),
            "it takes mean and deviation (by N) of these very latents: those of the training set "
            "are given": (z - of_these) / z.std((0, 2, 3), keepdim=True, correction=0),
            "it takes one mean and deviation for all channels: each has its own": (
                (z - mean.mean()) / std.mean()
            ),
            "it undoes the normalising: this is what a decoder begins with": z * s + m,
        },
        "the latent",
    )


def _quantise(rows: Tensor, codebook: Tensor) -> Tensor:
    codes = codebook[nearest_pairs(rows.detach(), codebook.detach())[0]]
    return rows + (codes - rows).detach()


@exercise("1.5 the nearest code", _quantise, settings=[(40, 3, 12), (9, 5, 20)])
def quantise(
    attempt: Callable[[Tensor, Tensor], Tensor], count: int, channels: int, num_codes: int
) -> None:
    """``quantise(rows, codebook) -> codes``: the nearest of each row, its gradient the row's."""
    rows = _draw(count, channels).requires_grad_()
    # Some codes lie far out: where the dot product decides, they win though they are not near.
    length = torch.linspace(0.3, 3, num_codes)[:, None]
    codebook = (_draw(num_codes, channels, seed=1) * length).requires_grad_()
    with torch.no_grad():
        right = _quantise(rows, codebook)
        distance, product = torch.cdist(rows, codebook), rows @ codebook.T
        cosine = product / codebook.norm(dim=1)
        of_each_code = rows[distance.argmin(0)]
    found = attempt(rows, codebook)
    if isinstance(found, Tensor) and found.shape == rows.shape[:1]:
        raise Wrong("these are the numbers of the codes: look them up in the codebook")
    if isinstance(found, Tensor) and found.shape == of_each_code.shape != rows.shape:
        raise Wrong("it looks for the nearest row of each code: argmin over the codes, dim 1")
    expect_close(
        found,
        right,
        {
            "it takes the farthest code: argmin, not argmax": codebook[distance.argmax(1)],
            "it takes the largest dot product, which favours long codes: take the smallest "
            "distance": codebook[product.argmax(1)],
            "it takes the smallest dot product: take the smallest distance": (
                codebook[product.argmin(1)]
            ),
            "it compares directions only, which forgets how long codes are: take the smallest "
            "distance": codebook[cosine.argmax(1)],
            "it adds up absolute differences: nearest by the usual distance, p = 2": (
                codebook[torch.cdist(rows, codebook, p=1).argmin(1)]
            ),
            "the rows come back as they went in: replace each by its code": rows,
            "it is the way to the code: the code itself is asked for": right - rows,
            "it is the middle of row and code: replace each row by its code": (right + rows) / 2,
            "it adds code and row: rows + (codes - rows).detach() has the value of the codes": (
                right + rows
            ),
        },
        "the quantised rows",
    )
    _expect_straight_through(found, rows, codebook)


def _expect_straight_through(found: Tensor, rows: Tensor, codebook: Tensor) -> None:
    """The gradient of ``found`` is that of the rows, as if nothing had been replaced.

    Raises:
        Wrong: it stops, or goes elsewhere.
    """
    weights = _draw(*found.shape, seed=2)
    arrives = [None, None]
    if found.requires_grad:
        arrives = torch.autograd.grad((found * weights).sum(), (rows, codebook), allow_unused=True)
    at_rows, at_codebook = arrives
    if at_rows is None or not at_rows.any():
        raise Wrong(
            "the codes are right, but no gradient reaches the rows, so an encoder would learn "
            "nothing: return rows + (codes - rows).detach()"
        )
    if at_codebook is not None and at_codebook.any():
        raise Wrong(
            "the codes are right, but the gradient also reaches the codebook: detach the codes; "
            "they learn from a loss of their own"
        )
    expect_close(expect_tensor(at_rows, tuple(weights.shape)), weights, {}, "the gradient")
