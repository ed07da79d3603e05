"""E-CAR's own network with DDPM's objective: every stage predicts noise instead of velocity.

Stages cannot hand over partly denoised states here, for the noise levels of DDPM are no straight
line to data: each stage goes all the way from noise to D_s(x), as under the coupling ``restart``.
So ``ECAR(coupling="restart")`` differs from this model in the objective and in nothing else.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from ecar_lab.baselines.objective import TIME_SCALE, EpsilonObjective, check_ddim, ddim_step
from ecar_lab.errors import EcarError
from ecar_lab.interventions import RunSettings
from ecar_lab.model import ECAR
from ecar_lab.trace import OpenStage, Sampler

NOISIEST = 1 - 0.5 / TIME_SCALE  # lies within the last noise level, which 1 would miss


def head_time(level: Any) -> Any:
    """What the head is told of a noise level 0 ... 999 (number or tensor): 0 is noise, 1 data."""
    return 1 - level / TIME_SCALE


class NoiseSampler(Sampler):
    """The sampling loop of E-CAR with DDIM's steps inside the stages.

    Raises:
        EcarError: another solver or grid, or an edit: its noise would be that of a straight line
            to data.
    """

    model: StageEpsilon

    def __init__(self, model: StageEpsilon, settings: RunSettings, dtype: torch.dtype | None):
        for power in settings.powers:
            check_ddim(settings.solver, power)
        if settings.edits:
            raise EcarError("a run of noise prediction takes no edits: only E-CAR's does")
        super().__init__(model, settings, dtype)
        self.schedulers = [model.objective.ddim(steps) for steps in settings.steps]

    def _times(self, stage: int) -> list[float]:
        return [*map(head_time, self.schedulers[stage].timesteps.tolist()), 1.0]

    def _step(
        self, at: OpenStage, latent: Tensor, step: int, previous: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        scheduler, noise = self.schedulers[at.index], at.velocity(step)(latent, step)
        latent, estimate = ddim_step(scheduler, noise, scheduler.timesteps[step], latent)
        return latent, estimate, noise


class StageEpsilon(ECAR):
    """Takes the arguments of :class:`ECAR`, has its weights, and is sampled by
    :func:`ecar_lab.trace.trace`: per stage one transformer call and K_s DDIM steps of the head.

    Of its events, ``velocity_norm`` is that of the predicted noise, and ``t`` is 1 - level / 1000.

    Raises:
        EcarError: a coupling other than ``restart``.
    """

    sampler: ClassVar[type[Sampler]] = NoiseSampler
    default_solver: ClassVar[str] = "euler"  # DDIM

    @functools.wraps(ECAR.__init__)  # diffusers reads a model's arguments from its signature
    def __init__(self, **options: Any):
        super().__init__(**{"coupling": "restart", **options})
        if self.schedule.coupling != "restart":
            raise EcarError(
                f"coupling {self.schedule.coupling!r}: noise prediction starts every stage from "
                "noise, use restart"
            )
        self.objective = EpsilonObjective()

    def _predict(
        self,
        stage: int,
        start: Tensor,
        end: Tensor,
        read_map: Tensor,
        local_time: Tensor,
        class_labels: Tensor,
        layers: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The predicted noise and the true one, (B, C, r, r) each.

        ``start`` is the noise and ``end`` D_s(x); local time counts from noise, levels from data.
        """
        time = (1 - local_time).clamp(max=NOISIEST)
        state, noise, level = self.objective.corrupt(end, start, time)
        modulations = self.head.modulations(stage, head_time(level), class_labels)
        return self.head(stage, state, read_map, modulations, layers), noise
