"""How the one-stage baselines are sampled: guidance, noise and events as in ``ecar_lab.trace``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ecar_lab.arguments import as_dtype, as_generators
from ecar_lab.baselines.objective import Walked
from ecar_lab.cost import guided_steps
from ecar_lab.device import casting_once, synchronize
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.generator import LatentGenerator
from ecar_lab.interventions import Generators, Labels
from ecar_lab.latents import check_latent
from ecar_lab.schedule import Intervals
from ecar_lab.trace import Stream


class Run(NamedTuple):
    """What a sampling run was asked for, checked; ``power``: of the time grid; ``guided``: which
    steps guidance acts in; ``dtype`` is that of the matrix products."""

    labels: Tensor
    steps: int
    guidance: float
    power: float
    guided: list[bool]
    generator: Any
    solver: str
    dtype: torch.dtype


class Baseline(LatentGenerator):
    """A generator of one stage. Its sampling is one walk from noise to data, or something of its
    own, if it overrides :meth:`trace` and :meth:`flops`."""

    default_solver: ClassVar[str] = "euler"  # as the literature samples them

    def walk(self, run: Run, noise: Tensor) -> Iterator[Walked]:
        """The steps of one run; ``noise`` (B, C, R, R) white."""
        raise NotImplementedError

    def step_flops(self, guided: Sequence[bool], solver: str) -> list[int]:
        """FLOPs of every step, one image, 2 per multiply-add."""
        raise NotImplementedError

    def flops(
        self,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        solver: str | None = None,
        *,
        guidance_interval: Intervals = None,
        time_power: float | Sequence[float] | None = None,
    ) -> dict[str, list[int]]:
        """FLOPs of one image, without the decoder: ``{"network": [one number]}``."""
        guided = guided_steps(
            self.inference_steps(num_inference_steps)[0],
            self.guidance(guidance_scale)[0],
            self.intervals(guidance_interval)[0],
            self.powers(time_power)[0],
        )
        return {"network": [sum(self.step_flops(guided, self.solver(solver)))]}

    def trace(
        self,
        class_labels: Labels,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        generator: Generators = None,
        *,
        guidance_interval: Intervals = None,
        time_power: float | Sequence[float] | None = None,
        solver: str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Stream:
        """Generates images and yields every step, as :func:`ecar_lab.trace` does for E-CAR.

        The events have one stage and an empty token map. A latent that is sent back is refused.

        Raises:
            EcarError: labels, steps, guidance, interval, grid or solver that do not fit; an end
                that is not finite.
        """
        return self._events(
            self.check_run(
                class_labels, num_inference_steps, guidance_scale, generator, solver, dtype,
                guidance_interval, time_power,
            )
        )  # fmt: skip

    def check_run(
        self,
        class_labels: Labels,
        num_inference_steps: int | Sequence[int] | None,
        guidance_scale: float | Sequence[float] | None,
        generator: Generators,
        solver: str | None,
        dtype: torch.dtype | str | None,
        guidance_interval: Intervals,
        time_power: float | Sequence[float] | None,
    ) -> Run:
        """The arguments of :meth:`trace`, with the model's defaults filled in.

        Raises:
            EcarError: one that does not fit.
        """
        steps = self.inference_steps(num_inference_steps)[0]
        guidance = self.guidance(guidance_scale)[0]
        interval, power = self.intervals(guidance_interval)[0], self.powers(time_power)[0]
        labels, dtype = self.class_ids(class_labels), as_dtype(dtype)
        return Run(
            labels=labels,
            steps=steps,
            guidance=guidance,
            power=power,
            guided=guided_steps(steps, guidance, interval, power),
            generator=as_generators(generator, len(labels), self.device),
            solver=self.solver(solver),
            dtype=torch.float32 if dtype in (None, self.dtype) else dtype,
        )

    def white(self, run: Run) -> Tensor:
        """The run's noise (B, C, R, R)."""
        size = self.config.latent_size
        shape = (len(run.labels), self.config.latent_channels, size, size)
        return randn_tensor(shape, run.generator, self.device, torch.float32)

    @torch.no_grad()
    def _events(self, run: Run) -> Stream:
        noise, steps = self.white(run), run.steps
        casts = self.casts_of_run()
        flops = self.step_flops(run.guided, run.solver)
        yield one_stage_event(run, 0, steps, noise, torch.zeros_like(noise))
        walk = self.walk(run, noise)
        for step in range(1, steps + 1):
            synchronize(self.device)
            started = time.perf_counter()
            with casting_once(self.device, run.dtype, casts):
                walked = next(walk)
            synchronize(self.device)
            seconds = {"network": time.perf_counter() - started}
            if step == steps:
                check_latent(walked.state, 0, run.guidance)
            sent = yield one_stage_event(
                run, step, steps, walked.state, walked.clean_estimate, walked.t, walked.output,
                seconds, flops[step - 1],
            )  # fmt: skip
            refuse_change(sent)

    def sample(
        self,
        class_labels: Labels,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        **options: Any,
    ) -> Tensor:
        """Latents (B, C, R, R): the last event of :meth:`trace`."""
        *_, last = self.trace(
            class_labels, num_inference_steps, guidance_scale, generator, **options
        )
        return last.latent


def refuse_change(sent: Tensor | None) -> None:
    """Refuses a latent that a consumer sent back.

    Raises:
        EcarError: there is one.
    """
    if sent is not None:
        raise EcarError("a baseline's run cannot be changed on its way: only E-CAR's can")


def one_stage_event(
    run: Run,
    step: int,
    num_steps: int,
    latent: Tensor,
    clean_estimate: Tensor,
    t: float = 0.0,
    output: Tensor | None = None,
    seconds: dict[str, float] | None = None,
    flops: int = 0,
    cache_bytes: int = 0,
) -> TraceEvent:
    """An event of the only stage; ``output`` (B, ...) is what the network said."""
    seconds = seconds or {}
    return TraceEvent(
        stage=0,
        step=step,
        num_steps=num_steps,
        local_time=step / num_steps,
        t=t,
        latent=latent,
        clean_estimate=clean_estimate,
        velocity_norm=None if output is None else output.flatten(1).square().mean(1).sqrt(),
        token_map=latent.new_empty(len(latent), 0, 0),
        attention=None,
        history=(),
        class_labels=run.labels,
        guidance=run.guidance,
        seconds=sum(seconds.values()),
        seconds_split=seconds,
        flops=flops,
        cache_bytes=cache_bytes,
        num_stages=1,
    )
