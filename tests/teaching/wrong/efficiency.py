import math


def times(call, step, steps, guided, once=lambda g: 1 + g, each=lambda g: 1 + g):
    parts = zip(call, step, steps, guided, strict=True)
    return sum(once(g) * c + each(g) * k * v for c, v, k, g in parts)


WRONG = {
    "block_flops": [
        (lambda n, m, d: 12 * n * d**2 + 2 * n * m * d, "counts a multiply-add as one"),
        (lambda n, m, d: 24 * n * d**2, "attention is missing"),
        (lambda n, m, d: 24 * n * d**2 + 4 * n * n * d, "tokens look at themselves only"),
        (lambda n, m, d: 8 * n * d**2 + 4 * n * m * d, "the MLP is missing"),
        (lambda n, m, d: 24 * n * d**2 + 2 * n * m * d, "attention has two products"),
        (lambda n, m, d: 24 * m * d**2 + 4 * n * m * d, "run for all M tokens"),
        (lambda n, m, d: 16 * n * d**2 + 4 * n * m * d, "qkv and output are missing"),
        (lambda n, m, d: 4 * n * m * d, "the linear layers are missing"),
    ],
    "plan_flops": [
        (
            lambda call, step, steps, guided: sum(
                (1 + g) * k * (c + v) for c, v, k, g in zip(call, step, steps, guided, strict=True)
            ),
            "calls the transformer at every step",
        ),
        (
            lambda call, step, steps, guided: sum(
                c + k * v for c, v, k in zip(call, step, steps, strict=True)
            ),
            "guidance is missing",
        ),
        (
            lambda call, step, steps, guided: sum(
                2 * (c + k * v) for c, v, k in zip(call, step, steps, strict=True)
            ),
            "doubles every stage",
        ),
        (lambda *plan: times(*plan, once=lambda g: 1), "doubles the flow steps only"),
        (lambda *plan: times(*plan, each=lambda g: 1), "doubles the transformer only"),
        (lambda *plan: times(*plan, once=lambda g: 0), "transformer's calls are missing"),
        (
            lambda *plan: times(*plan, once=lambda g: g, each=lambda g: g),
            "guided stages only: the others",
        ),
        (lambda *plan: times(*plan, each=lambda g: 0), "the flow steps are missing"),
    ],
    "cache_bytes": [
        (lambda tokens, layers, width, size: layers * sum(tokens) * width * size, "holds both"),
        (lambda tokens, layers, width, size: 2 * layers * sum(tokens) * width, "counts numbers"),
        (
            lambda tokens, layers, width, size: 2 * layers * tokens[-1] * width * size,
            "the last stage only",
        ),
        (
            lambda tokens, layers, width, size: 2 * layers * sum(tokens) ** 2 * width * size,
            "squares the tokens",
        ),
        (lambda tokens, layers, width, size: 2 * sum(tokens) * width * size, "counts one layer"),
        (lambda tokens, layers, width, size: 2 * layers * sum(tokens) * size, "forgets the width"),
        (lambda tokens, layers, width, size: 6 * sum(tokens) * width * 4, "it should be"),
    ],
    "steps_for_budget": [
        (lambda budget, fixed, step: int(budget / step), "leaves out the fixed part"),
        (lambda budget, fixed, step: math.ceil((budget - fixed) / step), "over the budget"),
        (lambda budget, fixed, step: (budget - fixed) / step, "no part of a step"),
        (lambda budget, fixed, step: int((budget - fixed) // step) - 1, "steps fit too"),
        (lambda budget, fixed, step: (budget - fixed) // step, "is an int"),
    ],
}
