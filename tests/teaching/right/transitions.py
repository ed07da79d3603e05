import math

import numpy as np
import torch
import torch.nn.functional as F

from ecar_lab.flow import block_mean, upsample


def large(latent):
    return latent.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def by_views(white):
    blocks = white.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # (B, C, h, 2, w, 2)
    rest = blocks - blocks.mean(dim=(-1, -3), keepdim=True)
    return (math.sqrt(4 / 3) * rest).flatten(-4, -3).flatten(-2, -1)


def shared_in_place(white):
    noise = white.clone()
    noise -= large(F.avg_pool2d(white, 2))
    return noise.mul_(2 / 3**0.5)


def grown(previous, noise, scale, sigma):
    out = sigma * noise
    return out + F.interpolate(previous, scale_factor=2, mode="nearest") * scale


def solved_at_once(start, end, previous, scale, sigma, until):
    share = (1 - until) / sigma
    return (end - share * start + share * scale * upsample(previous)) / until


RIGHT = {
    "window_start": [
        lambda b: 1 / (2 / b - 1),
        lambda b: b / (1 + (1 - b)),
        lambda b: np.float64(b) / (2 - b),
    ],
    "zero_sum_noise": [
        by_views,
        shared_in_place,
        lambda white: (white - upsample(block_mean(white))) / 0.75**0.5,
    ],
    "white_noise_std": [
        lambda a, b: math.sqrt((1 - a) ** 2 - (a * (1 - b) / b) ** 2),
        lambda a, b: torch.tensor((1 - a) ** 2 - a**2 * (1 / b - 1) ** 2).sqrt(),
        lambda a, b: math.sqrt((1 - a - a * (1 - b) / b) * (1 - a + a * (1 - b) / b)),
    ],
    "transition": [
        grown,
        lambda y, e, scale, sigma: scale * large(y) + sigma * e,
        lambda y, e, scale, sigma: torch.add(upsample(scale * y), e, alpha=sigma),
    ],
    "clean": [
        solved_at_once,
        lambda x, e, y, c, s, b: e / b - (1 - b) / b * (x - c * large(y)) / s,
        lambda x, e, y, c, s, b: (e + (b - 1) * (x - upsample(c * y)).div(s)).div(b),
    ],
}
