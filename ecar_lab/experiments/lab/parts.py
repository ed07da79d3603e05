"""Seconds and memory of generating one image, by any generator.

Work that a sampler repeats is timed on a part and multiplied: flow steps of one stage and the
iterations of a masked order do the same thing every time. Tokens one after the other do a little
more each time: some of them, spread evenly over the image, are timed, and straight lines between
these stand for the others. What was timed of what is told in words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ecar_lab.baselines.token_ar import TokenAR
from ecar_lab.baselines.token_cost import tokens_per_event
from ecar_lab.benchmark.timing import median_seconds, open_stream, sample, seconds_of
from ecar_lab.device import synchronize
from ecar_lab.generator import LatentGenerator
from ecar_lab.machine import peak_memory
from ecar_lab.transformer import KVCache


class Part(NamedTuple):
    """How much of repeated work is timed.

    Attributes:
        steps: flow steps of a stage, or iterations of a masked order. tokens: one after the other.
    """

    steps: int
    tokens: int


class Timing(NamedTuple):
    """Seconds per image, and which part of the work was timed; None: all of it."""

    seconds: float
    timed_part: str | None


def time_image(model: Any, steps: Sequence[int], part: Part, kv_cache: bool = True) -> Timing:
    """One image from any generator, without guidance; ``steps`` per stage."""
    if isinstance(model, TokenAR):
        return time_tokens(model, steps[0], part, kv_cache)
    return time_steps(model, steps, part)


def time_steps(model: LatentGenerator, steps: Sequence[int], part: Part) -> Timing:
    """An image that is made in flow steps, of which the first few of each stage are timed."""
    fewer = [min(count, part.steps) for count in steps]
    total, started = 0.0, time.perf_counter()
    for event in open_stream(model, fewer):
        synchronize(model.device)
        spent = time.perf_counter() - started
        total += spent * (steps[event.stage] / fewer[event.stage] if event.step else 1)
        started = time.perf_counter()
    whole = list(steps) == fewer
    return Timing(total, None if whole else f"{sum(fewer)} of {sum(steps)} flow steps")


@torch.no_grad()
def time_tokens(model: TokenAR, steps: int, part: Part, kv_cache: bool) -> Timing:
    """An image that is made token by token, or in the iterations of a masked order."""
    counts = tokens_per_event(model.config)
    masked, fewer = model.config.order == "masked", min(steps, part.steps)
    chosen = spread_over(len(counts), part.steps if masked else part.tokens)
    device = model.device
    reading = [seconds_of(transformer_call(model, index, kv_cache), device) for index in chosen]
    distinct = sorted(set(counts))
    tries = max(1, part.tokens // len(distinct))
    head = {
        count: median_seconds(head_call(model, count, fewer), device, tries) * steps / fewer
        for count in distinct
    }
    every = np.interp(range(len(counts)), chosen, reading)
    total = float(every.sum()) + sum(head[count] for count in counts)
    of_head = f"{fewer} of {steps} flow steps of the head"
    named = "iterations" if masked else "tokens"
    return Timing(total, f"{len(chosen)} of {len(counts)} {named}, {of_head}")


def spread_over(total: int, count: int) -> list[int]:
    """So many of the numbers 0 ... total - 1, evenly, with the first and the last."""
    return sorted(set(np.linspace(0, total - 1, min(total, count)).round().astype(int).tolist()))


def transformer_call(model: TokenAR, index: int, kv_cache: bool) -> Callable[[], Any]:
    """What the transformer does for event ``index`` of a run, to be called once."""
    transformer, labels = model.transformer, model.class_ids([0])
    modulations = transformer.modulations(labels)
    shape = (1, transformer.side**2, model.token_dim)
    tokens = torch.zeros(shape, device=model.device)
    if model.config.order == "masked":
        known = torch.zeros(shape[:2], dtype=torch.bool, device=model.device)
        return lambda: transformer.read_known(tokens, known, labels, modulations)
    cache = filled_cache(model, index) if kv_cache else None
    return lambda: transformer.read_prefix(tokens[:, :index], labels, modulations, cache)


def filled_cache(model: TokenAR, tokens: int) -> KVCache:
    """A cache as it is after so many tokens; what it holds is noise."""
    cache, blocks = model.transformer.new_cache(), list(model.transformer.blocks)
    shape = (1, blocks[0].attention.num_heads, tokens, model.transformer.head_dim)
    for layer in range(len(blocks)):
        filling = torch.randn(shape, device=model.device).to(model.dtype)
        cache.extend(layer, filling, filling)
    return cache


def head_call(model: TokenAR, count: int, steps: int) -> Callable[[], Any]:
    """What the head does for ``count`` tokens at once."""
    token_map = torch.zeros(1, count, model.config.width, device=model.device, dtype=model.dtype)
    noise = torch.randn(1, count, model.token_dim, device=model.device)
    ready = model.head.steps(steps, "euler", model.device)
    return lambda: model.head.sample(token_map, noise, ready, 1.0)


def memory_of_image(model: LatentGenerator, stages: int, kv_cache: bool = True) -> int:
    """Peak bytes beyond the weights, after a warm-up: tables and masks that a process makes once
    are left out. More flow steps take no more memory, so one a stage is run."""

    @torch.no_grad()
    def run() -> None:
        if not isinstance(model, TokenAR):
            sample(model, [1] * stages)
            return
        counts = tokens_per_event(model.config)
        transformer_call(model, len(counts) - 1, kv_cache)()
        head_call(model, max(counts), 1)()

    return peak_memory(run, model.device)[1]
