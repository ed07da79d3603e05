"""How costs grow with the number of tokens n: exponents, and what attention has to do with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ecar_lab.baselines.token_cost import tokens_per_event
from ecar_lab.cost import attention_flops, contexts, stage_tokens


def attention_part(model: Any, steps: Sequence[int], kv_cache: bool) -> int:
    """FLOPs of softmax attention in one image, the part of them that outgrows n."""
    config = model.config
    if "order" in config:  # TokenAR
        tokens = (config.latent_size // config.patch_size) ** 2
        events = range(1, len(tokens_per_event(config)) + 1)
        pairs = [event if kv_cache else event**2 for event in events]
        if config.order == "masked":
            pairs = [tokens**2] * len(events)
        return config.transformer_layers * attention_flops(1, sum(pairs), config.width)
    if "head_dim" in config:  # DiT
        tokens = (config.latent_size // config.patch_size) ** 2
        once = attention_flops(tokens, tokens, config.num_heads * config.head_dim)
        return steps[0] * config.num_layers * once
    total = 0
    for stage, tokens in enumerate(stage_tokens(config)):
        in_transformer, in_head = contexts(config, stage)
        layers = config.transformer_layers * in_transformer
        layers += config.head_layers * steps[stage] * in_head
        total += attention_flops(tokens, layers, config.width)
    return total


def fits(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Exponents p of n^p, over all sizes and over the largest three that have a value."""
    mine = [row for row in rows if row["name"] == name]
    columns = {
        "gflop": [row["gflop"] for row in mine],
        "gflop_without_attention": [row["gflop"] * (1 - row["attention_share"]) for row in mine],
        "seconds": [row["seconds"] for row in mine],
        "peak_mib": [row["peak_mib"] for row in mine],
    }
    tokens = [row["tokens"] for row in mine]
    return {column: exponents(tokens, values) for column, values in columns.items()}


def exponents(tokens: Sequence[int], values: Sequence[float | None]) -> dict[str, Any]:
    """Least-squares slopes of log value over log n; None where there are not two points."""
    points = [(math.log(n), math.log(v)) for n, v in zip(tokens, values, strict=True) if v]

    def slope(chosen: Sequence[tuple[float, float]]) -> float | None:
        if len(chosen) < 2:
            return None
        logs = np.array(chosen)
        return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])

    return {"all": slope(points), "largest_three": slope(points[-3:]), "sizes": len(points)}


def growth(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """How often over FLOPs, seconds and memory grow from 256 to 1024 px, by the growth in pixels
    (16): 1 is in proportion."""
    at = {row["pixels"]: row for row in rows if row["name"] == name}
    if not {256, 1024} <= set(at):
        return None

    def ratio(column: str) -> float | None:
        small, large = at[256][column], at[1024][column]
        return large / small / 16 if small and large else None

    return {column: ratio(column) for column in ("gflop", "seconds", "peak_mib")}
