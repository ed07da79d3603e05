"""Checks of notebook 9: FLOPs of a block and of a plan, bytes of the cache, steps for a budget."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence

from ecar_lab.cost import MLP_RATIO, attention_flops
from ecar_lab.cost import block_flops as kit_block_flops
from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_something


@exercise("9.1 FLOPs of a block", kit_block_flops)
def block_flops(attempt: Callable[[int, int, int], int]) -> None:
    """``block_flops(tokens, context, width)``: ``2 N (4 + 2 * 4) D² + 4 N M D``."""
    for tokens, context, width in ((64, 84, 256), (16, 20, 32)):
        linear = 2 * tokens * (4 + 2 * MLP_RATIO) * width**2
        looking = attention_flops(tokens, context, width)
        expect_close(
            attempt(tokens, context, width),
            float(linear + looking),
            {
                "it counts a multiply-add as one: it is two operations": (linear + looking) / 2,
                "attention is missing: q kᵀ and the product with v, 4 N M D": linear,
                "the linear layers are missing: qkv, output and MLP": looking,
                "the MLP is missing: it has two layers of 4 D² weights": (
                    2 * tokens * 4 * width**2 + looking
                ),
                "qkv and output are missing: four layers of D² weights": (
                    2 * tokens * 2 * MLP_RATIO * width**2 + looking
                ),
                "tokens look at themselves only: use the context M for keys and values": (
                    linear + attention_flops(tokens, tokens, width)
                ),
                "its linear layers run for all M tokens: earlier ones are in the cache, N new": (
                    2 * context * (4 + 2 * MLP_RATIO) * width**2 + looking
                ),
                "the MLP has one layer in it: it has two, of 4 D² weights each": (
                    2 * tokens * (4 + MLP_RATIO) * width**2 + looking
                ),
                "it counts three layers of D² beside the MLP: qkv are three and the output one": (
                    2 * tokens * (3 + 2 * MLP_RATIO) * width**2 + looking
                ),
                "every key is asked too: N queries look at M keys, 4 N M D": (
                    linear + attention_flops(context, context, width)
                ),
                "attention has two products: q kᵀ, and the weights with v": linear + looking / 2,
            },
            f"block_flops({tokens}, {context}, {width})",
            tolerance=1e-9,
        )


def _plan_flops(
    call: Sequence[float], step: Sequence[float], steps: Sequence[int], guided: Sequence[bool]
) -> float:
    stages = zip(call, step, steps, guided, strict=True)
    return sum((1 + g) * (c + k * v) for c, v, k, g in stages)


@exercise(
    "9.2 FLOPs of a plan",
    _plan_flops,
    settings=[
        ([1.0, 4.0, 16.0], [2.0, 8.0, 32.0], [8, 6, 5], [False, True, True]),
        ([3.0, 10.0], [1.0, 7.0], [2, 9], [True, False]),
        ([3.0, 10.0], [1.0, 7.0], [4, 4], [False, False]),
    ],
)
def plan_flops(
    attempt: Callable[..., float],
    call: list[float],
    step: list[float],
    steps: list[int],
    guided: list[bool],
) -> None:
    """``plan_flops(call, step, steps, guided)``: ``sum_s (1 + guided_s) (call_s + K_s step_s)``."""
    stages = list(zip(call, step, steps, guided, strict=True))
    expect_close(
        attempt(call, step, steps, guided),
        _plan_flops(call, step, steps, guided),
        {
            "it calls the transformer at every step: once per stage": sum(
                (1 + g) * k * (c + v) for c, v, k, g in stages
            ),
            "guidance is missing: a guided stage runs everything twice": sum(
                c + k * v for c, v, k, _ in stages
            ),
            "it doubles every stage: only the guided ones run twice": sum(
                2 * (c + k * v) for c, v, k, _ in stages
            ),
            "guidance doubles the flow steps only: the transformer runs twice too": sum(
                c + (1 + g) * k * v for c, v, k, g in stages
            ),
            "the transformer's calls are missing": sum((1 + g) * k * v for _, v, k, g in stages),
            "the flow steps are missing: each stage takes several": sum(
                (1 + g) * c for c, _, _, g in stages
            ),
            "it counts one flow step per stage: multiply by the steps": sum(
                (1 + g) * (c + v) for c, v, _, g in stages
            ),
            "guidance doubles the transformer only: the flow steps run twice too": sum(
                (1 + g) * c + k * v for c, v, k, g in stages
            ),
            "it counts guided stages only: the others run once": sum(
                g * (c + k * v) for c, v, k, g in stages
            ),
            "guided stages count three times in it: once and once more is twice": sum(
                (1 + 2 * g) * (c + k * v) for c, v, k, g in stages
            ),
            "it counts the last stage only": (1 + guided[-1]) * (call[-1] + steps[-1] * step[-1]),
        },
        "the sum",
        tolerance=1e-9,
    )


def _cache_bytes(tokens: Sequence[int], layers: int, width: int, bytes_per_number: int) -> int:
    return 2 * layers * sum(tokens) * width * bytes_per_number


@exercise(
    "9.4 bytes of the cache",
    _cache_bytes,
    settings=[([4, 16, 64], 3, 256, 4), ([1, 9], 5, 48, 2)],
)
def cache_bytes(
    attempt: Callable[..., int], tokens: list[int], layers: int, width: int, size: int
) -> None:
    """``cache_bytes(tokens, layers, width, bytes_per_number)``: keys and values of all stages."""
    right = _cache_bytes(tokens, layers, width, size)
    expect_close(
        attempt(tokens, layers, width, size),
        right,
        {
            "it holds keys or values: the cache holds both": right / 2,
            "it counts numbers: multiply by the bytes of each": right / size,
            "it counts one layer: every layer has keys and values of its own": right / layers,
            "it counts the last stage only: earlier stages stay in the cache": (
                right * tokens[-1] / sum(tokens)
            ),
            "it forgets the width: a key is a vector of D numbers": right / width,
            "it squares the width: that is a layer's weights; a key has D numbers": right * width,
            "it counts keys, values and queries: queries are not kept": right * 3 / 2,
            "these are bits: a byte has eight": right * 8,
            "every stage keeps the earlier ones once more in it: each token is kept once": (
                2 * layers * width * size * sum(sum(tokens[: s + 1]) for s in range(len(tokens)))
            ),
            "it squares the tokens: what is squared is attention's work, not what it keeps": (
                2 * layers * sum(tokens) ** 2 * width * size
            ),
        },
        "the number of bytes",
        tolerance=1e-9,
    )


def _steps_for_budget(budget: float, fixed: float, per_step: float) -> int:
    return int((budget - fixed) // per_step)


@exercise("9.3 steps for a budget", _steps_for_budget)
def steps_for_budget(attempt: Callable[[float, float, float], int]) -> None:
    """``steps_for_budget(budget, fixed, per_step)``: the most steps that stay within the budget."""
    for budget, fixed, per_step in (
        *((58.5, 0.5, 20.0), (41.0, 1.0, 20.0), (60.0, 1.0, 20.0)),
        *((10.0, 3.0, 0.5), (1.9, 1.0, 1.0)),
    ):
        asked = f"steps_for_budget({budget}, {fixed}, {per_step})"
        found = attempt(budget, fixed, per_step)
        right = _steps_for_budget(budget, fixed, per_step)
        expect_something(found, asked)
        if found == right:
            if not isinstance(found, numbers.Integral):
                raise Wrong(f"{asked} is {found!r}: a number of steps is an int")
            continue
        if found == int(budget // per_step):
            raise Wrong(f"{asked} leaves out the fixed part: take it off the budget first")
        if fixed + found * per_step > budget:
            raise Wrong(f"{asked} is {found:.4g}, which goes over the budget: round down")
        if found != int(found):
            raise Wrong(f"{asked} is {found:.4g}: there is no part of a step, round down")
        raise Wrong(f"{asked} is {found}, but {right} steps fit too")
