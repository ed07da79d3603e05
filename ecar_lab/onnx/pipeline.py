"""An export in the words of the kit: labels in, the events of ``trace`` out, computed elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecar_lab.bounds import check_images
from ecar_lab.cost import head_setup_flops, stage_tokens, transformer_flops, velocity_flops
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.flow import EVALUATIONS, num_times
from ecar_lab.interventions import check_seed
from ecar_lab.latents import check_latent
from ecar_lab.model import ECAR
from ecar_lab.onnx.export import numbers
from ecar_lab.onnx.exported import AGAIN, Exported
from ecar_lab.onnx.runtime import Event, Sampler, Settings
from ecar_lab.schedule import Intervals
from ecar_lab.tokenizers.base import Tokenizer


class OnnxTokenizer(Tokenizer):
    """The decoder of an export; it cannot encode."""

    def __init__(self, exported: Exported):
        manifest = exported.manifest
        super().__init__(manifest.downsample_factor, manifest.latent_channels)
        self.graph = exported.graphs[manifest.decoder]  # which knows the latent's statistics

    def _decode(self, z: Tensor) -> Tensor:
        return torch.from_numpy(self.graph.run({"latent": z.numpy()})["images"])


class OnnxPipeline:
    """What ``ecar sample`` asks of a pipeline, on an export.

    ``model`` has no weights: it knows classes, defaults and what may be asked for.
    """

    def __init__(self, exported: Exported):
        self.exported = exported
        try:
            with torch.device("meta"):
                self.model = ECAR(**exported.manifest.config)
        except TypeError as error:
            raise EcarError(f"the manifest's config is no model's ({error}): {AGAIN}") from error
        said = asdict(exported.manifest)
        for name, value in numbers(self.model, exported.manifest.downsample_factor).items():
            if said[name] != value:
                raise EcarError(f"the manifest's {name} are not those of its config: {AGAIN}")
        self.tokenizer = OnnxTokenizer(exported)

    def settings(
        self,
        class_labels: Any,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        seeds: Sequence[int] = (0,),
        *,
        guidance_interval: Intervals = None,
        time_power: float | Sequence[float] | None = None,
        solver: str | None = None,
        noise: Mapping[int, Any] | None = None,
        renoise: bool = True,
    ) -> Settings:
        """The arguments of a run, checked as ``trace`` checks them; one seed per image.

        Raises:
            EcarError: see ``trace``.
        """
        model, labels = self.model, self.model.class_numbers(class_labels)
        check_images(model.config, len(labels), "cpu")
        settings = Settings(
            labels=labels,
            seeds=[check_seed(seed) for seed in seeds],
            steps=model.inference_steps(num_inference_steps),
            guidance=model.guidance(guidance_scale),
            intervals=model.intervals(guidance_interval),
            powers=model.powers(time_power),
            solver=model.solver(solver),
            noise={stage: np.asarray(one, np.float32) for stage, one in (noise or {}).items()},
            renoise=renoise,
        )
        model.check_few_step(settings.steps, settings.guidance, settings.powers, settings.solver)
        if len(settings.seeds) != len(settings.labels):
            raise EcarError(
                f"{len(settings.seeds)} seeds for {len(settings.labels)} images: give one each"
            )
        return settings

    def trace(self, *args: Any, **kwargs: Any) -> Iterator[TraceEvent]:
        """The events of a run; arguments of :meth:`settings`.

        Raises:
            EcarError: see there; a stage ends in a latent that is no image's.
        """
        settings = self.settings(*args, **kwargs)
        return self._events(Sampler(self.exported, settings), settings)

    def _events(self, sampler: Sampler, settings: Settings) -> Iterator[TraceEvent]:
        started = time.perf_counter()
        for event in sampler.run():
            seconds = time.perf_counter() - started
            yield self._as_trace_event(event, sampler, settings, seconds)
            started = time.perf_counter()

    def _as_trace_event(
        self, event: Event, sampler: Sampler, settings: Settings, seconds: float
    ) -> TraceEvent:
        latent, norm = torch.from_numpy(event.latent), event.velocity_norm
        if event.step == event.num_steps:
            check_latent(latent, event.stage, event.guidance)
        part = "head" if event.step else "transformer"
        return TraceEvent(
            stage=event.stage,
            step=event.step,
            num_steps=event.num_steps,
            local_time=event.local_time,
            t=event.t,
            latent=latent,
            clean_estimate=torch.from_numpy(event.clean_estimate),
            velocity_norm=None if norm is None else torch.from_numpy(norm),
            token_map=torch.from_numpy(event.token_map),
            attention=None,
            history=tuple(map(torch.from_numpy, event.history)),
            class_labels=torch.tensor(settings.labels),
            guidance=event.guidance,
            seconds=seconds,
            seconds_split={"transformer": 0.0, "head": 0.0, part: seconds},
            flops=self._flops(event, sampler, settings),
            cache_bytes=self._cache_bytes(event, sampler),
            num_stages=len(self.exported.manifest.stages),
        )

    def _flops(self, event: Event, sampler: Sampler, settings: Settings) -> int:
        """Of the event, as ``trace`` counts them."""
        stage, config = event.stage, self.model.config
        halves, head_halves = sampler.halves[stage]
        if event.step == 0:
            looked_at = num_times(event.num_steps, settings.solver)
            setup = head_halves * head_setup_flops(config, stage, looked_at)
            return halves * transformer_flops(config, stage) + setup
        guided = head_halves > 1 and sampler.guided[stage][event.step - 1]
        return (1 + guided) * EVALUATIONS[settings.solver] * velocity_flops(config, stage)

    def _cache_bytes(self, event: Event, sampler: Sampler) -> int:
        """Keys and values of the tokens so far, less those of stages with windows, in float32."""
        config, window = self.model.config, self.model.config.attention_window
        tokens = stage_tokens(config)[: event.stage + 1]
        kept = sum(count for count in tokens if window is None or count <= window**2)
        rows = sampler.halves[event.stage][0] * sampler.batch_size
        return 4 * rows * 2 * config.transformer_layers * kept * config.width
