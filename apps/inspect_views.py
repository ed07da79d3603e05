"""What the Inspect tab shows of one run: attention, mask, token maps, and what the cache saves.

The page gets a *view*, plain JSON: where the pictures lie, and the attention of one layer whole, so
that a click on a patch is answered without asking the server.
"""

from __future__ import annotations

import base64
import html
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from apps.settings import Settings
from apps.studio import Studio, told_when_memory_is_full
from ecar_lab.benchmark.caching import CacheComparison, compare_cache
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.transformer import block_causal_mask
from ecar_lab.viz.colours import STAGE_HUES, LatentColours, decode
from ecar_lab.viz.pictures import to_pil

# Runs opened for inspection that a visitor, and that all of them, can go back to at once.
KEEP, KEEP_ALL = 4, 64
# Attention weights that are sent head by head; of more than that, the mean over heads only.
MAX_WEIGHTS = 2_000_000


@dataclass
class Inspection:
    """One run, opened.

    Attributes:
        ends: the last event of every stage. pictures: the view without attention.
        attention: the view's part for every layer looked at so far.
    """

    settings: Settings
    folder: Path
    ends: list[TraceEvent]
    pictures: dict[str, Any]
    attention: dict[int, dict[str, Any]] = field(default_factory=dict)

    def view(self, layer: int) -> dict[str, Any]:
        """JSON for inspect.js."""
        return {**self.pictures, **self.attention[layer], "layer": layer}


class Inspections:
    """The runs that visitors have opened, each computed once per layer; the oldest make room."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._kept: OrderedDict[tuple[str | None, Settings], Inspection] = OrderedDict()
        self._lock = Lock()

    def open(self, settings: Settings, layer: int, visitor: str | None) -> Inspection:
        """The run of these settings with the attention of one layer.

        Raises:
            EcarError: settings or a layer that the model does not have, no memory.
        """
        with self._lock:
            key = (visitor, settings)
            found = self._kept.pop(key, None)
            if found is None or not found.folder.exists():
                found = self._compute(settings, layer, visitor)
            elif layer not in found.attention:
                events = self.studio.trace(settings, attention_layer=layer)
                found.attention[layer] = attention_view([e for e in events if e.step == 0])
            self._kept[key] = found
            self._make_room(visitor)
        return found

    def _compute(self, settings: Settings, layer: int, visitor: str | None) -> Inspection:
        events = list(self.studio.trace(settings, attention_layer=layer))
        ends = [event for event in events if event.is_stage_end]
        with a_folder(self.studio, visitor) as folder:
            pictures = draw(self.studio, settings, ends, folder)
        attention = attention_view([event for event in events if event.step == 0])
        return Inspection(settings, folder, ends, pictures, {layer: attention})

    def _make_room(self, visitor: str | None) -> None:
        own = [key for key in self._kept if key[0] == visitor]
        gone = [key for key, kept in self._kept.items() if not kept.folder.exists()]
        spare = [key for key in self._kept if key[0] is not None][: -KEEP_ALL or None]
        for key in {*own[:-KEEP], *gone, *spare}:
            del self._kept[key]


@contextmanager
def a_folder(studio: Studio, visitor: str | None) -> Generator[Path]:
    """A fresh folder of the visitor's; what is written there after they left does not stay.

    Raises:
        EcarError: they left meanwhile.
    """
    folder = studio.folders.new_run(visitor)
    try:
        with told_when_memory_is_full():
            yield folder
    except FileNotFoundError as error:
        if folder.exists():
            raise
        raise EcarError("the session has ended: load the page again") from error
    finally:
        studio.folders.close_run(folder)


# -- pictures --------------------------------------------------------------------------------------


def draw(
    studio: Studio, settings: Settings, ends: Sequence[TraceEvent], folder: Path
) -> dict[str, Any]:
    """Writes latents, decoded estimates, token maps and the mask; returns the view of them."""
    model, tokenizer = studio.pipeline.model, studio.pipeline.tokenizer
    transformer = model.transformer
    maps = [grid_of(event.token_map) for event in ends]
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
                "latent": save(folder, f"latent-{number}", studio.colours(event.latent)),
                "decoded": save(folder, f"decoded-{number}", decode(tokenizer, final)),
                "map": save(folder, f"map-{number}", own.colours(grid)),
                "map_together": save(folder, f"map-together-{number}", together.colours(grid)),
                "explained": round(own.explained, 4),
            }
        )
    mask = block_causal_mask(transformer.tokens_per_stage, torch.device("cpu"))
    mask_picture(mask, transformer.tokens_per_stage).save(folder / "mask.png")
    return {
        "run": folder.name,
        "folder": folder.as_posix(),
        "title": str(settings),
        "stages": stages,
        "mask": "mask.png",
        "width": transformer.width,
        "layers": len(transformer.blocks),
        "window": transformer.attention_window,
        "explained": round(together.explained, 4),
    }


def save(folder: Path, name: str, picture: Tensor) -> str:
    """Writes one picture at its native size; the page enlarges it."""
    to_pil(picture)[0].save(folder / f"{name}.png", compress_level=1)
    return f"{name}.png"


def grid_of(token_map: Tensor) -> Tensor:
    """(1, N, D) tokens, row by row -> (1, D, side, side), float32 on the CPU."""
    side = round(token_map.shape[1] ** 0.5)
    return token_map.float().cpu().transpose(1, 2).unflatten(2, (side, side))


@dataclass(frozen=True)
class Principal:
    """Colours for the three directions in which tokens vary most, and their share of the variance
    (1 where nothing varies)."""

    colours: LatentColours
    explained: float


def principal_colours(grids: Sequence[Tensor]) -> Principal:
    """First three principal components over the tokens of all grids (1, D, side, side)."""
    tokens = torch.cat([grid.flatten(2) for grid in grids], dim=2)[..., None]  # (1, D, N, 1)
    centred = tokens[0, :, :, 0].double()
    centred = centred - centred.mean(dim=1, keepdim=True)
    variances = torch.linalg.svdvals(centred).square()
    whole = variances.sum().item()
    explained = variances[:3].sum().item() / whole if whole > 0 else 1.0
    return Principal(LatentColours.pca(tokens), explained)


def mask_picture(mask: Tensor, tokens_per_stage: Sequence[int]) -> Image.Image:
    """(N, N) bool -> a pixel per pair: the hue of the key's stage where the query (row) may look,
    transparent elsewhere."""
    hues = [
        tuple(bytes.fromhex(STAGE_HUES[stage % len(STAGE_HUES)][1:]))
        for stage, tokens in enumerate(tokens_per_stage)
        for _ in range(tokens)
    ]
    pixels = torch.zeros(*mask.shape, 4, dtype=torch.uint8)
    pixels[..., :3] = torch.tensor(hues, dtype=torch.uint8)
    pixels[..., 3] = 255 * mask.to(torch.uint8)
    return Image.fromarray(pixels.numpy(), "RGBA")


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


def compare_caches(studio: Studio, inspection: Inspection) -> list[CacheComparison]:
    """With and without the cache on the end states of a run: in the dtype used, and in float32."""
    # The labels of a run may change from stage to stage, the masked call takes one: the first.
    ends = [event.latent for event in inspection.ends[:-1]]
    labels = inspection.ends[0].class_labels
    with told_when_memory_is_full():
        return [
            compare_cache(studio.pipeline.model.transformer, ends, labels, dtype)
            for dtype in dict.fromkeys((studio.dtype, torch.float32))
        ]


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
