"""The sampling loop of ``ecar_lab.trace`` in numpy, name by name, on exported graphs.

Nothing here knows torch, and nothing uses more than arithmetic on arrays and lists: the loop is
meant to be carried over to other languages line by line. What may be asked for is checked before,
in ``pipeline.py``.

Shapes: B images, C channels, r_s the side of stage s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecar_lab.onnx.exported import Array, Exported, Manifest
from ecar_lab.onnx.random import Generator

Velocity = Callable[[Array, int], Array]
FLOW_MAP = "flow-map"


@dataclass(frozen=True)
class StageEnd:
    """Where a run may begin: the end states of the stages that it has passed, coarsest first, and
    the clean estimate at the last of them; of an earlier run, or
    ``ecar_lab.interventions.stage_end_of`` a picture."""

    history: tuple[Array, ...]
    clean_estimate: Array


@dataclass(frozen=True)
class Settings:
    """What a run is asked for: one class and seed per image, the others one per stage."""

    labels: list[int]
    seeds: list[int]
    steps: list[int]
    guidance: list[float]
    intervals: list[tuple[float, float]]
    powers: list[float]
    solver: str
    noise: dict[int, Array] = field(default_factory=dict)  # by stage, in place of the seeds'
    renoise: bool = True
    start_from: StageEnd | None = None


@dataclass(frozen=True)
class Event:
    """One moment of a run; the names are those of ``ecar_lab.events.TraceEvent``."""

    stage: int
    step: int
    num_steps: int
    local_time: float
    t: float
    latent: Array
    clean_estimate: Array
    velocity_norm: Array | None
    token_map: Array
    history: tuple[Array, ...]
    guidance: float


@dataclass(frozen=True)
class OpenStage:
    """A stage whose token map is made: all that its flow steps and its events need."""

    index: int
    previous_end: Array | None
    times: list[float]
    velocity: Callable[[int], Velocity]
    token_map: Array
    history: tuple[Array, ...]


class Sampler:
    """The sampling loop, :meth:`run`, and its parts. One sampler makes one run."""

    def __init__(self, exported: Exported, settings: Settings):
        self.manifest, self.graphs, self.settings = exported.manifest, exported.graphs, settings
        self.batch_size = len(settings.labels)
        self.guided = [
            guided_steps(*stage)
            for stage in zip(
                settings.steps, settings.guidance, settings.intervals, settings.powers, strict=True
            )
        ]
        self.halves = guided_halves(self.manifest.few_step, self.guided)
        self.generators = [Generator(seed) for seed in settings.seeds]
        self.cache: Array | None = None  # (B, layers, 2, heads, tokens so far, d): keys and values

    def run(self) -> Iterator[Event]:
        start = self.settings.start_from
        history = () if start is None else start.history
        estimate = None if start is None else start.clean_estimate
        for stage in range(len(history)):  # an earlier run's stages: fill the cache again
            self._call_transformer(stage, history)
        for stage in range(len(history), len(self.manifest.stages)):
            at = self._open(stage, history)
            latent = self._start(at)
            if estimate is None:
                estimate = np.zeros_like(latent)
            else:
                estimate = upsample(estimate, self.manifest.ratio)
            yield self._event(at, 0, latent, estimate, None)
            previous = None  # velocity: each stage has a history of its own
            for step in range(self.settings.steps[stage]):
                latent, estimate, previous = self._step(at, latent, step, previous)
                yield self._event(at, step + 1, latent, estimate, previous)
            history = (*history, latent)

    def _step(
        self, at: OpenStage, latent: Array, step: int, previous: Array | None
    ) -> tuple[Array, Array, Array]:
        """The latent after a step, the clean estimate there, and the velocity to remember."""
        solve = STEPS_OF[self.settings.solver]
        ahead, slope = solve(at.velocity(step), latent, at.times, step, previous)
        used = (ahead - latent) / (at.times[step + 1] - at.times[step])
        estimate = clean_estimate(
            self.manifest, at.index, ahead, used, at.times[step + 1], at.previous_end
        )
        return ahead, estimate, slope

    def _open(self, stage: int, history: tuple[Array, ...]) -> OpenStage:
        """Calls the transformer, and makes ready what all flow steps of the stage share."""
        read_map, token_map = self._call_transformer(stage, history)
        times = time_grid(self.settings.steps[stage], self.settings.powers[stage])
        return OpenStage(
            index=stage,
            previous_end=history[-1] if history else None,
            times=times,
            velocity=self._velocity(stage, read_map, times),
            token_map=token_map,
            history=history,
        )

    def _call_transformer(self, stage: int, history: tuple[Array, ...]) -> tuple[Array, Array]:
        """One stage: what the head reads (its halves) and M_s (with class)."""
        halves, head_halves = self.halves[stage]
        name = self.manifest.stages[stage].transformer
        inputs = self.manifest.graphs[name]["inputs"]
        arrays: dict[str, NDArray] = {"class_labels": self._labels(halves)}
        if "previous_end" in inputs:
            arrays["previous_end"] = np.concatenate([history[stage - 1]] * halves)
        if "cache" in inputs:
            assert self.cache is not None
            arrays["cache"] = self.cache[: halves * self.batch_size]
        out = self.graphs[name].run(arrays)
        self.cache = out.get("new_cache", arrays.get("cache"))
        read_map = out["read_map"][: head_halves * self.batch_size]
        return read_map, out["token_map"][: self.batch_size]

    def _velocity(
        self, stage: int, read_map: Array, times: list[float]
    ) -> Callable[[int], Velocity]:
        """Of a step, v(x, i) at times[i]."""
        settings, head = self.settings, self.graphs[self.manifest.stages[stage].head]
        scale = settings.guidance[stage]

        def of_step(step: int) -> Velocity:
            halves = 1 + (self.halves[stage][1] > 1 and self.guided[stage][step])

            def velocity(state: Array, index: int) -> Array:
                arrays = {
                    "state": np.concatenate([state] * halves),
                    "read_map": read_map[: halves * self.batch_size],
                    "class_labels": self._labels(halves),
                    "local_time": as_array(times[index]),
                }
                if self.manifest.few_step:
                    span, guidance = self._span_and_guidance(stage, times, index)
                    arrays["span"], arrays["guidance"] = as_array(span), as_array(guidance)
                output = head.run(arrays)["velocity"]
                if halves == 1:
                    return output
                with_class, without = np.split(output, 2)
                return without + scale * (with_class - without)

            return velocity

        return of_step

    def _span_and_guidance(self, stage: int, times: list[float], index: int) -> tuple[float, float]:
        """What a few-step head is told at times[index].

        The span is that of the step under ``flow-map``; other solvers ask for velocities, span 0.
        """
        span = times[index + 1] - times[index] if self.settings.solver == FLOW_MAP else 0.0
        guided = self.guided[stage][min(index, len(self.guided[stage]) - 1)]
        return span, self.settings.guidance[stage] if guided else 1.0

    def _start(self, at: OpenStage) -> Array:
        """x_start: noise, or the transition from the stage before."""
        stage = self.manifest.stages[at.index]
        if at.previous_end is not None and not self.settings.renoise:
            return stage.scale * upsample(at.previous_end, self.manifest.ratio)
        noise = self.settings.noise.get(at.index)
        if noise is None:
            noise = self._white(self.manifest.latent_channels, stage.resolution)
        if at.previous_end is None:
            return noise
        return transition(self.manifest, at.index, at.previous_end, noise)

    def _white(self, channels: int, side: int) -> Array:
        """White noise (B, C, r, r), of each image from its own generator."""
        return np.stack([one.randn((channels, side, side)) for one in self.generators])

    def _labels(self, halves: int) -> NDArray[np.int64]:
        """Labels of the half with class and, if there are two halves, of the one without."""
        labels = np.array(self.settings.labels, np.int64)
        if halves == 1:
            return labels
        return np.concatenate([labels, np.full_like(labels, self.manifest.null_class)])

    def _event(
        self, at: OpenStage, step: int, latent: Array, estimate: Array, slope: Array | None
    ) -> Event:
        start, end = self.manifest.stages[at.index].window
        return Event(
            stage=at.index,
            step=step,
            num_steps=self.settings.steps[at.index],
            local_time=at.times[step],
            t=start + at.times[step] * (end - start),
            latent=latent,
            clean_estimate=estimate,
            velocity_norm=None if slope is None else np.sqrt(np.square(slope).mean((1, 2, 3))),
            token_map=at.token_map,
            history=at.history,
            guidance=self.settings.guidance[at.index],
        )


def as_array(number: float) -> Array:
    """A number as graphs take it, (1,)."""
    return np.array([number], np.float32)


def time_grid(steps: int, power: float) -> list[float]:
    """Local times of a stage's steps, from 0 to 1: ``tau_i = (i / K) ** power``."""
    return [(step / steps) ** power for step in range(steps + 1)]


def guided_steps(steps: int, scale: float, interval: Sequence[float], power: float) -> list[bool]:
    """Which of a stage's steps guidance acts in: those that start at ``low <= tau < high``."""
    low, high = interval
    return [scale != 1.0 and low <= tau < high for tau in time_grid(steps, power)[:-1]]


def guided_halves(few_step: bool, guided: list[list[bool]]) -> list[tuple[int, int]]:
    """How many halves (with class; without) transformer and head need at each stage: the
    transformer both up to the last guided stage, whose earlier keys and values it reads."""
    if few_step:
        return [(1, 1)] * len(guided)
    stages = [any(steps) for steps in guided]
    return [(1 + any(stages[stage:]), 1 + stages[stage]) for stage in range(len(stages))]


def upsample(latent: Array, ratio: int) -> Array:
    """Nearest-neighbour: every pixel becomes a block; (B, C, r, r) -> (B, C, ratio r, ratio r)."""
    return latent.repeat(ratio, axis=2).repeat(ratio, axis=3)


def block_mean(latent: Array, ratio: int) -> Array:
    """Mean of every block; (B, C, ratio r, ratio r) -> (B, C, r, r)."""
    batch, channels, side, _ = latent.shape
    blocks = latent.reshape(batch, channels, side // ratio, ratio, side // ratio, ratio)
    return blocks.mean((3, 5))


def transition(manifest: Manifest, stage: int, previous_end: Array, noise: Array) -> Array:
    """x_start of stage s >= 1: ``scale * Up(y) + sigma * eps``; see ``ecar_lab.flow``."""
    numbers, ratio = manifest.stages[stage], manifest.ratio
    if manifest.coupling == "correlated":
        rest = noise - upsample(block_mean(noise, ratio), ratio)
        noise = (ratio**2 / (ratio**2 - 1)) ** 0.5 * rest
    return (
        np.float32(numbers.scale) * upsample(previous_end, ratio)
        + np.float32(numbers.sigma) * noise
    )


def clean_estimate(
    manifest: Manifest,
    stage: int,
    state: Array,
    velocity: Array,
    local_time: float,
    previous_end: Array | None,
) -> Array:
    """The clean D_s(x) that a state and its velocity point to; see ``ecar_lab.flow``."""
    start_state = state - local_time * velocity
    end_state = state + (1 - local_time) * velocity
    numbers, ratio = manifest.stages[stage], manifest.ratio
    start, end = numbers.window
    if previous_end is None:
        return (end_state - (1 - end) * start_state) / end
    if manifest.coupling != "correlated":
        eps = (start_state - numbers.scale * upsample(previous_end, ratio)) / numbers.sigma
        return (end_state - (1 - end) * eps) / end
    start_mean, end_mean = block_mean(start_state, ratio), block_mean(end_state, ratio)
    clean_mean = ((1 - start) * end_mean - (1 - end) * start_mean) / (end - start)
    eps_rest = (start_state - upsample(start_mean, ratio)) / (1 - start)
    clean_rest = (end_state - upsample(end_mean, ratio) - (1 - end) * eps_rest) / end
    return upsample(clean_mean, ratio) + clean_rest


def euler_step(
    velocity: Velocity, state: Array, times: list[float], step: int, previous: Array | None
) -> tuple[Array, Array]:
    """``x + dt * v(x, t)``, and v."""
    slope = velocity(state, step)
    return state + (times[step + 1] - times[step]) * slope, slope


def heun_step(
    velocity: Velocity, state: Array, times: list[float], step: int, previous: Array | None
) -> tuple[Array, Array]:
    """Euler to look ahead, then the mean of both velocities."""
    ahead, first = euler_step(velocity, state, times, step, None)
    slope = (first + velocity(ahead, step + 1)) / 2
    return state + (times[step + 1] - times[step]) * slope, slope


def ab2_step(
    velocity: Velocity, state: Array, times: list[float], step: int, previous: Array | None
) -> tuple[Array, Array]:
    """``x + dt (v + r / 2 (v - v'))`` with the velocity v' of the step before, r = dt / dt'."""
    ahead, slope = euler_step(velocity, state, times, step, None)
    if previous is None:
        return ahead, slope
    length, before = times[step + 1] - times[step], times[step] - times[step - 1]
    return ahead + length * length / (2 * before) * (slope - previous), slope


STEPS_OF = {"euler": euler_step, "heun": heun_step, "ab2": ab2_step, FLOW_MAP: euler_step}
