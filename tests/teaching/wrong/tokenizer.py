import math
from itertools import pairwise

import torch


def column(values):
    return values.view(1, -1, 1, 1)


def nearest(rows, codebook):
    return codebook[torch.cdist(rows, codebook).argmin(1)]


def kl(mean, log_variance):
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)


def in_place(mean, lv, noise):
    lv.mul_(0.5).exp_()
    return mean + lv * noise


def mean_in_place(mean, lv):
    mean.pow_(2)
    return 0.5 * (mean + lv.exp() - 1 - lv).mean()


def scaled_in_place(z, mean, std):
    z -= column(mean)
    return z.div_(column(std))


def between(weigh, choose=None):
    """A value made of the neighbours' (bits, quality) by ``weigh(left, right, bits)``."""

    def quality(points, bits):
        for left, right in pairwise(choose(points) if choose else sorted(points)):
            if left[0] <= bits <= right[0]:
                return weigh(left, right, bits)
        return points[-1][1]

    return quality


def on_line(left, right, bits):
    return left[1] + (right[1] - left[1]) * (bits - left[0]) / (right[0] - left[0])


WRONG = {
    "compression": [
        (lambda size, f, c: (size // f, 3 * f * f / c), "those of one row"),
        (lambda size, f, c: (size**2 // f, 3 * f / c), "holds for both sides"),
        (lambda size, f, c: (c * (size // f) ** 2, 3 * f * f / c), "the latent's numbers"),
        (lambda size, f, c: ((size // f) ** 2, c / (3 * f * f)), "upside down"),
        (lambda size, f, c: ((size // f) ** 2, f * f / c), "three colour values"),
        (lambda size, f, c: ((size // f) ** 2, 3 * f * f), "several channels"),
        (lambda size, f, c: ((size // f) ** 2, f * f), "counts pixels over positions"),
        (lambda size, f, c: (size // f) ** 2, "return two numbers"),
        (lambda size, f, c: ((size // f) ** 2, 3 * f * f // c), "the ratio is rounded"),
    ],
    "reparameterise": [
        (lambda mean, lv, noise: mean + lv.exp() * noise, "multiplied by the variance"),
        (lambda mean, lv, noise: mean, "this is the mean"),
        (lambda mean, lv, noise: mean + (lv / 2).exp(), "times noise"),
        (lambda mean, lv, noise: mean + noise, "is not scaled"),
        (lambda mean, lv, noise: mean + lv * noise, "used as it is"),
        (lambda mean, lv, noise: mean + lv / 2 * noise, "take its exp"),
        (lambda mean, lv, noise: mean + (-lv / 2).exp() * noise, "sign of the exponent"),
        (
            torch.no_grad()(lambda mean, lv, noise: mean + (lv / 2).exp() * noise),
            "no gradient comes back",
        ),
        (lambda mean, lv, noise: mean.detach() + (lv / 2).exp() * noise, "mean gets no gradient"),
        (
            lambda mean, lv, noise: mean + (lv / 2).exp().detach() * noise,
            "log_variance gets no gradient",
        ),
        (in_place, "changed its argument lv in place"),
        (
            lambda mean, lv, noise: torch.normal(mean, (lv / 2).exp()),
            "draws random numbers of its own",
        ),
        (lambda mean, lv, noise: mean + lv.sqrt() * noise, "what is negative"),
        (lambda mean, lv, noise: (lv / 2).exp() + mean * noise, "have changed places"),
        (lambda mean, lv, noise: (mean + (lv / 2).exp() * noise).double(), "is torch.float64"),
    ],
    "kl_divergence": [
        (lambda mean, lv: -kl(mean, lv).mean(), "sign is reversed"),
        (lambda mean, lv: 2 * kl(mean, lv).mean(), "factor 1/2"),
        (lambda mean, lv: kl(mean, lv).sum(), "summed over all"),
        (lambda mean, lv: kl(mean, lv).sum((1, 2, 3)).mean(), "summed within an image"),
        (lambda mean, lv: kl(mean, lv), "one KL per number"),
        (lambda mean, lv: 0.5 * (mean**2 + lv.exp() - 1 + lv).mean(), "the wrong sign"),
        (lambda mean, lv: 0.5 * (mean**2 + lv.exp() - lv).mean(), "the -1 is missing"),
        (lambda mean, lv: 0.5 * (mean**2 + (lv / 2).exp() - 1 - lv).mean(), "takes the standard"),
        (lambda mean, lv: 0.5 * (mean**2 + (2 * lv).exp() - 1 - lv).mean(), "variance squared"),
        (lambda mean, lv: 0.5 * (mean**2 + lv.exp() - 1 - lv / 2).mean(), "is halved"),
        (lambda mean, lv: 0.5 * (mean + lv.exp() - 1 - lv).mean(), "not squared"),
        (lambda mean, lv: kl(mean, lv).mean().item(), "no gradient comes back"),
        (lambda mean, lv: kl(mean, lv).mean().detach(), ".detach(), .item() and .data cut it"),
        (lambda mean, lv: kl(mean.detach(), lv).mean(), "mean gets no gradient"),
        (lambda mean, lv: kl(mean, lv.detach()).mean(), "log_variance gets no gradient"),
        (
            lambda mean, lv: kl(mean, lv).mean() + 0 * lv.exp().mean() - (lv - lv.detach()).mean(),
            "the gradient of log_variance is not",
        ),
        (mean_in_place, "changed its argument mean in place"),
        (lambda mean, lv: 0.5 * ((1 + mean**2) / lv.exp() - 1 + lv).mean(), "the other divergence"),
    ],
    "normalise": [
        (lambda z, m, s: (z - column(m)) * column(s), "multiplies"),
        (lambda z, m, s: z / column(s) - column(m), "shifts after it scales"),
        (lambda z, m, s: (z + column(m)) / column(s), "the mean is added"),
        (lambda z, m, s: z - column(m), "does not scale"),
        (lambda z, m, s: z / column(s), "does not shift"),
        (lambda z, m, s: (z - column(m)) / column(s) ** 2, "divides by the variance"),
        (lambda z, m, s: (z - m) / s, "along the width"),
        (lambda z, m, s: (z - m[:, None]) / s[:, None], "along the height"),
        (lambda z, m, s: z * column(s) + column(m), "undoes the normalising"),
        (scaled_in_place, "changed its argument z in place"),
        (
            lambda z, m, s: (z - z.mean((0, 2, 3), keepdim=True)) / z.std((0, 2, 3), keepdim=True),
            "of these very latents",
        ),
        (lambda z, m, s: ((z - column(m)) / column(s)).numpy(), "return a tensor"),
    ],
    "quantise": [
        (lambda rows, book: book[torch.cdist(rows, book).argmax(1)], "farthest"),
        (lambda rows, book: book[(rows @ book.T).argmax(1)], "largest dot product"),
        (lambda rows, book: book[(rows @ book.T).argmin(1)], "smallest dot product"),
        (lambda rows, book: torch.cdist(rows, book).argmin(1), "numbers of the codes"),
        (lambda rows, book: rows, "as they went in"),
        (lambda rows, book: rows + nearest(rows, book), "adds code and row"),
        (lambda rows, book: nearest(rows, book), "no gradient reaches the rows"),
        (
            lambda rows, book: nearest(rows, book) + rows - rows.detach(),
            "also reaches the codebook",
        ),
        (
            torch.no_grad()(lambda rows, book: rows + nearest(rows, book) - rows),
            "an encoder would learn",
        ),
        (lambda rows, book: book[torch.cdist(rows, book, p=1).argmin(1)], "absolute differences"),
        (lambda rows, book: rows[torch.cdist(rows, book).argmin(0)], "nearest row of each code"),
        (
            lambda rows, book: rows.data.copy_(nearest(rows, book)),
            "changed its argument rows in place",
        ),
    ],
    "code_bits": [
        (lambda tokens, codes: math.log2(codes), "the bits of one token"),
        (lambda tokens, codes: tokens * math.log(codes), "in nats"),
        (lambda tokens, codes: tokens * math.log10(codes), "decimal digits"),
        (lambda tokens, codes: codes * math.log2(tokens), "changed places"),
        (lambda tokens, codes: tokens * codes, "it takes their logarithm"),
        (lambda tokens, codes: math.log2(tokens * codes), "no sum of logarithms"),
        (lambda tokens, codes: tokens * (codes.bit_length() - 1), "rounded down"),
        (lambda tokens, codes: tokens * math.log2(codes) / 8, "that is bytes"),
        (lambda tokens, codes: None, "is a return missing?"),
    ],
    "quality_at": [
        (
            between(lambda a, b, bits: b[1] + (a[1] - b[1]) * (bits - a[0]) / (b[0] - a[0])),
            "upside down",
        ),
        (lambda points, bits: max(p for p in points if p[0] <= bits)[1], "the one below"),
        (lambda points, bits: min(p for p in points if p[0] >= bits)[1], "the one above"),
        (between(lambda a, b, bits: (a[1] + b[1]) / 2), "the middle of both"),
        (
            lambda points, bits: on_line(min(points), max(points), bits),
            "from the first to the last",
        ),
        (between(on_line, choose=lambda points: points), "points come in any order"),
        (lambda points, bits: bits, "return the quality"),
        (lambda points, bits: (bits, 1.0), "return a number"),
    ],
}
