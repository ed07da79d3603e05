"""Checks of notebook 4: windows, both kinds of noise, the transition, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ecar_lab.flow import block_mean, upsample
from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_tensor


def _window_start(previous_end: float) -> float:
    return StageSchedule(2, 2, (previous_end, 1.0)).window(1)[0]


@exercise("4.1 where a window starts", _window_start)
def window_start(attempt: Callable[[float], float]) -> None:
    """``window_start(previous_end) -> a``: the latest start at which all noise can be white."""
    for end in (0.6, 0.8, 0.1):
        expect_close(
            attempt(end),
            _window_start(end),
            {
                "a = b: the start cannot stay where the last window ended, for the noise of the "
                "upsampled state is not white": end,
                "it halves b: right for b near 0 only, where b is small beside 2": end / 2,
                "it is 2b / (1 + b), later than b: solve a (1 - b) / b = (1 - a) / 2 for a": (
                    2 * end / (1 + end)
                ),
                "it is upside down: b over 2 - b": (2 - end) / end,
                "it is (1 - b) / (2 - b): the numerator is b": (1 - end) / (2 - end),
                "it is b / (1 + b): the bracket is 2 - b": end / (1 + end),
                "it is 1 - a, the noise that is there: return a itself": 1 - end / (2 - end),
            },
            f"window_start({end})",
        )


def _zero_sum_noise(white: Tensor) -> Tensor:
    return math.sqrt(4 / 3) * (white - upsample(block_mean(white)))


@exercise(
    "4.2 noise without block means", _zero_sum_noise, settings=[((3, 2, 4, 6),), ((5, 1, 2, 2),)]
)
def zero_sum_noise(attempt: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    """``zero_sum_noise(white) -> noise``: no block mean, variance 1 in every pixel."""
    white = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rest = white - upsample(block_mean(white))
    whole = white - white.mean((2, 3), keepdim=True)
    expect_close(
        attempt(white),
        _zero_sum_noise(white),
        {
            "the block means are still in it: subtract them, upsampled": math.sqrt(4 / 3) * white,
            "it is too small, variance 3/4: what the means took away is missing, multiply by "
            "sqrt(4/3)": rest,
            "it divides by the deviation of this very draw: the factor is sqrt(4/3) for all": (
                rest / rest.std()
            ),
            "it subtracts the sum of the block: subtract its mean": (
                math.sqrt(4 / 3) * (white - 4 * upsample(block_mean(white)))
            ),
            "the block means are added: subtract them": (
                math.sqrt(4 / 3) * (white + upsample(block_mean(white)))
            ),
            "the factor is upside down, sqrt(3)/2 in place of 2/sqrt(3)": math.sqrt(3) / 2 * rest,
            "4/3 is the factor of the variance: multiply by its square root": 4 / 3 * rest,
            "it subtracts the mean of the whole latent: each 2x2 block has a mean of its own": (
                math.sqrt(4 / 3) * whole
            ),
            "it keeps the block means and drops the rest": (
                math.sqrt(4 / 3) * upsample(block_mean(white))
            ),
        },
        "the noise",
    )


def _white_noise_std(start: float, previous_end: float) -> float:
    return math.sqrt((1 - start) ** 2 - (start / previous_end * (1 - previous_end)) ** 2)


@exercise("4.3 how much white noise", _white_noise_std)
def white_noise_std(attempt: Callable[[float, float], float]) -> None:
    """``white_noise_std(start, previous_end) -> sigma`` of the coupling ``independent``."""
    # Not only starts of real windows: there the answer is (1 - a) sqrt(3) / 2 whatever b is.
    for start, end in ((0.3, 0.6), (0.2, 0.8), (1 / 3, 0.5)):
        right, brought = _white_noise_std(start, end), start / end * (1 - end)
        expect_close(
            attempt(start, end),
            right,
            {
                "it is a variance: take the square root": right**2,
                "it forgets the scale a / b, which shrinks the noise that is handed over": (
                    math.sqrt((1 - start) ** 2 - (1 - end) ** 2)
                ),
                "it forgets that the upsampled state brings noise of its own": 1 - start,
                "it subtracts standard deviations: of independent noises the variances add up": (
                    1 - start - brought
                ),
                "it adds the variance that is handed over: subtract it": (
                    math.sqrt((1 - start) ** 2 + brought**2)
                ),
                "it squares the noise, but not the scale a / b": (
                    math.sqrt(abs((1 - start) ** 2 - start / end * (1 - end) ** 2))
                ),
                "the scale is upside down: the noise is multiplied by a / b": (
                    math.sqrt(abs((1 - start) ** 2 - (end / start * (1 - end)) ** 2))
                ),
                "the scale is a / b: only a is in it": (
                    math.sqrt((1 - start) ** 2 - (start * (1 - end)) ** 2)
                ),
                "that is the noise that is handed over: what is missing is asked for": brought,
                "that holds only where a = b / (2 - b): start from c² + sigma² = (1 - a)²": (
                    (1 - start) * math.sqrt(3) / 2
                ),
            },
            f"white_noise_std({start:.3g}, {end:.3g})",
        )


def _transition(previous_end: Tensor, noise: Tensor, scale: float, sigma: float) -> Tensor:
    return scale * upsample(previous_end) + sigma * noise


SCALES = [(0.6, 0.5, (2, 3, 2, 4)), (0.3, 1.2, (1, 1, 4, 2))]


@exercise("4.4 the transition", _transition, settings=SCALES)
def transition(
    attempt: Callable[[Tensor, Tensor, float, float], Tensor],
    scale: float,
    sigma: float,
    shape: tuple[int, ...],
) -> None:
    """``transition(previous_end, noise, scale, sigma) -> x_start``."""
    draw = torch.Generator().manual_seed(0)
    state = torch.randn(shape, generator=draw)
    noise = torch.randn(*shape[:2], 2 * shape[2], 2 * shape[3], generator=draw)
    large = upsample(state)
    smooth = F.interpolate(state, scale_factor=2, mode="bilinear")
    before = upsample(scale * state + sigma * block_mean(noise))
    picked = upsample(scale * state + sigma * noise[..., ::2, ::2])
    repeated = state.repeat(1, 1, 2, 2)
    same = "the noise goes in before upsampling: then it is equal in each block again"
    found = expect_tensor(attempt(state, noise, scale, sigma), tuple(noise.shape), "x_start")
    for mistaken in (before, picked):
        if torch.allclose(found, mistaken, atol=1e-5):
            raise Wrong(same)
    expect_close(
        found,
        _transition(state, noise, scale, sigma),
        {
            "the scale a / b is missing: the upsampled state is too strong for time a": (
                large + sigma * noise
            ),
            "the scale multiplies the noise too: sigma alone does": scale * (large + sigma * noise),
            "sigma is missing: the noise comes in with standard deviation 1": scale * large + noise,
            "sigma is a standard deviation: do not take its root": (
                scale * large + math.sqrt(sigma) * noise
            ),
            "sigma is a standard deviation: do not square it": scale * large + sigma**2 * noise,
            "it upsamples bilinearly: Up2 repeats each pixel, and all formulas rest on that": (
                scale * smooth + sigma * noise
            ),
            "it tiles the latent in place of repeating each pixel: use repeat_interleave or "
            "upsample": scale * repeated + sigma * noise,
            "no noise is added": scale * large,
            "the noise is subtracted: as likely a start, but not the one that is asked for": (
                scale * large - sigma * noise
            ),
            "scale and sigma have changed places": sigma * large + scale * noise,
            "both have half: scale and sigma are given": (large + noise) / 2,
        },
        "x_start",
    )


def _clean(
    start: Tensor, end: Tensor, previous_end: Tensor, scale: float, sigma: float, window_end: float
) -> Tensor:
    eps = (start - scale * upsample(previous_end)) / sigma
    return (end - (1 - window_end) * eps) / window_end


@exercise(
    "4.5 the clean estimate",
    _clean,
    settings=[(0.6, 0.5, 0.7, (2, 2, 2, 2)), (0.3, 1.2, 1.0, (1, 3, 2, 4))],
)
def clean(
    attempt: Callable[[Tensor, Tensor, Tensor, float, float, float], Tensor],
    scale: float,
    sigma: float,
    until: float,
    shape: tuple[int, ...],
) -> None:
    """``clean(start, end, previous_end, scale, sigma, window_end) -> D`` under ``independent``."""
    draw = torch.Generator().manual_seed(0)
    large = (*shape[:2], 2 * shape[2], 2 * shape[3])
    wanted, noise = torch.randn(2, *large, generator=draw)
    state = torch.randn(shape, generator=draw)
    start = _transition(state, noise, scale, sigma)
    end = until * wanted + (1 - until) * noise
    unscaled = (start - scale * upsample(state)) * sigma
    expect_close(
        attempt(start, end, state, scale, sigma, until),
        wanted,
        {
            "it takes all of x_start for noise: first subtract what came from the stage before": (
                (end - (1 - until) * start / sigma) / until
            ),
            "it takes x_start itself for the noise: that holds in the first stage only": (
                (end - (1 - until) * start) / until
            ),
            "it does not divide the noise by sigma": (
                (end - (1 - until) * (start - scale * upsample(state))) / until
            ),
            "it multiplies the noise by sigma: divide": (end - (1 - until) * unscaled) / until,
            "it forgets the scale a / b of the upsampled state": (
                (end - (1 - until) * (start - upsample(state)) / sigma) / until
            ),
            "the share of noise at the end is 1 - b, not 1": (end - noise) / until,
            "it does not divide by b: the end holds b times D": until * wanted,
            "it returns the end as it is, noise and all": end,
            "the noise is added: subtract its share from the end": (
                (end + (1 - until) * noise) / until
            ),
            "that is the noise: from it and the end follows D": noise,
            "b and 1 - b have changed places": (end - until * noise) / (1.0 - until or 1),
        },
        "the clean latent",
        tolerance=1e-3,
    )
