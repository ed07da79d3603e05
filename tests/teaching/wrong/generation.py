"""Typical mistakes in the exercises of notebook 7."""

import torch
import torch.nn.functional as F


def halves(guidance):
    return [1 + (scale != 1) for scale in guidance]


def cost(steps, guidance, call, read, step, doubled=True, calls=None, reads=1):
    """A plan's cost with something left out or counted too often."""
    total = 0
    for s, count in enumerate(steps):
        twice = halves(guidance)[s] if doubled else 1
        late = 1 + any(scale != 1 for scale in guidance[s:]) if doubled else 1
        often = late if calls is None else calls(twice, count)
        total += often * call[s] + twice * (reads * read[s] + count * step[s])
    return total


def arc(first, second, share, angle, divide=True):
    value = torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second
    return value / torch.sin(angle) if divide else value


def angle(a, b):
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).acos()


def half(resolutions, stage, left=True, rows=False):
    mask = torch.zeros(resolutions[stage], resolutions[stage], dtype=torch.bool)
    middle = resolutions[stage] // 2
    mask[:, :middle] = True
    mask = mask if left else ~mask
    return mask.T if rows else mask


def above_one(steps, guidance, *costs):
    return cost(steps, [max(scale, 1) for scale in guidance], *costs)


def from_the_first(steps, guidance, call, read, step):
    guided = [scale != 1 for scale in guidance]
    late = sum((1 + any(guided[: s + 1])) * c for s, c in enumerate(call))
    return late + cost(steps, guidance, [0] * len(call), read, step)


def of_each_position(a, b, share):
    cosine = F.cosine_similarity(a, b, dim=1)[:, None]
    return arc(a, b, share, cosine.acos())


def noises_mixed(base, new, kept):
    return {s: base[s] if s <= kept else new[s] + base[s] for s in range(len(base))}


def guided_in_place(w, n, g, s):
    w.sub_(n).mul_(g[s])
    return n + w


WRONG = {
    "plan_flops": [
        (lambda *plan: 2 * cost(*plan, doubled=False), "both halves at scale 1 too"),
        (lambda *plan: cost(*plan, doubled=False), "knows nothing of guidance"),
        (lambda *plan: cost(*plan, calls=lambda twice, n: twice * n), "at every flow step"),
        (lambda *plan: cost(*plan, reads=0), "reads the token map once"),
        (lambda *plan: cost(*plan, calls=lambda twice, n: twice), "in guided stages only"),
        (lambda *plan: cost(*plan, calls=lambda twice, n: 1), "doubles the head alone"),
        (above_one, "guided to mean above 1"),
        (from_the_first, "from the first guided stage on"),
        (
            lambda *plan: cost(*plan, calls=lambda twice, n: 0),
            "the transformer's calls are missing",
        ),
    ],
    "guided": [
        (lambda w, n, g, s: w + g[s] * (n - w), "swapped"),
        (lambda w, n, g, s: w + g[s] * (w - n), "already overshoot"),
        (lambda w, n, g, s: n + g[0] * (w - n), "takes scales[0] where stage is 1"),
        (lambda w, n, g, s: g[s] * (w - n), "difference alone"),
        (
            lambda w, n, g, s: torch.cat(((n + g[s] * (w - n))[:, :3], w[:, 3:]), 1),
            "three of the four channels",
        ),
        (guided_in_place, "changed its argument w in place"),
        (lambda w, n, g, s: w if g[s] <= 1 else n + g[s] * (w - n), "below 1, too"),
        (lambda w, n, g, s: n + (1.5, 3.0, 2.0)[s] * (w - n), "differs by"),
    ],
    "fork_noise": [
        (
            lambda base, new, kept: {s: base[s] if s < kept else new[s] for s in range(4)},
            "a stage too few",
        ),
        (
            lambda base, new, kept: {s: base[s] if s <= kept + 1 else new[s] for s in range(4)},
            "a stage too many",
        ),
        (
            lambda base, new, kept: {s: new[s] if s <= kept else base[s] for s in range(4)},
            "wrong way round",
        ),
        (lambda base, new, kept: {s: base[s] for s in range(kept + 1)}, "leaves out the later"),
        (lambda base, new, kept: base[: kept + 1] + new[kept + 1 :], "return a dict"),
        (lambda base, new, kept: {s: s <= kept for s in range(4)}, "the values are noises"),
        (noises_mixed, "noises are taken as they are"),
        (lambda base, new, kept: {s + 1: base[s] for s in range(len(base))}, "its keys are"),
        (
            lambda base, new, kept: {
                s: base[s] if s <= kept else new[s] for s in range(min(len(base), 3))
            },
            "should be",
        ),
    ],
    "left_half": [
        (lambda sides, s: half(sides, s, left=False), "True on the right"),
        (lambda sides, s: half(sides, -1), "full size"),
        (lambda sides, s: half(sides, s, rows=True), "upper half"),
        (lambda sides, s: half(sides, s).float(), "asks for torch.bool"),
        (lambda sides, s: half(sides, s)[: sides[s] // 2, : sides[s] // 2], "as small as the half"),
        (
            lambda sides, s: half(sides, s).roll(1, dims=1),
            "4 places are True and should not be, 4 are missing",
        ),
        (lambda sides, s: torch.ones(sides[s], sides[s], dtype=torch.bool), "True everywhere"),
        (lambda sides, s: half(sides, s, left=False, rows=True), "lower half"),
        (lambda sides, s: half((4, 8, 16), s), "has shape (4, 4)"),
    ],
    "slerp": [
        (lambda a, b, share: torch.lerp(a, b, share), "straight line"),
        (lambda a, b, share: arc(b, a, share, angle(a, b)), "ends are swapped"),
        (lambda a, b, share: arc(a, b, share, (a * b).sum().acos()), "bare product"),
        (lambda a, b, share: arc(a, b, share, angle(a, b), divide=False), "sine of the angle"),
        (of_each_position, "an angle for each position"),
        (
            lambda a, b, share: (1 - share) ** 0.5 * a + share**0.5 * b,
            "the roots of 1 - share and share",
        ),
        (lambda a, b, share: arc(a, b, share, angle(a, b)).flatten(), "has shape"),
        (
            lambda a, b, share: arc(a.mul_(1 - share), b, share, angle(a, b)),
            "changed its argument a in place",
        ),
    ],
}
