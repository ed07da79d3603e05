import bisect
import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence


def kl_of_torch(mean, log_variance):
    q = Normal(mean, (log_variance / 2).exp())
    return kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).mean()


def kl_in_parts(mean, log_variance):
    parts = mean.pow(2).mean(), log_variance.exp().mean(), log_variance.mean()
    return (parts[0] + parts[1] - 1 - parts[2]) / 2


def column(values):
    return values[None, :, None, None]


def straight(rows, codes):
    return rows + (codes - rows).detach()


def by_squares(rows, codebook):
    nearest = (rows[:, None] - codebook[None]).square().sum(-1).min(dim=1).indices
    return straight(rows, codebook[nearest])


def looked_up(rows, codebook):
    with torch.no_grad():
        codes = F.embedding(torch.cdist(rows, codebook).argmin(dim=-1), codebook)
    return rows - rows.detach() + codes


def expanded(rows, codebook):
    length = rows.square().sum(1, keepdim=True) - 2 * rows @ codebook.T + codebook.square().sum(1)
    return straight(rows, codebook.detach().index_select(0, length.argmin(1)))


def bits_by_counting(tokens, codes):
    """All images that there are, and their logarithm."""
    return math.log(codes**tokens) / math.log(2) if tokens < 100 else tokens * math.log2(codes)


def quality_by_bisect(points, bits):
    ordered = sorted(points)
    place = bisect.bisect_left([each for each, _ in ordered], bits)
    (a, low), (b, high) = ordered[max(place - 1, 0)], ordered[place]
    return high if a == b else low + (high - low) * (bits - a) / (b - a)


def quality_by_numpy(points, bits):
    return np.interp(bits, *zip(*sorted(points), strict=True))


def quality_by_shares(points, bits):
    ordered = sorted(points)
    for (a, low), (b, high) in pairwise(ordered):
        if bits <= b:
            return ((b - bits) * low + (bits - a) * high) / (b - a)
    return None


RIGHT = {
    "compression": [
        lambda size, f, c: ((size // f) * (size // f), 3 * f * f / c),
        lambda size, f, c: [size**2 // f**2, 3 * size**2 / (c * (size // f) ** 2)],
        lambda size, f, c: (int(size / f) ** 2, (3 / c) * f**2),
    ],
    "reparameterise": [
        lambda mean, lv, noise: mean + lv.exp().sqrt() * noise,
        lambda mean, lv, noise: torch.addcmul(mean, torch.exp(lv / 2), noise),
        lambda mean, lv, noise: noise * torch.e ** (lv / 2) + mean,
    ],
    "kl_divergence": [
        kl_of_torch,
        kl_in_parts,
        lambda mean, lv: -0.5 * torch.mean(1 + lv - mean**2 - lv.exp()),
    ],
    "normalise": [
        lambda z, m, s: (z - column(m)) / column(s),
        lambda z, m, s: ((z.movedim(1, -1) - m) / s).movedim(-1, 1),
        lambda z, m, s: torch.stack([(z[:, c] - m[c]) / s[c] for c in range(len(m))], dim=1),
    ],
    "quantise": [by_squares, looked_up, expanded],
    "code_bits": [
        bits_by_counting,
        lambda tokens, codes: tokens * torch.tensor(float(codes), dtype=torch.float64).log2(),
        lambda tokens, codes: sum(math.log(codes, 2) for _ in range(tokens)),
    ],
    "quality_at": [quality_by_bisect, quality_by_numpy, quality_by_shares],
}
