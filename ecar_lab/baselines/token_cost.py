"""FLOPs of token-by-token generation in closed form, as in ``ecar_lab.cost``, at any latent size:
no weights are built."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

from ecar_lab.cost import block_flops, modulation_flops
from ecar_lab.flow import EVALUATIONS, num_times
from ecar_lab.layers import TIME_FREQUENCIES

DEFAULTS = {"order": "causal", "num_iterations": 64, "codebook_size": None}


class EventFlops(NamedTuple):
    """FLOPs of one token (causal) or one iteration (masked), by part."""

    transformer: int
    head: int


def token_ar_flops(
    config: Any,
    steps: int,
    guidance: float = 1.0,
    kv_cache: bool = True,
    solver: str = "euler",
) -> dict[str, list[int]]:
    """FLOPs of one image, 2 per multiply-add, without the decoder; see ``TokenAR.flops``.

    Args:
        config: a ``TokenAR``'s, or a dict or object with its fields: latent_size, latent_channels,
            patch_size, width, transformer_layers, head_width, head_layers, and for the masked
            order ``order`` and num_iterations.
        steps: flow steps of the head per token. kv_cache: only the causal order can have one.
    """
    events = event_flops(config, steps, guidance, kv_cache, solver)
    return {
        "transformer": [sum(event.transformer for event in events)],
        "head": [sum(event.head for event in events)],
    }


def event_flops(
    config: Any, steps: int, guidance: float, kv_cache: bool, solver: str
) -> list[EventFlops]:
    """The same, event by event; the first bears what is made once per run."""
    config = _fields(config)
    halves = 1 if guidance == 1.0 else 2
    events = [
        EventFlops(
            transformer=halves * transformer_flops(config, index, kv_cache),
            head=halves * count * token_flops(config, steps * EVALUATIONS[solver]),
        )
        for index, count in enumerate(tokens_per_event(config))
    ]
    first = events[0]
    events[0] = EventFlops(
        first.transformer + halves * modulation_flops(config.transformer_layers, config.width),
        first.head + time_flops(config, num_times(steps, solver)),
    )
    return events


def tokens_per_event(config: Any) -> list[int]:
    """How many tokens each event makes.

    Causal: one. Masked: after iteration j of J, ``floor(N cos(pi/2 j/J))`` tokens are left to make
    (MaskGIT's and MAR's cosine), bent so that each iteration makes at least one; J <= N.
    """
    config = _fields(config)
    tokens = _tokens(config)
    if config.order == "causal":
        return [1] * tokens
    iterations = min(config.num_iterations, tokens)
    left, counts = tokens, []
    for done in range(1, iterations + 1):
        wanted = math.floor(tokens * math.cos(math.pi / 2 * done / iterations) + 1e-9)
        after = min(left - 1, max(iterations - done, wanted))
        counts.append(left - after)
        left = after
    return counts


def transformer_flops(config: Any, index: int, kv_cache: bool) -> int:
    """One call for event ``index``, without the modulations, one image, no guidance."""
    tokens, width = _tokens(config), config.width
    embedding = 0 if config.codebook_size else 2 * _token_dim(config) * width
    if config.order == "masked":
        slots = context = embedded = tokens
    elif kv_cache:
        slots, context, embedded = 1, index + 1, min(index, 1)
    else:
        slots, context, embedded = index + 1, index + 1, index
    return embedded * embedding + config.transformer_layers * block_flops(slots, context, width)


def token_flops(config: Any, evaluations: int) -> int:
    """The head for one token: it reads z once, and evaluates velocities; or logits, once."""
    width, layers = config.head_width, config.head_layers
    read = 2 * config.width * width
    if config.codebook_size:
        return read + layers * 4 * width**2 + 2 * width * config.codebook_size
    velocity = 4 * _token_dim(config) * width + (10 * layers + 4) * width**2
    return read + evaluations * velocity


def time_flops(config: Any, times: int) -> int:
    """The embeddings of all times, once per run, for one image sampled alone."""
    if config.codebook_size:
        return 0
    return times * 2 * (2 * TIME_FREQUENCIES + config.head_width) * config.head_width


def _fields(config: Any) -> Any:
    if isinstance(config, SimpleNamespace):
        return config
    given = config if isinstance(config, dict) else vars(config)
    return SimpleNamespace(**{**DEFAULTS, **given})


def _tokens(config: Any) -> int:
    return (config.latent_size // config.patch_size) ** 2


def _token_dim(config: Any) -> int:
    return config.latent_channels * config.patch_size**2
