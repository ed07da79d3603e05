import functools
from collections import Counter

WRONG = {
    "resolutions": [
        (lambda size, n: [size // 2**s for s in range(n)], "finest stage"),
        (lambda size, n: [size // 2 ** (n - s) for s in range(n + 1)], "a stage too many"),
        (lambda size, n: [size // 2 ** (n - s) for s in range(n)], "once too often"),
        (lambda size, n: [size / 2 ** (n - 1 - s) for s in range(n)], "not whole numbers"),
        (lambda size, n: [size * 2**s for s in range(n)], "begins with the full size"),
        (lambda size, n: (size // 2 ** (n - 1 - s) for s in range(n)), "read only once"),
        (lambda size, n: [size // 4, size // 2, size][-n:], "has 3 of 4 stages"),
        (lambda size, n: [size * (s + 1) // n for s in range(n)], "grows by equal steps"),
    ],
    "num_tokens": [
        (lambda sides, p: [side // p for side in sides], "tokens of one row"),
        (lambda sides, p: [side * side for side in sides], "counts latent pixels"),
        (lambda sides, p: [side * side // p for side in sides], "divides by the patch's side"),
        (lambda sides, p: [sum((side // p) ** 2 for side in sides)], "adds the stages up"),
        (lambda sides, p: iter([(side // p) ** 2 for side in sides]), "read only once"),
        (lambda sides, p: sides.clear() or [4, 16, 64], "changed its argument sides in place"),
    ],
    "flops_per_stage": [
        (lambda events: [e.flops for e in events if e.is_stage_end], "last event"),
        (lambda events: [e.flops for e in events if e.step == 0], "step 0 only"),
        (lambda events: running(events), "begin each stage at 0"),
        (lambda events: [sum(e.flops for e in events)], "has 1 numbers"),
        (lambda events: flow_only(events), "leaves step 0 out"),
        (lambda events: list(counts(events).values()), "counts events"),
        (lambda events: known(events), "has the right shape but differs"),
    ],
}


def running(events):
    totals, so_far = {}, 0
    for event in events:
        so_far += event.flops
        totals[event.stage] = so_far
    return list(totals.values())


def flow_only(events):
    return [
        sum(e.flops for e in events if e.stage == s and e.step) for s in range(events[0].num_stages)
    ]


def counts(events):
    return Counter(event.stage for event in events)


def known(events):
    """The formula's numbers, whatever the events say."""
    from tests.conftest import tiny_model

    return [a + b for a, b in zip(*tiny_model().flops().values(), strict=True)]


@functools.cache
def events():
    from ecar_lab import trace
    from tests.conftest import tiny_model

    return (list(trace(tiny_model(), ["cat"])),)


CONTEXT = {"flops_per_stage": events}
