import functools

WRONG = {
    "resolutions": [
        (lambda size, n: [size // 2**s for s in range(n)], "finest stage"),
        (lambda size, n: [size // 2 ** (n - s) for s in range(n + 1)], "a stage too many"),
        (lambda size, n: [size // 2 ** (n - s) for s in range(n)], "once too often"),
        (lambda size, n: [size / 2 ** (n - 1 - s) for s in range(n)], "not whole numbers"),
    ],
    "num_tokens": [
        (lambda sides, p: [side // p for side in sides], "tokens of one row"),
        (lambda sides, p: [side * side for side in sides], "counts latent pixels"),
        (lambda sides, p: [side * side // p for side in sides], "divides by the patch's side"),
    ],
    "flops_per_stage": [
        (lambda events: [e.flops for e in events if e.is_stage_end], "last event"),
        (lambda events: [e.flops for e in events if e.step == 0], "step 0 only"),
        (lambda events: running(events), "begin each stage at 0"),
    ],
}


def running(events):
    totals, so_far = {}, 0
    for event in events:
        so_far += event.flops
        totals[event.stage] = so_far
    return list(totals.values())


@functools.cache
def events():
    from ecar_lab import trace
    from tests.conftest import tiny_model

    return (list(trace(tiny_model(), ["cat"])),)


CONTEXT = {"flops_per_stage": events}
