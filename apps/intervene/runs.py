"""What the Intervene tab computes: a base run, the runs that differ from it, and what differs.

An intervention is a change of the settings, so every result is a run like any other, with a recipe.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, cast

from torch import Tensor

from apps.shared.once import Once
from apps.shared.settings import MAX_SEED, Edit, Settings, whole
from apps.shared.stream import Progress, stream
from apps.shared.studio import Studio, a_folder
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.interventions import fork_seeds
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.colours import decode

# Runs with their tensors that are held for all visitors together.
KEEP = 64
FEWEST, MOST = 4, 9  # variants of a fork


@dataclass(frozen=True)
class Made:
    """A recorded run with its tensors. ``picture``: (3, H, W) in [-1, 1]."""

    settings: Settings
    progress: Progress
    events: list[TraceEvent]
    picture: Tensor

    @property
    def image(self) -> Path:
        assert self.progress.image is not None
        return self.progress.image

    @property
    def final(self) -> Tensor:
        """The finished latent, (1, C, R, R)."""
        return self.events[-1].latent

    def at(self, stage: int, step: int | None = None) -> TraceEvent:
        """The event after a step of a stage; None: where the stage ends."""
        step = self.settings.steps[stage] if step is None else step
        return next(e for e in self.events if (e.stage, e.step) == (stage, step))


class Bases:
    """The run that each visitor starts from, the first of which is everyone's; the oldest make
    room, and are made again if asked."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._made = Once[Made]()
        self._kept: OrderedDict[str | None, Made] = OrderedDict()
        self._lock = Lock()

    def of(self, settings: Settings, visitor: str | None) -> Made:
        """The run of these settings, made and recorded unless it is at hand.

        Raises:
            EcarError: settings that the model does not take, no memory.
        """
        settings.check_whole()
        if settings == self.studio.defaults():
            visitor = None  # the base that all see first is made once for all
        key = (visitor, settings)
        made = self._made.get(key, lambda: self._make(settings, visitor))
        if not made.image.exists():
            self._made.drop(key, made)
            made = self._made.get(key, lambda: self._make(settings, visitor))
        with self._lock:
            before = [(visitor, self._kept.pop(visitor))] if visitor in self._kept else []
            self._kept[visitor] = made
            while len(self._kept) > KEEP:
                before.append(self._kept.popitem(last=False))
        for whose, other in before:
            if other is not made:
                self._made.drop((whose, other.settings), other)
        self.studio.folders.show(visitor, "base", [made.image.parent])
        return made

    def _make(self, settings: Settings, visitor: str | None) -> Made:
        return again(self.studio, settings, visitor) or make(self.studio, settings, visitor)


# -- running ---------------------------------------------------------------------------------------


def make(studio: Studio, settings: Settings, visitor: str | None) -> Made:
    """Runs the settings and records the run as the visitor's.

    Raises:
        EcarError: settings that the model does not take, no memory.
    """
    return record(studio, settings, list(studio.trace(settings)), visitor)


Work = Generator[str, None, Made]  # yields where it is, and can be stopped there


def making(studio: Studio, settings: Settings, visitor: str | None, name: str) -> Work:
    """As :func:`make`; ``name`` begins the words on the way.

    Raises:
        EcarError: settings that the model does not take, no memory.
    """
    events = []
    for event in studio.trace(settings):
        events.append(event)
        yield f"{name}: stage {event.stage + 1}, step {event.step} of {event.num_steps} …"
    return record(studio, settings, events, visitor)


def again(studio: Studio, settings: Settings, visitor: str | None) -> Made | None:
    """A run that the visitor has made before with its tensors, which are not kept; None if there is
    none. (A recipe may have been run in a dtype of its own: that is another run.)"""
    for run in reversed(studio.folders.runs(visitor)):
        if run.settings == settings and "dtype" not in run.progress.view and run.image.exists():
            events = list(studio.trace(settings))
            picture = decode(studio.pipeline.tokenizer, events[-1].latent)[0]
            return Made(settings, run.progress, events, picture)
    return None


@dataclass(frozen=True)
class _Replay:
    """A pipeline that has already run: ``stream`` writes its events as it writes live ones."""

    pipeline: ECARPipeline
    events: list[TraceEvent]

    @property
    def model(self) -> Any:
        return self.pipeline.model

    @property
    def tokenizer(self) -> Any:
        return self.pipeline.tokenizer

    @property
    def image_size(self) -> int:
        return self.pipeline.image_size

    @property
    def device(self) -> Any:
        return self.pipeline.device

    def trace(self, *_: Any, start_from: Any = None, **__: Any) -> Iterator[TraceEvent]:
        return iter(self.events if start_from is None else self.events[1:])


def record(
    studio: Studio, settings: Settings, events: list[TraceEvent], visitor: str | None
) -> Made:
    """Notes a run that has been made among the visitor's runs, with all its frames."""
    replay = cast(ECARPipeline, _Replay(studio.pipeline, events))
    with a_folder(studio, visitor) as folder:
        *_, progress = stream(
            replay, settings, folder, studio.colours, interval=float("inf"), dtype=studio.dtype
        )
        studio.folders.record(visitor, progress, folder)
    picture = decode(studio.pipeline.tokenizer, events[-1].latent)[0]
    return Made(settings, progress, events, picture)


# -- changes of the settings -----------------------------------------------------------------------


def plain(settings: Settings) -> Settings:
    """The same run with nothing changed on its way."""
    return settings.plain()


def check_later(stage: int | None, stages: int, what: str) -> int:
    """A stage that has a later (or an earlier) one beside it.

    Raises:
        EcarError: no stage was chosen, e.g. because the model has only one.
    """
    if stage is None:
        reason = "this model has one stage" if stages < 2 else "no stage was chosen"
        raise EcarError(f"{reason}: {what} needs two stages")
    return whole(stage, "stage")


def forked(settings: Settings, stage: int, count: int, first_seed: int) -> list[Settings]:
    """Variants that keep the stages up to ``stage`` and have noise of new seeds in all later ones.

    Seeds count up from ``first_seed``; those that a later stage of the base has are left out.

    Raises:
        EcarError: too many or too few variants, no later stage, a seed out of range.
    """
    stages = len(settings.steps)
    if not FEWEST <= count <= MOST:
        raise EcarError(f"{count} variants: use {FEWEST} to {MOST}")
    if not 0 <= stage < stages - 1:
        raise EcarError(
            f"no stage follows stage {stage + 1} of {stages}: fork after an earlier one"
        )
    if not 0 <= first_seed <= MAX_SEED - MOST - stages:
        raise EcarError(f"seed {first_seed} is out of range: use 0 to {MAX_SEED - MOST - stages}")
    own = settings.seeds or (settings.seed,) * stages
    forks = fork_seeds(own, stage + 1, count, itertools.count(first_seed))
    return [dataclasses.replace(settings, seeds=seeds) for seeds in forks]


def with_class(settings: Settings, stage: int, class_name: str) -> Settings:
    """Another class from ``stage`` on."""
    own = settings.classes or (settings.class_name,) * len(settings.steps)
    later = (class_name,) * (len(own) - stage)
    return dataclasses.replace(settings, classes=(*own[:stage], *later))


def with_noise_of(settings: Settings, other_seed: int, chosen: Sequence[bool]) -> Settings:
    """The noise of another seed in the stages chosen."""
    own = settings.seeds or (settings.seed,) * len(settings.steps)
    seeds = [other_seed if other else seed for seed, other in zip(own, chosen, strict=True)]
    return dataclasses.replace(settings, seeds=tuple(seeds))


def without_noise(settings: Settings, stages: Sequence[int]) -> Settings:
    """No new noise where these stages begin.

    Raises:
        EcarError: no stage, or the first, which begins with nothing else.
    """
    if not stages or not all(0 < stage < len(settings.steps) for stage in stages):
        raise EcarError("no stage was chosen: choose one that follows another")
    own = settings.renoise or (True,) * len(settings.steps)
    kept = tuple(new and stage not in stages for stage, new in enumerate(own))
    return dataclasses.replace(settings, renoise=kept)


def with_edit(settings: Settings, edit: Edit) -> Settings:
    """One more edit.

    Raises:
        EcarError: nothing is painted.
    """
    if not any("1" in row for row in edit.mask):
        raise EcarError("no cell is painted: paint at least one")
    return dataclasses.replace(settings, edits=(*settings.edits, edit))
