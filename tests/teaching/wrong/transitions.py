import math

import torch
import torch.nn.functional as F

from ecar_lab.flow import block_mean, upsample


def rest(white):
    return white - upsample(block_mean(white))


def without_means(white):
    white -= upsample(block_mean(white))
    return white.mul_(math.sqrt(4 / 3))


def handed_over(y, e, scale, s):
    return e.mul_(s).add_(scale * upsample(y))


def cleaned(x, e, y, c, s, b):
    x -= c * upsample(y)
    return (e - (1 - b) * x / s) / b


WRONG = {
    "window_start": [
        (lambda b: b, "cannot stay where the last window ended"),
        (lambda b: b / 2, "it halves b"),
        (lambda b: 2 * b / (1 + b), "later than b"),
        (lambda b: b / (1 + b), "the bracket is 2 - b"),
        (lambda b: 1 - b / (2 - b), "it is 1 - a, the noise"),
        (lambda b: (2 - b) / b, "it is upside down"),
        (lambda b: round(b / (2 - b), 2), "it should be"),
        (lambda b: None, "is a return missing?"),
    ],
    "zero_sum_noise": [
        (lambda z: math.sqrt(4 / 3) * z, "the block means are still in it"),
        (rest, "too small, variance 3/4"),
        (lambda z: math.sqrt(3) / 2 * rest(z), "upside down"),
        (lambda z: 4 / 3 * rest(z), "by its square root"),
        (lambda z: math.sqrt(4 / 3) * (z - z.mean((2, 3), keepdim=True)), "the whole latent"),
        (lambda z: math.sqrt(4 / 3) * upsample(block_mean(z)), "drops the rest"),
        (without_means, "changed its argument white in place"),
        (lambda z: rest(z) / rest(z).std(), "the deviation of this very draw"),
        (lambda z: math.sqrt(4 / 3) * rest(torch.randn_like(z)), "draws random numbers of its own"),
    ],
    "white_noise_std": [
        (lambda a, b: (1 - a) ** 2 - (a / b * (1 - b)) ** 2, "it is a variance"),
        (lambda a, b: math.sqrt((1 - a) ** 2 - (1 - b) ** 2), "forgets the scale a / b"),
        (lambda a, b: 1 - a, "brings noise of its own"),
        (lambda a, b: 1 - a - a / b * (1 - b), "the variances add up"),
        (lambda a, b: math.sqrt((1 - a) ** 2 + (a / b * (1 - b)) ** 2), "subtract it"),
        (lambda a, b: math.sqrt((1 - a) ** 2 - a / b * (1 - b) ** 2), "but not the scale"),
        (lambda a, b: (1 - a) * math.sqrt(3) / 2, "holds only where a = b / (2 - b)"),
        (lambda a, b: math.sqrt((1 - a) ** 2 - (a * (1 - b)) ** 2), "only a is in it"),
        (lambda a, b: a / b * (1 - b), "the noise that is handed over"),
    ],
    "transition": [
        (lambda y, e, scale, s: upsample(y) + s * e, "the scale a / b is missing"),
        (lambda y, e, scale, s: scale * (upsample(y) + s * e), "multiplies the noise too"),
        (lambda y, e, scale, s: scale * upsample(y) + e, "sigma is missing"),
        (lambda y, e, scale, s: scale * upsample(y) + s**0.5 * e, "do not take its root"),
        (lambda y, e, scale, s: scale * upsample(y) + s**2 * e, "do not square it"),
        (lambda y, e, scale, s: upsample(scale * y + s * block_mean(e)), "before upsampling"),
        (
            lambda y, e, scale, s: (
                scale * F.interpolate(y, scale_factor=2, mode="bilinear") + s * e
            ),
            "bilinearly",
        ),
        (lambda y, e, scale, s: scale * y.repeat(1, 1, 2, 2) + s * e, "it tiles the latent"),
        (lambda y, e, scale, s: scale * upsample(y), "no noise is added"),
        (handed_over, "changed its argument e in place"),
        (lambda y, e, scale, s: s * upsample(y) + scale * e, "have changed places"),
        (lambda y, e, scale, s: 0.6 * upsample(y) + 0.5 * e, "differs by"),
    ],
    "clean": [
        (lambda x, e, y, c, s, b: (e - (1 - b) * x / s) / b, "all of x_start for noise"),
        (lambda x, e, y, c, s, b: (e - (1 - b) * x) / b, "holds in the first stage only"),
        (
            lambda x, e, y, c, s, b: (e - (1 - b) * (x - c * upsample(y))) / b,
            "not divide the noise",
        ),
        (
            lambda x, e, y, c, s, b: (e - (1 - b) * s * (x - c * upsample(y))) / b,
            "multiplies the noise by sigma",
        ),
        (
            lambda x, e, y, c, s, b: (e - (1 - b) * (x - upsample(y)) / s) / b,
            "forgets the scale",
        ),
        (lambda x, e, y, c, s, b: (e - (x - c * upsample(y)) / s) / b, "is 1 - b, not 1"),
        (
            lambda x, e, y, c, s, b: e - (1 - b) * (x - c * upsample(y)) / s,
            "does not divide by b",
        ),
        (lambda x, e, y, c, s, b: e, "noise and all"),
        (cleaned, "changed its argument x in place"),
        (lambda x, e, y, c, s, b: (x - c * upsample(y)) / s, "that is the noise"),
        (
            lambda x, e, y, c, s, b: (e + (1 - b) * (x - c * upsample(y)) / s) / b,
            "the noise is added",
        ),
    ],
}
