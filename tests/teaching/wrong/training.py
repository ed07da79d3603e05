import math

import torch


def uniform(batch, stages, generator):
    return torch.rand(batch, stages, generator=generator)


def one_order(batch, stages, generator):
    order = torch.rand(batch, 1, generator=generator).argsort(dim=0)
    return (order + torch.rand(batch, stages, generator=generator)) / batch


def in_order(batch, stages, generator):
    return (torch.arange(batch)[:, None] + uniform(batch, stages, generator)) / batch


def middles(batch, stages, generator):
    return (uniform(batch, stages, generator).argsort(dim=0) + 0.5) / batch


def not_divided(batch, stages, generator):
    return uniform(batch, stages, generator).argsort(dim=0) + uniform(batch, stages, generator)


def other_randomness(batch, stages, generator):
    return (torch.rand(batch, stages).argsort(dim=0) + torch.rand(batch, stages)) / batch


def warm(step, warmup):
    return min(1, (step + 1) / warmup)


def half_cosine(angle):
    return (1 + math.cos(angle)) / 2


def mixed(share, floor):
    return floor + (1 - floor) * share


def scale(gradients, factor):
    for gradient in gradients:
        gradient.mul_(factor)


def norm_of(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()


def clamp_each(gradients, limit):
    norm = norm_of(gradients)
    for gradient in gradients:
        gradient.clamp_(-limit, limit)
    return norm


def always_to_limit(gradients, limit):
    norm = norm_of(gradients)
    scale(gradients, limit / norm)
    return norm


def one_by_one(gradients, limit):
    norm = norm_of(gradients)
    for gradient in gradients:
        gradient.mul_(min(1, limit / gradient.norm()))
    return norm


def summed_norms(gradients, limit):
    norm = sum(gradient.norm() for gradient in gradients)
    scale(gradients, min(1, limit / norm))
    return norm


def not_in_place(gradients, limit):
    norm = norm_of(gradients)
    gradients = [gradient * min(1, limit / norm) for gradient in gradients]
    return norm


def norm_after(gradients, limit):
    scale(gradients, min(1, limit / norm_of(gradients)))
    return norm_of(gradients)


def norm_forgotten(gradients, limit):
    scale(gradients, min(1, limit / norm_of(gradients)))


def moving(rule):
    def update(average, weights, decay):
        for mean, weight in zip(average, weights, strict=True):
            mean.copy_(rule(mean, weight, decay))

    return update


def new_tensors(average, weights, decay):
    return [decay * m + (1 - decay) * w for m, w in zip(average, weights, strict=True)]


def into_the_weights(average, weights, decay):
    for mean, weight in zip(average, weights, strict=True):
        weight.mul_(1 - decay).add_(mean, alpha=decay)


WRONG = {
    "local_times": [
        (uniform, "plain uniform"),
        (one_order, "share one order"),
        (in_order, "always has the smallest time"),
        (middles, "same place of their slot"),
        (not_divided, "divide by the batch size"),
        (other_randomness, "draw all from it"),
    ],
    "lr_factor": [
        (lambda s, t, w, f: mixed(half_cosine(math.pi * s / t), f), "starts at the full rate"),
        (lambda s, t, w, f: warm(s, w), "stays"),
        (lambda s, t, w, f: warm(s, w) * mixed(half_cosine(180 * s / t), f), "degrees"),
        (lambda s, t, w, f: warm(s, w) * half_cosine(math.pi * s / t), "ends at zero"),
        (lambda s, t, w, f: warm(s, w) * (f + half_cosine(math.pi * s / t)), "above the peak"),
        (
            lambda s, t, w, f: warm(s, w) * mixed(1 - half_cosine(math.pi * s / t), f),
            "sign before the cosine",
        ),
        (
            lambda s, t, w, f: (
                warm(s, w) * mixed(half_cosine(math.pi * max(0, s - w) / (t - w)), f)
            ),
            "after the warm-up",
        ),
    ],
    "clip": [
        (clamp_each, "cuts every number off"),
        (always_to_limit, "small gradients larger"),
        (one_by_one, "by its own norm"),
        (summed_norms, "adds up the tensors' norms"),
        (not_in_place, "nothing has changed"),
        (norm_after, "norm after clipping"),
        (norm_forgotten, "return the norm"),
    ],
    "update_average": [
        (moving(lambda m, w, d: (1 - d) * m + d * w), "wrong side"),
        (moving(lambda m, w, d: m + (1 - d) * w), "only grows"),
        (moving(lambda m, w, d: (m + w) / 2), "plain mean"),
        (moving(lambda m, w, d: w), "copies the weights"),
        (new_tensors, "has not moved"),
        (into_the_weights, "changes the weights"),
    ],
    "budget_hours": [
        (lambda f, n, r, s: f * n / r / s, "these are seconds"),
        (lambda f, n, r, s: f * n / r / s / 60, "these are minutes"),
        (lambda f, n, r, s: f * n / r / 3600, "takes the whole rate"),
        (lambda f, n, r, s: f * n / r * s / 3600, "divide by the share"),
        (lambda f, n, r, s: 3600 * r * s / (f * n), "upside down"),
    ],
}
