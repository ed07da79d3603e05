import torch

from ecar_lab.cost import attention_flops
from tests.teaching.right.larger import RIGHT as LARGER


def in_a_loop(n, width, kv_cache):
    total = 0
    for k in range(1, n + 1):
        total += 4 * (1 if kv_cache else k) * k * width
    return total


def stages_in_a_loop(tokens, width):
    total = seen = 0
    for count in tokens:
        seen += count
        total += attention_flops(count, seen, width)
    return total


def mask_by_blocks(tokens):
    mask = torch.zeros(sum(tokens), sum(tokens), dtype=torch.bool)
    start = 0
    for count in tokens:
        mask[start : start + count, : start + count] = True
        start += count
    return mask


def mask_by_ends(tokens):
    ends = torch.tensor(tokens).cumsum(0)
    stage = torch.bucketize(torch.arange(sum(tokens)), ends, right=True)
    return stage.unsqueeze(1).ge(stage.unsqueeze(0))


def mask_by_comparison(tokens):
    stage = [s for s, count in enumerate(tokens) for _ in range(count)]
    return torch.tensor([[column <= row for column in stage] for row in stage])


def meshed(side):
    axis = torch.linspace(0.5 / side, 1 - 0.5 / side, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((y.flatten(), x.flatten()), dim=1)


def listed(side):
    return torch.tensor(
        [
            ((row + 0.5) / side, (column + 0.5) / side)
            for row in range(side)
            for column in range(side)
        ]
    )


def double(side):
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    return torch.cartesian_prod(centres, centres)


RIGHT = {
    "sequential_flops": [
        in_a_loop,
        lambda n, d, cached: (
            2 * n * (n + 1) * d if cached else 4 * d * n * (n + 1) * (2 * n + 1) // 6
        ),
        lambda n, d, cached: float(
            sum(attention_flops(k ** (not cached), k, d) for k in range(n + 1))
        ),
    ],
    "stage_flops": [
        stages_in_a_loop,
        lambda tokens, d: 4 * d * sum(n * sum(tokens[: s + 1]) for s, n in enumerate(tokens)),
        lambda tokens, d: (
            4 * d * (torch.tensor(tokens) * torch.tensor(tokens).cumsum(0)).sum().item()
        ),
    ],
    "block_causal_mask": [mask_by_blocks, mask_by_ends, mask_by_comparison],
    "token_coordinates": [meshed, listed, double],
    "attention": LARGER["attention"],
    "block": LARGER["block"],
    "multistage_transformer": LARGER["multistage_transformer"],
}
