import math
from statistics import fmean, pvariance, stdev, variance

import numpy as np
import torch


def trace_of_root(a, b):
    return torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()


def frechet(a, b, *, cov=lambda x: torch.cov(x.T), means=2, root=trace_of_root, times=2.0):
    gap = (a.mean(0) - b.mean(0)).norm() ** means if means else 0.0
    a, b = cov(a), cov(b)
    return (gap + a.trace() + b.trace() - times * root(a, b)).item()


def complex_root(a, b):
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(cov_a @ cov_b).sqrt().sum()
    return (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root


def by_number(a, b):
    return (a @ b).clamp(min=0).sqrt().trace()


def each_feature(a, b):
    return ((a.mean(0) - b.mean(0)) ** 2 + (a.std(0) - b.std(0)) ** 2).sum().item()


def undominated(points, beats):
    return sorted(p for p in points if not any(beats(q, p) for q in points))


COUNTS = range(1, 1001)


def roots_apart(a, b):
    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    return (root(a) @ root(b)).trace()


def symmetric(a, b):
    return torch.linalg.eigvalsh(a @ b).clamp(min=0).sqrt().sum()


def singular(a, b):
    return torch.linalg.svdvals(a @ b).sqrt().sum()


def pooled(a, b):
    free = len(a) - 1, len(b) - 1
    shared = (free[0] * variance(a) + free[1] * variance(b)) / sum(free)
    return (fmean(a) - fmean(b)) / math.sqrt(shared * (1 / len(a) + 1 / len(b)))


def sorted_in_place(points):
    points.sort()
    return undominated(points, lambda q, p: q[0] <= p[0] and q[1] <= p[1] and q != p)


WRONG = {
    "frechet": [
        (lambda a, b: (a.mean(0) - b.mean(0)).square().sum(), "the means only"),
        (lambda a, b: frechet(a, b, means=1), "is not squared"),
        (lambda a, b: frechet(a, b, means=0), "leaves out the means"),
        (lambda a, b: frechet(a, b, times=0.0), "root is not subtracted"),
        (lambda a, b: frechet(a, b, times=1.0), "root counts once"),
        (each_feature, "own deviation only"),
        (lambda a, b: frechet(a, b, root=by_number), "number by number"),
        (lambda a, b: frechet(a, b, cov=torch.cov), "between samples"),
        (lambda a, b: frechet(a, b, cov=lambda x: torch.cov(x.T, correction=0)), "divides by N:"),
        (complex_root, "is complex"),
        (lambda a, b: frechet(a, b, root=symmetric), "eigvalsh takes a matrix for symmetric"),
        (lambda a, b: frechet(a, b, root=singular), "singular values are no eigenvalues"),
        (lambda a, b: frechet(a, b, root=roots_apart), "roots each covariance by itself"),
        (lambda a, b: frechet(a, b) ** 0.5, "the root of the distance"),
        (lambda a, b: frechet(a.sub_(a.mean(0)), b), "changed its argument a in place"),
    ],
    "welch_t": [
        (lambda a, b: fmean(a) - fmean(b), "means alone"),
        (
            lambda a, b: (fmean(a) - fmean(b)) / math.sqrt(stdev(a) / len(a) + stdev(b) / len(b)),
            "divides by std / n",
        ),
        (
            lambda a, b: (
                (fmean(a) - fmean(b)) / (stdev(a) / len(a) ** 0.5 + stdev(b) / len(b) ** 0.5)
            ),
            "add their squares",
        ),
        (
            lambda a, b: (fmean(a) - fmean(b)) / math.hypot(stdev(a), stdev(b)),
            "forgets the number of seeds",
        ),
        (
            lambda a, b: (
                (fmean(a) - fmean(b)) / math.sqrt(pvariance(a) / len(a) + pvariance(b) / len(b))
            ),
            "with n - 1",
        ),
        (
            lambda a, b: (
                (fmean(b) - fmean(a)) / math.sqrt(variance(a) / len(a) + variance(b) / len(b))
            ),
            "sign is reversed",
        ),
        (pooled, "pools them"),
        (
            lambda a, b: (
                abs(fmean(a) - fmean(b)) / math.sqrt(variance(a) / len(a) + variance(b) / len(b))
            ),
            "sign is lost",
        ),
    ],
    "exponent": [
        (lambda n, v: float(np.polyfit(n, v, 1)[0]), "raw numbers"),
        (lambda n, v: float(np.polyfit(n, np.log(v), 1)[0]), "only the values"),
        (lambda n, v: float(np.polyfit(np.log(v), np.log(n), 1)[0]), "swapped"),
        (lambda n, v: math.log(v[-1] / v[0]) / math.log(n[-1] / n[0]), "two ends only"),
        (lambda n, v: float(np.polyfit(np.log(n), np.log(v), 1)[1]), "intercept"),
        (
            lambda n, v: float((np.diff(np.log(v)) / np.diff(np.log(n))).mean()),
            "mean of the slopes",
        ),
        (lambda n, v: math.log(v[-1] / v[-2]) / math.log(n[-1] / n[-2]), "the last two points"),
        (lambda n, v: float(np.polyfit(np.log(n), v, 1)[0]), "only the tokens are logarithms"),
    ],
    "pareto": [
        (lambda points: sorted(points), "keeps every point"),
        (
            lambda points: undominated(points, lambda q, p: q[0] < p[0] and q[1] < p[1]),
            "tie in one and lose in the other",
        ),
        (
            lambda points: undominated(
                points, lambda q, p: q[0] <= p[0] and q[1] >= p[1] and q != p
            ),
            "largest distances",
        ),
        (
            lambda points: undominated(
                points, lambda q, p: q[0] >= p[0] and q[1] <= p[1] and q != p
            ),
            "costliest points",
        ),
        (lambda points: undominated(points, lambda q, p: q[0] <= p[0] and q[1] <= p[1]), "itself"),
        (lambda points: [min(points, key=lambda p: p[1])], "best point only"),
        (
            lambda points: undominated(
                points, lambda q, p: q[0] <= p[0] and q[1] <= p[1] and q != p
            )[::-1],
            "order",
        ),
        (sorted_in_place, "changed its argument points in place"),
        (lambda points: [min(points)], "the cheapest point only"),
        (lambda points: (p for p in sorted(points)), "read only once"),
    ],
    "matched_steps": [
        (lambda flops, budget: round(budget / flops(1)), "paid only once"),
        (lambda flops, budget: max(n for n in COUNTS if flops(n) <= budget), "stays below"),
        (lambda flops, budget: min(n for n in COUNTS if flops(n) >= budget), "goes above"),
        (lambda flops, budget: round(budget), "for a number of steps"),
        (
            lambda flops, budget: float(min(COUNTS, key=lambda n: abs(flops(n) - budget))),
            "return an int",
        ),
        (
            lambda flops, budget: flops(min(COUNTS, key=lambda n: abs(flops(n) - budget))),
            "returns the cost",
        ),
        (
            lambda flops, budget: min(range(1000), key=lambda n: abs(flops(n + 1) - budget)),
            "count from 0",
        ),
        (lambda flops, budget: round((budget - 5) / 2), "it should be"),
    ],
}
