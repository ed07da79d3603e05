"""One image of every class from one seed, in one batch, and the messages that a page shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from apps.server.turns import paced
from apps.shared.inline import data_url, side_by_side, sketch_url
from apps.shared.settings import Settings
from apps.shared.studio import Studio
from ecar_lab.baselines import build
from ecar_lab.cost import total_flops
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.interventions import stage_noise
from ecar_lab.viz.colours import STAGE_HUES, decode

MOST = 20  # classes that are shown, of a model that has more
# Seconds between two pictures on the way: decoding them is for the eye alone.
INTERVAL = 0.15
DIT_STEPS = 50  # that a DiT is given as a rule


@dataclass(frozen=True)
class Counted:
    """Operations of one image, counted from the shapes."""

    gflop: float
    calls: int
    steps: int


def grow(studio: Studio, seed: int) -> Iterator[dict[str, Any]]:
    """Yields what the page shows, each message with one picture more. Every image is the one that
    the Generate tab makes of its class and seed.

    Raises:
        EcarError: a seed out of range.
    """
    settings = Settings.of(studio.pipeline.model, studio.class_names[0], seed)
    model, tokenizer = studio.pipeline.model, studio.pipeline.tokenizer
    names = studio.class_names[:MOST]
    noise = {
        stage: eps.expand(len(names), -1, -1, -1).to(studio.pipeline.device)
        for stage, eps in enumerate(stage_noise(model, seed))
    }
    arguments = settings.trace_arguments(model, studio.dtype)
    arguments |= {"class_labels": names, "class_labels_from": {}, "noise": noise}
    schedule = model.schedule
    view: dict[str, Any] = {
        "classes": names,
        "seed": seed,
        "stages": [
            {"side": side, "hue": STAGE_HUES[stage % len(STAGE_HUES)]}
            for stage, side in enumerate(schedule.resolutions)
        ],
        "frames": [],
        "done": False,
        "seconds": None,
    }
    begin, shown = time.perf_counter(), -float("inf")
    for event in paced(studio.pipeline.trace(**arguments)):
        due = event.step and time.perf_counter() - shown >= INTERVAL
        if not (due or event.is_stage_end):
            continue
        frames = [*view["frames"], frame(event, decode(tokenizer, picture_of(event)))]
        view = {**view, "frames": frames, "done": event.is_final}
        if event.is_final:
            view["seconds"] = round(time.perf_counter() - begin, 3)
        shown = time.perf_counter()
        yield view


def picture_of(event: TraceEvent) -> torch.Tensor:
    """What is decoded of a moment: where the latents point to; of the last, what they are."""
    return event.latent if event.is_final else event.clean_estimate


def frame(event: TraceEvent, pictures: torch.Tensor) -> dict[str, Any]:
    """All classes at one moment. Only the last picture is exact: a first visit should be short."""
    return {
        "stage": event.stage,
        "step": event.step,
        "steps": event.num_steps,
        "t": round(float(event.t), 3),
        "sprite": (data_url if event.is_final else sketch_url)(side_by_side(pictures)),
    }


def counted(studio: Studio, settings: Settings) -> Counted:
    """What one image costs with these settings."""
    flops = studio.pipeline.model.flops(
        settings.steps,
        settings.guidance,
        settings.solver,
        guidance_interval=settings.all_intervals,
        time_power=settings.all_powers,
    )
    return Counted(total_flops(flops) / 1e9, len(settings.steps), sum(settings.steps))


def dit_gflop(studio: Studio) -> float | None:
    """What an image costs a DiT of as many parameters in ``DIT_STEPS`` steps; None where none is as
    large as the model."""
    shape = {k: v for k, v in dict(studio.pipeline.model.config).items() if not k.startswith("_")}
    try:
        with torch.device("meta"):  # counted from the shapes, so no weight is needed
            return total_flops(build("dit", shape).flops(DIT_STEPS)) / 1e9
    except EcarError:
        return None


def work_bars(ours: float, dit: float | None) -> str:
    """Both costs as bars, as HTML; without a DIT nothing."""
    if dit is None:
        return ""
    rows = ((f"E-CAR: {ours:.3g} GFLOP", "ours", ours), (f"DiT: {dit:.3g} GFLOP", "dit", dit))
    longest = max(ours, dit)
    bars = "".join(
        f"<p>{words}</p><div class='{kind}' style='width:{100 * value / longest:.2f}%'></div>"
        for words, kind, value in rows
    )
    return (
        f"<div class='work'><strong>Counted, not claimed</strong>{bars}"
        f"<p>The DiT, of as many parameters and with {DIT_STEPS} steps, needs {dit / ours:.1f} "
        "times the work for an image. Both without the decoder.</p></div>"
    )
