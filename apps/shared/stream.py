"""From the trace of one image to what a page shows of it: frames, times, progress.

The page gets a *view*, plain JSON that grows and holds the frames themselves, so that no picture is
asked for and none is lost with its folder; only the finished image is a file.
Every event of the trace becomes a frame, so none is lost; only how often the view is handed on is
limited.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.shared.inline import data_url, picture_urls
from apps.shared.settings import Settings
from ecar_lab.events import TraceEvent
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.colours import STAGE_HUES, LatentColours, decode, latent_to_rgb, token_grid
from ecar_lab.viz.pictures import to_pil

# Seconds between two views: a browser shows no more than ten per second without stumbling.
INTERVAL = 0.1
# Seconds between two words about a run that shows no frames, and so until a stop takes effect.
PAUSE = 0.2
# Decoding in the middle of a stage is only for the eye: it may take this share of the model's time.
PREVIEW_SHARE = 0.1


@dataclass
class StageCost:
    """What one stage took: seconds, floating-point operations, bytes."""

    side: int
    tokens: int
    steps: int
    transformer: float = 0.0
    head: float = 0.0
    decode: float = 0.0
    transformer_flops: int = 0
    head_flops: int = 0
    cache_bytes: int = 0


def total(costs: list[StageCost]) -> StageCost:
    """All stages together; side and cache are those of the last."""
    whole = StageCost(costs[-1].side if costs else 0, 0, 0)
    for stage in costs:
        whole.tokens += stage.tokens
        whole.steps += stage.steps
        whole.transformer += stage.transformer
        whole.head += stage.head
        whole.decode += stage.decode
        whole.transformer_flops += stage.transformer_flops
        whole.head_flops += stage.head_flops
        whole.cache_bytes = stage.cache_bytes
    return whole


@dataclass
class Progress:
    """The state of one run, as far as it has come.

    Attributes:
        view: JSON for the player on the page.
        costs: one per stage begun.
        watching: seconds spent on previews and files, which generation alone would not need.
        image: the finished image's file, None until then.
    """

    settings: Settings
    view: dict[str, Any]
    costs: list[StageCost] = field(default_factory=list)
    watching: float = 0.0
    image: Path | None = None


def stream(
    pipeline: ECARPipeline,
    settings: Settings,
    folder: Path,
    colours: LatentColours,
    interval: float = INTERVAL,
    dtype: torch.dtype | None = None,
) -> Iterator[Progress]:
    """Generates one image and yields how far it is: at the first event, then at most every
    ``interval`` seconds, then when it is done.

    A frame holds noisy latent and clean estimate of its event as pictures, and the estimate decoded
    at each stage's end and, where that is cheap beside the model, on the way. The finished image
    goes to ``folder``.

    Raises:
        EcarError: a class, step count or guidance that the model does not take.
    """
    model = pipeline.model
    events = settings.events(pipeline, dtype)
    progress = Progress(settings, view=blank_view(pipeline, settings, folder))
    flops = model.flops(
        settings.steps,
        settings.guidance,
        settings.solver,
        guidance_interval=settings.all_intervals,
        time_power=settings.all_powers,
    )
    handed_on, computed = -float("inf"), 0.0
    estimate: Tensor | None = None
    for event in events:
        begin = time.perf_counter()
        due = begin - handed_on >= interval or event.is_final
        _note_costs(progress, event, flops)
        frame = _frame(event, estimate)
        estimate = event.clean_estimate
        both = torch.cat([event.latent, event.clean_estimate])
        frame["noisy"], frame["clean"] = picture_urls(colours(both))
        computed += event.seconds
        if event.is_stage_end or (due and progress.watching < PREVIEW_SHARE * computed):
            decode_begin = time.perf_counter()
            picture = decode(
                pipeline.tokenizer, event.latent if event.is_final else event.clean_estimate
            )
            if event.is_final:
                progress.costs[-1].decode = time.perf_counter() - decode_begin
                progress.watching -= progress.costs[-1].decode
                progress.image = folder / settings.file_name
                to_pil(picture)[0].save(progress.image, compress_level=1)
            (frame["decoded"],) = picture_urls(picture)
        # A new list: the page is sent what differs from the view before, which must stay as it was.
        frames = [*progress.view["frames"], frame]
        progress.view = {**progress.view, "frames": frames, "done": event.is_final}
        progress.view["facts"] = _facts(progress, event)
        progress.watching += time.perf_counter() - begin
        if due:
            handed_on = time.perf_counter()
            yield progress


def blank_view(pipeline: ECARPipeline, settings: Settings, folder: Path) -> dict[str, Any]:
    """The player before the first event: every stage named, none begun."""
    schedule = pipeline.model.schedule
    stages = [
        {
            "size": side,
            "hue": STAGE_HUES[stage % len(STAGE_HUES)],
            "sigma": round(schedule.transition(stage).sigma, 2) if stage else None,
        }
        for stage, side in enumerate(schedule.resolutions)
    ]
    return {
        "run": folder.name,
        "folder": folder.as_posix(),
        "title": str(settings),
        "stages": stages,
        "frames": [],
        "facts": [],
        "done": False,
    }


def _frame(event: TraceEvent, previous: Tensor | None) -> dict[str, Any]:
    """The numbers of an event: how fast the latent moves, and how much the clean estimate changed
    (root mean square over the latent's numbers; None where there is nothing to compare with)."""
    change = None
    if event.step and previous is not None:
        change = (event.clean_estimate - previous).square().mean().sqrt().item()
    norm = event.velocity_norm
    return {
        "stage": event.stage,
        "step": event.step,
        "steps": event.num_steps,
        "t": round(float(event.t), 3),
        "noise": round(1 - float(event.t), 3),
        "velocity": None if norm is None else round(norm.item(), 4),
        "change": None if change is None else round(change, 4),
        "ms": round(1000 * event.seconds, 2),
    }


def _facts(progress: Progress, event: TraceEvent) -> list[dict[str, Any]]:
    """What the strip at the top of the page opens: of every stage so far the ranges of its tensors,
    a picture of its token map, and what its parts took. A new list, like the frames'."""
    *before, own = [*progress.view["facts"], {}][: event.stage + 1]
    cost = progress.costs[event.stage]
    if not event.step:
        own = {"map": _range(event.token_map), "start": _range(event.latent)}
        grid = token_grid(event.token_map)
        if grid.shape[-1] > 1:  # a single token has no direction of its own
            own["map_picture"] = data_url(to_pil(latent_to_rgb(grid))[0])
    own = {
        **own,
        "latent": _range(event.latent),
        "clean": _range(event.clean_estimate),
        "steps": event.num_steps,
        "gflop": {"map": cost.transformer_flops / 1e9, "flow": cost.head_flops / 1e9},
        "ms": {
            "map": 1000 * cost.transformer,
            "flow": 1000 * cost.head,
            "decode": 1000 * cost.decode,
        },
    }
    return [*before, own]


def _range(tensor: Tensor) -> list[float]:
    """Least and largest number."""
    return [round(end.item(), 3) for end in tensor.float().aminmax()]


def _note_costs(progress: Progress, event: TraceEvent, flops: dict[str, list[int]]) -> None:
    while event.stage > len(progress.costs):  # a painting has taken their place: they cost nothing
        side = progress.view["stages"][len(progress.costs)]["size"]
        progress.costs.append(StageCost(side, tokens=0, steps=0))
    if event.stage == len(progress.costs):
        painted = progress.settings.painted
        made = painted is None or event.stage > painted.stage
        progress.costs.append(
            StageCost(
                side=event.latent.shape[-1],
                tokens=made * event.token_map.shape[1],
                steps=made * event.num_steps,
                transformer_flops=made * flops["transformer"][event.stage],
                head_flops=made * flops["head"][event.stage],
            )
        )
    cost = progress.costs[event.stage]
    cost.transformer += event.seconds_split["transformer"]
    cost.head += event.seconds_split["head"]
    cost.cache_bytes = event.cache_bytes
