"""What a network that goes all the way from noise to data is trained on, and how it is walked.

Two objectives with one interface, so that a baseline can be trained on either with nothing else
changed: flow matching, and the noise prediction of DDPM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.flow import EVALUATIONS, SOLVERS, Velocity
from ecar_lab.schedule import time_grid

Objective = Literal["flow", "epsilon"]

# The range that the networks of diffusion models expect their time in.
TIME_SCALE = 1000


class Walked(NamedTuple):
    """One step of a sampler: the new state, the clean estimate, what the network said, and t."""

    state: Tensor
    clean_estimate: Tensor
    output: Tensor
    t: float


# The network at a state and a time in 0 ... TIME_SCALE, for the step of that number.
Network = Callable[[Tensor, float, int], Tensor]


class FlowObjective:
    """``x_t = (1 - t) eps + t x``; the network predicts the velocity ``x - eps``."""

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training pair at ``time`` (B,) uniform in [0, 1): state, target, the network's time."""
        t = time.reshape(-1, *(1,) * (clean.ndim - 1))
        return (1 - t) * noise + t * clean, clean - noise, time * TIME_SCALE

    def check(self, steps: int, solver: str, power: float) -> None:
        """Whether :meth:`walk` takes these: it takes all."""

    def walk(
        self, network: Network, noise: Tensor, steps: int, solver: str, power: float = 1.0
    ) -> Iterator[Walked]:
        """From noise to data on the ``schedule.time_grid`` of that power; estimates as of E-CAR's
        events: with the step's own velocity."""
        times = time_grid(steps, power)

        def of_step(step: int) -> Velocity:
            return lambda state, index: network(state, times[index] * TIME_SCALE, step)

        state, slope = noise, None
        for step in range(steps):
            ahead, slope = SOLVERS[solver](of_step(step), state, times, step, slope)
            t = times[step + 1]
            used, state = (ahead - state) / (t - times[step]), ahead
            yield Walked(state, state + (1 - t) * used, slope, t)


class EpsilonObjective:
    """``x_k = sqrt(abar_k) x + sqrt(1 - abar_k) eps``; the network predicts eps (DDPM, arXiv
    2006.11239: 1000 noise levels, linear betas). Sampled by DDIM (arXiv 2010.02502), eta = 0."""

    def __init__(self) -> None:
        self.scheduler = DDIMScheduler(
            num_train_timesteps=TIME_SCALE, clip_sample=False, timestep_spacing="trailing"
        )

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`FlowObjective.corrupt`; time 0 ... 1 becomes the noise level 0 ... 999."""
        level = (time * TIME_SCALE).long()
        state = self.scheduler.add_noise(clean, noise, level)  # ty: ignore[invalid-argument-type]
        return state, noise, level.float()

    def check(self, steps: int, solver: str, power: float) -> None:
        """Whether :meth:`walk` takes these.

        Raises:
            EcarError: another solver or grid than DDIM's, more steps than there are levels.
        """
        check_ddim(solver, power)
        self.ddim(steps)

    def walk(
        self, network: Network, noise: Tensor, steps: int, solver: str, power: float = 1.0
    ) -> Iterator[Walked]:
        """DDIM over ``steps`` of the levels, the noisiest first.

        Raises:
            EcarError: another solver, or another grid than DDIM's.
        """
        check_ddim(solver, power)
        scheduler, state = self.ddim(steps), noise
        for index, level in enumerate(scheduler.timesteps):
            output = network(state, float(level), index)
            state, clean_estimate = ddim_step(scheduler, output, level, state)
            yield Walked(state, clean_estimate, output, (index + 1) / steps)

    def ddim(self, steps: int) -> DDIMScheduler:
        """diffusers' scheduler, its ``timesteps`` set to ``steps`` levels, the noisiest first.

        Raises:
            EcarError: more steps than there are levels.
        """
        if steps > TIME_SCALE:
            raise EcarError(f"{steps} steps of DDIM: there are {TIME_SCALE} levels, use fewer")
        scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        return scheduler


def check_ddim(solver: str, power: float) -> None:
    """Refuses what only flows have.

    Raises:
        EcarError: another solver than ``euler``, which stands for DDIM, or another grid.
    """
    if solver != "euler":
        raise EcarError(f"solver {solver!r} is not made for noise prediction: use euler (DDIM)")
    if power != 1:
        raise EcarError(f"time_power {power:g} is not made for noise prediction: use 1")


def ddim_step(
    scheduler: DDIMScheduler, output: Tensor, level: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One step down from ``level`` by the predicted noise: the new state and the clean estimate."""
    result = scheduler.step(output, int(level), state)
    assert not isinstance(result, tuple)
    assert result.pred_original_sample is not None
    return result.prev_sample, result.pred_original_sample


def make_objective(name: str) -> FlowObjective | EpsilonObjective:
    """The objective called ``flow`` or ``epsilon``.

    Raises:
        EcarError: another name.
    """
    if name not in get_args(Objective):
        raise EcarError(f"objective {name!r} is unknown: use {' or '.join(get_args(Objective))}")
    return FlowObjective() if name == "flow" else EpsilonObjective()


def evaluations(objective: str, solver: str) -> int:
    """How often the network is called in a step."""
    return 1 if objective == "epsilon" else EVALUATIONS[solver]
