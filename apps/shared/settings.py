"""What a person asked for: with the checkpoint, all that decides an image.

``Settings`` is what the page passes about, what the programs' interface takes, and what a recipe
file holds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apps.server.turns import paced
from apps.shared.painted import Painted
from apps.shared.work import check_work, copies_of
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.flow import DEFAULT_SOLVER, FLOW_MAP, check_solver
from ecar_lab.interventions import LatentEdit, stage_end_of, stage_noise, walk_noise
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schedule import Intervals, check_interval, check_power, plan_text
from ecar_lab.schema import Count, NotNegative, Share, Whole, check_values, hints_of, short, wrong
from ecar_lab.trace import trace

MAX_SEED = 2**31 - 1
ACTIONS = ("zero", "noise", "copy")
WHOLE, EVEN = (0.0, 1.0), 1.0
# Fields of Settings that change a run on its way; at their defaults nothing is changed.
CHANGES = (
    "classes", "seeds", "renoise", "edits", "mix_class", "mix", "walk_seed", "walk", "painted",
)  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """A painted region of the latent, and what is put there.

    Attributes:
        stage: where. step: after which flow step; None = the stage's end.
        mask: r_s rows of r_s characters, "1" where the latent is replaced.
        action: ``zero``, ``noise``, or ``copy``: the latent that another image has there.
        class_name, seed: of that other image (``copy``), made with the same steps and guidance.
    """

    stage: Whole
    mask: tuple[str, ...]
    action: str = "noise"
    step: Whole | None = None
    class_name: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        check_values(hints_of(Edit), vars(self))
        if self.action not in ACTIONS:
            raise EcarError(f"the action {self.action!r} is unknown: use {', '.join(ACTIONS)}")
        if any(set(row) - {"0", "1"} or len(row) != len(self.mask) for row in self.mask):
            raise EcarError("the mask of an edit must be as many rows of 0 and 1 as they are long")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise EcarError(f"an edit of seed {short(self.seed)}: use 0 to {MAX_SEED}")
        if self.action == "copy" and (self.class_name is None or self.seed is None):
            raise EcarError("an edit that copies must name class_name and seed of the other image")

    def __str__(self) -> str:
        cells = sum(row.count("1") for row in self.mask)
        what = f"{self.class_name}, seed {self.seed}" if self.action == "copy" else self.action
        moments = {None: "at the end", 0: "at the start"}
        when = moments.get(self.step, f"after step {self.step}")
        return f"{cells} latent pixels {when} of stage {self.stage + 1} ← {what}"


@dataclass(frozen=True)
class Settings:
    """What a person chose; with the checkpoint it decides every pixel.

    Attributes:
        class_name, seed: of the whole run, unless a stage has its own. steps, guidance: per stage.
        intervals: per stage the local times (low, high) between which guidance acts; empty: all of
            every stage. powers: of each stage's ``time_grid``; empty: even steps.
        classes, seeds: the class and the seed of the noise in each stage; empty: the same in all.
        mix_class, mix: in each stage the share of another class's embedding; empty: none of it.
        walk_seed, walk: how far each stage's noise has gone towards that of another seed, 0 to 1,
            as ``walk_noise`` goes; empty: nowhere.
        renoise: whether each stage's start gets new noise; empty: yes (the first value means
            nothing). edits: in the order in which they are made.
        painted: a painting from which the run starts, in place of its first stages.

    Raises:
        EcarError: a seed out of range, an interval that ends before it begins, a power that is not
            above 0, lists of different lengths.
    """

    class_name: str
    seed: int
    steps: tuple[Count, ...]
    guidance: tuple[NotNegative, ...]
    solver: str = DEFAULT_SOLVER
    classes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    renoise: tuple[bool, ...] = ()
    edits: tuple[Edit, ...] = ()
    intervals: tuple[tuple[float, float], ...] = ()
    powers: tuple[float, ...] = ()
    mix_class: str | None = None
    mix: tuple[Share, ...] = ()
    walk_seed: int | None = None
    walk: tuple[Share, ...] = ()
    painted: Painted | None = None

    def __post_init__(self) -> None:
        check_values(hints_of(Settings), vars(self))
        for other, shares in (("mix_class", "mix"), ("walk_seed", "walk")):
            if not any(getattr(self, shares)):  # nothing of the other: said in one way only
                object.__setattr__(self, other, None)
                object.__setattr__(self, shares, ())
            elif getattr(self, other) is None:
                raise EcarError(f"these settings have {shares} and no {other}: give {other}, too")
        for seed in (self.seed, *self.seeds, self.walk_seed or 0):
            if not 0 <= seed <= MAX_SEED:
                raise EcarError(f"seed {seed} is out of range: use 0 to {MAX_SEED}")
        if self.solver != FLOW_MAP:  # which is the model's to take or to refuse
            check_solver(self.solver)
        for name, check, usual in (
            ("intervals", check_interval, WHOLE),
            ("powers", check_power, EVEN),
        ):
            values = tuple(map(check, getattr(self, name)))
            plain = all(value == usual for value in values)  # which is said in one way only
            object.__setattr__(self, name, () if plain else values)
        stages = len(self.steps)
        for name in (
            "guidance",
            "intervals",
            "powers",
            "classes",
            "seeds",
            "renoise",
            "mix",
            "walk",
        ):
            values = getattr(self, name)
            if len(values) not in ({stages} if name == "guidance" else {0, stages}):
                raise EcarError(f"{name} has {len(values)} values for {stages} stages")

    @classmethod
    def of(
        cls,
        model: ECAR,
        class_name: str,
        seed: int = 0,
        steps: int | list[int] | None = None,
        guidance: float | list[float] | None = None,
        *,
        intervals: Intervals = None,
        powers: float | list[float] | None = None,
        solver: str | None = None,
        **options: Any,
    ) -> Settings:
        """Settings for a model; what is left out is the model's own, a number is for all stages.

        Raises:
            EcarError: a class, steps, guidance, intervals, powers or solver that the model does not
                take.
        """
        name = model.class_names[int(model.class_ids(class_name))]
        return cls(
            name,
            int(seed),
            tuple(model.inference_steps(steps)),
            tuple(model.guidance(guidance)),
            solver=model.solver(solver),
            intervals=tuple(model.intervals(intervals)),
            powers=tuple(model.powers(powers)),
            **options,
        )

    def __str__(self) -> str:
        steps = plan_text(self.steps)
        if self.powers:
            steps += f" of power {' / '.join(f'{power:g}' for power in self.powers)}"
        scales = [
            f"{scale:g}" if interval == WHOLE else f"{scale:g} in {interval_text(interval)}"
            for scale, interval in zip(self.guidance, self.all_intervals, strict=True)
        ]
        guidance = " / ".join(scales if len(set(scales)) > 1 else scales[:1])
        parts = [self.class_name, f"seed {self.seed}", f"steps {steps}", f"guidance {guidance}"]
        return ", ".join([*parts, *self.differences()])

    def differences(self) -> list[str]:
        """What sets this run apart from a plain one, a few words each."""
        return ([] if self.solver == DEFAULT_SOLVER else [self.solver]) + self.changes()

    def changes(self) -> list[str]:
        """What is changed on the way, a few words each."""
        words = []
        for name, values, plain in (
            ("class", self.classes, self.class_name),
            ("noise of seed", self.seeds, self.seed),
        ):
            words += [
                f"{name} {value} in stage {stage}"
                for stage, value in enumerate(values, 1)
                if value != plain
            ]
        for where, shares in (
            (self.mix_class, self.mix),
            (f"of the way to the noise of seed {self.walk_seed}", self.walk),
        ):
            if len(shares) > 1 and len(set(shares)) == 1 and shares[0]:
                words.append(f"{shares[0]:.0%} {where} in all stages")
                continue
            words += [
                f"{share:.0%} {where} in stage {stage}"
                for stage, share in enumerate(shares, 1)
                if share
            ]
        words += [
            f"no new noise in stage {stage}"
            for stage, new in enumerate(self.renoise, 1)
            if stage > 1 and not new
        ]
        words += [str(edit) for edit in self.edits]
        return words + ([str(self.painted)] if self.painted else [])

    @property
    def all_intervals(self) -> tuple[tuple[float, float], ...]:
        """One interval per stage, also where the field is empty."""
        return self.intervals or (WHOLE,) * len(self.steps)

    @property
    def all_powers(self) -> tuple[float, ...]:
        """One power per stage, also where the field is empty."""
        return self.powers or (EVEN,) * len(self.steps)

    @property
    def file_name(self) -> str:
        """Name of the finished image."""
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.class_name)}-seed{self.seed}.png"

    def check_whole(self) -> None:
        """
        Raises:
            EcarError: there are stages that the run did not make, a painting took their place.
        """
        if self.painted is not None:
            raise EcarError(
                f"in this run {self.painted}: its first stages were never computed, choose a run "
                "that has them all"
            )

    def plain(self) -> Settings:
        """The same run with nothing changed on its way."""
        fields = (field for field in dataclasses.fields(self) if field.name in CHANGES)
        return dataclasses.replace(self, **{field.name: field.default for field in fields})

    def changed_as(self, other: Settings) -> Settings:
        """This run with what is changed on the way of the ``other``, whose own class and seed are
        this run's where a stage has them."""
        changes = {name: getattr(other, name) for name in CHANGES}
        for own, name, names in (
            (self.class_name, other.class_name, "classes"),
            (self.seed, other.seed, "seeds"),
        ):
            changes[names] = tuple(own if one == name else one for one in changes[names])
        return dataclasses.replace(self, **changes)

    # -- as arguments of trace() -------------------------------------------------------------------

    def trace_arguments(self, model: ECAR, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """``trace(model, **arguments)`` is this run. An edit that copies runs its other image here.

        Raises:
            EcarError: settings that do not fit the model, or need more than one run may.
        """
        stages = model.schedule.num_stages
        if len(self.steps) != stages:
            raise EcarError(
                f"these settings are for {len(self.steps)} stages, the model has {stages}"
            )
        check_work(model, self)
        classes = self.classes or (self.class_name,) * stages
        noise = stage_noise(model, self.seeds or self.seed)
        if self.walk_seed is not None:
            noise = walk_noise(noise, stage_noise(model, self.walk_seed), self.walk)
        copied = self._copied(model, dtype)
        return {
            "class_labels": [classes[0]],
            "class_labels_from": {stage: [name] for stage, name in enumerate(classes) if stage},
            "num_inference_steps": list(self.steps),
            "guidance_scale": list(self.guidance),
            "guidance_interval": self.all_intervals,
            "time_power": self.all_powers,
            "solver": self.solver,
            "class_mix": {stage: ([self.mix_class], share) for stage, share in enumerate(self.mix)},
            "noise": dict(enumerate(noise)),
            "generator": torch.Generator().manual_seed(self.seed),  # for an edit's noise
            "renoise": list(self.renoise) or True,
            "edits": [self._latent_edit(edit, copied) for edit in self.edits],
            "dtype": dtype,
        }

    def _copied(self, model: ECAR, dtype: torch.dtype | None) -> dict[tuple, Tensor]:
        """The latents that edits copy, by class, seed, stage and step; each image is run once."""
        latents: dict[tuple, Tensor] = {}
        for (class_name, seed), moments in copies_of(self).items():
            other = dataclasses.replace(self.plain(), class_name=class_name, seed=seed)
            for event in paced(trace(model, **other.trace_arguments(model, dtype))):
                moment = (event.stage, event.step)
                if moment in moments:
                    latents[class_name, seed, *moment] = event.latent
                if moment >= max(moments):
                    break
        return latents

    def _latent_edit(self, edit: Edit, copied: Mapping[tuple, Tensor]) -> LatentEdit:
        mask = torch.tensor([[cell == "1" for cell in row] for row in edit.mask])
        replacement: Tensor | str = edit.action
        if edit.action == "copy":
            step = self.steps[edit.stage] if edit.step is None else edit.step
            moment = (edit.class_name, edit.seed, edit.stage, step)
            replacement = copied.get(moment, edit.action)  # a moment that is none is refused later
        return LatentEdit(edit.stage, mask, replacement, edit.step)

    def events(
        self, pipeline: ECARPipeline, dtype: torch.dtype | None = None, **options: Any
    ) -> Generator[TraceEvent]:
        """The run's events on a pipeline, in turns with those of other visitors; of a painted one
        the first is the painted stage's end.

        Raises:
            EcarError: settings that do not fit the model.
        """
        arguments = self.trace_arguments(pipeline.model, dtype)
        if self.painted is None:
            return paced(pipeline.trace(**arguments, **options))
        latent, noise = self.painted.latent(pipeline), list(arguments["noise"].values())
        noise = [eps.to(pipeline.device) for eps in noise]
        labels = (self.classes or (self.class_name,) * len(self.steps))[self.painted.stage]
        start = stage_end_of(pipeline.model, latent, self.painted.stage, labels, noise)
        return paced(_after(start, pipeline.trace(**arguments, start_from=start, **options)))

    # -- as JSON -----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a recipe file or the programs' interface."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """The inverse of :meth:`to_json`. What is not named is as it was before there was a choice.

        Raises:
            EcarError: a field is missing, unknown or of another kind.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - fields):
            raise EcarError(
                f"the setting {unknown[0]!r} is unknown: use {', '.join(sorted(fields))}"
            )
        for name in ("class_name", "seed", "steps", "guidance"):
            if name not in values:
                raise EcarError(f"these settings have no {name}: give {name}, too")
        edits = values.get("edits", ())
        if not isinstance(edits, list | tuple):
            raise wrong("edits", edits, list[Edit])
        plain: dict[str, Any] = {name: _tuples(value) for name, value in values.items()}
        plain["edits"] = tuple(map(_edit_from_json, edits))
        plain["painted"] = Painted.from_json(values.get("painted"))
        plain.setdefault("solver", "euler")
        return cls(**plain)


def _after(first: TraceEvent, later: Iterable[TraceEvent]) -> Iterator[TraceEvent]:
    yield first
    yield from later


def interval_text(interval: tuple[float, float]) -> str:
    """0–0.5"""
    return f"{interval[0]:g}–{interval[1]:g}"


def _tuples(value: Any) -> Any:
    """JSON has lists where settings have tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _edit_from_json(values: Any) -> Edit:
    fields = {field.name for field in dataclasses.fields(Edit)}
    if not isinstance(values, Mapping) or not {"stage", "mask"} <= set(values) <= fields:
        raise EcarError(
            f"the edit {short(values)} cannot be read: give an object with stage and mask, and of "
            f"{', '.join(sorted(fields - {'stage', 'mask'}))} what it needs"
        )
    return Edit(**{name: _tuples(value) for name, value in values.items()})


def whole(value: Any, name: str) -> int:
    """The value, if it is a whole number.

    Raises:
        EcarError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise EcarError(f"{name} is {_typed(value)}: give a whole number")
    return int(value)


def _typed(value: Any) -> str:
    """What stands in a field, as a sentence quotes it."""
    return "empty" if value is None else repr(str(value)[:40])


def number(value: Any, name: str) -> float:
    """The value, if it is a number.

    Raises:
        EcarError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EcarError(f"{name} is {_typed(value)}: give a number")
    return value


def seed_of(value: Any) -> int:
    """The seed in a field of the page; an empty one means 0.

    Raises:
        EcarError: it holds something else than a whole number.
    """
    return 0 if value is None else whole(value, "seed")
