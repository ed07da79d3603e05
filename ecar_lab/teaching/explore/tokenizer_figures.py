"""Notebook 1, drawn: costs, losses, scales, bits; ``tokenizer.py`` has the captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.experiments.lab.figures import line, logarithmic, new_figure
from ecar_lab.teaching.figures import hue

Points = Sequence[tuple[float, float]]  # (bits, PSNR in dB)
SMALL = {"frameon": False, "fontsize": 8}


def block_costs(
    factors: Sequence[int], tokens: Sequence[int], costs: Mapping[str, Sequence[float]]
) -> Figure:
    """GFLOP of one block over the factor, one line per part of the block."""
    figure, (axis,) = new_figure(width=6, height=3)
    for index, (name, flops) in enumerate(costs.items()):
        kind = "--" if index else "-"
        line(axis, name, factors, [f / 1e9 for f in flops], index=index, linestyle=kind)
    logarithmic(axis, "x", "y", xlabel="factor per side", ylabel="GFLOP of one block")
    axis.set_xticks(factors, [f"{f}\n{n:,} tokens" for f, n in zip(factors, tokens, strict=True)])
    axis.minorticks_off()
    axis.legend(frameon=False)
    return figure


def loss(means: Sequence[float], steps: int) -> Figure:
    """The loss over the steps of a training, as means of blocks of equal length."""
    figure, (axis,) = new_figure(width=6, height=2.6)
    middle = [(i + 0.5) * steps / len(means) for i in range(len(means))]
    line(axis, "loss", middle, means)
    logarithmic(axis, "y", xlabel="step", ylabel="training loss")
    return figure


def scale(
    latents: Mapping[str, Tensor], normal: torch.distributions.Normal, t: Tensor,
    shares: Mapping[float, Tensor],
) -> Figure:  # fmt: skip
    """Left: histograms of latent numbers and the normal curve. Right: the share of data in the
    variance over time, one curve per standard deviation of the latent."""
    figure, (left, right) = new_figure(2, width=4, height=3)
    bins = torch.linspace(-4, 4, 61)
    for index, (name, values) in enumerate(latents.items()):
        left.hist(
            values.cpu().flatten(), bins.tolist(), density=True, histtype="step",
            color=hue(index), label=name,
        )  # fmt: skip
    left.plot(bins, normal.log_prob(bins).exp(), color="black", linestyle=":", label="N(0, 1)")
    left.set(xlabel="latent number", ylabel="density")
    for index, (spread, share) in enumerate(shares.items()):
        kind = ("--", "-", ":")[index]
        right.plot(t, share, color=hue(index), linestyle=kind, label=f"std {spread:g}")
    right.set(xlabel="t (0 = noise, 1 = data)", ylabel="share of data in the variance")
    for axis in (left, right):
        axis.legend(**SMALL)
    return figure


def bits_per_token(rounded: Points, draw: tuple[float, float], codes: Points, name: str) -> Figure:
    """Quality over bits per token: a rounded latent as a curve, a draw and codes as points."""
    figure, (axis,) = new_figure(width=6, height=3)
    bits, quality = zip(*rounded, strict=True)
    line(axis, "continuous, rounded", bits, quality)
    line(axis, "continuous, a draw (its rate)", [draw[0]], [draw[1]], index=2, linestyle="")
    bits, quality = zip(*codes, strict=True)
    line(axis, name, bits, quality, index=1, linestyle="", marker="s")
    axis.set(xlabel="bits per token", ylabel="PSNR on held-out shapes (dB)")
    axis.legend(**SMALL, loc="lower right")
    return figure


def quality_over_bits(curves: Mapping[str, Points]) -> Figure:
    """Measured quality over bits per image, one line per kind of token."""
    figure, (axis,) = new_figure(width=6, height=3.2)
    for index, (name, points) in enumerate(curves.items()):
        bits, quality = zip(*sorted(points), strict=True)
        line(axis, name, bits, quality, index=index)
    axis.set(xlabel="bits per image", ylabel="PSNR on held-out shapes (dB)", xlim=(0, None))
    axis.legend(frameon=False, loc="lower right")
    return figure
