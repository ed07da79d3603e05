"""What a sampling run tells of itself: one :class:`TraceEvent` after another.

``trace.py`` makes them; everything that shows, changes or measures a run reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TraceEvent:
    """One moment of a sampling run.

    A stage opens with step 0, its start state (noise, or the upsampled and re-noised end of the
    stage before), and goes on with one event per flow step up to ``num_steps``, its end state.

    Attributes:
        stage, step, num_steps: where the run is; step 0 ... num_steps.
        local_time: 0 ... 1 within the stage. t: flow time in the stage's window [a_s, b_s].
        latent: x_tau, (B, C, r_s, r_s) float32; of the last event: the image's latent.
        clean_estimate: what the velocity says D_s(x) is, same shape. At step 0, where no velocity
            is known yet, the last estimate of the stage before, upsampled (stage 0: zeros, the
            mean).
        velocity_norm: (B,) root mean square of the velocity just used (``ab2``: the one at the
            step's start, without what it takes from the step before), None at step 0.
        token_map: M_s, (B, N_s, D).
        attention: (B, h, N_s, tokens so far) of the layer asked for, at step 0; else None.
        history: end states of the stages before this one, coarsest first.
        class_labels: (B,) ids in force in this stage, or where two classes are mixed (B, K + 1)
            shares of all classes and of no class. guidance: the stage's scale, which acts
            inside its interval.
        seconds: computing time since the previous event, the consumer's own time left out, and its
            ``seconds_split``: transformer, head.
        flops: per image, since the previous event. cache_bytes: keys and values held.
    """

    stage: int
    step: int
    num_steps: int
    local_time: float
    t: float
    latent: Tensor
    clean_estimate: Tensor
    velocity_norm: Tensor | None
    token_map: Tensor
    attention: Tensor | None
    history: tuple[Tensor, ...]
    class_labels: Tensor
    guidance: float
    seconds: float
    seconds_split: dict[str, float]
    flops: int
    cache_bytes: int
    num_stages: int = field(repr=False)

    @property
    def is_stage_end(self) -> bool:
        """Whether the stage is through; its end state goes to the next one."""
        return self.step == self.num_steps

    @property
    def is_final(self) -> bool:
        """Whether this is the last event: ``latent`` is the finished latent."""
        return self.is_stage_end and self.stage == self.num_stages - 1
