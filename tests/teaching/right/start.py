from collections import Counter


def halved(size, stages):
    sides = [size]
    while len(sides) < stages:
        sides.insert(0, sides[0] // 2)
    return sides


def squares(sides, patch):
    counts = []
    for side in sides:
        counts.append(int(side / patch) ** 2)
    return counts


def counted(events):
    totals = Counter()
    for event in events:
        totals[event.stage] += event.flops
    return [totals[stage] for stage in range(events[0].num_stages)]


RIGHT = {
    "resolutions": [
        halved,
        lambda size, n: tuple(size >> (n - 1 - s) for s in range(n)),
        lambda size, n: [size // 2**s for s in reversed(range(n))],
    ],
    "num_tokens": [
        squares,
        lambda sides, p: [side * side // (p * p) for side in sides],
        lambda sides, p: tuple(pow(side // p, 2) for side in sides),
    ],
    "flops_per_stage": [
        counted,
        lambda events: [
            sum(e.flops for e in events if e.stage == s) for s in range(events[-1].num_stages)
        ],
        lambda events: tuple(
            sum(e.flops * (e.stage == s) for e in events) for s in range(events[0].num_stages)
        ),
    ],
}
