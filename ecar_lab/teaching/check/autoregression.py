"""Checks of notebook 2: what attention costs, who may look at whom, where tokens lie; attention,
block and transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ecar_lab.cost import attention_flops
from ecar_lab.layers import token_coordinates as kit_coordinates
from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_tensor
from ecar_lab.teaching.check._attention import attention, block
from ecar_lab.teaching.check._transformer import multistage_transformer
from ecar_lab.transformer import block_causal_mask as kit_mask

__all__ = [
    "attention",
    "block",
    "block_causal_mask",
    "multistage_transformer",
    "sequential_flops",
    "stage_flops",
    "token_coordinates",
]


def _sequential_flops(n: int, width: int, kv_cache: bool) -> int:
    return sum(attention_flops(1 if kv_cache else k, k, width) for k in range(1, n + 1))


@exercise("2.1 one token after the other", _sequential_flops)
def sequential_flops(attempt: Callable[[int, int, bool], float]) -> None:
    """``sequential_flops(n, width, kv_cache) -> FLOPs`` of attention for n tokens, one per call."""
    for n, width, kv_cache in ((5, 8, False), (5, 8, True), (7, 4, False), (7, 4, True)):
        right = _sequential_flops(n, width, kv_cache)
        asking = 1 if kv_cache else n
        forgot = "the cache makes no difference in it" if kv_cache else "only the newest token asks"
        remedy = (
            "with a cache each call has one query"
            if kv_cache
            else "without a cache all k ask again"
        )
        expect_close(
            attempt(n, width, kv_cache),
            right,
            {
                f"{forgot}: {remedy}": _sequential_flops(n, width, not kv_cache),
                "it counts the last call only: add up all n calls": (
                    attention_flops(asking, n, width)
                ),
                "every call costs as much as the last one in it: call k has k tokens, not n": (
                    n * attention_flops(asking, n, width)
                ),
                "it begins with 0 tokens and stops one short: the calls have 1 to n": (
                    _sequential_flops(n - 1, width, kv_cache)
                ),
                "it is half: q kᵀ is one product, the weights times v the other": right / 2,
            },
            f"sequential_flops({n}, {width}, kv_cache={kv_cache})",
        )


def _stage_flops(tokens_per_stage: Sequence[int], width: int) -> int:
    return sum(
        attention_flops(count, sum(tokens_per_stage[: stage + 1]), width)
        for stage, count in enumerate(tokens_per_stage)
    )


@exercise("2.2 one stage after the other", _stage_flops)
def stage_flops(attempt: Callable[[Sequence[int], int], float]) -> None:
    """``stage_flops(tokens_per_stage, width) -> FLOPs`` of attention, with a cache."""
    for tokens, width in (([4, 16, 64], 8), ([3, 5], 4)):
        right, every = _stage_flops(tokens, width), sum(tokens)
        own = sum(attention_flops(count, count, width) for count in tokens)
        expect_close(
            attempt(tokens, width),
            right,
            {
                "a stage looks at itself only in it: earlier stages are in the cache, count them": (
                    own
                ),
                "a stage looks at earlier stages only in it: its own tokens see one another": (
                    right - own
                ),
                "everybody looks at everybody in it: a stage does not see later ones": (
                    attention_flops(every, every, width)
                ),
                "it computes earlier stages again in every call: the cache keeps them": sum(
                    attention_flops(sum(tokens[: s + 1]), sum(tokens[: s + 1]), width)
                    for s in range(len(tokens))
                ),
                "it goes token by token: all tokens of a stage are one call": (
                    _sequential_flops(every, width, kv_cache=True)
                ),
                "it is half: q kᵀ is one product, the weights times v the other": right / 2,
            },
            f"stage_flops({tokens}, {width})",
        )


def _of_stage(tokens_per_stage: Sequence[int]) -> Tensor:
    """The stage of every token, (N,)."""
    counts = torch.tensor(list(tokens_per_stage))
    return torch.arange(len(counts)).repeat_interleave(counts)


def _block_causal_mask(tokens_per_stage: Sequence[int]) -> Tensor:
    return kit_mask(tuple(tokens_per_stage), torch.device("cpu"))


@exercise("2.3 block-causal mask", _block_causal_mask)
def block_causal_mask(attempt: Callable[[Sequence[int]], Tensor]) -> None:
    """``block_causal_mask(tokens_per_stage) -> (N, N)`` bool, True where the row may look."""
    for tokens in ([2, 3, 4, 1], [4, 16], [3], [1, 1, 2]):
        right, every = _block_causal_mask(tokens), sum(tokens)
        near = torch.stack([_of_stage(tokens) - 1, _of_stage(tokens)])
        found = attempt(tokens)
        if isinstance(found, Tensor) and found.is_floating_point() and found.isinf().any():
            raise Wrong(
                "that is an additive mask, 0 and -inf, to be put on logits: return bool, True "
                "where a token may look"
            )
        found = expect_tensor(found, (every, every), "the mask")
        if found.dtype != torch.bool:
            raise Wrong(f"the mask is {found.dtype}: return bool, True where a token may look")
        expect_close(
            found,
            right,
            {
                "it is token-causal, a lower triangle: tokens of one stage see one another": (
                    torch.ones(every, every).tril().bool()
                ),
                "it is transposed, so coarse stages look at finer ones: the row is who looks": (
                    right.T
                ),
                "a token sees strictly earlier stages only: let it see its own stage too": ~right.T,
                "a token sees its own stage only: let it see all earlier ones too": right & right.T,
                "a token sees its own stage and the one before only: let it see all earlier ones": (
                    (near[:, :, None] == _of_stage(tokens)).any(0)
                ),
                "a token sees the stage before only: let it see its own and all earlier ones": (
                    near[0][:, None] == _of_stage(tokens)
                ),
                "it is token-causal, and blind to the token itself: tokens of one stage see one "
                "another": torch.ones(every, every).tril(-1).bool(),
                "everybody sees everybody: later stages must be hidden": torch.ones_like(right),
                "it is inverted: True means that a token may look": ~right,
            },
            "the mask",
        )


@exercise("2.4 where a token lies", kit_coordinates)
def token_coordinates(attempt: Callable[[int], Tensor]) -> None:
    """``token_coordinates(side) -> (N, 2)``: centres (y, x) in [0, 1], row by row."""
    for side in (4, 3, 8):
        right = kit_coordinates(side)
        found = attempt(side)
        place = torch.arange(side, dtype=torch.float32)
        expect_close(
            found,
            right,
            {
                "these are the tokens' lower right corners: half a token less": right + 0.5 / side,
                "they run from -1 to 1: the image goes from 0 to 1": 2 * right - 1,
                "these are the tokens' upper left corners: add half a token": right - 0.5 / side,
                "x comes first, or it goes column by column: order (y, x), row by row": (
                    right.flip(1)
                ),
                "they are not normalised: divide by the side, so that all stages share [0, 1]": (
                    right * side
                ),
                "these are the corners' numbers, not normalised: add a half, divide by the side": (
                    torch.cartesian_prod(place, place)
                ),
                "the outermost tokens lie on the border: a token's centre is half a token inside": (
                    torch.cartesian_prod(place, place) / (side - 1)
                ),
            },
            f"token_coordinates({side})",
            dtype=found.dtype if isinstance(found, Tensor) else None,  # any
        )
