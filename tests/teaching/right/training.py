import math

import torch

from tests.teaching.right.larger import RIGHT as LARGER


def by_permutations(batch, stages, generator):
    columns = [torch.randperm(batch, generator=generator) for _ in range(stages)]
    return (torch.stack(columns, dim=1) + torch.rand(batch, stages, generator=generator)) / batch


def stages_first(batch, stages, generator):
    slots = torch.rand(stages, batch, generator=generator).argsort(dim=1).T
    return slots / batch + torch.rand(batch, stages, generator=generator) / batch


def column_by_column(batch, stages, generator):
    times = torch.empty(batch, stages)
    for stage in range(stages):
        column = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        times[:, stage] = column[torch.randperm(batch, generator=generator)]
    return times


def with_branches(step, total, warmup, floor):
    factor = floor + (1 - floor) * 0.5 * (1 + math.cos(step / total * math.pi))
    return factor * (step + 1) / warmup if step + 1 < warmup else factor


def of_torch(gradients, limit):
    weights = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    return torch.nn.utils.clip_grad_norm_(weights, limit)


def with_squares(gradients, limit):
    norm = sum(gradient.square().sum() for gradient in gradients).sqrt()
    if norm > limit:
        for gradient in gradients:
            gradient *= limit / norm
    return norm.item()


def with_copy(gradients, limit):
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.copy_(gradient * min(1.0, limit / norm.item()))
    return norm


def lerped(average, weights, decay):
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight, 1 - decay)


def copied(average, weights, decay):
    for number in range(len(average)):
        average[number].copy_(decay * average[number] + (1 - decay) * weights[number])


def augmented(average, weights, decay):
    with torch.no_grad():
        for mean, weight in zip(average, weights, strict=True):
            mean += (1 - decay) * (weight - mean)


RIGHT = {
    "local_times": [by_permutations, stages_first, column_by_column],
    "lr_factor": [
        with_branches,
        lambda n, total, w, f: (
            min(n + 1, w) / w * ((1 + f) / 2 + (1 - f) / 2 * math.cos(math.pi * n / total))
        ),
        lambda n, total, w, f: (
            min(1, (n + 1) / w) * (f + (1 - f) * math.cos(math.pi * n / total / 2) ** 2)
        ),
    ],
    "clip": [of_torch, with_squares, with_copy],
    "update_average": [lerped, copied, augmented],
    "budget_hours": [
        lambda f, n, r, s: f * n / r / s / 60 / 60,
        lambda f, n, r, s: n / (r * s / f * 3600),
        lambda f, n, r, s: f / (s * r) * n * (1 / 3600),
    ],
    "train_step": LARGER["train_step"],
}
