"""Notebook 10: what its cells show of a flow in few steps, and what models of images cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ecar_lab.device import synchronize
from ecar_lab.flow import SOLVERS
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.explore import choice, explorer, real
from ecar_lab.teaching.explore import few_steps_figures as draw
from ecar_lab.teaching.explore.flow_matching import Field
from ecar_lab.teaching.explore.known_flow import EVALUATED
from ecar_lab.teaching.figures import show, table
from ecar_lab.teaching.question import quiz


def told(plan: Sequence[int]) -> str:
    """A plan in words: ``8+6+6``."""
    return "+".join(map(str, plan))


# -- what is shown ---------------------------------------------------------------------------------


def first_result(rows: Mapping[str, Tensor]) -> None:
    """Shows images of teacher and few-step head from the same noise, a row for each."""
    show(
        draw.gallery(rows, _columns(rows)),
        "Figure 10.1. The teacher as it is usually sampled; the teacher in two steps per stage; "
        "the few-step head in two steps per stage. All rows start from the same noise.",
        "Three rows of small generated images, one column per class. The second row is blurred and "
        "pale; the third is about as clear as the first.",
    )


def _columns(rows: Mapping[str, Tensor]) -> int:
    return len(next(iter(rows.values())))


def steps_in_time(velocity: Field, start: Tensor, steps: int) -> None:
    """Shows what Euler and Adams-Bashforth 2 take a particle's velocity for between two calls."""
    show(
        draw.believed(velocity, start, steps),
        "Figure 10.2. One particle's velocity on its way (black), asked for at the dots. Coloured: "
        "what a solver takes it for until the next dot. The shaded area is what the step gets "
        "wrong.",
        "Two panels of a velocity over time. Left, Euler's stairs leave large shaded areas; right, "
        "lines through the last two dots follow the curve closely after the first step, and less "
        "so where it bends.",
    )


def orders(errors: Mapping[str, Sequence[float]], found: Mapping[str, float]) -> None:
    """Shows every solver's error over calls of the velocity, and the order measured from it."""
    said = ", ".join(f"{name} {order:.2f}" for name, order in found.items())
    show(
        draw.orders(errors),
        "Figure 10.3. The error at the end over calls of the velocity: Heun calls twice per step, "
        f"so it takes half as many. Measured orders: {said}.",
        "Straight falling lines on logarithmic axes. Euler falls as one over n; Heun and "
        "Adams-Bashforth fall as one over n squared, and Adams-Bashforth is lowest. "
        f"Orders: {said}.",
    )


def by_calls(calls: Sequence[int], errors: Mapping[str, Sequence[float]]) -> None:
    """Shows the error of every solver, one row per number of calls."""
    rows = zip(calls, *errors.values(), strict=True)
    table(
        ["calls per stage", *errors],
        [(count, *(f"{error:.3f}" for error in row)) for count, *row in rows],
    )


def grids(steps: int, powers: Sequence[float]) -> None:
    """Shows where the steps of a grid begin and end, a row for each power."""
    show(
        draw.grids(steps, powers),
        f"Figure 10.4. {steps} steps. Above p = 1 the first ones are the shorter ones.",
        f"{len(powers)} rows of ticks between 0 and 1: below p = 1 they crowd towards the end, at "
        "p = 1 they are even, above it they crowd towards the start.",
    )


def over_powers(
    powers: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]], steps: int
) -> None:
    """Shows errors over the power of the grid, a panel for each flow, and says which is least."""
    best = {
        where: min(zip(curves["Adams-Bashforth 2"], powers, strict=True))[1]
        for where, curves in panels.items()
    }
    said = ", ".join(f"p = {p:g} in {where}" for where, p in best.items())
    show(
        draw.over_powers(powers, panels),
        f"Figure 10.5. Error of {steps} steps (per stage) over p; rings mark the least. "
        f"Adams-Bashforth: {said}.",
        "Two panels of error over the power p, two curves each. Each curve is a bowl, steep "
        f"towards small p. Least for Adams-Bashforth: {said}.",
    )


def own_grids(pipes: Sequence[ECARPipeline]) -> None:
    """Prints the powers that checkpoints prefer, one line each."""
    for pipe in pipes:
        model: Any = pipe.model
        print("powers", model.powers(None), "for", told(model.inference_steps()), "steps")


def guided_parts(scale: float, rows: Sequence[tuple[str, int, float, float]]) -> None:
    """Shows what guidance in a part of the way costs and does.

    Args:
        rows: (where it is guided, passes, probability of the own moon, spread of one moon).
    """
    table(
        [f"guided at {scale:g}", "passes", "probability of the own moon", "spread of one moon"],
        [(where, passes, f"{sure:.1%}", f"{spread:.2f}") for where, passes, sure, spread in rows],
    )


def guided_clouds(ends: Mapping[str, Tensor], behind: Tensor) -> None:
    """Shows where the particles of one class end, a panel for each part that is guided."""
    show(
        draw.rows_of_clouds(ends, behind, 5),
        "Figure 10.6. One class in eight steps, guided in different parts of the way. Grey: both "
        "classes without guidance.",
        "Five panels of points over a grey cloud. Without guidance they fill a half moon and reach "
        "into the other one; guided all the way they are drawn together and away from it; guided "
        "in a part of the way, something in between.",
    )


def gflop_of_plans(plan: Sequence[int], gflop: Mapping[str, float]) -> None:
    """Shows the cost of one plan with several kinds of guidance."""
    table([f"steps {told(plan)}", "GFLOP"], [(name, f"{g:.2f}") for name, g in gflop.items()])


def spans(velocity: Field, start: Tensor) -> None:
    """Shows a path with the velocity at its start, and the mean velocities of its spans."""
    show(
        draw.spans(velocity, start),
        "Figure 10.7. One particle's way (black). The velocity at its start (dashed) points "
        "elsewhere; the mean velocities of both halves lead from point to point, and together they "
        "make the whole span's.",
        "A curved path with a dashed arrow that leaves it at once, two arrows that join its start, "
        "middle and end, and one from start to end.",
    )


def ends_of_both(
    teacher: Mapping[int, Tensor], student: Mapping[int, Tensor], goal: Tensor, scale: float
) -> None:
    """Shows where teacher and student lead in few steps, over where they should."""
    panels = {f"teacher, steps: {k}": ends for k, ends in teacher.items()}
    panels |= {f"few-step, steps: {k}": ends for k, ends in student.items()}
    show(
        draw.rows_of_clouds({**panels, "where they should be": goal}, goal, 4),
        f"Figure 10.8. Both classes, guided at {scale:g}. Above: the teacher with Adams-Bashforth. "
        "Below: the student. Grey: the teacher's many steps.",
        "Two rows of four panels. The teacher's single step collapses to two spots, two and four "
        "steps miss the moons, eight fit. The student's single step already lies on both moons, "
        "roughly; two and four steps too.",
    )


def errors_of_both(missed: Mapping[int, tuple[float, float]]) -> None:
    """Shows the errors of teacher and student with what they pay: steps -> (teacher, student)."""
    table(
        ["steps", "error of the teacher", "its passes", "error of the student", "its passes"],
        [(k, f"{own:.3f}", 2 * k, f"{taught:.3f}", k) for k, (own, taught) in missed.items()],
    )


def images_of(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Shows the images of every plan, a row for each."""
    rows = {name: result["images"] for name, result in results.items()}
    show(
        draw.gallery(rows, _columns(rows)),
        "Figure 10.9. The same noise in every row.",
        "Seven rows of generated images. The teacher's rows get blurred and pale with fewer steps; "
        "the few-step head's rows stay clear and look much like each other.",
    )


def costs(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Shows the distance to the own flow over the cost of an image, a line for each model."""
    show(
        draw.costs([(name, r["gflop"], r["distance"]) for name, r in results.items()]),
        "Figure 10.10. Distance to the own flow in many steps, over the cost of an image; steps "
        "per stage beside each point.",
        "A plot on logarithmic axes with a line for each model. The few-step head lies to the left "
        "of the teacher at equal distance; its line is flat where the teacher's is steep.",
    )


def closing_table(results: Mapping[str, Mapping[str, Any]], usual: Mapping[str, Any]) -> None:
    """Shows cost, time and what is lost of every plan, as measured.

    Args:
        results: plan -> its gflop, seconds, distance, spread, edges. usual: that of the teacher's
            own plan, which the others are compared with.
    """
    header = ["model, steps", "GFLOP", "fewer by", "ms for an image", "faster by"]
    header += ["distance to own flow", "spread of the latent", "edges, of the teacher's"]
    table(
        header,
        [
            (
                *(name, f"{r['gflop']:.2f}", f"{usual['gflop'] / r['gflop']:.1f}×"),
                *(f"{1000 * r['seconds']:.0f}", f"{usual['seconds'] / r['seconds']:.1f}×"),
                *(f"{r['distance']:.3f}", f"{r['spread']:.2f}"),
                f"{r['edges'] / usual['edges']:.2f}",
            )
            for name, r in results.items()
        ],
    )


# -- what is asked ---------------------------------------------------------------------------------


def why_order_two():
    """A question: why one Euler step does not spoil the order of Adams-Bashforth 2."""
    return quiz(
        "Adams-Bashforth 2 has the error of one Euler step in it, its first one. Why is its order "
        "two all the same?",
        {
            "The second step corrects the first one": "It does not look back at the state: an "
            "error made stays.",
            "One step of length h errs by h², and there is only one of them": "Euler's order is "
            "one because 1/h steps err by h² each. A single such error is as small as what all the "
            "others leave together.",
            "The first step is made so short that it does not count": "That helps, but the order "
            "is two on an even grid as well.",
        },
        right="One step of length h errs by h², and there is only one of them",
    )


def better_than_the_teacher():
    """A question: whether a student can be better than the walks that it learned from."""
    return quiz(
        "A student learned spans of 1, 1/2 and 1/4 from walks of 8 Adams-Bashforth steps. Can its "
        "samples be better than the teacher's?",
        {
            "Yes, with 4 steps: its error falls with the steps": "A solver's does. The student's "
            "steps are as exact as it has learned them, however many it takes.",
            "No: at best it leads to where those walks lead": "Its targets are the teacher's "
            "walks, with their solver's error and the teacher's own. A better teacher has to come "
            "first.",
            "Yes: it has seen more classes of noise": "The noise decides which image, not how good "
            "it is.",
        },
        right="No: at best it leads to where those walks lead",
    )


# -- controls --------------------------------------------------------------------------------------


def solvers(velocity: Field, start: Tensor, exact: Tensor):
    """Controls for solver, calls and grid."""
    tracks = draw.Tracks(velocity, start, exact)
    return explorer(
        tracks.draw,
        {
            "solver": choice("solver", list(SOLVERS), "ab2"),
            "calls": choice("calls of the velocity", [2, *EVALUATED[:4]], 4),
            "power": real("power of the grid", 0.4, 3.0, 1.0, 0.1),
        },
        {"Euler, 4 calls": {"solver": "euler"}, "Adams-Bashforth 2, 4 calls": {}},
        "Four calls of the velocity. Blue: where the particles end; orange: the way of some; grey: "
        "where they should end. The ring marks the run in the curves beside it.",
        "Two pairs of panels. With Euler's four steps the particles lie closer together than where "
        "they should end, with Adams-Bashforth's they nearly cover it; beside each, the errors of "
        "three solvers fall with the number of calls.",
        columns=1,
    )


# -- models of images ------------------------------------------------------------------------------


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks are the same, number by number."""
    own, its = one.state_dict(), other.state_dict()
    return own.keys() == its.keys() and all(torch.equal(own[key], its[key]) for key in own)


def seconds_of(pipe: ECARPipeline, label: str, plan: Sequence[int] | None, repeats: int) -> float:
    """Seconds for one image, without the decoder: the least of several runs after one that does not
    count. On a CPU the processor's time of all threads, on which other programs have no claim."""

    def run() -> float:
        clock = time.process_time if pipe.device.type == "cpu" else time.perf_counter
        synchronize(pipe.device)
        started = clock()
        list(pipe.trace([label], plan, generator=torch.Generator().manual_seed(0)))
        synchronize(pipe.device)
        return clock() - started

    run()
    return min(run() for _ in range(repeats))


def edges(images: Tensor) -> float:
    """Mean step in brightness from a pixel to its neighbours; images (B, 3, H, W) in [0, 1]."""
    grey = images.mean(dim=1)
    return (grey.diff(dim=-1).abs().mean() + grey.diff(dim=-2).abs().mean()).item() / 2
