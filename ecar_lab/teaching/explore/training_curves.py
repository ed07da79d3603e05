"""Notebook 6: the curves of training runs, and what a training costs, with their controls."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.configuration_utils import FrozenDict
from matplotlib.figure import Figure

from ecar_lab import cost
from ecar_lab.errors import EcarError
from ecar_lab.experiments.lab.figures import MARKERS, bars, new_figure
from ecar_lab.experiments.lab.figures import logarithmic as logarithmic_axes
from ecar_lab.model import ECAR
from ecar_lab.presets import get_preset
from ecar_lab.teaching.explore import choice, explorer, flag, real, whole
from ecar_lab.teaching.figures import hue

Rows = Sequence[Mapping[str, Any]]
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # label -> x and y
BACKWARD = 2  # the backward pass takes two matrix products for each one of the forward pass
FIELDS = {
    **{"loss": "loss", "gradient norm": "gradient_norm", "learning rate": "lr"},
    **{"images per second": "images_per_second", "waiting for data": "data_wait"},
}
CURVES = ("loss", "loss per stage", "loss per time bin", *list(FIELDS)[1:])


# -- curves ----------------------------------------------------------------------------------------


def committed_runs(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Case -> log rows of its first seed, from the result of ``failure-signatures``.

    Only ``images``, ``loss`` and ``loss_stage`` were kept there; the step follows from the batch.
    """
    batch = result["size"]["batch_size"]
    runs = {}
    for row in result["rows"]:
        curve = row["seeds"][0].get("curve")
        if curve:
            columns = zip(curve["images"], curve["loss"], curve["loss_stage"], strict=True)
            runs[row["name"]] = [
                {"step": images // batch, "images": images, "loss": loss, "loss_stage": stages}
                for images, loss, stages in columns
            ]
    return runs


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to ``window - 1`` before it."""
    pieces = [values[max(0, i - window + 1) : i + 1] for i in range(len(values))]
    return [sum(piece) / len(piece) for piece in pieces]


def series(rows: Rows, curve: str, window: int = 1) -> dict[str, tuple[list[int], list[float]]]:
    """Label -> steps and smoothed values of one of ``CURVES``; what was not finite is left out.

    Raises:
        EcarError: the log holds no such numbers.
    """
    found: dict[str, tuple[list[int], list[float]]] = {}

    def add(label: str, numbers: Sequence[float | None]) -> None:
        known = [
            (row["step"], value)
            for row, value in zip(losses, numbers, strict=True)
            if value is not None
        ]
        if known:
            steps, values = zip(*known, strict=True)
            found[label] = list(steps), smoothed(values, window)

    losses = [row for row in rows if "loss" in row]
    if curve in FIELDS:
        add(curve, [row.get(FIELDS[curve]) for row in losses])
    elif losses and curve == "loss per stage" and "loss_stage" in losses[0]:
        for stage in range(len(losses[0]["loss_stage"])):
            add(f"stage {stage + 1}", [row["loss_stage"][stage] for row in losses])
    elif losses and curve == "loss per time bin" and "loss_bin" in losses[0]:
        finest = [row["loss_bin"][-1] for row in losses]
        count = len(finest[0])
        for index in (0, count // 2, count - 1):
            label = f"finest stage, local time {index / count:g} to {(index + 1) / count:g}"
            add(label, [bins[index] for bins in finest])
    if not found:
        raise EcarError(f"this run has logged no {curve}: choose another curve")
    return found


def charts(
    panels: Mapping[str, Lines],
    columns: int | None = None,
    *,
    x: str = "step",
    logarithmic: bool = False,
    from_zero: bool = False,
    thick: bool = False,
    width: float = 4.2,
    height: float = 2.6,
) -> Figure:
    """Charts of lines, one per title.

    Args:
        columns: charts per row; by default all in one.
        from_zero: the y axis begins at zero. thick: the first line of each chart is, so that others
            can lie on it.
    """
    columns = columns or len(panels)
    rows = math.ceil(len(panels) / columns)
    figure, axes = new_figure(columns, rows, width=width, height=height)
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for index, (label, (places, values)) in enumerate(lines.items()):
            axis.plot(
                places, values, color=hue(index), marker=MARKERS[index], label=label,
                markevery=max(1, len(places) // 8), markersize=4,
                linewidth=4 if thick and index == 0 else 1.4,
            )  # fmt: skip
        axis.set(xlabel=x)
        axis.set_title(title, fontsize=10, loc="left")
        if len(lines) > 1:
            axis.legend(fontsize=8, frameon=False)
        if logarithmic:
            logarithmic_axes(axis, "y")
        elif from_zero:
            axis.set_ylim(bottom=0)
    return figure


def losses(runs: Mapping[str, Rows], examples: Sequence[tuple[str, str]]):
    """Controls over the curves of several runs.

    Args:
        runs: name -> log rows. examples: (run, curve) pairs to show as they are.
    """

    def draw(run: str, curve: str, smoothing: int, logarithmic: bool) -> Figure:
        lines = series(runs[run], curve, smoothing)
        return charts({f"{run}: {curve}": lines}, logarithmic=logarithmic, width=5)

    return explorer(
        draw,
        {
            "run": choice("run", list(runs)),
            "curve": choice("curve", CURVES),
            "smoothing": whole("mean over so many logs", 1, 20, 1),
            "logarithmic": flag("logarithmic", True),
        },
        {f"{run}: {curve}": {"run": run, "curve": curve} for run, curve in examples},
        "Two of the curves that the controls offer: look at all of a run before you judge it.",
        "Two line charts over the step: " + " and ".join(f"{c} of {r}" for r, c in examples) + ".",
    )


# -- budgets ---------------------------------------------------------------------------------------


def training_flops(
    preset: str,
    stage_strides: Sequence[int] | None = None,
    head_draws: Sequence[int] | None = None,
) -> float:
    """FLOPs of training a preset's E-CAR on one image, forward and backward pass.

    ``3 Σ_s (transformer_s + k_s head_s) / stride_s``: a backward pass costs twice the forward one.
    """
    config = shape(preset)
    stages = range(config.num_stages)
    strides = stage_strides or [1] * config.num_stages
    draws = head_draws or [1] * config.num_stages
    head = [cost.velocity_flops(config, s) + cost.head_setup_flops(config, s, 1) for s in stages]
    forward = sum(
        (cost.transformer_flops(config, s) + draws[s] * head[s]) / strides[s] for s in stages
    )
    return (1 + BACKWARD) * forward


@functools.lru_cache(maxsize=16)
def shape(preset: str) -> Any:
    """The configuration of a preset's E-CAR, without making the model."""
    parameters = inspect.signature(ECAR.__init__).parameters
    usual = {name: entry.default for name, entry in parameters.items() if name != "self"}
    return FrozenDict({**usual, **get_preset(preset).model})


def budget_hours(flops_per_image: float, images: float, rate: float, share: float) -> float:
    """``flops_per_image * images / (rate * share) / 3600``.

    Args:
        rate: FLOP/s of a plain matrix product on the machine. share: what training gets of it.
    """
    return flops_per_image * images / (rate * share) / 3600


def draw_budget(presets: Sequence[str], images: float, rate: float, share: float) -> Figure:
    """Hours to train every preset on so many images."""
    hours = [budget_hours(training_flops(name), images, rate, share) for name in presets]
    figure, (axis,) = new_figure(width=5, height=0.4 * len(presets) + 0.8)
    bars(axis, presets, hours)
    axis.set(xlim=(min(hours) / 3, max(hours) * 6))
    logarithmic_axes(axis, "x", xlabel="hours")
    axis.set_title(
        f"{images:,.0f} images at {share:.0%} of {rate / 1e12:.3g} TFLOP/s", fontsize=10, loc="left"
    )
    return figure


def budget(presets: Sequence[str], images: int, rate: float, share: float):
    """Controls for the number of images, the machine and how well it is used."""

    def draw(thousands: int, teraflops: float, percent: int) -> Figure:
        return draw_budget(presets, 1e3 * thousands, 1e12 * teraflops, percent / 100)

    here, percent = round(rate / 1e12, 2), max(1, round(100 * share))
    tenfold = min(10 * here, 400.0)
    return explorer(
        draw,
        {
            "thousands": whole("images, in thousands", 100, 20_000, images // 1000, step=100),
            "teraflops": real("TFLOP/s, matrix product", 0.01, 400.0, here, 0.01),
            "percent": whole("share of it, per cent", 1, 60, percent),
        },
        {"this machine": {}, "ten times the rate": {"teraflops": tenfold}},
        "Hours of training by preset, on a logarithmic axis, with the rate measured here and with "
        "ten times as much. Arithmetic, not a measurement. Presets with the same latents and width "
        "cost the same, whatever the pixels.",
        f"Two bar charts of hours, one bar for each of {', '.join(presets)}.",
    )
