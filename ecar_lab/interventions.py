"""What a run is asked for, and what is changed on its way: checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ecar_lab.arguments import given, plain, whole_number
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.flow import endpoints
from ecar_lab.latents import check_replacement, check_tensor
from ecar_lab.model import ECAR
from ecar_lab.schedule import per_stage
from ecar_lab.schema import short

# Labels may be arrays, too; whatever they come as, LatentGenerator.class_ids reads them.
Labels = str | int | Sequence[str | int] | Tensor
Generators = torch.Generator | Sequence[torch.Generator] | None
REPLACEMENTS = ("noise", "zero")


@dataclass(frozen=True)
class LatentEdit:
    """Replaces a region of the latent at one moment.

    Attributes:
        stage: where. step: after which flow step; None = the stage's end, 0 = its start.
        mask: (r_s, r_s) bool, True where the latent is replaced.
        replacement: ``zero``, ``noise`` (what a latent without signal holds at that time: white
            noise of standard deviation 1 - t), or a tensor that broadcasts to (B, C, r_s, r_s),
            e.g. the latent of another run's event.
    """

    stage: int
    mask: Tensor
    replacement: Tensor | str = "noise"
    step: int | None = None


@dataclass(frozen=True)
class RunSettings:
    """The arguments of ``trace()``, one entry per stage where they differ by stage."""

    labels: list[Tensor]  # ids, or shares: see mixed_labels
    steps: list[int]
    guidance: list[float]
    intervals: list[tuple[float, float]]
    powers: list[float]
    generator: torch.Generator | list[torch.Generator] | None
    solver: str
    noise: dict[int, Tensor]
    edits: tuple[LatentEdit, ...]
    renoise: list[bool]
    attention_layer: int | None

    @property
    def batch_size(self) -> int:
        return len(self.labels[0])

    def shape(self, model: ECAR, stage: int) -> tuple[int, int, int, int]:
        """(B, C, r_s, r_s)."""
        side = model.schedule.resolutions[stage]
        return self.batch_size, model.config.latent_channels, side, side

    def check(self, model: ECAR, start_from: TraceEvent | None) -> None:
        """Refuses what does not fit the model.

        Raises:
            EcarError: naming the value and what would fit.
        """
        model.check_few_step(self.steps, self.guidance, self.powers, self.solver)
        layers, layer = len(model.transformer.blocks), self.attention_layer
        if layer is not None and (type(layer) is not int or not 0 <= layer < layers):
            raise EcarError(f"there is no attention layer {short(layer)}: use 0 to {layers - 1}")
        self._check_noise_and_edits(model)
        if start_from is not None:
            self._check_start(model, start_from)

    def _check_noise_and_edits(self, model: ECAR) -> None:
        stages = model.schedule.num_stages
        for stage, noise in self.noise.items():
            check_stage(stage, stages, "noise")
            check_tensor(noise, self.shape(model, stage), f"noise of stage {stage}")
        for edit in self.edits:
            check_stage(edit.stage, stages, "an edit")
            mask, shape = edit.mask, self.shape(model, edit.stage)
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.is_meta:
                raise EcarError(f"the mask of an edit is {short(mask)}: give a bool tensor")
            if tuple(mask.shape) != shape[2:]:
                raise EcarError(
                    f"the mask of an edit at stage {edit.stage} is {tuple(mask.shape)}: "
                    f"it must be {shape[2:]}"
                )
            step = 0 if edit.step is None else whole_number(edit.step)
            if step is None or not 0 <= step <= self.steps[edit.stage]:
                raise EcarError(
                    f"an edit at step {short(edit.step)} of stage {edit.stage}: "
                    f"use 0 to {self.steps[edit.stage]}"
                )
            if isinstance(edit.replacement, Tensor):
                check_replacement(edit.replacement, shape)
            elif not isinstance(edit.replacement, str) or edit.replacement not in REPLACEMENTS:
                raise EcarError(
                    f"replacement {short(edit.replacement)}: use noise, zero or a tensor"
                )

    def _check_start(self, model: ECAR, start_from: TraceEvent) -> None:
        if not isinstance(start_from, TraceEvent):
            raise EcarError(f"start_from is {short(start_from)}: give an event of an earlier run")
        stage, stages = start_from.stage, model.schedule.num_stages
        if start_from.num_stages != stages:
            raise EcarError(
                f"start_from is of a model with {start_from.num_stages} stages, this one has "
                f"{stages}: use an event of the same model"
            )
        check_stage(stage, stages, "start_from")
        if start_from.is_final:
            raise EcarError("start_from is the last event of its run: choose an earlier one")
        planned = self.steps[stage]
        if not start_from.is_stage_end and start_from.num_steps != planned:
            raise EcarError(
                f"start_from lies within a stage of {start_from.num_steps} steps, this run has "
                f"{planned}: use the same number"
            )
        past, within = start_from.history, 0 <= start_from.step <= start_from.num_steps
        if not isinstance(past, Sequence) or len(past) != stage or not within:
            raise EcarError(
                "start_from is no event of a run, which has one end state for each stage before: "
                "use one as trace() gives it"
            )
        wanted = "start_from, an event of the same model and batch size,"
        check_tensor(start_from.latent, self.shape(model, stage), f"the latent of {wanted}")
        check_tensor(
            start_from.clean_estimate, self.shape(model, stage), f"the estimate of {wanted}"
        )
        for earlier, end in enumerate(past):
            check_tensor(end, self.shape(model, earlier), f"the history of {wanted}")
        for edit in self.edits:
            due = self.steps[edit.stage] if edit.step is None else edit.step
            begins = planned if start_from.is_stage_end else start_from.step
            if (edit.stage, due) <= (stage, begins):
                raise EcarError(
                    f"an edit at step {due} of stage {edit.stage}, and start_from is of step "
                    f"{begins} of stage {stage}: edit later, or start earlier"
                )


def stage_noise(model: ECAR, seeds: int | Sequence[int]) -> list[Tensor]:
    """The noise of one image, (1, C, r_s, r_s) per stage, as ``trace`` draws it from a seed.

    With one seed the run is that of ``torch.Generator().manual_seed(seed)``. With one seed per
    stage each stage has the noise it would have in the run of its own seed: the same first seeds
    and other last ones are a fork.

    Raises:
        EcarError: a list of another length, something that is no seed.
    """
    shapes = [(1, model.config.latent_channels, side, side) for side in model.schedule.resolutions]
    seeds = [check_seed(seed) for seed in per_stage(seeds, len(shapes), "seeds")]
    drawn = {}
    for seed in set(seeds):
        generator = torch.Generator().manual_seed(seed)
        drawn[seed] = [torch.randn(shape, generator=generator) for shape in shapes]
    return [drawn[seed][stage] for stage, seed in enumerate(seeds)]


def walk_noise(
    start: Sequence[Tensor], end: Sequence[Tensor], shares: float | Sequence[float]
) -> list[Tensor]:
    """Noise on the way from one draw to another, a tensor per stage.

    ``cos(θ) start + sin(θ) end`` with ``θ = share π/2``: as cos² + sin² = 1, two independent draws
    of white noise make white noise of the same standard deviation at every share, which a straight
    line does not (half way it would be 0.71). Each stage may be at a share of its own.

    Args:
        start, end: one tensor per stage, as :func:`stage_noise` gives them.
        shares: 0 is ``start``, 1 is ``end``; one for all stages, or one per stage.

    Raises:
        EcarError: a share outside 0 to 1, another number of stages.
    """
    if len(start) != len(end):
        raise EcarError(f"noise of {len(start)} and of {len(end)} stages: give as many of both")
    shares = [plain(share) for share in per_stage(shares, len(start), "shares")]
    if wrong := [s for s in shares if type(s) not in (int, float) or not 0 <= s <= 1]:
        raise EcarError(f"the share {short(wrong[0])} of a walk: use 0 to 1")
    walked = []
    for a, b, share in zip(start, end, shares, strict=True):
        angle = share * math.pi / 2
        # At the ends the draws themselves: cos(π/2) is not 0 in floating point.
        between = (
            a if share == 0 else b if share == 1 else math.cos(angle) * a + math.sin(angle) * b
        )
        walked.append(between)
    return walked


def check_seed(seed: Any) -> int:
    """The seed as an int that a torch.Generator takes."""
    number = whole_number(plain(seed))
    if number is None or not -(2**63) <= number < 2**64:
        raise EcarError(f"seed {short(seed)}: use a whole number, 0 to {2**64 - 1}")
    return number


def labels_per_stage(model: ECAR, class_labels: Labels, changes: Mapping | None) -> list[Tensor]:
    """(B,) ids for every stage; ``changes`` gives labels that hold from a stage on."""
    changes = {} if changes is None else changes
    wanted = "a dict of stages and labels"
    changes = by_stage(given(changes, Mapping, dict, "class_labels_from", wanted))
    labels = [model.class_ids(class_labels)] * model.schedule.num_stages
    for stage in changes:
        check_stage(stage, len(labels), "class_labels_from")
    for stage in sorted(changes):
        changed = model.class_ids(changes[stage])
        if len(changed) not in (1, len(labels[0])):
            raise EcarError(
                f"class_labels_from has {len(changed)} labels for {len(labels[0])} images: "
                "give one, or one per image"
            )
        labels[stage:] = [changed.expand(len(labels[0]))] * (len(labels) - stage)
    return labels


def mixed_labels(model: ECAR, labels: list[Tensor], mix: Mapping | None) -> list[Tensor]:
    """The labels of every stage, ids or, where ``mix``, ``{stage: (other labels, share)}``, names
    another class as well, (B, K + 1) shares of the classes.

    Raises:
        EcarError: a stage or a class that the model does not have, a share outside 0 to 1.
    """
    wanted = "a dict of stages and pairs (labels, share)"
    mix = by_stage(given({} if mix is None else mix, Mapping, dict, "class_mix", wanted))
    mixed = list(labels)
    for stage, pair in mix.items():
        own = labels[check_stage(stage, len(labels), "class_mix")]
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise EcarError(f"class_mix of stage {stage} is {short(pair)}: give (labels, share)")
        other, share = model.class_ids(pair[0]), plain(pair[1])
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise EcarError(f"the share {short(share)} of another class: use 0 to 1")
        if len(other) not in (1, len(own)):
            raise EcarError(
                f"class_mix has {len(other)} labels for {len(own)} images: give one, or one per "
                "image"
            )
        other = other.expand(len(own))
        if share == 1:
            mixed[stage] = other
        elif share:
            own, other = as_shares(model, own), as_shares(model, other)
            mixed[stage] = (1 - share) * own + share * other
    return mixed


def as_shares(model: ECAR, labels: Tensor) -> Tensor:
    """(B,) ids -> (B, K + 1), 1 at the class and 0 elsewhere; the last one is no class."""
    return one_hot(labels, model.num_classes + 1).float()


def as_noise(noise: Any) -> dict[int, Tensor]:
    """``{stage: noise}``, whose tensors are not looked at yet; None is none of it."""
    wanted = "a dict of stages and tensors"
    return by_stage(given({} if noise is None else noise, Mapping, dict, "noise", wanted))


def as_edits(edits: Any) -> tuple[LatentEdit, ...]:
    """The edits, of which no tensor is looked at yet, with stages and steps as plain numbers."""
    listed = given(edits, Sequence, tuple, "edits", "a list of LatentEdit")
    for edit in listed:
        if not isinstance(edit, LatentEdit):
            raise EcarError(f"an edit is {short(edit)}: give instances of LatentEdit")
    return tuple(replace(one, stage=index(one.stage), step=index(one.step)) for one in listed)


def index(value: Any) -> Any:
    """A whole number of whatever kind (1.0, an array's, a tensor's) as an int; all else as it is:
    it will be refused where its range is known."""
    number = whole_number(plain(value))
    return value if number is None else number


def by_stage(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same, with plain numbers as keys: a tensor would not be found again."""
    return {index(stage): value for stage, value in values.items()}


def check_stage(stage: Any, num_stages: int, name: str) -> int:
    """Refuses a stage that the model does not have, and returns it as an int."""
    number = whole_number(plain(stage))
    if number is None or not 0 <= number < num_stages:
        raise EcarError(f"{name} names stage {short(stage)}: use 0 to {num_stages - 1}")
    return number


def fork_seeds(
    seeds: Sequence[int], stage: int, count: int, candidates: Iterable[int]
) -> list[tuple[int, ...]]:
    """Seeds per stage, for :func:`stage_noise`, of runs that share their stages before ``stage``.

    Each of them has the noise of one other seed in all stages from ``stage`` on, taken from
    ``candidates`` in their order; a seed that ``seeds`` has there already would be no other one,
    and is left out.

    Args:
        seeds: of the run to fork, one per stage. stage: the first stage that gets other noise.
        count: how many runs.

    Returns:
        ``count`` tuples, fewer where the candidates end before.

    Raises:
        EcarError: a stage that no stage is before, or that the run does not have; no count.
    """
    own = given(seeds, Sequence, tuple, "seeds", "one per stage")
    stages, at, wanted = len(own), whole_number(stage), whole_number(count)
    if at is None or not 1 <= at < stages:
        raise EcarError(f"a fork at stage {short(stage)}: use 1 to {stages - 1}")
    if wanted is None or wanted < 0:
        raise EcarError(f"{short(count)} runs: use a whole number from 0 on")
    stage = at
    others = (seed for seed in candidates if seed not in own[stage:])
    return [(*own[:stage], *(seed,) * (stages - stage)) for seed in islice(others, wanted)]


def stage_end_of(
    model: ECAR, latent: Tensor, stage: int, class_labels: Labels, noise: Sequence[Tensor]
) -> TraceEvent:
    """The event that a run would have at a stage's end if ``latent`` were what it is to become.

    ``trace(..., start_from=event)`` lets the later stages complete it: a picture that was painted,
    or one from elsewhere, takes the place of what the stages up to ``stage`` decide. Their end
    states are those of training, ``e_s = b_s D_s(x) + (1 - b_s) eps_s``; nothing finer than
    ``D_stage(x)`` is handed on.

    Args:
        latent: x, the clean latent (B, C, R, R). stage: the last one that it decides.
        class_labels: names or ids, one per image or one for all.
        noise: white, one (B, C, r_s, r_s) per stage, coarsest first, as :func:`stage_noise` gives
            it for one image.

    Raises:
        EcarError: the last stage, which has none after it; a latent or noise of another shape.
    """
    stage = check_stage(stage, model.schedule.num_stages - 1, "stage")
    labels = model.class_ids(class_labels)
    count = len(latent) if isinstance(latent, Tensor) and latent.ndim == 4 and len(latent) else 1
    channels, sides = model.config.latent_channels, model.schedule.resolutions
    check_tensor(latent, (count, channels, sides[-1], sides[-1]), "the latent")
    noise = given(noise, Sequence, list, "noise", "a list of one tensor per stage")
    if len(noise) != len(sides):
        raise EcarError(f"there is noise of {len(noise)} stages: give {len(sides)}, one per stage")
    for number, (eps, side) in enumerate(zip(noise, sides, strict=True)):
        check_tensor(eps, (count, channels, side, side), f"noise of stage {number}")
    latent = latent.to(model.device, torch.float32)
    noise = [eps.to(latent) for eps in noise]
    if len(labels) not in (1, len(latent)):
        raise EcarError(
            f"{len(labels)} labels for {len(latent)} images: give one, or one per image"
        )
    _, ends = endpoints(model.schedule, latent, noise)
    side, (_, time) = model.schedule.resolutions[stage], model.schedule.window(stage)
    tokens = (side // model.config.patch_size) ** 2
    return TraceEvent(
        stage=stage,
        step=1,
        num_steps=1,
        local_time=1.0,
        t=time,
        latent=ends[stage],
        clean_estimate=model.pyramid(latent)[stage],
        velocity_norm=None,
        token_map=latent.new_zeros(len(latent), tokens, model.config.width),
        attention=None,
        history=tuple(ends[:stage]),
        class_labels=labels.expand(len(latent)),
        guidance=1.0,
        seconds=0.0,
        seconds_split={"transformer": 0.0, "head": 0.0},
        flops=0,
        cache_bytes=0,
        num_stages=model.schedule.num_stages,
    )
