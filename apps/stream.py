"""From the trace of one image to what a page shows of it: frames as PNG files, times, progress.

The page gets a *view*, plain JSON that grows: where the frames lie and which there are so far.
Every event of the trace becomes a frame, so none is lost; only how often the view is handed on is
limited.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecar_lab.colours import STAGE_HUES, LatentColours, decode
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.trace import TraceEvent
from ecar_lab.viz import to_pil

MAX_SEED = 2**31 - 1
# Seconds between two views: a browser shows no more than ten a second without stumbling.
INTERVAL = 0.1
# Decoding in the middle of a stage is only for the eye: it may take this share of the model's time.
PREVIEW_SHARE = 0.1


@dataclass(frozen=True)
class Settings:
    """What a person chose; with the checkpoint it decides every pixel.

    Raises:
        EcarError: a seed out of range.
    """

    class_name: str
    seed: int
    steps: tuple[int, ...]
    guidance: float

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise EcarError(f"seed {self.seed} is out of range: use 0 to {MAX_SEED}")

    def __str__(self) -> str:
        steps = " + ".join(map(str, self.steps))
        return f"{self.class_name}, seed {self.seed}, steps {steps}, guidance {self.guidance:g}"

    @property
    def file_name(self) -> str:
        """Name of the finished image."""
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.class_name)}-seed{self.seed}.png"


@dataclass
class StageTime:
    """Seconds that one stage took, and what it did in them."""

    side: int
    tokens: int
    steps: int
    transformer: float = 0.0
    head: float = 0.0
    decode: float = 0.0


def total(times: list[StageTime]) -> StageTime:
    """All stages together; the side is that of the last."""
    whole = StageTime(times[-1].side if times else 0, 0, 0)
    for stage in times:
        whole.tokens += stage.tokens
        whole.steps += stage.steps
        whole.transformer += stage.transformer
        whole.head += stage.head
        whole.decode += stage.decode
    return whole


@dataclass
class Progress:
    """The state of one run, as far as it has come.

    Attributes:
        view: JSON for the strip on the page.
        times: one per stage begun.
        watching: seconds spent on previews and files, which generation alone would not need.
        image: the finished image's file, None until then.
    """

    settings: Settings
    view: dict[str, Any]
    times: list[StageTime] = field(default_factory=list)
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

    Frames go to ``folder``: noisy latent and clean estimate of every event, the estimate decoded at
    each stage's end and, where that is cheap beside the model, on the way.

    Raises:
        EcarError: a class, step count or guidance that the model does not take.
    """
    events = pipeline.trace(
        [settings.class_name],
        num_inference_steps=list(settings.steps),
        guidance_scale=settings.guidance,
        generator=torch.Generator().manual_seed(settings.seed),
        dtype=dtype,
    )
    progress = Progress(settings, view=blank_view(pipeline, settings, folder))
    handed_on = -float("inf")
    computed = 0.0
    for event in events:
        begin = time.perf_counter()
        due = begin - handed_on >= interval or event.is_final
        _note_times(progress, event)
        frame = _frame(event)
        _save(folder, frame, "noisy", colours(event.latent))
        _save(folder, frame, "clean", colours(event.clean_estimate))
        computed += event.seconds
        if event.is_stage_end or (due and progress.watching < PREVIEW_SHARE * computed):
            decode_begin = time.perf_counter()
            picture = decode(
                pipeline.tokenizer, event.latent if event.is_final else event.clean_estimate
            )
            if event.is_final:
                progress.times[-1].decode = time.perf_counter() - decode_begin
                progress.watching -= progress.times[-1].decode
                progress.image = folder / settings.file_name
            _save(folder, frame, "decoded", picture, progress.image)
        # A new list: the page is sent what differs from the view before, which must stay as it was.
        frames = [*progress.view["frames"], frame]
        progress.view = {**progress.view, "frames": frames, "done": event.is_final}
        progress.watching += time.perf_counter() - begin
        if due:
            handed_on = time.perf_counter()
            yield progress


def blank_view(pipeline: ECARPipeline, settings: Settings, folder: Path) -> dict[str, Any]:
    """The strip before the first event: every stage named, none begun."""
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
        "done": False,
    }


def _frame(event: TraceEvent) -> dict[str, Any]:
    return {
        "stage": event.stage,
        "step": event.step,
        "steps": event.num_steps,
        "t": round(float(event.t), 3),
    }


def _save(
    folder: Path, frame: dict[str, Any], row: str, picture: Tensor, file: Path | None = None
) -> None:
    """Writes one picture at its native size; the page enlarges it."""
    file = file or folder / f"{frame['stage']}-{frame['step']:03d}-{row}.png"
    frame[row] = file.name
    # Level 1: these files live for minutes, and a frame should not wait for the compressor.
    to_pil(picture)[0].save(file, compress_level=1)


def _note_times(progress: Progress, event: TraceEvent) -> None:
    if event.stage == len(progress.times):
        tokens = event.token_map.shape[1]
        progress.times.append(StageTime(event.latent.shape[-1], tokens, event.num_steps))
    times = progress.times[event.stage]
    times.transformer += event.seconds_split["transformer"]
    times.head += event.seconds_split["head"]
