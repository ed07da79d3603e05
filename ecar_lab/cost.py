"""FLOPs in closed form: 2 per multiply-add, matrix products and attention, as the literature
counts.

The trace and the tables quote these; a test holds them against PyTorch's own counter. N tokens, D
width, M tokens to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecar_lab.flow import EVALUATIONS, num_times
from ecar_lab.layers import TIME_FREQUENCIES, BlockStyle, gated_width
from ecar_lab.schedule import time_grid

MLP_RATIO = 4


def attention_flops(tokens: int, context: int, width: int) -> int:
    """q kᵀ and its product with v: ``4 N M D``."""
    return 4 * tokens * context * width


def block_flops(
    tokens: int,
    context: int,
    width: int,
    style: BlockStyle = BlockStyle(),  # noqa: B008 (frozen)
) -> int:
    """One block: qkv, output and MLP ``2 N (4 + 2 * 4) D²``, attention, and the depthwise 3x3
    convolution ``2 N 9 D`` if there is one. A gated MLP of H features has ``2 N 3 H D``."""
    linear = 2 * tokens * (4 + 2 * MLP_RATIO) * width**2
    if style.mlp == "swiglu":
        linear = 2 * tokens * (4 * width + 3 * gated_width(MLP_RATIO * width)) * width
    mixing = 2 * tokens * 9 * width if style.local_mixing else 0
    return linear + attention_flops(tokens, context, width) + mixing


def block_style(config: Any) -> BlockStyle:
    """The style that a configuration names; what an old one does not name is as it was then."""
    names = ("local_mixing", "mlp", "norm")
    return BlockStyle(**{name: config[name] for name in names if name in config})


def modulation_flops(layers: int, width: int) -> int:
    """Shifts, scales and gates from one condition: 6 D² a block and 2 D² at the end, times 2."""
    return 2 * (6 * layers + 2) * width**2


def stage_tokens(config: Any) -> list[int]:
    """Tokens of each stage, coarsest first."""
    last = config.num_stages - 1
    ratio = config.get("stage_ratio", 2)
    sides = [
        config.latent_size // config.patch_size // ratio ** (last - s) for s in range(last + 1)
    ]
    return [side * side for side in sides]


def contexts(config: Any, stage: int) -> tuple[int, int]:
    """How many tokens one token of the stage sees, in the transformer and in the head."""
    tokens, size = stage_tokens(config), config.get("attention_window")
    if size is None or tokens[stage] <= size**2:
        return sum(tokens[: stage + 1]), tokens[stage]
    return size**2 + sum(count for count in tokens if count <= size**2), size**2


def transformer_flops(config: Any, stage: int) -> int:
    """One cached transformer call, one image, no guidance."""
    tokens = stage_tokens(config)
    token_dim = config.latent_channels * config.patch_size**2
    reads_history = stage > 0 and config.history == "end_states"
    embedding = 2 * tokens[stage] * token_dim * config.width if reads_history else 0
    context = contexts(config, stage)[0]
    block = block_flops(tokens[stage], context, config.width, block_style(config))
    layers = config.transformer_layers
    return embedding + layers * block + modulation_flops(layers, config.width)


def head_setup_flops(config: Any, stage: int, times: int) -> int:
    """What the head does once per stage, one image, no guidance: it reads the token map and makes
    the conditions of all times (and, of a few-step head, of spans and guidance)."""
    embeddings = 3 if config.get("mode") == "few-step" else 1
    width = config.width
    read = 2 * stage_tokens(config)[stage] * width**2
    time_embedding = 2 * (2 * TIME_FREQUENCIES + width) * width
    return read + times * (
        embeddings * time_embedding + modulation_flops(config.head_layers, width)
    )


def velocity_flops(config: Any, stage: int) -> int:
    """One evaluation of the head, one image, no guidance."""
    tokens, width = stage_tokens(config)[stage], config.width
    token_dim = config.latent_channels * config.patch_size**2
    in_and_out = 4 * tokens * token_dim * width
    context = contexts(config, stage)[1]
    skips = (config.head_layers - 1) // 2 if config.get("long_skips", False) else 0
    block = block_flops(tokens, context, width, block_style(config))
    return in_and_out + config.head_layers * block + skips * 2 * tokens * width**2


def sampling_flops(
    config: Any, guided: Sequence[Sequence[bool]], solver: str
) -> dict[str, list[int]]:
    """FLOPs of one image by stage and part; see ``ECAR.flops``.

    ``guided``: the :func:`guided_steps` of each stage.
    """
    halves = guided_halves(config, guided)
    transformer = [
        both * transformer_flops(config, stage) for stage, (both, _) in enumerate(halves)
    ]
    head = [
        both * head_setup_flops(config, stage, num_times(len(steps), solver))
        + (len(steps) + (both - 1) * sum(steps))
        * EVALUATIONS[solver]
        * velocity_flops(config, stage)
        for stage, ((_, both), steps) in enumerate(zip(halves, guided, strict=True))
    ]
    return {"transformer": transformer, "head": head}


def guided_steps(
    steps: int, scale: float, interval: tuple[float, float], power: float
) -> list[bool]:
    """Which of a stage's steps guidance acts in: those that start at ``low <= tau < high``.

    The steps are those of ``schedule.time_grid``. With the scale 1 there is no guidance.
    """
    low, high = interval
    starts = time_grid(steps, power)[:-1]
    return [scale != 1.0 and low <= tau < high for tau in starts]


def idle_guidance(
    steps: Sequence[int],
    guidance: Sequence[float],
    intervals: Sequence[Sequence[float]],
    powers: Sequence[float],
) -> str | None:
    """A sentence on the first stage in which guidance is asked for and acts in no step, if any.

    That is a run without guidance there, whatever its settings say.
    """
    plan = zip(steps, guidance, intervals, powers, strict=True)
    for stage, (count, scale, (low, high), power) in enumerate(plan):
        if scale != 1.0 and not any(guided_steps(count, scale, (low, high), power)):
            return (
                f"guidance {scale:g} acts in no step of stage {stage}: none of its {count} begins "
                f"in {low:g} to {high:g}; widen the interval, take more steps, or say guidance 1"
            )
    return None


def guided_halves(config: Any, guided: Sequence[Sequence[bool]]) -> list[tuple[int, int]]:
    """How many halves (with class; without) are made ready for transformer and head at each stage.

    ``guided``: the :func:`guided_steps` of each stage. The head needs both where a step is guided;
    it then runs with both in such steps only. The transformer needs both up to the last such stage,
    because the half without class reads its own earlier keys and values. A few-step head is told
    the guidance: it never needs the other half.
    """
    if config.get("mode") == "few-step":
        return [(1, 1)] * len(guided)
    stages = [any(steps) for steps in guided]
    return [(1 + any(stages[stage:]), 1 + stages[stage]) for stage in range(len(stages))]


def total_flops(by_part: Mapping[str, Sequence[int]]) -> int:
    """Everything that a generator's ``flops()`` gives, all parts and stages together."""
    return sum(map(sum, by_part.values()))
