"""E-CAR and a DiT, one image each: run one after the other, timed, and laid out for one axis."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.server.turns import paced
from apps.shared.inline import picture_urls
from apps.shared.settings import Settings
from apps.shared.stream import PAUSE
from apps.shared.studio import Studio
from ecar_lab.baselines import DiT, build, load_pipeline, make_pipeline
from ecar_lab.benchmark.timing import seconds_of
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.flow import SOLVERS
from ecar_lab.home import checkpoint_roots
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schedule import plan_text
from ecar_lab.training.cards import images_seen
from ecar_lab.viz.colours import STAGE_HUES, LatentColours, decode
from ecar_lab.viz.pictures import enlarge, to_pil

# Decoding every frame is only for the eye: where it would take longer, frames show the latent's
# colours instead.
LONGEST_DECODING = 4.0
BATCH = 16  # frames decoded at once
SMALLEST_FINAL = 256  # pixels of the finished images, enlarged by nearest neighbour
UNTRAINED = "untrained: timing only"


@dataclass(frozen=True)
class Contender:
    """One of the two. ``images``: seen in training, None where that is not recorded."""

    name: str
    pipeline: ECARPipeline
    images: int | None
    trained: bool = True

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.pipeline.model.parameters())


class Rival:
    """The DiT beside a checkpoint, in the folder of its name and ``-dit``, or of that of the model
    it was distilled from; without one, a DiT of as many parameters with random weights, which says
    how long a DiT takes and nothing else.

    It is loaded when it is first asked for.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        checkpoint = studio.checkpoint.resolve()
        names = (checkpoint.name, teacher_of(checkpoint))
        roots = (checkpoint.parent, *checkpoint_roots()[1:])  # or fetched, beside what ships
        beside = (root / f"{name}-dit" for name in names if name for root in roots)
        self.folder = next((one for one in beside if (one / "model_index.json").is_file()), None)
        self._lock = threading.Lock()

    @property
    def trained(self) -> bool:
        return self.folder is not None

    @property
    def default_guidance(self) -> float:
        """The checkpoint's own, read from its configuration; else that of E-CAR's first stage."""
        try:
            assert self.folder is not None
            config = json.loads((self.folder / "model" / "config.json").read_text("utf-8"))
            return float(config["guidance_scale"])
        except (AssertionError, OSError, ValueError, KeyError, TypeError):
            return self.studio.defaults().guidance[0]

    def get(self) -> Contender:
        """The DiT, on the studio's device. It is held together with the studio's own model.

        Raises:
            EcarError: the checkpoint beside is damaged, no DiT, or made for other images.
        """
        beside = self.studio.loaded.beside
        with self._lock:
            if "dit" not in beside:
                beside["dit"] = self._load() if self.folder else self._build()
                beside["dit"].pipeline.to(self.studio.device)
            return beside["dit"]

    def _load(self) -> Contender:
        assert self.folder is not None
        pipeline = load_pipeline(self.folder)
        if not isinstance(pipeline.model, DiT):
            raise EcarError(
                f"{self.folder.name!r} beside the checkpoint holds a "
                f"{type(pipeline.model).__name__}: put a DiT there, or nothing"
            )
        ours, theirs = self.studio.pipeline, pipeline
        for what, own, other in (
            ("images of", f"{ours.image_size} px", f"{theirs.image_size} px"),
            ("the classes", ", ".join(ours.class_names), ", ".join(theirs.class_names)),
        ):
            if own != other:
                raise EcarError(
                    f"{self.folder.name!r} makes {what} {other[:80]}, this checkpoint {own[:80]}: "
                    "train a DiT on the same data"
                )
        return Contender("DiT", pipeline, images_seen(self.folder))

    def _build(self) -> Contender:
        pipeline, config = self.studio.pipeline, dict(self.studio.pipeline.model.config)
        shape = {name: value for name, value in config.items() if not name.startswith("_")}
        model = build("dit", shape).eval()
        if model.dtype != pipeline.model.dtype:
            model.to(pipeline.model.dtype)
        return Contender("DiT", make_pipeline(model, pipeline.tokenizer), None, trained=False)


def teacher_of(checkpoint: Path) -> str:
    """The name of the checkpoint that a few-step model was distilled from; empty for others."""
    try:
        told = json.loads((checkpoint / "training.json").read_text("utf-8"))
        return Path(told["teacher"]).name
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@dataclass
class Lane:
    """One contender's run.

    Attributes:
        events: all of the run. decoder: seconds to decode the finished latent.
        watching: seconds that the frames took, which generation alone would not need.
        frames: one per event, for the page. image: the finished image, if it means anything.
    """

    contender: Contender
    steps: tuple[int, ...]
    guidance: tuple[float, ...]
    events: list[TraceEvent] = field(default_factory=list)
    decoder: float = 0.0
    watching: float = 0.0
    frames: list[dict[str, Any]] = field(default_factory=list)
    image: Path | None = None

    @property
    def seconds(self) -> float:
        """Of the model itself."""
        return sum(event.seconds for event in self.events)

    @property
    def flops(self) -> int:
        return sum(event.flops for event in self.events)


@dataclass(frozen=True)
class Moment:
    """How far a comparison is: a sentence, and at the end both lanes and their view."""

    status: str
    lanes: tuple[Lane, ...] = ()
    view: dict[str, Any] | None = None


def compare(
    studio: Studio,
    rival: Rival,
    settings: Settings,
    dit_steps: int,
    dit_guidance: float,
    folder: Path,
) -> Iterator[Moment]:
    """Runs E-CAR, then the DiT, each after one uncounted step that warms it up.

    While a model runs nothing is drawn: the frames are when both are through, and the finished
    images go to ``folder``.

    Raises:
        EcarError: settings that a model does not take, a DiT that cannot be loaded.
    """
    label = str(settings)
    while not studio.is_opened(PAUSE):  # the first image is in the making, and would take our time
        yield Moment("The first image is awaited …")
    kind = "The DiT is loaded" if rival.trained else "A DiT of the same size is built"
    yield Moment(f"{kind} …")
    dit = rival.get()
    ecar = Contender("E-CAR", studio.pipeline, images_seen(studio.checkpoint))
    lanes = (
        Lane(ecar, settings.steps, settings.guidance),
        Lane(dit, (dit_steps,), (dit_guidance,)),
    )
    brief = replace(settings, steps=(1,) * len(settings.steps), edits=())
    runs = (
        (studio.trace(brief), studio.trace(settings)),
        (
            dit_trace(studio, dit, settings, 1, dit_guidance),
            dit_trace(studio, dit, settings, dit_steps, dit_guidance),
        ),
    )
    for lane, (warm_up, run) in zip(lanes, runs, strict=True):
        yield Moment(f"{lane.contender.name} is warmed up …")
        with closing(warm_up):
            yield from telling(warm_up, f"{lane.contender.name} is warmed up …")
        yield from timed(lane, run)
    for lane in lanes:
        yield from telling(draw(lane, studio.colours, folder), "The frames are drawn …")
    view = {
        "run": folder.name,
        "title": label,
        "lanes": [lane_view(lane) for lane in lanes],
    }
    yield Moment("", lanes, view)


def dit_trace(
    studio: Studio, dit: Contender, settings: Settings, steps: int, guidance: float
) -> Generator[TraceEvent]:
    """The DiT's events for the class, the seed and the solver of ``settings``; a few-step head's
    flow map is no solver of a DiT, which then takes its own."""
    return paced(
        dit.pipeline.trace(
            [settings.class_name],
            steps,
            guidance,
            torch.Generator().manual_seed(settings.seed),
            solver=settings.solver if settings.solver in SOLVERS else None,
            dtype=studio.dtype,
        )
    )


def telling(work: Iterable[Any], status: str) -> Iterator[Moment]:
    """Goes through the work and says so at its beginning and now and then: where something is told
    a run can be stopped."""
    told = -float("inf")
    for _ in work:
        if time.perf_counter() - told >= PAUSE:
            yield Moment(status)
            told = time.perf_counter()


def timed(lane: Lane, run: Generator[TraceEvent]) -> Iterator[Moment]:
    """Takes in a run's events; says now and then where it is, outside of the measured time."""
    told = time.perf_counter()
    with closing(run):
        for event in run:
            lane.events.append(event)
            now = time.perf_counter()
            if now - told >= PAUSE:
                told = now
                stage = f"stage {event.stage + 1}, " if event.num_stages > 1 else ""
                where = f"{stage}step {event.step} of {event.num_steps}"
                yield Moment(f"{lane.contender.name} runs: {where} …")


# -- frames ----------------------------------------------------------------------------------------


def draw(lane: Lane, colours: LatentColours, folder: Path) -> Iterator[None]:
    """Draws a lane's frames and writes its finished image; of an untrained model there is nothing
    to show. Yields between two pieces of work."""
    yield
    seconds, flops = 0.0, 0
    for event in lane.events:
        seconds, flops = seconds + event.seconds, flops + event.flops
        lane.frames.append(
            {
                "stage": event.stage,
                "step": event.step,
                "steps": event.num_steps,
                "side": event.latent.shape[-1],
                "seconds": round(seconds, 5),
                "gflop": round(flops / 1e9, 5),
            }
        )
    tokenizer, last = lane.contender.pipeline.tokenizer, lane.events[-1].latent
    finished = decode(tokenizer, last)  # once more than needed: the first call is slower
    decodings = (seconds_of(lambda: decode(tokenizer, last), tokenizer.device) for _ in range(3))
    lane.decoder = min(decodings)
    yield
    if not lane.contender.trained:
        return
    begin = time.perf_counter()
    name = lane.contender.name.lower()
    cheap = lane.decoder * len(lane.events) <= LONGEST_DECODING
    pictures: list[Tensor] = []
    for batch in estimates(lane) if cheap else ():
        pictures += batch
        yield
    if not cheap:
        pictures = [colours(event.clean_estimate) for event in lane.events]
    pictures[-1] = finished
    for number, (frame, event) in enumerate(zip(lane.frames, lane.events, strict=True)):
        shown = {"noisy": colours(event.latent), "clean": pictures[number]}
        for row, picture in shown.items():
            (frame[row],) = picture_urls(picture)
        frame["decoded"] = cheap or event is lane.events[-1]
        yield
    lane.image = folder / f"{name}.png"
    picture = to_pil(finished)[0]
    factor = max(1, SMALLEST_FINAL // picture.width)
    enlarge(picture, factor * picture.width, factor * picture.height).save(lane.image)
    lane.watching = time.perf_counter() - begin


def estimates(lane: Lane) -> Iterator[Sequence[Tensor]]:
    """The clean estimate of every event through the tokenizer; several of a size at once."""
    batch: list[Tensor] = []
    tokenizer = lane.contender.pipeline.tokenizer
    for event in lane.events:
        if batch and (len(batch) == BATCH or batch[0].shape != event.clean_estimate.shape):
            yield decode(tokenizer, torch.cat(batch)).split(1)
            batch = []
        batch.append(event.clean_estimate)
    yield decode(tokenizer, torch.cat(batch)).split(1)


def lane_view(lane: Lane) -> dict[str, Any]:
    """A lane as JSON."""
    contender, several = lane.contender, len(lane.steps) > 1
    return {
        "name": contender.name,
        "trained": contender.trained,
        "steps": plan_text(lane.steps),
        "hues": list(STAGE_HUES[: len(lane.steps)]) if several else ["#767676"],
        "seconds": lane.frames[-1]["seconds"],
        "gflop": lane.frames[-1]["gflop"],
        "frames": lane.frames,
    }
