"""Notebook 9: its figures, tables and controls; what they show, its cells have computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from ecar_lab.experiments.lab.figures import STYLES, bars, logarithmic, style
from ecar_lab.schedule import plan_text
from ecar_lab.teaching.explore import choice, explorer, shipped, whole
from ecar_lab.teaching.explore.flops import PIXELS, compared
from ecar_lab.teaching.figures import hue, new_figure, show, table
from ecar_lab.teaching.question import quiz

__all__ = ["calculator", "shipped"]  # and all below

COLOURS = {
    "E-CAR": STYLES["E-CAR"]["color"],
    "DiT": STYLES["DiT"]["color"],
    "FlowAR-like": STYLES["full denoise per scale"]["color"],
    "MAR-like": STYLES["masked AR"]["color"],
}


GREY = "#9AA3AE"


def comparison(benchmark: Mapping[str, Any]) -> None:
    """Shows the models of ``ecar benchmark``: steps, FLOPs and time, as ratios to E-CAR's."""
    print(benchmark["machine"], benchmark["dtype"])
    rows = []
    for peer in benchmark["peers"]["models"]:
        times = [f"{batch['time_ratio']:.1f}×" for batch in peer["batches"]]
        gflop, ratio = f"{peer['gflop_per_image']:.4g}", f"{peer['flops_ratio']:.1f}×"
        rows.append((peer["name"], plan_text(peer["steps"]), gflop, ratio, *times))
    header = ["256 px", "flow steps", "GFLOP", "FLOPs"]
    table([*header, "time, batch 1", "time, batch 8"], rows)


def parts_of_a_block(
    counts: Sequence[int], linear: Sequence[float], attention: Sequence[float], width: int
) -> None:
    """Shows the GFLOP of a block's linear layers and of its attention over the tokens."""
    figure, (axis,) = new_figure(width=6, height=3)
    axis.plot(counts, linear, color=hue(0), marker="o", label="linear layers, ∝ n")
    axis.plot(counts, attention, color=hue(4), marker="s", linestyle="--", label="attention, ∝ n²")
    axis.axvline(6 * width, color="#59626E", linewidth=1)
    axis.legend(frameon=False)
    logarithmic(axis, "x", "y", xlabel="tokens", ylabel="GFLOP of one block")
    show(
        figure,
        f"Figure 9.1. The two parts of a block of width {width}. They are equal at 6 D = "
        f"{6 * width} tokens (grey line). An image of 256 px has 256 tokens here, one of 1024 px "
        "has 4,096.",
        "Two straight lines on logarithmic axes; attention, the steeper one, crosses the linear "
        f"layers at {6 * width} tokens.",
    )


def costs_of_stages(
    tokens: Sequence[int], steps: Sequence[int], once: Sequence[float], each: Sequence[float]
) -> None:
    """Shows what every stage pays once and at each step, in FLOPs."""
    rows = zip(tokens, steps, once, each, strict=True)
    table(
        ["stage", "tokens", "steps", "once per stage, GFLOP", "each step, GFLOP"],
        [(s, n, k, f"{a / 1e9:.3f}", f"{b / 1e9:.3f}") for s, (n, k, a, b) in enumerate(rows, 1)],
    )


def shares_of_stages(flops: Sequence[float], seconds: Sequence[float]) -> None:
    """Shows each stage's share of FLOPs and of time, and says at which rates they run."""
    figure, axes = new_figure(2, width=4.4, height=2.6)
    stages = range(len(flops))
    for axis, values, title in zip(axes, (flops, seconds), ("FLOPs", "time, batch 1"), strict=True):
        shares = [100 * value / sum(values) for value in values]
        axis.barh([f"stage {s + 1}" for s in stages], shares, color=[hue(s) for s in stages])
        axis.invert_yaxis()
        axis.set(title=title, xlabel="share, %", xlim=(0, 80))
    rates = [f / t / 1e9 for f, t in zip(flops, seconds, strict=True)]
    coarse = [sum(values[:-1]) / sum(values) for values in (flops, seconds)]
    show(
        figure,
        "Figure 9.2. FLOPs go with the tokens, time less so. The stages run at "
        + ", ".join(f"{rate:.0f}" for rate in rates)
        + " GFLOP per second: a small call leaves the machine idle.",
        "Two bar charts. In FLOPs the last stage has by far the most; the stages before it have "
        f"{coarse[0]:.0%} of the FLOPs and {coarse[1]:.0%} of the time.",
    )


def two_factors(
    fewer: float, smaller: float, plan: Sequence[int], ours: float, dit: tuple[float, float]
) -> None:
    """Shows the factor against DiT at 50 steps as a product of two.

    Args:
        ours: GFLOP of E-CAR. dit: GFLOP of one step of DiT, and of fifty.
    """
    steps, (step, fifty) = sum(plan), dit
    mean = f"{ours / steps:.1f} GFLOP on average instead of {step:.1f}"
    table(
        ["factor", "", ""],
        [
            ("fewer flow steps", f"{steps} instead of 50", f"{fewer:.2f}×"),
            ("cheaper steps", mean, f"{smaller:.2f}×"),
            ("together", f"{ours:.1f} GFLOP instead of {fifty:.0f}", f"{fewer * smaller:.1f}×"),
        ],
    )


def from_dit_to_ecar(gflop: Mapping[str, float], steps: int, fifty: float) -> None:
    """Shows how the cost falls from DiT to E-CAR: a bar for each change, first DiT, last E-CAR.

    Args:
        steps: of the flow, in all of them. fifty: GFLOP of DiT at fifty steps.
    """
    figure, (axis,) = new_figure(width=6, height=2.2)
    colours = [COLOURS["DiT"], *[GREY] * (len(gflop) - 2), COLOURS["E-CAR"]]
    bars(axis, list(gflop), list(gflop.values()), color=colours)
    axis.set_xlabel("GFLOP")
    first, *_, last = gflop.values()
    show(
        figure,
        f"Figure 9.3. From DiT at {steps} steps to E-CAR. The ratio at equal numbers of steps is "
        f"{first / last:.1f}×; the rest of the {fifty / last:.1f}× is the number of steps.",
        "Four bars, each shorter than the one before but the last: splitting off the transformer "
        "and going from coarse to fine save FLOPs.",
    )


def grid_of_plans(
    ours: Sequence[int], dits: Sequence[int], ratios: Sequence[Sequence[float]]
) -> None:
    """Shows DiT's FLOPs as multiples of E-CAR's, for numbers of steps of both."""
    table(
        ["E-CAR, steps per stage", *(f"DiT, {steps} steps" for steps in dits)],
        [(k, *(f"{r:.1f}×" for r in row)) for k, row in zip(ours, ratios, strict=True)],
    )


def seconds_of_both(measured: Sequence[tuple[int, float, float]], few: int) -> None:
    """Shows seconds per image: rows of (batch, E-CAR's, those of DiT with fifty steps)."""
    table(
        ["batch", "E-CAR, s per image", f"DiT, 50 steps (timed on {few}), s per image", "ratio"],
        [(b, f"{own:.3f}", f"{other:.2f}", f"{other / own:.1f}×") for b, own, other in measured],
    )


def shares_of_rate(rows: Sequence[tuple[int, float, float]], rate: float, dtype: Any) -> None:
    """Shows which share of a matrix product's rate is used: rows of (batch, E-CAR, DiT)."""
    kind = str(dtype).removeprefix("torch.")
    print(f"matrix product: {rate / 1e12:.2f} TFLOP per second in {kind}")
    table(
        ["batch", "E-CAR, share of that rate", "DiT, share of that rate"],
        [(batch, f"{own:.0%}", f"{other:.0%}") for batch, own, other in rows],
    )


def diagnosis(found: Any) -> None:
    """Prints a diagnosis of ``ecar doctor``: its name, whether it fires, what it found."""
    print(found.name, "- fires" if found.fired else "- does not fire:", found.found)


def larger_images(costs: Mapping[str, Sequence[float]]) -> None:
    """Shows the GFLOP of every model at growing image sizes."""
    ends = ["growth, 16× the pixels", "of E-CAR's at 1024 px"]
    table(
        ["GFLOP", *(f"{pixels} px" for pixels in PIXELS), *ends],
        [
            (
                *(name, *(f"{c:,.0f}" for c in cost), f"{cost[-1] / cost[0]:.0f}×"),
                f"{cost[-1] / costs['E-CAR'][-1]:.1f}×",
            )
            for name, cost in costs.items()
        ],
    )


def growth(complexity: Mapping[str, Any], shown: Sequence[str]) -> None:
    """Shows FLOPs and seconds of an image over its size, from ``ecar experiment complexity``."""
    figure, axes = new_figure(2, width=4.4, height=3.4)
    for name in shown:
        rows = [row for row in complexity["rows"] if row["name"] == name]
        for axis, key in zip(axes, ("gflop", "seconds"), strict=True):
            points = [(row["pixels"], row[key]) for row in rows if row.get(key)]
            look: dict[str, Any] = {**style(name), "markersize": 5}
            axis.plot(*zip(*points, strict=True), label=name, **look)
    for axis, label in zip(axes, ("GFLOP", "seconds for one image"), strict=True):
        logarithmic(axis, "x", "y", xlabel="pixels per side", ylabel=label)
    axes[0].legend(frameon=False, fontsize=8)
    exponents = {name: complexity["fits"][name]["gflop"]["largest_three"] for name in shown}
    show(
        figure,
        f"Figure 9.4. From `ecar experiment complexity` (8.3 million parameters, "
        f"{complexity['machine']}). FLOPs over the largest three sizes grow as n to the power of "
        + ", ".join(f"{e:.2f} ({n})" for n, e in exponents.items())
        + ".",
        "Two logarithmic plots over image size. Token by token without a cache rises most steeply, "
        "DiT and E-CAR less so, E-CAR with windows almost in proportion to the pixels.",
    )


def peak_memory(peers: Sequence[Mapping[str, Any]]) -> None:
    """Shows the peak memory of the models whose runs were timed as a whole, a bar per batch."""
    whole_runs = [peer for peer in peers if peer["timed_steps"] == sum(peer["steps"])]
    sizes = {
        f"{peer['name']}, batch {batch['batch_size']}": batch["peak_bytes"] / 2**20
        for peer in whole_runs
        for batch in peer["batches"]
    }
    figure, (axis,) = new_figure(width=6, height=2.6)
    colours = [COLOURS[name.split(",")[0]] for name in sizes]
    bars(axis, list(sizes), list(sizes.values()), color=colours)
    axis.set_xlabel("peak MiB beyond the weights")
    weights = peers[0]["parameters"] * torch.bfloat16.itemsize / 2**20
    show(
        figure,
        "Figure 9.5. Peak memory while sampling, from `ecar benchmark`. E-CAR needs more than DiT "
        "at these sizes: it keeps a cache, and makes the conditions of all steps of a stage at "
        f"once. At batch 1 its {sizes['E-CAR, batch 1']:.0f} MiB stand beside {weights:.0f} MiB of "
        "bfloat16 weights.",
        "Bars of peak memory per model and batch; E-CAR lies above DiT at batch 1 and 8.",
    )


def levers(faster: Mapping[str, float]) -> None:
    """Shows how many times faster an image is with every lever."""
    table(["lever", "faster by"], [(name, f"{ratio:.2f}×") for name, ratio in faster.items()])


def what_decides_the_time():
    """A question: why a saving in FLOPs is one in time on one machine only."""
    return quiz(
        "E-CAR's saving in time is close to its saving in FLOPs on one machine and far smaller on "
        "another. What decides it?",
        {
            "The quality of the weights": "Time does not depend on the values of the weights.",
            "How well small calls fill the machine": "A coarse stage has few tokens. Where such a "
            "call runs at nearly the rate of a large one, time follows FLOPs; where it does not, "
            "time lags.",
            "The number of classes": "One row of an embedding table is read, however many there "
            "are.",
        },
        right="How well small calls fill the machine",
    )


def what_shrinks_the_factor(factor: float):
    """A question: what makes DiT's cost as a multiple of E-CAR's smaller, E-CAR left alone."""
    solver = "A better solver or distillation for DiT, with equal quality in fewer steps"
    return quiz(
        f"Which of these would make the factor of {factor:.0f} smaller without changing E-CAR at "
        "all?",
        {
            solver: "The factor is a ratio of two plans; half the steps for DiT is half the "
            "factor.",
            "A larger image": "Both grow with the same exponent at full size; the factor stays, or "
            "grows a little.",
            "A larger batch": "FLOPs per image stay; only time per image changes.",
        },
        right=solver,
    )


# -- controls --------------------------------------------------------------------------------------


def draw(pixels: int, coarse: int, finest: int, dit_steps: int, guidance: float) -> Figure:
    """Bars of :func:`compared`, with the ratio to E-CAR."""
    costs = compared(pixels, coarse, finest, dit_steps, guidance)
    figure, (axis,) = new_figure(width=5.6, height=2.3)
    names = [f"{name} ({cost / costs['E-CAR']:.3g}×)" for name, cost in costs.items()]
    bars(axis, names, list(costs.values()), color=[COLOURS[name] for name in costs])
    axis.set_xlabel(f"GFLOP for one image of {pixels} px")
    return figure


def calculator():
    """Image size, steps and guidance -> FLOPs of all models."""
    return explorer(
        draw,
        {
            "pixels": choice("image, pixels", PIXELS),
            "coarse": whole("steps, coarse stages", 1, 24, 3),
            "finest": whole("steps, finest stage", 1, 24, 2),
            "dit_steps": whole("DiT steps", 1, 250, 50),
            "guidance": choice("guidance", [2.0, 1.0]),
        },
        {
            "3 steps per stage, 2 in the finest; DiT at 50": {},
            "8 steps everywhere; DiT at 8": {"coarse": 8, "finest": 8, "dit_steps": 8},
        },
        "The same models, two plans. Left, E-CAR takes a few steps and DiT fifty: more than an "
        "order of magnitude. Right, DiT takes eight, E-CAR eight in each stage: nothing is left.",
        "Two bar charts of FLOPs. With few steps E-CAR is far below DiT, FlowAR-like and MAR-like; "
        "with eight steps in every stage against eight of DiT it costs a little more than DiT.",
    )
