import torch

from tests.teaching.wrong.larger import WRONG as LARGER


def costs(pairs, factor=4):
    """n, width, kv_cache -> factor * width * the pairs of every call."""
    return lambda n, width, kv_cache: factor * width * pairs(n, kv_cache)


def whole_range(n):
    return range(1, n + 1)


def stages(sides):
    return torch.repeat_interleave(torch.arange(len(sides)), torch.tensor(sides))


def compared(how):
    return lambda sides: how(stages(sides)[:, None], stages(sides)[None])


def grid(axis):
    def coordinates(side):
        places = axis(torch.arange(side).float(), side)
        return torch.cartesian_prod(places, places)

    return coordinates


def additive(sides):
    return torch.zeros(sum(sides), sum(sides)).masked_fill(compared(torch.lt)(sides), -torch.inf)


def own_and_previous(sides):
    of = stages(sides)
    return (of[:, None] == of) | (of[:, None] == of + 1)


def only_previous(sides):
    of = stages(sides)
    return of[:, None] == of + 1


WRONG = {
    "sequential_flops": [
        (costs(lambda n, _: sum(k * k for k in whole_range(n))), "cache makes no difference"),
        (costs(lambda n, _: sum(whole_range(n))), "only the newest token asks"),
        (costs(lambda n, cached: n if cached else n * n), "counts the last call only"),
        (costs(lambda n, cached: n * n if cached else n**3), "as much as the last one"),
        (
            costs(lambda n, cached: sum(k if cached else k * k for k in range(n))),
            "stops one short",
        ),
        (
            costs(lambda n, cached: sum(k if cached else k * k for k in whole_range(n)), 2),
            "it is half",
        ),
    ],
    "stage_flops": [
        (lambda tokens, d: sum(4 * n * n * d for n in tokens), "looks at itself only"),
        (
            lambda tokens, d: sum(4 * n * sum(tokens[:s]) * d for s, n in enumerate(tokens)),
            "at earlier stages only",
        ),
        (lambda tokens, d: 4 * sum(tokens) ** 2 * d, "everybody looks at everybody"),
        (
            lambda tokens, d: sum(4 * sum(tokens[: s + 1]) ** 2 * d for s in range(len(tokens))),
            "computes earlier stages again",
        ),
        (lambda tokens, d: 4 * d * sum(whole_range(sum(tokens))), "token by token"),
        (
            lambda tokens, d: sum(2 * n * sum(tokens[: s + 1]) * d for s, n in enumerate(tokens)),
            "it is half",
        ),
    ],
    "block_causal_mask": [
        (lambda sides: torch.ones(sum(sides), sum(sides)).tril().bool(), "token-causal"),
        (compared(torch.le), "transposed"),
        (compared(torch.gt), "strictly earlier"),
        (compared(torch.eq), "its own stage only: let"),
        (lambda sides: torch.ones(sum(sides), sum(sides)).bool(), "everybody sees everybody"),
        (compared(torch.lt), "inverted"),
        (lambda sides: compared(torch.ge)(sides).float(), "is torch.float32: return bool"),
        (additive, "additive mask"),
        (own_and_previous, "its own stage and the one before only"),
        (only_previous, "the stage before only"),
        (lambda sides: compared(torch.ge)(sides).int(), "is torch.int32"),
        (lambda sides: compared(torch.ge)(sides[:2]), "has shape"),
        (lambda sides: compared(torch.ge)(sides).tolist(), "return a tensor"),
    ],
    "token_coordinates": [
        (grid(lambda i, side: i / side), "upper left corners"),
        (lambda side: grid(lambda i, n: (i + 0.5) / n)(side).flip(1), "x comes first"),
        (grid(lambda i, side: i + 0.5), "not normalised: divide"),
        (grid(lambda i, side: i), "corners' numbers"),
        (grid(lambda i, side: i / (side - 1)), "on the border"),
        (grid(lambda i, side: (i + 1) / side), "lower right corners"),
        (grid(lambda i, side: (2 * i + 1) / side - 1), "from -1 to 1"),
        (lambda side: grid(lambda i, n: (i + 0.5) / n)(4), "has shape (16, 2)"),
    ],
    "attention": LARGER["attention"],
    "block": LARGER["block"],
    "multistage_transformer": LARGER["multistage_transformer"],
}
