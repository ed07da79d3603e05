"""What a transition does to the noise inside 2x2 blocks: measured, and by formula; notebook 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.flow import block_mean, transition, upsample
from ecar_lab.schedule import Coupling, StageSchedule
from ecar_lab.teaching.explore.transitions_figures import matrix
from ecar_lab.teaching.figures import new_figure

COUPLINGS: tuple[Coupling, ...] = ("independent", "correlated")
DRAWS = 20_000


@dataclass(frozen=True)
class BlockNoise:
    """The noise of x_start inside a 2x2 block, its pixels row by row.

    Attributes:
        measured: covariance (4, 4) over many draws. formula: what it should be.
        wanted: 1 - a, the standard deviation that time a asks for.
    """

    measured: Tensor
    formula: Tensor
    wanted: float

    @property
    def std(self) -> float:
        """Measured standard deviation of a pixel's noise."""
        return self.measured.diagonal().mean().sqrt().item()


def in_blocks(noise: Tensor) -> Tensor:
    """Noise (B, C, 2h, 2w) -> covariance (4, 4) of the pixels of a 2x2 block."""
    blocks = rearrange(noise, "b c (h p) (w q) -> (b c h w) (p q)", p=2, q=2).double()
    return blocks.T @ blocks / len(blocks)


def formula(schedule: StageSchedule, renoise: bool = True) -> Tensor:
    """Covariance (4, 4) of a block's noise after the transition into the second stage.

    ``c² 11ᵀ + sigma² Sigma`` with ``c = (a / b) (1 - b)``; Sigma = I under ``independent`` and
    4/3 (I - 11ᵀ / 4) under ``correlated``; 11ᵀ is the matrix of ones. Without
    re-noising the first term alone.
    """
    hand_over, end = schedule.transition(1), schedule.ends[0]
    equal, own = torch.ones(4, 4).double(), torch.eye(4).double()
    if hand_over.coupling == "correlated":
        own = 4 / 3 * (own - equal / 4)
    brought = (hand_over.scale * (1 - end)) ** 2 * equal
    return brought + hand_over.sigma**2 * own if renoise else brought


def start_state(schedule: StageSchedule, latent: Tensor, renoise: bool, seed: int) -> Tensor:
    """x_start of the second stage for clean latents (B, C, R, R), with or without the noise added
    again."""
    draw = torch.Generator().manual_seed(seed)
    small = block_mean(latent)
    end, eps = schedule.ends[0], torch.randn(small.shape, generator=draw).to(latent)
    previous_end = end * small + (1 - end) * eps
    if not renoise:
        return schedule.transition(1).scale * upsample(previous_end)
    noise = torch.randn(latent.shape, generator=draw).to(latent)
    return transition(schedule, 1, previous_end, noise)


def block_noise(
    previous_end: float, coupling: Coupling, renoise: bool, draws: int = DRAWS, seed: int = 0
) -> BlockNoise:
    """Noise of many start states of nothing: with x = 0 all that is in them is noise.

    Args:
        previous_end: b, where the window of the stage before ends.
    """
    schedule = StageSchedule(2, 2, (previous_end, 1.0), coupling)
    noise = start_state(schedule, torch.zeros(draws, 1, 2, 2), renoise, seed)
    return BlockNoise(in_blocks(noise), formula(schedule, renoise), 1 - schedule.window(1)[0])


def picture_of(latent: Tensor, noise: BlockNoise, state: Tensor) -> Figure:
    """Measured and expected matrix beside one start state."""
    figure, (left, middle, right) = new_figure(3, width=2.3, height=2.5)
    largest = noise.wanted**2
    matrix(left, noise.measured, f"measured, std {noise.std:.3f}", largest)
    matrix(middle, noise.formula, f"formula; 1 - a = {noise.wanted:.3f}", largest)
    span = 2 * latent.std().item() or 1.0
    right.imshow(state[0, 0].cpu().numpy(), cmap="gray", vmin=-span, vmax=span)
    right.set(xticks=[], yticks=[])
    right.set_title("one x_start", fontsize=9)
    right.grid(visible=False)
    return figure
