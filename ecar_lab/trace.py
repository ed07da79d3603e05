"""The one stream that everything reads: an image coming into being, event by event.

:func:`trace` is the sampler. The pipeline, the app, the widgets and the tests consume it; none of
them samples by itself. Per stage it calls the transformer once, walks the flow head along the
stage's window, and hands the end state over: upsampled and noised a little. What may be changed on
the way (class, guidance, a region, the noise, where to start) is an argument of the same stream.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ecar_lab.cost import guided_halves, head_setup_flops, transformer_flops, velocity_flops
from ecar_lab.device import autocast, synchronize
from ecar_lab.events import TraceEvent
from ecar_lab.flow import SOLVERS, Velocity, clean_estimate, num_times, transition, upsample
from ecar_lab.interventions import (
    Generators,
    Labels,
    LatentEdit,
    RunSettings,
    labels_per_stage,
)
from ecar_lab.model import ECAR
from ecar_lab.schedule import per_stage

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
    solver: str = "euler",
    dtype: torch.dtype | None = None,
    start_from: TraceEvent | None = None,
    class_labels_from: Mapping[int, Labels] | None = None,
    noise: Mapping[int, Tensor] | None = None,
    edits: Sequence[LatentEdit] = (),
    renoise: bool | Sequence[bool] = True,
    attention_layer: int | None = None,
) -> Stream:
    """Generates images and yields every step of the way.

    Args:
        model: an :class:`ECAR`.
        class_labels: names or ids, one per image.
        num_inference_steps: flow steps, one number or one per stage; None = the model's default.
        guidance_scale: g in ``v = v_none + g (v_class - v_none)``, on every channel; one number or
            one per stage. 1.0 means no guidance and costs no second half.
        generator: one torch.Generator for all noise of the run, or one per image (then an image
            does not depend on the batch it is in).
        solver: ``euler``, or ``heun`` (two evaluations a step).
        dtype: autocast to this dtype; None = the weights' own.
        start_from: an event of an earlier run (same model and batch size): go on from there. From a
            stage's end this forks at the next stage: earlier stages are kept, later ones drawn
            anew.
        class_labels_from: {stage: labels} in force from that stage on.
        noise: {stage: white noise (B, C, r_s, r_s)} in place of what the generator would draw
        there.
        edits: regions to replace on the way.
        renoise: False leaves out the noise at transitions (the ablation: block artefacts); or one
            value per stage, of which the first has no meaning.
        attention_layer: the transformer layer whose attention each stage's first event carries.

    Raises:
        EcarError: labels, steps, guidance, solver or interventions that do not fit the model; at
            the call, before anything is computed.

    Example:
        >>> model = ECAR.from_preset("digits")
        >>> events = list(trace(model, [3], 4, generator=torch.Generator().manual_seed(0)))
        >>> events[-1].is_final
        True
    """
    settings = RunSettings(
        labels=labels_per_stage(model, class_labels, class_labels_from or {}),
        steps=model.inference_steps(num_inference_steps),
        guidance=model.guidance(guidance_scale),
        generator=list(generator) if isinstance(generator, Sequence) else generator,
        solver=solver,
        noise=dict(noise or {}),
        edits=tuple(edits),
        renoise=per_stage(renoise, model.schedule.num_stages, "renoise"),
        attention_layer=attention_layer,
    )
    settings.check(model, start_from)
    # A baseline that is built like E-CAR may walk its stages in a way of its own.
    sampler = getattr(model, "sampler", Sampler)
    return sampler(model, settings, dtype).run(start_from)


@dataclass(frozen=True)
class OpenStage:
    """A stage whose token map is made: all that its flow steps and its events need."""

    index: int
    previous_end: Tensor | None
    times: list[float]
    velocity: Velocity
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
        self.halves = guided_halves(settings.guidance)
        self.cache = model.transformer.new_cache()
        self.clock = _Clock(self.device)
        self.flops = 0  # since the last event

    @torch.no_grad()
    def run(self, start_from: TraceEvent | None) -> Stream:
        schedule, settings = self.model.schedule, self.settings
        history, estimate, within = (), None, None
        if start_from is not None:
            history, estimate = start_from.history, start_from.clean_estimate
            if start_from.is_stage_end:
                history = (*history, start_from.latent)
            else:
                within = start_from
        for stage in range(len(history)):  # an earlier run's stages: fill the cache again
            self._call_transformer(stage, history)

        for stage in range(len(history), schedule.num_stages):
            at = self._open(stage, history)
            if within is not None:
                latent, first_step, within = within.latent, within.step, None
            else:
                latent, first_step = self._edit(self._start(at), stage, 0), 0
                estimate = self._carry_over(latent, estimate)
                sent = yield self._event(at, 0, latent, estimate, None)
                latent = latent if sent is None else sent
            for step in range(first_step, settings.steps[stage]):
                self.clock.start()
                latent, estimate, slope = self._step(at, latent, step)
                latent = self._edit(latent, stage, step + 1)
                self.clock.stop("head")
                sent = yield self._event(at, step + 1, latent, estimate, slope)
                latent = latent if sent is None else sent
            history = (*history, latent)

    def _times(self, stage: int) -> list[float]:
        """Local times of a stage's steps, from its start to its end."""
        steps = self.settings.steps[stage]
        return torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()

    def _step(self, at: OpenStage, latent: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The latent after a step, the clean estimate there, and the velocity used."""
        latent, slope = SOLVERS[self.settings.solver](at.velocity, latent, at.times, step)
        estimate = clean_estimate(
            self.model.schedule, at.index, latent, slope, at.times[step + 1], at.previous_end
        )
        return latent, estimate, slope

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

    def _velocity(self, stage: int, read_map: Tensor, times: list[float]) -> Velocity:
        """v(x, i) at times[i], guided; the conditions of all times are made here, at once."""
        self.clock.start()
        settings, head, config = self.settings, self.model.head, self.model.config
        halves, scale = self.halves[stage][1], settings.guidance[stage]
        looked_at = num_times(settings.steps[stage], settings.solver)
        local_times = torch.tensor(times[:looked_at], dtype=torch.float32, device=read_map.device)
        with self._autocast():
            modulations = head.modulations(stage, local_times[:, None], self._labels(stage, halves))
        self.clock.stop("head")
        self.flops += halves * head_setup_flops(config, stage, looked_at)
        flops = halves * velocity_flops(config, stage)

        def velocity(state: Tensor, index: int) -> Tensor:
            self.flops += flops
            at_time = [modulation[index] for modulation in modulations]
            with self._autocast():
                output = head(stage, state.repeat(halves, 1, 1, 1), read_map, at_time)
            if halves == 1:
                return output
            with_class, without = output.chunk(2)
            return without + scale * (with_class - without)

        return velocity

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

    def _edit(self, latent: Tensor, stage: int, step: int) -> Tensor:
        """The latent after all edits that are due now."""
        steps = self.settings.steps[stage]
        for edit in self.settings.edits:
            due = steps if edit.step is None else edit.step
            if (edit.stage, due) != (stage, step):
                continue
            if isinstance(edit.replacement, Tensor):
                new = edit.replacement.to(latent)
            elif edit.replacement == "zero":
                new = torch.zeros_like(latent)
            else:
                t = self.model.schedule.flow_time(stage, step / steps)
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
        return torch.cat((labels, torch.full_like(labels, self.model.null_class)))

    def _autocast(self):
        return autocast(self.device, self.dtype)

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
