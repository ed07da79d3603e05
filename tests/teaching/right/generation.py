import math

import torch


def backwards(steps, guidance, call, read, step):
    total, later = 0, False
    for s in reversed(range(len(steps))):
        guided = guidance[s] != 1
        later = later or guided
        total += call[s] * (1 + later) + (read[s] + steps[s] * step[s]) * (1 + guided)
    return total


def with_last(steps, guidance, call, read, step):
    last = max([s for s, scale in enumerate(guidance) if scale != 1], default=-1)
    transformer = sum(2 * c if s <= last else c for s, c in enumerate(call))
    heads = [r + n * v for r, n, v in zip(read, steps, step, strict=True)]
    twice = [2 - (scale == 1) for scale in guidance]
    return float(transformer + sum(t * h for t, h in zip(twice, heads, strict=True)))


def in_tensors(steps, guidance, call, read, step):
    steps, guidance, call, read, step = map(torch.tensor, (steps, guidance, call, read, step))
    guided = (guidance != 1).int()
    both = guided.flip(0).cummax(0).values.flip(0)
    return ((1 + both) * call + (1 + guided) * (read + steps * step)).sum().item()


def sliced(base, fresh, kept):
    return dict(enumerate([*base[: kept + 1], *fresh[kept + 1 :]]))


def filled(base, fresh, kept):
    noise = dict(enumerate(fresh))
    for stage in range(kept + 1):
        noise[stage] = base[stage]
    return noise


def in_pairs(base, fresh, kept):
    pairs = enumerate(zip(base, fresh, strict=True))
    return {s: old if s < kept + 1 else new for s, (old, new) in pairs}


def joined(sides, stage):
    half = torch.ones(sides[stage], sides[stage] // 2, dtype=torch.bool)
    return torch.cat((half, ~half), dim=1)


def angle_of(a, b):
    return torch.acos((a * b).sum() / (a.norm() * b.norm()))


def in_the_plane(a, b, share):
    """Along the arc by two axes at right angles."""
    angle = angle_of(a, b)
    other = b - a * ((a * b).sum() / a.square().sum())
    ratio = b.norm() / a.norm()
    weight = torch.sin(share * angle) / torch.sin(angle)
    along = torch.sin((1 - share) * angle) / torch.sin(angle) + weight * ratio * torch.cos(angle)
    return along * a + weight * other


RIGHT = {
    "plan_flops": [backwards, with_last, in_tensors],
    "guided": [
        lambda w, n, g, s: g[s] * w + (1 - g[s]) * n,
        lambda w, n, g, s: torch.lerp(n, w, float(g[s])),
        lambda w, n, g, s: w + (g[s] - 1) * (w - n),
    ],
    "fork_noise": [sliced, filled, in_pairs],
    "left_half": [
        joined,
        lambda sides, s: (torch.arange(sides[s]) < sides[s] // 2).repeat(sides[s], 1),
        lambda sides, s: (
            (torch.arange(sides[s]) < sides[s] / 2)[None].expand(sides[s], -1).contiguous()
        ),
    ],
    "slerp": [
        in_the_plane,
        lambda a, b, u: (
            a * torch.sin((1 - u) * angle_of(a, b)) / torch.sin(angle_of(a, b))
            + b * torch.sin(u * angle_of(a, b)) / torch.sin(angle_of(a, b))
        ),
        lambda a, b, u: (
            (
                math.sin((1 - u) * float(angle_of(a, b))) * a
                + math.sin(u * float(angle_of(a, b))) * b
            )
            / math.sin(float(angle_of(a, b)))
        ),
    ],
}
