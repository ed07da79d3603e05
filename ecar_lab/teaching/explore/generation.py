"""Notebook 7: figures and tables of what its cells have generated and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ecar_lab.experiments.lab.figures import line, logarithmic
from ecar_lab.schedule import plan_text
from ecar_lab.teaching.explore.generation_controls import Groups, gallery, knobs, seeds
from ecar_lab.teaching.explore.generation_edits import (
    bills,
    dearest_plan,
    edits,
    fingerprint,
    keep,
    seams,
    votes,
    walks,
    watched,
)
from ecar_lab.teaching.figures import hue, new_figure, show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.viz.pictures import image_grid

__all__ = ["edits", "knobs", "seams", "seeds", "votes", "walks"]  # and all below
__all__ += ["bills", "dearest_plan", "fingerprint", "keep", "watched"]

Row = Mapping[str, Any]  # of a result of `ecar experiment`


# -- first looks -----------------------------------------------------------------------------------


def every_class(images: Sequence[Image.Image], names: Sequence[str]) -> None:
    """Shows images of every class, one row per seed."""
    rows = len(images) // len(names)
    show(
        image_grid(images, len(names), scale=4, labels=[*names] * rows),
        "Figure 7.1. One seed per row. With the same seed, classes share colours and layout.",
        f"Generated images, {len(names)} classes wide, {rows} seeds high. Cars, trucks and most "
        "ships and horses can be made out; cats, dogs and some birds are blurs.",
    )


def quality(card: Row, names: Sequence[str]) -> None:
    """Shows the measures of `ecar evaluate`, of generated images beside real ones."""
    made, real = card["metrics"], card["reference_points"]["real train images"]
    shares = card["class_accuracy"]["per_class"]
    keys = ("frechet_distance", "precision_k3", "recall_k3")
    measures = [f"{key}[features-cifar10]" for key in keys]
    named = [
        (f"{name} classified correctly", *(f"{x:.0%}" for x in shares[name].values()))
        for name in names
    ]
    table(
        ["", "generated", "real"],
        [(key.split("[")[0], f"{made[key]:.2f}", f"{real[key]:.2f}") for key in measures] + named,
    )


def own_digits(tried: Mapping[tuple[int, int], tuple[Tensor, float]], whose: str, of: int) -> None:
    """Shows digits of the learner's model by steps, and how many are classified correctly.

    Args:
        tried: (steps per stage, guidance) -> ten images, share classified correctly.
        whose: the weights are. of: images that the share is of.
    """
    counts = sorted({steps for steps, _ in tried})
    scales = sorted({scale for _, scale in tried})
    shares = ", ".join(f"{tried[steps, 1][1]:.0%}" for steps in counts)
    images = torch.cat([tried[steps, 1][0] for steps in counts])
    show(
        image_grid(images, 10, scale=max(1, 100 // images.shape[-1])),
        f"Figure 7.2. Digits of your model ({whose}), {', '.join(map(str, counts))} steps per "
        f"stage from the same noise: {shares} of {of} are classified correctly.",
        f"{len(counts)} rows of ten generated digits, one row per number of steps; classified "
        f"correctly: {shares}.",
    )
    guidance = [f"guidance {scale:g}" if scale != 1 else "no guidance" for scale in scales]
    table(
        ["steps per stage", *guidance],
        [(steps, *(f"{tried[steps, g][1]:.1%}" for g in scales)) for steps in counts],
    )


def gaps_in_a_batch(gaps: Sequence[tuple[float, float]]) -> None:
    """Shows by stage how far the first image of a batch is from the one generated alone."""
    table(
        ["stage", "one generator", "one each"],
        [(stage, *map("{:.2g}".format, pair)) for stage, pair in enumerate(gaps, 1)],
    )


# -- steps -----------------------------------------------------------------------------------------


def prices(call: Sequence[float], read: Sequence[float], step: Sequence[float]) -> None:
    """Shows what each stage pays for, in millions of FLOPs."""
    rows = zip(call, read, step, strict=True)
    table(
        ["stage", "transformer call", "reading the token map", "one flow step"],
        [(stage, *(f"{f / 1e6:,.1f}" for f in row)) for stage, row in enumerate(rows, 1)],
    )
    print("in millions of FLOPs")


def by_steps(images: Mapping[int, Tensor], gflop: Mapping[int, float]) -> None:
    """Shows an automobile and a horse with more and more steps per stage."""
    groups = {f"{n}+{n}+{n}: {gflop[n]:.1f} GFLOP": each for n, each in images.items()}
    show(
        gallery(groups, len(groups), 1),
        f"Figure 7.3. {min(images)} to {max(images)} steps per stage. One step is a blur. From "
        "four on the picture stays and gains in detail.",
        f"An automobile and a horse with {', '.join(map(str, images))} steps per stage, from a "
        "blur to a sharp small picture.",
    )


def solver_errors(errors: Mapping[str, Mapping[float, float]], images: int) -> None:
    """Shows each solver's distance from a finely solved flow over its cost: GFLOP -> distance."""
    figure, (axis,) = new_figure(width=6, height=3)
    for index, (name, found) in enumerate(errors.items()):
        line(axis, name, list(found), list(found.values()), index)
    logarithmic(axis, "x", "y", xlabel="GFLOP per image", ylabel="distance from Heun, 16 steps")
    axis.legend(frameon=False)
    show(
        figure,
        f"Figure 7.4. The solver's error, mean of {images} images. Heun gains nothing at few FLOPs "
        "and much at many. The reference is a Heun run, which flatters Heun's last point a little.",
        "Two falling lines over GFLOP, logarithmic: Euler and Heun start close together, Heun ends "
        "lower.",
    )


def bought(found: Sequence[tuple[Sequence[int], float, float]], before: float) -> None:
    """Shows what more steps in one stage cost and buy: (plan, extra GFLOP, closer by)."""
    table(
        ["steps", "extra GFLOP", "closer to Heun, 16 steps", "closer per GFLOP"],
        [
            (plan, f"{extra:.2f}", f"{closer:+.3f}", f"{closer / extra:+.3f}")
            for plan, extra, closer in found
        ],
    )
    print(f"4 + 4 + 4 is {before:.3f} away from it")


COLUMNS = ("GFLOP", "Frechet distance", "classified correctly", "recall")


def score(row: Row) -> tuple[str, ...]:
    """The cells of a table for one way of sampling, under ``COLUMNS``."""
    shares = (f"{row[key]:.0%}" for key in ("named_right", "recall"))
    return f"{row['gflop']:.2f}", f"{row['frechet']:.2f}", *shares


def plans(rows: Sequence[Row]) -> None:
    """Shows cost and quality of plans of steps, the cheapest first."""
    told = [plan_text(row["num_inference_steps"]) for row in rows]
    table(
        ["steps", "solver", *COLUMNS],
        [(plan, row["solver"], *score(row)) for plan, row in zip(told, rows, strict=True)],
    )


# -- guidance --------------------------------------------------------------------------------------


def guided_prices(costs: Mapping[Any, Mapping[str, float]]) -> None:
    """Shows what guidance costs: scales -> FLOPs of transformer and head."""
    parts = list(next(iter(costs.values())))
    table(
        ["guidance", *(f"{part}, GFLOP" for part in parts), "together"],
        [
            (scales, *(f"{flops / 1e9:.2f}" for flops in (*cost.values(), sum(cost.values()))))
            for scales, cost in costs.items()
        ],
    )


def by_guidance(images: Groups) -> None:
    """Shows the same four images under every plan of guidance."""
    show(
        gallery(images, 2),
        "Figure 7.5. Guidance of the three stages, coarsest first. Without any the objects are "
        "vague; 6 burns colours and contrast. The coarsest stage's alone changes little.",
        "Six groups of the same four images under six guidance plans, from vague shapes at 1 to "
        "glaring colours at 6.",
    )


def guidances(rows: Sequence[Row]) -> None:
    """Shows cost and quality of plans of guidance."""
    told = [" / ".join(f"{scale:g}" for scale in row["guidance_scale"]) for row in rows]
    table(
        ["guidance", *COLUMNS],
        [(plan, *score(row)) for plan, row in zip(told, rows, strict=True)],
    )


def in_stage_1(pairs: Mapping[str, tuple[Row, Row]], falls: Sequence[float]) -> None:
    """Shows what guidance in stage 1 changes: where -> (row without, row with).

    Args:
        falls: of the distance when stages 1, 2, 3 are taken from real images.
    """
    table(
        ["guidance in stage 1", "distance without", "with", "recall without", "with"],
        [
            (
                where,
                *(f"{row['frechet']:.2f}" for row in pair),
                *(f"{row['recall']:.0%}" for row in pair),
            )
            for where, pair in pairs.items()
        ],
    )
    told = " ".join(f"{fall:.2f}" for fall in falls)
    print(f"the distance falls by {told} when stages 1, 2, 3 are taken from real images")


# -- forks, classes, edits -------------------------------------------------------------------------


def forks(images: Groups) -> None:
    """Shows four forks of an automobile and four of a horse, after stage 1 and after stage 2."""
    show(
        gallery(images, 2),
        "Figure 7.7. Forks of an automobile and of a horse. After stage 1 colours and pose are "
        "still open; after stage 2 they are fixed, and stage 3 draws the detail.",
        "Two groups of two rows of four images. With stage 1 kept the four differ in colour and "
        "pose; with stages 1 and 2 kept they are alike but for details.",
    )


def apart(report: Mapping[str, tuple[float, float]]) -> None:
    """Shows what is kept -> how far two forks are apart, and the share classified as before."""
    table(
        ["", "two forks are apart (root mean square)", "classified like the run of seed 0"],
        [(kept, f"{gap:.2f}", f"{same:.0%}") for kept, (gap, same) in report.items()],
    )


def still_open(shares: Mapping[int, Sequence[float]], classes: int) -> None:
    """Shows by band of resolution how much variance is open after stages 1 and 2 (0 and 1)."""
    figure, (axis,) = new_figure(width=6, height=2.8)
    for kept, values in shares.items():
        places = [band + 0.38 * (kept - 0.5) for band in range(3)]
        drawn = axis.bar(places, values, 0.36, color=hue(kept), label=f"after stage {kept + 1}")
        axis.bar_label(drawn, [f"{value:.0%}" for value in values], fontsize=8)
    axis.set_xticks(range(3), ["4×4", "8×8 adds", "16×16 adds"])
    axis.set(ylabel="variance still open")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    after = {kept: ", ".join(f"{value:.0%}" for value in shares[kept]) for kept in shares}
    show(
        figure,
        f"Figure 7.8. Of the variance between {classes} × 4 runs, what is left open, by band. "
        "Stage 1 settles part of the coarsest band and little else; stage 2 most of what is left.",
        f"Three pairs of bars. Still open after stage 1: {after[0]}. After stage 2: {after[1]}.",
    )


def switches(images: Groups, pairs: Sequence[tuple[str, str]]) -> None:
    """Shows images that change class on the way, a group for each stage it happens in."""
    told = ", ".join(f"{first} → {second}" for first, second in pairs)
    show(
        gallery(images, 2),
        f"Figure 7.10. {told[0].upper()}{told[1:]}. From stage 2 on the second class wins; from "
        "stage 3 on it can only repaint what is there.",
        "Four groups of four images: the second class from stage 1, 2, 3 or never. Switched at "
        "stage 2 the second object appears; at stage 3 the first one's outline stays.",
    )


def switched(found: Mapping[str, tuple[float, float]]) -> None:
    """Shows when -> shares classified as the first class and as the second."""
    table(
        ["second class", "classified as the first", "as the second", "as neither"],
        [(when, f"{a:.0%}", f"{b:.0%}", f"{1 - a - b:.0%}") for when, (a, b) in found.items()],
    )


def cheap_variants():
    """A question: how to get variants of an image with other details."""
    return quiz(
        "You have a horse you like and want eight variants with other details, as cheaply as can "
        "be. What do you do?",
        {
            "Eight new seeds": "Those are eight other horses, at the full price.",
            "Fork after stage 1": "Much of the picture is still open then: eight other horses "
            "again.",
            "Fork after stage 2": "Layout and colours stay; only the steps of stage 3 are "
            "computed, though those are most of the cost.",
        },
        right="Fork after stage 2",
    )
