"""What the Inspect tab shows of one run: attention, mask, token maps, and what the cache saves.

The page gets a *view*, plain JSON: the pictures, and the attention of one layer whole, so that a
click on a patch is answered without asking the server.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.shared.inline import data_url, picture_urls
from apps.shared.settings import Settings
from apps.shared.studio import Studio
from ecar_lab.benchmark.caching import CacheComparison
from ecar_lab.events import TraceEvent
from ecar_lab.transformer import block_causal_mask
from ecar_lab.viz.colours import STAGE_HUES, decode, principal_colours, token_grid
from ecar_lab.viz.pictures import mask_picture

# Attention weights that are sent head by head; of more than that, the mean over heads only.
MAX_WEIGHTS = 2_000_000


# -- pictures --------------------------------------------------------------------------------------


def draw(
    studio: Studio, settings: Settings, ends: Sequence[TraceEvent], folder: Path
) -> dict[str, Any]:
    """The view of latents, decoded estimates, token maps and the mask; ``folder`` names it."""
    model, tokenizer = studio.pipeline.model, studio.pipeline.tokenizer
    transformer = model.transformer
    maps = [token_grid(event.token_map) for event in ends]
    together = principal_colours(maps)
    stages = []
    for number, (event, grid) in enumerate(zip(ends, maps, strict=True)):
        # A single token has no direction of its own.
        own = principal_colours([grid]) if grid.shape[-1] > 1 else together
        final = event.latent if event.is_final else event.clean_estimate
        stages.append(
            {
                "side": grid.shape[-1],
                "size": event.latent.shape[-1],
                "hue": STAGE_HUES[number % len(STAGE_HUES)],
                "latent": picture_urls(studio.colours(event.latent))[0],
                "decoded": picture_urls(decode(tokenizer, final))[0],
                "map": picture_urls(own.colours(grid))[0],
                "map_together": picture_urls(together.colours(grid))[0],
                "explained": round(own.explained, 4),
            }
        )
    mask = block_causal_mask(transformer.tokens_per_stage, torch.device("cpu"))
    return {
        "run": folder.name,
        "title": str(settings),
        "stages": stages,
        "mask": data_url(mask_picture(mask, transformer.tokens_per_stage)),
        "width": transformer.width,
        "layers": len(transformer.blocks),
        "window": transformer.attention_window,
        "explained": round(together.explained, 4),
    }


# -- attention -------------------------------------------------------------------------------------


def attention_view(starts: Sequence[TraceEvent]) -> dict[str, Any]:
    """The attention of every stage's tokens to all tokens so far, packed for the page.

    Per stage base64 of little-endian uint16, 65535 = 1: (heads, N_s, tokens so far).
    """
    weights = [event.attention[0].float().cpu() for event in starts if event.attention is not None]
    if sum(stage.numel() for stage in weights) > MAX_WEIGHTS:
        weights = [stage.mean(dim=0, keepdim=True) for stage in weights]
    return {"heads": len(weights[0]), "attention": [pack(stage) for stage in weights]}


def pack(weights: Tensor) -> str:
    """Numbers from 0 to 1 as base64 of little-endian uint16."""
    whole = (weights.double() * 65535).round().clamp(0, 65535).to(torch.int32)
    return base64.b64encode(whole.numpy().astype("<u2").tobytes()).decode("ascii")


# -- the cache -------------------------------------------------------------------------------------


def cache_table(comparisons: Sequence[CacheComparison]) -> str:
    """The comparison as HTML: a row per stage, then what it comes to."""
    used = comparisons[0]
    columns = ["Stage", "New tokens", "Reused", "ms with", "ms without", "KV cache, KiB"]
    columns += [f"Largest difference, {name_of(one.dtype)}" for one in comparisons]
    body = ""
    for number, stage in enumerate(used.stages, 1):
        cells = [f"{stage.tokens}", f"{stage.reused}", ms(stage.cached_seconds)]
        cells += [ms(stage.uncached_seconds), f"{stage.cache_bytes / 1024:.0f}"]
        cells += [f"{one.stages[number - 1].difference:.2g}" for one in comparisons]
        body += row(str(number), cells)
    cached = sum(stage.cached_seconds for stage in used.stages)
    uncached = sum(stage.uncached_seconds for stage in used.stages)
    cells = [f"{sum(stage.tokens for stage in used.stages)}"]
    cells += [f"{sum(stage.reused for stage in used.stages)}", ms(cached), ms(uncached)]
    cells += [f"{used.stages[-1].cache_bytes / 1024:.0f}"]
    cells += [f"{one.difference:.2g}" for one in comparisons]
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in columns)
    return (
        "<div class='wide' role='region' tabindex='0' aria-label='With and without the KV cache'>"
        "<table><caption>The transformer with and without its KV cache</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}{row('All', cells)}</tbody></table></div>"
        f"<p>{cache_sentence(comparisons)}</p>"
    )


def cache_sentence(comparisons: Sequence[CacheComparison]) -> str:
    """What the comparison says, in words."""
    used, exact = comparisons[0], comparisons[-1]
    again = sum(stage.recomputed for stage in used.stages)
    cached = sum(stage.cached_seconds for stage in used.stages)
    uncached = sum(stage.uncached_seconds for stage in used.stages)
    size = max(stage.magnitude for stage in exact.stages)
    words = (
        f"Without the cache {again} more tokens are computed: the transformer takes {ms(uncached)} "
        f"instead of {ms(cached)} ms ({uncached / cached:.2f} times as long). One masked call over "
        f"all stages, as in training ({ms(used.masked_seconds)} ms), gives the same token maps: in "
        f"float32 no number differs by more than {exact.difference:.1g}, where the numbers are of "
        f"size {size:.2g}."
    )
    if used is not exact and used.difference:
        words += (
            f" In {name_of(used.dtype)} the two round differently on their way, "
            f"by {used.difference:.1g} at most."
        )
    elif used is not exact:
        words += f" In {name_of(used.dtype)} they agree to the last bit."
    return words + " One image, without the half that guidance adds."


def row(name: str, cells: Sequence[str]) -> str:
    return f"<tr><th scope='row'>{name}</th>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
