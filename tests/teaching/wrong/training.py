import math

import torch

from tests.teaching.wrong.larger import WRONG as LARGER


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


def rolled(batch, stages, generator):
    start = torch.randint(batch, (stages,), generator=generator)
    slots = (torch.arange(batch)[:, None] + start) % batch
    return (slots + uniform(batch, stages, generator)) / batch


def rolled_stages(batch, stages, generator):
    slots = torch.rand(batch, 1, generator=generator).argsort(dim=0)
    slots = (slots + torch.arange(stages)) % batch
    return (slots + uniform(batch, stages, generator)) / batch


def in_double(batch, stages, generator):
    slots = uniform(batch, stages, generator).argsort(dim=0)
    return (slots + torch.rand(batch, stages, generator=generator, dtype=torch.float64)) / batch


def one_jitter(batch, stages, generator):
    slots = uniform(batch, stages, generator).argsort(dim=0)
    return (slots + torch.rand(batch, 1, generator=generator)) / batch


def half_slots(batch, stages, generator):
    slots = uniform(batch, stages, generator).argsort(dim=0)
    return (slots + uniform(batch, stages, generator) / 2) / batch


def seeded(batch, stages, generator):
    own = torch.Generator().manual_seed(0)
    slots = uniform(batch, stages, own).argsort(dim=0)
    return (slots + uniform(batch, stages, own)) / batch


def replaced(gradients, limit):
    norm = norm_of(gradients)
    for number, gradient in enumerate(gradients):
        gradients[number] = gradient * min(1, limit / norm)
    return norm


def always_one(gradients, limit):
    norm = norm_of(gradients)
    scale(gradients, min(1, 1 / norm))
    return norm


def average_replaced(average, weights, decay):
    for number, weight in enumerate(weights):
        average[number] = decay * average[number] + (1 - decay) * weight


WRONG = {
    "local_times": [
        (uniform, "plain uniform"),
        (one_order, "share one order"),
        (in_order, "always has the smallest time"),
        (middles, "same place of their slot"),
        (not_divided, "divide by the batch size"),
        (other_randomness, "draws random numbers of its own"),
        (rolled, "only rolled"),
        (rolled_stages, "that of another one, rolled"),
        (in_double, "are torch.float64"),
        (one_jitter, "the same place in its slot in every stage"),
        (half_slots, "a part of each slot only"),
        (seeded, "every call gives the same times"),
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
        (
            lambda s, t, w, f: min(1, s / w) * mixed(half_cosine(math.pi * s / t), f),
            "begins at rate 0",
        ),
        (lambda s, t, w, f: warm(s, w) * mixed(1 - s / t, f), "along a straight line"),
        (
            lambda s, t, w, f: warm(s, w) * mixed(half_cosine(math.pi * s / (t - 1)), f),
            "one step early",
        ),
        (lambda s, t, w, f: warm(s, w) * mixed(half_cosine(math.pi * s / t), 0.1), "differs by"),
    ],
    "clip": [
        (clamp_each, "cuts every number off"),
        (always_to_limit, "small gradients larger"),
        (one_by_one, "by its own norm"),
        (summed_norms, "adds up the tensors' norms"),
        (not_in_place, "nothing has changed"),
        (norm_after, "norm after clipping"),
        (norm_forgotten, "return the norm"),
        (replaced, "puts new tensors into the list"),
        (always_one, "clips at 1, whatever the limit"),
    ],
    "update_average": [
        (moving(lambda m, w, d: (1 - d) * m + d * w), "wrong side"),
        (moving(lambda m, w, d: m + (1 - d) * w), "only grows"),
        (moving(lambda m, w, d: (m + w) / 2), "plain mean"),
        (moving(lambda m, w, d: w), "copies the weights"),
        (new_tensors, "has not moved"),
        (into_the_weights, "changed its argument weights in place"),
        (average_replaced, "puts new tensors into the list"),
        (moving(lambda m, w, d: 0.9 * m + 0.1 * w), "its decay is 0.9 always"),
        (moving(lambda m, w, d: d * m + w), "come in whole"),
    ],
    "budget_hours": [
        (lambda f, n, r, s: f * n / r / s, "these are seconds"),
        (lambda f, n, r, s: f * n / r / s / 60, "these are minutes"),
        (lambda f, n, r, s: f * n / r / 3600, "takes the whole rate"),
        (lambda f, n, r, s: f * n / r * s / 3600, "divide by the share"),
        (lambda f, n, r, s: 3600 * r * s / (f * n), "upside down"),
        (lambda f, n, r, s: f / r / s / 3600, "the cost of one image"),
        (lambda f, n, r, s: f * n / r / s * 3600, "multiplies by 3600"),
        (lambda f, n, r, s: f * n / r / s / 86400, "these are days"),
    ],
    "train_step": LARGER["train_step"],
}
