import math

import numpy as np
import torch
from scipy.linalg import sqrtm
from scipy.stats import linregress, ttest_ind

COUNTS = range(1, 1001)


def with_scipy(a, b):
    a, b = a.numpy(), b.numpy()
    root = sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    spreads = np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(spreads))


def by_hand(a, b):
    centred = [x - x.mean(0) for x in (a, b)]
    cov_a, cov_b = (x.T @ x / (len(x) - 1) for x in centred)
    values = torch.linalg.eigvals(cov_b @ cov_a)
    roots = values.sqrt().real.sum()
    return (a.mean(0) - b.mean(0)).norm() ** 2 + (cov_a + cov_b).trace() - 2 * roots


def symmetric(a, b):
    cov_a, cov_b = torch.cov(a.mT), torch.cov(b.mT)
    values, vectors = torch.linalg.eigh(cov_a)
    half = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    root = torch.linalg.eigvalsh(half @ cov_b @ half).clamp(min=0).sqrt().sum()
    shift = torch.dot(a.mean(0) - b.mean(0), a.mean(0) - b.mean(0))
    return shift + cov_a.diag().sum() + cov_b.diag().sum() - 2 * root


def in_numpy(a, b):
    error = np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)
    return (np.mean(a) - np.mean(b)) / np.sqrt(error)


def in_torch(a, b):
    a, b = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
    return (a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt()


def closed_form(tokens, values):
    x, y = np.log10(tokens), np.log10(values)
    return ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()


def least_squares(tokens, values):
    x = torch.tensor([[math.log(n), 1.0] for n in tokens], dtype=torch.float64)
    y = torch.tensor([[math.log(v)] for v in values], dtype=torch.float64)
    return torch.linalg.lstsq(x, y).solution[0, 0].item()


def swept(points):
    kept, best = [], math.inf
    for cost, value in sorted(points):
        if value < best:
            kept.append((cost, value))
            best = value
    return kept


def compared(points):
    kept = []
    for p in points:
        others = [q for q in points if q != p]
        if not any(q[0] <= p[0] and q[1] <= p[1] for q in others):
            kept.append(p)
    return sorted(kept, key=lambda p: p[0])


def in_arrays(points):
    x = np.array(points)
    no_worse = (x[:, None] <= x[None]).all(-1)
    better = (x[:, None] < x[None]).any(-1)
    front = x[~(no_worse & better).any(0)]
    return [list(p) for p in front[front[:, 0].argsort()]]


def by_walking(flops, budget):
    steps = 1
    while abs(flops(steps + 1) - budget) < abs(flops(steps) - budget):
        steps += 1
    return steps


RIGHT = {
    "frechet": [with_scipy, by_hand, symmetric],
    "welch_t": [in_numpy, in_torch, lambda a, b: ttest_ind(a, b, equal_var=False).statistic],
    "exponent": [
        closed_form,
        least_squares,
        lambda tokens, values: linregress(np.log2(tokens), np.log2(values)).slope,
    ],
    "pareto": [swept, compared, in_arrays],
    "matched_steps": [
        by_walking,
        lambda flops, budget: int(np.argmin([abs(flops(n) - budget) for n in COUNTS])) + 1,
        lambda flops, budget: sorted(COUNTS, key=lambda n: abs(budget - flops(n)))[0],
    ],
}
