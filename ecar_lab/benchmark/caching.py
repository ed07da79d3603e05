"""What the KV cache saves while sampling, and the proof that it changes nothing.

With the cache each stage's tokens are computed once; without it every stage computes those of all
earlier stages again. One masked call over all stages, as in training, must give the same maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecar_lab.benchmark.timing import timed
from ecar_lab.device import autocast
from ecar_lab.transformer import MultistageTransformer


@dataclass(frozen=True)
class StageCache:
    """One stage with and without the cache.

    Attributes:
        tokens: computed anew in either case. reused: found in the cache. recomputed: computed
            again without it.
        cached_seconds, uncached_seconds: the transformer's work for this stage.
        cache_bytes: held after this stage.
        difference: largest absolute one between the cached map and that of one masked call.
        magnitude: root mean square of the map, to judge the difference by.
    """

    tokens: int
    reused: int
    recomputed: int
    cached_seconds: float
    uncached_seconds: float
    cache_bytes: int
    difference: float
    magnitude: float


@dataclass(frozen=True)
class CacheComparison:
    """All stages; ``masked_seconds`` is one masked call over all of them, as in training."""

    dtype: torch.dtype
    stages: tuple[StageCache, ...]
    masked_seconds: float

    @property
    def difference(self) -> float:
        """The largest absolute difference of any number of any map."""
        return max(stage.difference for stage in self.stages)


@torch.no_grad()
def compare_cache(
    transformer: MultistageTransformer,
    end_states: Sequence[Tensor],
    class_labels: Tensor,
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
) -> CacheComparison:
    """Runs the stages with a cache, without one, and as one masked call, on recorded end states.

    Args:
        end_states: e_0 ... e_{S-2} of a run, each (B, C, r_s, r_s).
        class_labels: (B,) ids.
        dtype: autocast to this.
        repeats: times are the fastest of so many, after one to warm up.
    """
    device, tokens = class_labels.device, transformer.tokens_per_stage
    stages = len(tokens)
    previous = (None, *end_states)

    def with_cache() -> tuple[list[Tensor], list[float], list[int], list[int]]:
        cache = transformer.new_cache()
        maps, seconds, reused, held = [], [], [], []
        for stage in range(stages):
            reused.append(cache.num_tokens)
            (token_map, _), took = timed(
                device, transformer.step, stage, previous[stage], class_labels, cache
            )
            maps.append(token_map)
            seconds.append(took)
            held.append(cache.bytes)
        return maps, seconds, reused, held

    def from_scratch(up_to: int) -> None:
        """A stage whose earlier ones have to be computed again, because nothing was kept."""
        cache = transformer.new_cache()
        for stage in range(up_to + 1):
            transformer.step(stage, previous[stage], class_labels, cache)

    def without_cache() -> list[float]:
        return [timed(device, from_scratch, stage)[1] for stage in range(stages)]

    with autocast(device, dtype):
        cached_runs = [with_cache() for _ in range(repeats + 1)][1:]
        uncached = [without_cache() for _ in range(repeats + 1)][1:]
        masked_runs = [
            timed(device, transformer, end_states, class_labels) for _ in range(repeats + 1)
        ][1:]
    maps, _, reused, held = cached_runs[0]
    masked_maps = masked_runs[0][0]
    return CacheComparison(
        dtype,
        tuple(
            StageCache(
                tokens=tokens[stage],
                reused=reused[stage],
                recomputed=sum(tokens[:stage]),
                cached_seconds=min(seconds[stage] for _, seconds, _, _ in cached_runs),
                uncached_seconds=min(seconds[stage] for seconds in uncached),
                cache_bytes=held[stage],
                difference=(maps[stage] - masked_maps[stage]).abs().max().item(),
                magnitude=masked_maps[stage].float().square().mean().sqrt().item(),
            )
            for stage in range(stages)
        ),
        masked_seconds=min(seconds for _, seconds in masked_runs),
    )
