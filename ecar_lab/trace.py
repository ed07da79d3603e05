"""The one stream that everything reads: an image coming into being, event by event.

:func:`trace` is the sampler. The pipeline, the app, the widgets and the tests consume it; none of
them samples by itself. Per stage it calls the transformer once, walks the flow head along the
stage's window, and hands the end state over: upsampled and noised a little. What may be changed on
the way (class, guidance, a region, the noise, where to start) is an argument of the same stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ecar_lab.arguments import as_dtype, as_generators, flags
from ecar_lab.cost import (
    guided_halves,
    guided_steps,
    head_setup_flops,
    transformer_flops,
    velocity_flops,
)
from ecar_lab.device import casting_once, synchronize
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.flow import (
    FLOW_MAP,
    STEPS_OF,
    Velocity,
    clean_estimate,
    num_times,
    transition,
    upsample,
)
from ecar_lab.interventions import (
    Generators,
    Labels,
    LatentEdit,
    RunSettings,
    as_edits,
    as_noise,
    as_shares,
    labels_per_stage,
    mixed_labels,
)
from ecar_lab.latents import check_latent, taken
from ecar_lab.model import ECAR
from ecar_lab.schedule import Intervals, per_stage, time_grid
from ecar_lab.schema import short

# What trace() returns. A consumer that iterates by hand may send a latent back: it takes the place
# of the event's, and the run goes on from there.
Stream = Generator[TraceEvent, Tensor | None, None]


def trace(
    model: ECAR,
    class_labels: Labels,
    num_inference_steps: int | Sequence[int] | None = None,
    guidance_scale: float | Sequence[float] | None = None,
    generator: Generators = None,
    *,
    guidance_interval: Intervals = None,
    time_power: float | Sequence[float] | None = None,
    solver: str | None = None,
    dtype: torch.dtype | str | None = None,
    start_from: TraceEvent | None = None,
    class_labels_from: Mapping[int, Labels] | None = None,
    class_mix: Mapping[int, tuple[Labels, float]] | None = None,
    noise: Mapping[int, Tensor] | None = None,
    edits: Sequence[LatentEdit] = (),
    renoise: bool | Sequence[bool] = True,
    attention_layer: int | None = None,
) -> Stream:
    """Generates images and yields every step of the way.

    Args:
        model: an :class:`ECAR`.
        class_labels: names or ids, one per image: a list, an array, a tensor, or just one.
        num_inference_steps: flow steps, one number or one per stage; None = the model's default.
        guidance_scale: g in ``v = v_none + g (v_class - v_none)``, on every channel; one number or
            one per stage. 1.0 means no guidance and costs no second half.
        generator: one torch.Generator for all noise of the run, or one per image (then an image
            does not depend on the batch it is in).
        guidance_interval: (low, high), one or one per stage: guidance acts in the steps that start
            at ``low <= tau < high`` of local time, the others cost no second half; None = the
            model's default, (0, 1) = the whole stage.
        time_power: p in the steps' local times ``(i / K) ** p``, one or one per stage; 1 = even
            steps, None = the model's default.
        solver: ``ab2`` (Adams-Bashforth 2), ``euler``, ``heun`` (two evaluations per step), or, for
            a few-step head, ``flow-map`` (1, 2 or 4 steps per stage, each one pass whatever the
            guidance); None = the model's default.
        dtype: autocast to this dtype, e.g. ``bfloat16``; None = the weights' own.
        start_from: an event of an earlier run (same model and batch size): go on from there. From a
            stage's end this forks at the next stage: earlier stages are kept, later ones drawn
            anew. Within a stage the history of ``ab2`` begins anew, so its first step is Euler's.
        class_labels_from: {stage: labels} in force from that stage on.
        class_mix: {stage: (other labels, share)}: in that stage the embedding of the class is 1 -
            share of its own and share of the other's; 0 is the own class alone, 1 the other.
        noise: {stage: white noise (B, C, r_s, r_s)} in place of what the generator would draw
            there; that of a stage which ``start_from`` has passed is not needed.
        edits: regions to replace on the way.
        renoise: False leaves out the noise at transitions (the ablation: block artefacts); or one
            value per stage, of which the first has no meaning.
        attention_layer: the transformer layer whose attention each stage's first event carries.

    Raises:
        EcarError: no ECAR; labels, steps, guidance, solver or interventions that do not fit the
            model; at the call, before anything is computed. On the way: a stage ends in a latent
            that is not finite or far beyond all data; a latent sent back has another shape.

    Example:
        >>> model = ECAR.from_preset("digits")
        >>> events = list(trace(model, [3], 4, generator=torch.Generator().manual_seed(0)))
        >>> events[-1].is_final
        True
    """
    if not isinstance(getattr(model, "_orig_mod", model), ECAR):
        raise EcarError(
            f"trace() was given {short(model)}: give an ECAR, e.g. pipe.model, and of a baseline "
            "use its own model.trace"
        )
    labels = labels_per_stage(model, class_labels, class_labels_from)
    settings = RunSettings(
        labels=mixed_labels(model, labels, class_mix),
        steps=model.inference_steps(num_inference_steps),
        guidance=model.guidance(guidance_scale),
        intervals=model.intervals(guidance_interval),
        powers=model.powers(time_power),
        generator=as_generators(generator, len(labels[0]), model.device),
        solver=model.solver(solver),
        noise=as_noise(noise),
        edits=as_edits(edits),
        renoise=flags(per_stage(renoise, model.schedule.num_stages, "renoise"), "renoise"),
        attention_layer=attention_layer,
    )
    settings.check(model, start_from)
    # A baseline that is built like E-CAR may walk its stages in a way of its own.
    sampler = getattr(model, "sampler", Sampler)
    made = sampler(model, settings, as_dtype(dtype))
    made.check_time(start_from)
    return made.run(start_from)


@dataclass(frozen=True)
class OpenStage:
    """A stage whose token map is made: all that its flow steps and its events need.

    ``velocity(step)`` is what the solver asks in a step, with guidance where the step has it.
    """

    index: int
    previous_end: Tensor | None
    times: list[float]
    velocity: Callable[[int], Velocity]
    token_map: Tensor
    attention: Tensor | None
    history: tuple[Tensor, ...]


class Sampler:
    """The sampling loop, :meth:`run`, and its parts. One sampler makes one run."""

    def __init__(self, model: ECAR, settings: RunSettings, dtype: torch.dtype | None):
        self.model, self.settings = model, settings
        self.device, weights = model.device, model.dtype  # diffusers looks through all modules
        # Mixed precision, unless the weights have the wanted dtype themselves.
        self.dtype = torch.float32 if dtype in (None, weights) else dtype
        plan = zip(
            settings.steps, settings.guidance, settings.intervals, settings.powers, strict=True
        )
        self.guided = [guided_steps(*stage) for stage in plan]
        self.halves = guided_halves(model.config, self.guided)
        self.cache = model.transformer.new_cache()
        self.casts = model.casts_of_run()
        self.clock = _Clock(self.device)
        self.flops = 0  # since the last event

    def check_time(self, start_from: TraceEvent | None) -> None:
        """Refuses to go on within a stage at another time than that of the event's latent.

        Raises:
            EcarError: the step of this run does not begin there.
        """
        if start_from is None or start_from.is_stage_end:
            return
        planned, found = self._times(start_from.stage)[start_from.step], start_from.local_time
        if not math.isclose(planned, found, abs_tol=1e-6):
            raise EcarError(
                f"start_from is at local time {found:g} of stage {start_from.stage}, where step "
                f"{start_from.step} of this run is at {planned:g}: use the same time_power"
            )

    @torch.no_grad()
    def run(self, start_from: TraceEvent | None) -> Stream:
        schedule, settings = self.model.schedule, self.settings
        history, estimate, within = (), None, None
        if start_from is not None:
            history = tuple(self._here(end) for end in start_from.history)
            estimate = self._here(start_from.clean_estimate)
            within = replace(start_from, latent=self._here(start_from.latent))
            if within.is_stage_end:
                history, within = (*history, within.latent), None
        for stage in range(len(history)):  # an earlier run's stages: fill the cache again
            self._call_transformer(stage, history)

        for stage in range(len(history), schedule.num_stages):
            at = self._open(stage, history)
            if within is not None:
                latent, first_step, within = within.latent, within.step, None
            else:
                latent, first_step = self._edit(self._start(at), at, 0), 0
                estimate = self._carry_over(latent, estimate)
                sent = yield self._event(at, 0, latent, estimate, None)
                latent = taken(latent, sent)
            previous = None  # velocity: each stage has a history of its own
            for step in range(first_step, settings.steps[stage]):
                self.clock.start()
                stepped, estimate, slope = self._step(at, latent, step, previous)
                latent = self._edit(stepped, at, step + 1)
                self.clock.stop("head")
                if step + 1 == settings.steps[stage]:
                    check_latent(latent, stage, settings.guidance[stage])
                sent = yield self._event(at, step + 1, latent, estimate, slope)
                latent = taken(latent, sent)
                # A latent that was changed is on another way, of which the velocity knows nothing.
                previous = slope if latent is stepped else None
            history = (*history, latent)

    def _here(self, latent: Tensor) -> Tensor:
        """A latent of an earlier run, which may have been on another device."""
        return latent.to(self.device, torch.float32)

    def _times(self, stage: int) -> list[float]:
        """Local times of a stage's steps, from its start to its end."""
        return time_grid(self.settings.steps[stage], self.settings.powers[stage])

    def _step(
        self, at: OpenStage, latent: Tensor, step: int, previous: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The latent after a step, the clean estimate there, and what the solver remembers of the
        step; ``previous`` is what it remembered of the step before.

        The estimate is that of the step's own velocity, which with ``ab2`` is nearer to the one at
        its end than the velocity that the head gave at its start.
        """
        solve = STEPS_OF[self.settings.solver]
        ahead, slope = solve(at.velocity(step), latent, at.times, step, previous)
        used = (ahead - latent) / (at.times[step + 1] - at.times[step])
        estimate = clean_estimate(
            self.model.schedule, at.index, ahead, used, at.times[step + 1], at.previous_end
        )
        return ahead, estimate, slope

    def _carry_over(self, latent: Tensor, estimate: Tensor | None) -> Tensor:
        """The clean estimate of a stage that has no velocity yet: the last one, upsampled."""
        if estimate is None:
            return torch.zeros_like(latent)
        return upsample(estimate, self.model.schedule.ratio)

    def _open(self, stage: int, history: tuple[Tensor, ...]) -> OpenStage:
        """Calls the transformer, and makes ready what all flow steps of the stage share."""
        read_map, token_map, attention = self._call_transformer(stage, history)
        times = self._times(stage)
        return OpenStage(
            index=stage,
            previous_end=history[-1] if history else None,
            times=times,
            velocity=self._velocity(stage, read_map, times),
            token_map=token_map,
            attention=attention,
            history=history,
        )

    def _call_transformer(
        self, stage: int, history: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One stage: what the head reads (its halves), M_s and attention (with class)."""
        (halves, head_halves), batch_size = self.halves[stage], self.settings.batch_size
        self.clock.start()
        self.cache.keep(halves * batch_size)
        previous = history[stage - 1].repeat(halves, 1, 1, 1) if stage else None
        with self._autocast():
            token_map, attention = self.model.transformer.step(
                stage,
                previous,
                self._labels(stage, halves),
                self.cache,
                self.settings.attention_layer,
            )
            read_map = self.model.head.read(token_map[: head_halves * batch_size])
        self.clock.stop("transformer")
        self.flops += halves * transformer_flops(self.model.config, stage)
        if attention is not None:
            attention = attention[:batch_size]
        return read_map, token_map[:batch_size], attention

    def _velocity(
        self, stage: int, read_map: Tensor, times: list[float]
    ) -> Callable[[int], Velocity]:
        """Of a step, v(x, i) at times[i]; the conditions of all times are made here, at once."""
        self.clock.start()
        settings, head, config = self.settings, self.model.head, self.model.config
        halves, scale = self.halves[stage][1], settings.guidance[stage]
        looked_at = num_times(settings.steps[stage], settings.solver)
        local_times = torch.tensor(times[:looked_at], dtype=torch.float32, device=read_map.device)
        asked = self._span_and_guidance(stage, times, looked_at) if head.few_step else ()
        with self._autocast():
            labels = self._labels(stage, halves)
            modulations = head.modulations(stage, local_times[:, None], labels, *asked)
        self.clock.stop("head")
        self.flops += halves * head_setup_flops(config, stage, looked_at)
        flops = velocity_flops(config, stage)

        def of_step(step: int) -> Velocity:
            halves = 1 + (self.halves[stage][1] > 1 and self.guided[stage][step])
            rows = halves * settings.batch_size

            def velocity(state: Tensor, index: int) -> Tensor:
                self.flops += halves * flops
                at_time = [modulation[index][:rows] for modulation in modulations]
                with self._autocast():
                    output = head(stage, state.repeat(halves, 1, 1, 1), read_map[:rows], at_time)
                if halves == 1:
                    return output
                with_class, without = output.chunk(2)
                return without + scale * (with_class - without)

            return velocity

        return of_step

    def _span_and_guidance(
        self, stage: int, times: list[float], count: int
    ) -> tuple[Tensor, Tensor]:
        """What a few-step head is told at the first ``count`` times, (K, 1) each.

        The span is that of the step under ``flow-map``; other solvers ask for velocities, span 0.
        """
        settings = self.settings
        spans = [later - now for now, later in pairwise(times)]
        if settings.solver != FLOW_MAP:
            spans = [0.0] * count
        guided = [*self.guided[stage], self.guided[stage][-1]][:count]
        scales = [settings.guidance[stage] if step else 1.0 for step in guided]
        told = torch.tensor([spans, scales], dtype=torch.float32, device=self.device)
        return told[0, :, None], told[1, :, None]

    def _start(self, at: OpenStage) -> Tensor:
        """x_start: noise, or the transition from the stage before."""
        schedule, device = self.model.schedule, self.device
        if at.previous_end is not None and not self.settings.renoise[at.index]:
            scale = schedule.transition(at.index).scale
            return scale * upsample(at.previous_end, schedule.ratio)
        noise = self.settings.noise.get(at.index)
        if noise is None:
            noise = self._white(self.settings.shape(self.model, at.index))
        noise = noise.to(device, torch.float32)
        if at.previous_end is None:
            return noise
        return transition(schedule, at.index, at.previous_end, noise)

    def _edit(self, latent: Tensor, at: OpenStage, step: int) -> Tensor:
        """The latent after all edits that are due now."""
        steps = self.settings.steps[at.index]
        for edit in self.settings.edits:
            due = steps if edit.step is None else edit.step
            if (edit.stage, due) != (at.index, step):
                continue
            if isinstance(edit.replacement, Tensor):
                new = edit.replacement.to(latent)
            elif edit.replacement == "zero":
                new = torch.zeros_like(latent)
            else:
                t = self.model.schedule.flow_time(at.index, at.times[step])
                new = (1 - t) * self._white(latent.shape)
            latent = torch.where(edit.mask.to(latent.device), new, latent)
        return latent

    def _white(self, shape) -> Tensor:
        return randn_tensor(tuple(shape), self.settings.generator, self.device, torch.float32)

    def _labels(self, stage: int, halves: int) -> Tensor:
        """Labels of the half with class and, if there are two halves, of the one without."""
        labels = self.settings.labels[stage]
        if halves == 1:
            return labels
        nobody = torch.full(labels.shape[:1], self.model.null_class, device=labels.device)
        return torch.cat((labels, as_shares(self.model, nobody) if labels.ndim > 1 else nobody))

    def _autocast(self):
        return casting_once(self.device, self.dtype, self.casts)

    def _event(
        self, at: OpenStage, step: int, latent: Tensor, estimate: Tensor, slope: Tensor | None
    ) -> TraceEvent:
        seconds, flops = self.clock.lap(), self.flops
        self.flops = 0
        return TraceEvent(
            stage=at.index,
            step=step,
            num_steps=self.settings.steps[at.index],
            local_time=at.times[step],
            t=self.model.schedule.flow_time(at.index, at.times[step]),
            latent=latent,
            clean_estimate=estimate,
            velocity_norm=None if slope is None else slope.square().mean((1, 2, 3)).sqrt(),
            token_map=at.token_map,
            attention=None if step else at.attention,
            history=at.history,
            class_labels=self.settings.labels[at.index],
            guidance=self.settings.guidance[at.index],
            seconds=sum(seconds.values()),
            seconds_split=seconds,
            flops=flops,
            cache_bytes=self.cache.bytes,
            num_stages=self.model.schedule.num_stages,
        )


class _Clock:
    """Computing time by part, since the last lap; waits for a GPU before it reads the time."""

    def __init__(self, device: torch.device):
        self.device = device
        self.parts = {"transformer": 0.0, "head": 0.0}
        self.started = 0.0

    def start(self) -> None:
        synchronize(self.device)
        self.started = time.perf_counter()

    def stop(self, part: str) -> None:
        synchronize(self.device)
        self.parts[part] += time.perf_counter() - self.started

    def lap(self) -> dict[str, float]:
        parts, self.parts = self.parts, dict.fromkeys(self.parts, 0.0)
        return parts
