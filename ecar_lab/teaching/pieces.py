"""What the notebooks build, made of the kit's parts: it stands in where a learner's piece is
missing.

Names, arguments and weights are those of the learner's pieces, so that one can take the other's
place. ``Attention``, ``Block`` and ``FlowHead`` are the kit's own as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ecar_lab import transformer
from ecar_lab.flow import FlowHead, endpoints, transition
from ecar_lab.generator import TrainingDraw
from ecar_lab.layers import (
    Attention,
    Block,
    SquaredReLU,
    TimeEmbedding,
    modulate,
    position_embedding,
    rotary_table,
)
from ecar_lab.schedule import StageSchedule
from ecar_lab.training.optim import Plan, lr_factor

__all__ = [
    "Attention",
    "Block",
    "FlowHead",
    "MultistageTransformer",
    "MyECAR",
    "SquaredReLU",
    "TimeEmbedding",
    "flow_errors",
    "generate",
    "guided_velocity",
    "modulate",
    "position_embedding",
    "rotary_table",
    "train_step",
]

Event = tuple[int, int, Tensor]  # stage, step within it, latent


class MultistageTransformer(transformer.MultistageTransformer):
    """The kit's transformer; a step gives the token map alone."""

    def run(self, x: Tensor, class_labels: Tensor, sides: Any, mask=None, cache=None) -> Tensor:
        """All blocks and the final norm: tokens (B, N, D) of stages of these sides -> maps."""
        return self._run(x, class_labels, tuple(sides), mask, cache)

    def step(self, stage, previous_end, class_labels, cache, attention_layer=None) -> Any:
        """Sampling: M_s (B, N_s, D), with keys and values of earlier stages from the cache."""
        return super().step(stage, previous_end, class_labels, cache, attention_layer)[0]


class MyECAR(nn.Module):
    """Schedule + transformer + flow head, of the sizes in a configuration."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        ends = tuple(config.window_ends) if config.window_ends else None
        self.schedule = StageSchedule(config.latent_size, config.num_stages, ends, config.coupling)
        self.null_class, self.latent_channels = config.num_classes, config.latent_channels
        sizes: dict[str, Any] = dict(
            token_sides=[side // config.patch_size for side in self.schedule.resolutions],
            latent_channels=config.latent_channels,
            patch_size=config.patch_size,
            num_classes=config.num_classes,
            width=config.width,
            num_heads=config.num_heads,
        )
        self.transformer = MultistageTransformer(**sizes, num_layers=config.transformer_layers)
        self.head = FlowHead(**sizes, schedule=self.schedule, num_layers=config.head_layers)


def flow_errors(
    model: Any, latent: Tensor, class_labels: Tensor, draw: TrainingDraw, class_dropout: float = 0.0
) -> list[Tensor]:
    """Teacher forcing: velocity - target of every stage, (B, C, r_s, r_s), in one masked call."""
    labels = torch.where(draw.class_drop < class_dropout, model.null_class, class_labels)
    starts, ends = endpoints(model.schedule, latent, draw.noise)
    errors = []
    for stage, token_map in enumerate(model.transformer(ends[:-1], labels)):
        local_time = draw.local_time[:, stage]
        state = torch.lerp(starts[stage], ends[stage], local_time[:, None, None, None])
        modulations = model.head.modulations(stage, local_time, labels)
        velocity = model.head(stage, state, model.head.read(token_map), modulations)
        errors.append(velocity - (ends[stage] - starts[stage]))
    return errors


def guided_velocity(run_head: Callable[[int], Tensor], scale: float) -> Tensor:
    """``v_none + g (v_class - v_none)``; one half of the head where that is enough."""
    if scale == 1:
        return run_head(1)
    with_class, without = run_head(2).chunk(2)
    return without + scale * (with_class - without)


@torch.no_grad()
def generate(
    model: Any,
    class_labels: Tensor,
    steps: Sequence[int],
    guidance: Sequence[float],
    generator: torch.Generator,
) -> list[Event]:
    """The start of every stage and each of its Euler steps: (stage, step, latent), in order."""
    batch, device = len(class_labels), class_labels.device
    both = torch.cat((class_labels, torch.full_like(class_labels, model.null_class)))
    cache, events = model.transformer.new_cache(), []
    latent = None
    for stage, side in enumerate(model.schedule.resolutions):
        halves = 1 + any(scale != 1 for scale in guidance[stage:])
        cache.keep(halves * batch)
        previous = None if latent is None else latent.repeat(halves, 1, 1, 1)
        token_map = model.transformer.step(stage, previous, both[: halves * batch], cache)
        rows = (1 + (guidance[stage] != 1)) * batch
        read_map = model.head.read(token_map[:rows])
        times = torch.linspace(0, 1, steps[stage] + 1, dtype=torch.float64).tolist()
        modulations = model.head.modulations(
            stage, torch.tensor(times[:-1], device=device)[:, None], both[:rows]
        )
        shape = (batch, model.latent_channels, side, side)
        noise = torch.randn(shape, generator=generator).to(device)
        latent = noise if latent is None else transition(model.schedule, stage, latent, noise)
        events.append((stage, 0, latent))
        for step in range(steps[stage]):
            at_time = [part[step] for part in modulations]

            def run_head(halves: int, stage=stage, x=latent, to_read=read_map, now=at_time):
                rows = halves * batch
                now = [part[:rows] for part in now]
                return model.head(stage, x.repeat(halves, 1, 1, 1), to_read[:rows], now)

            velocity = guided_velocity(run_head, guidance[stage])
            latent = latent + (times[step + 1] - times[step]) * velocity
            events.append((stage, step + 1, latent))
    return events


def train_step(
    model: nn.Module,
    loss: Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    average: Sequence[Tensor],
    step: int,
    config: Any,
) -> Tensor:
    """One step of a trainer, from the loss on; returns the gradients' norm before clipping."""
    weights = list(model.parameters())
    loss.backward()
    norm = nn.utils.clip_grad_norm_(weights, config.grad_clip)
    factor = lr_factor(step, Plan(config.steps), config.warmup_steps, config.lr_floor)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * factor
        optimizer.step()
        optimizer.zero_grad()
    decay = min(config.ema_decay, (1 + step) / (10 + step)) if step else 0.0
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight.detach(), 1 - decay)
    return norm
