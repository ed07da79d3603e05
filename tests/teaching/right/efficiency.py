import math


def in_a_loop(call, step, steps, guided):
    total = 0
    for s in range(len(steps)):
        total += (2 if guided[s] else 1) * (call[s] + steps[s] * step[s])
    return total


def in_two_sums(call, step, steps, guided):
    stages = list(zip(call, step, steps, strict=True))
    once = sum(c + k * v for c, v, k in stages)
    return once + sum(c + k * v for (c, v, k), g in zip(stages, guided, strict=True) if g)


def per_layer(tokens, layers, width, size):
    return sum(sum(n * width * size * 2 for n in tokens) for _ in range(layers))


def counted(budget, fixed, per_step):
    steps = 0
    while fixed + (steps + 1) * per_step <= budget:
        steps += 1
    return steps


RIGHT = {
    "block_flops": [
        lambda n, m, d: 4 * n * d * (6 * d + m),
        lambda n, m, d: 2 * n * (4 * d**2 + 2 * 4 * d**2) + 2 * (2 * n * m * d),
        lambda n, m, d: float(24 * n * d * d + 4 * n * m * d),
    ],
    "plan_flops": [
        in_a_loop,
        in_two_sums,
        lambda call, step, steps, guided: sum(
            (c + v * k) * (1 + int(g)) for c, v, k, g in zip(call, step, steps, guided, strict=True)
        ),
    ],
    "cache_bytes": [
        per_layer,
        lambda tokens, layers, width, size: sum(2 * n for n in tokens) * layers * width * size,
        lambda tokens, layers, width, size: layers * 2 * (width * size) * sum(tokens),
    ],
    "steps_for_budget": [
        counted,
        lambda budget, fixed, step: math.floor((budget - fixed) / step),
        lambda budget, fixed, step: int((budget - fixed) / step),
    ],
}
