"""Multistage flow matching: what one stage's flow starts from, where it ends, and how it gets
there.

Stage s carries its latent from ``x_start`` to ``x_end`` along a straight line over local time
tau = 0..1; the head learns the velocity ``x_end - x_start`` from the state between them, tau, the
stage, the class and the stage's token map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import reduce, repeat
from torch import Tensor, nn

from ecar_lab.attention import windows_among
from ecar_lab.errors import EcarError
from ecar_lab.layers import (
    Blocks,
    BlockStyle,
    Linear,
    TimeEmbedding,
    embed_classes,
    long_skip_maps,
    modulate,
    patchify,
    rotary_table,
    unpatchify,
    zero_init,
)
from ecar_lab.schedule import StageSchedule


def upsample(latent: Tensor, ratio: int = 2) -> Tensor:
    """Up: nearest-neighbour, every pixel becomes a block, by default 2x2 (Up2); (B, C, r, r) ->
    (B, C, ratio r, ratio r)."""
    return repeat(latent, "b c h w -> b c (h p) (w q)", p=ratio, q=ratio)


def block_mean(latent: Tensor, ratio: int = 2) -> Tensor:
    """Mean of every block, by default 2x2; (B, C, ratio r, ratio r) -> (B, C, r, r)."""
    return reduce(latent, "b c (h p) (w q) -> b c h w", "mean", p=ratio, q=ratio)


def pyramid(latent: Tensor, num_stages: int, ratio: int = 2) -> list[Tensor]:
    """D_0 ... D_{S-1}: the latent average-pooled to every stage's resolution, coarsest first."""
    levels = [latent]
    for _ in range(num_stages - 1):
        levels.append(block_mean(levels[-1], ratio))
    return levels[::-1]


def transition(schedule: StageSchedule, stage: int, previous_end: Tensor, noise: Tensor) -> Tensor:
    """x_start of stage s >= 1: ``scale * Up(y) + sigma * eps``.

    ``noise`` is white, (B, C, r_s, r_s). ``correlated`` makes of it ``eps = sqrt(n / (n - 1))
    (noise - blockmean(noise))``, whose covariance in a block of n = ratio² pixels is
    n / (n - 1) (I - 11ᵀ / n); with 2x2 blocks 4/3 (I - 11ᵀ/4). 11ᵀ is the matrix of ones.
    """
    coefficients, ratio = schedule.transition(stage), schedule.ratio
    if coefficients.coupling == "correlated":
        rest = noise - upsample(block_mean(noise, ratio), ratio)
        noise = math.sqrt(ratio**2 / (ratio**2 - 1)) * rest
    return coefficients.scale * upsample(previous_end, ratio) + coefficients.sigma * noise


def endpoints(
    schedule: StageSchedule, latent: Tensor, noise: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Where each stage's flow starts and ends for a clean latent, as training needs it.

    ``e_s = b_s D_s(x) + (1 - b_s) eps_s``; start of stage 0 = eps_0, of a later stage the
    :func:`transition` from e_{s-1} with the same eps_s. Under ``independent`` every stage has its
    own eps_s. Under ``correlated`` only the finest is drawn and ``eps_{s-1} = ratio
    blockmean(eps_s)``: the noise that :func:`transition` turns into eps_s.

    Args:
        latent: (B, C, R, R). noise: white, one (B, C, r_s, r_s) per stage, coarsest first.
    Returns:
        starts and ends, each S tensors (B, C, r_s, r_s).
    """
    noise = list(noise)
    if schedule.coupling == "correlated":
        for stage in range(schedule.num_stages - 1, 0, -1):
            noise[stage - 1] = schedule.ratio * block_mean(noise[stage], schedule.ratio)
    clean = pyramid(latent, schedule.num_stages, schedule.ratio)
    ends = [
        end * level + (1 - end) * eps
        for end, level, eps in zip(schedule.ends, clean, noise, strict=True)
    ]
    starts = [noise[0]] + [
        transition(schedule, stage, ends[stage - 1], noise[stage])
        for stage in range(1, schedule.num_stages)
    ]
    return starts, ends


def another_way(
    schedule: StageSchedule,
    stage: int,
    clean: Tensor,
    previous_end: Tensor | None,
    end_state: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Start and end of one more flow of a stage: to the same clean D_s(x), after the same history,
    with other noise.

    Under ``correlated`` the history fixes the block means of eps_s, so only the rest is new.

    Args:
        clean: D_s(x). previous_end: e_{s-1}, None at stage 0. end_state: e_s of
            :func:`endpoints`. noise: white. All (B, C, r, r), previous_end of the stage before.
    """
    end, ratio = schedule.ends[stage], schedule.ratio
    if previous_end is None:
        return noise, end * clean + (1 - end) * noise
    if schedule.coupling == "correlated" and end < 1:
        means = block_mean(end_state - end * clean, ratio) / (1 - end)
        noise = noise + upsample(means - block_mean(noise, ratio), ratio)
    start = transition(schedule, stage, previous_end, noise)
    return start, end * clean + (1 - end) * noise


def clean_estimate(
    schedule: StageSchedule,
    stage: int,
    state: Tensor,
    velocity: Tensor,
    local_time: float,
    previous_end: Tensor | None,
) -> Tensor:
    """The clean D_s(x) that a state and its velocity point to; exact where the velocity is.

    With ``start = x - tau v`` and ``end = x + (1 - tau) v`` this solves for D what
    :func:`endpoints` mixes. ``independent``: eps = (start - scale Up2(y)) / sigma (stage 0: eps =
    start), D = (end - (1 - b) eps) / b. ``correlated``: start = a Up2(D) + (1 - a) eps and end =
    b D + (1 - b) eps, solved apart for block means and for what is left of them.
    """
    start_state = state - local_time * velocity
    end_state = state + (1 - local_time) * velocity
    start, end = schedule.window(stage)
    if stage == 0:
        return (end_state - (1 - end) * start_state) / end
    if schedule.coupling != "correlated":
        assert previous_end is not None
        coefficients = schedule.transition(stage)
        upsampled = upsample(previous_end, schedule.ratio)
        eps = (start_state - coefficients.scale * upsampled) / coefficients.sigma
        return (end_state - (1 - end) * eps) / end
    ratio = schedule.ratio
    start_mean, end_mean = block_mean(start_state, ratio), block_mean(end_state, ratio)
    clean_mean = ((1 - start) * end_mean - (1 - end) * start_mean) / (end - start)
    eps_rest = (start_state - upsample(start_mean, ratio)) / (1 - start)
    clean_rest = (end_state - upsample(end_mean, ratio) - (1 - end) * eps_rest) / end
    return upsample(clean_mean, ratio) + clean_rest


Velocity = Callable[[Tensor, int], Tensor]


def euler_step(
    velocity: Velocity,
    state: Tensor,
    times: Sequence[float],
    step: int,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One Euler step from times[step] to times[step + 1]: ``x + dt * v(x, t)``.

    ``velocity(state, i)`` is the velocity at ``times[i]``. Returns the new state and v; all solvers
    take the v that the step before returned as ``previous``, only :func:`ab2_step` has a use for
    it.
    """
    slope = velocity(state, step)
    return state + (times[step + 1] - times[step]) * slope, slope


def heun_step(
    velocity: Velocity,
    state: Tensor,
    times: Sequence[float],
    step: int,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One Heun step: Euler to look ahead, then the mean of both velocities; two evaluations."""
    ahead, first = euler_step(velocity, state, times, step)
    slope = (first + velocity(ahead, step + 1)) / 2
    return state + (times[step + 1] - times[step]) * slope, slope


def ab2_step(
    velocity: Velocity,
    state: Tensor,
    times: Sequence[float],
    step: int,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of Adams and Bashforth's second order: ``x + dt (v + r / 2 (v - v'))``.

    v' is the velocity one step earlier, ``previous``, and r = dt / dt' the ratio of the two steps:
    on an even grid ``x + dt (3/2 v - 1/2 v')``. One evaluation. Without ``previous``, as on a
    stage's first step, it is Euler's step. Returns the new state and v.
    """
    ahead, slope = euler_step(velocity, state, times, step)
    if previous is None:
        return ahead, slope
    length, before = times[step + 1] - times[step], times[step] - times[step - 1]
    return ahead + length * length / (2 * before) * (slope - previous), slope


SOLVERS = {"euler": euler_step, "heun": heun_step, "ab2": ab2_step}
# What a few-step head can do beside them: v is the mean velocity over the step, so Euler is exact.
FLOW_MAP = "flow-map"
STEPS_OF = {**SOLVERS, FLOW_MAP: euler_step}
EVALUATIONS = {"euler": 1, "heun": 2, "ab2": 1, FLOW_MAP: 1}
DEFAULT_SOLVER = "ab2"  # of every flow, unless a generator has one of its own


def check_solver(name: str) -> str:
    """The name itself, if there is such a solver.

    Raises:
        EcarError: there is none.
    """
    if not isinstance(name, str) or name not in SOLVERS:
        raise EcarError(f"solver {name!r} is unknown: use one of {', '.join(SOLVERS)}")
    return name


def num_times(steps: int, solver: str) -> int:
    """At how many times of the grid a solver looks: only Heun at the end of the last step."""
    return steps + 1 if solver == "heun" else steps


# Steps over a stage that a few-step head takes, K = 1, 2 or 4 spans of d = 1 / K; and the guidance
# that it is trained with.
FEW_STEPS = (1, 2, 4)
GUIDANCE_RANGE = (1.0, 3.5)


class FlowHead(nn.Module):
    """The small flow model: attention among the tokens of one stage, adaLN-zero conditioning.

    Attention is full, or in windows where the stage is larger than ``attention_window``.

    The condition is time (in the stage's own slice, see ``StageSchedule.conditioning_time``) +
    stage + class; the token map is added to the embedded latent, token by token. Both are ready
    before the first step: :meth:`modulations` for all steps in one call,
    :meth:`read` once per stage.

    A ``few_step`` head is a guided flow map: its condition has two more parts, a span d and a
    guidance w, and it gives the mean velocity of the flow guided by w over [tau, tau + d], in one
    pass. With d = 0 that is the guided velocity itself. Both parts start at zero.

    ``long_skips``: what block i gives reaches block L-1-i directly, see :func:`long_skip_maps`.
    """

    def __init__(
        self,
        *,
        schedule: StageSchedule,
        token_sides: Sequence[int],
        latent_channels: int,
        patch_size: int,
        num_classes: int,
        width: int,
        num_layers: int,
        num_heads: int,
        attention_window: int | None = None,
        style: BlockStyle = BlockStyle(),  # noqa: B008 (frozen)
        long_skips: bool = False,
        few_step: bool = False,
    ):
        super().__init__()
        self.schedule = schedule
        self.attention_window = attention_window
        self.token_sides = tuple(token_sides)
        self.patch_size = patch_size
        self.head_dim = width // num_heads
        token_dim = latent_channels * patch_size**2
        self.patch_embedding = Linear(token_dim, width)
        self.map_embedding = Linear(width, width, bias=False)
        self.time_embedding = TimeEmbedding(width)
        self.stage_embedding = nn.Embedding(schedule.num_stages, width)
        self.class_embedding = nn.Embedding(num_classes + 1, width)
        self.few_step = few_step
        if few_step:
            self.span_embedding = TimeEmbedding(width, octaves=4, zero=True)
            self.guidance_embedding = TimeEmbedding(width, octaves=4, zero=True)
        self.blocks = Blocks(num_layers, width, num_heads, style)
        self.skips = long_skip_maps(num_layers if long_skips else 0, width)
        self.final_modulation = zero_init(Linear(width, 2 * width))
        self.out = zero_init(Linear(width, token_dim))
        nn.init.normal_(self.stage_embedding.weight, std=0.02)
        nn.init.normal_(self.class_embedding.weight, std=0.02)

    def modulations(
        self,
        stage: int,
        local_time: Tensor,
        class_labels: Tensor,
        span: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        """Shifts, scales and gates for every block and the output.

        Args:
            local_time: (B,) one time per image (training), or (K, 1): all K times of a solver.
            class_labels: (B,) ids, or shares of the classes as ``embed_classes`` takes them.
            span, guidance: of a few-step head, shaped like the time; None: 0, the velocity, and 1,
                no guidance.
        Returns:
            one tensor per block (..., B, 6D) and a last one (..., B, 2D), where ... is K or
            nothing.
        """
        time = self.schedule.conditioning_time(stage, local_time)
        embedded = self.time_embedding(time.flatten()).unflatten(0, time.shape)
        if self.few_step:
            span = torch.zeros_like(local_time) if span is None else span
            guidance = torch.ones_like(local_time) if guidance is None else guidance
            place = guidance.log() / math.log(GUIDANCE_RANGE[1])
            for embedding, value in (
                (self.span_embedding, span),
                (self.guidance_embedding, place),
            ):
                embedded = embedded + embedding(value.flatten()).unflatten(0, value.shape)
        condition = embedded + self.stage_embedding.weight[stage]
        condition = F.silu(condition + embed_classes(self.class_embedding, class_labels))
        return [layer(condition) for layer in self._modulation_layers()]

    def _modulation_layers(self) -> list[nn.Module]:
        return [*(block.modulation for block in self.blocks), self.final_modulation]

    def read(self, token_map: Tensor) -> Tensor:
        """M_s (B, N_s, D) -> what is added to the embedded latent in every step."""
        return self.map_embedding(token_map)

    def forward(
        self,
        stage: int,
        state: Tensor,
        read_map: Tensor,
        modulations: Sequence[Tensor],
        layers: list[Tensor] | None = None,
    ) -> Tensor:
        """The velocity at one time.

        Args:
            state: x_tau, (B, C, r_s, r_s). read_map: of :meth:`read`. modulations: of
                :meth:`modulations`, for this time: (B, 6D) per block and (B, 2D).
            layers: an empty list; what each block gives, (B, N_s, D), is put into it.
        Returns:
            (B, C, r_s, r_s), float32.
        """
        sides = (self.token_sides[stage],)
        rotary = rotary_table(sides, self.head_dim, self.token_sides[-1], state.device)
        patches = patchify(state, self.patch_size).to(self.patch_embedding.weight.dtype)
        x = self.patch_embedding(patches) + read_map
        windows = windows_among(sides, self.attention_window)
        if layers is None and self.skips:
            layers = []
        for layer, (block, modulation) in enumerate(
            zip(self.blocks, modulations[:-1], strict=True)
        ):
            if layers is not None and str(layer) in self.skips:
                x = x + self.skips[str(layer)](layers[len(self.blocks) - 1 - layer])
            x = block(x, modulation, rotary, layer=layer, windows=windows, sides=sides)
            if layers is not None:
                layers.append(x)
        shift, scale = modulations[-1].chunk(2, dim=-1)
        return unpatchify(self.out(modulate(x, shift, scale)), self.patch_size).float()
