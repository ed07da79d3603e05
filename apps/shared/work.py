"""How much one run may compute: operations counted from the shapes, before anything is run.

What a run's copy edits need is part of it: each other image is made once, however often it is
copied from, and only as far as it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecar_lab.errors import EcarError
from ecar_lab.model import ECAR

if TYPE_CHECKING:
    from apps.shared.settings import Settings

# What a recipe or a program may ask for; the page's own controls offer less.
MAX_STEPS, MAX_EDITS = 256, 32
# (class, seed) of another image -> the (stage, step) of it that are copied from.
Copies = dict[tuple[str, int], set[tuple[int, int]]]


def copies_of(settings: Settings) -> Copies:
    """The other images that a run's edits copy from, and where."""
    copies: Copies = {}
    for edit in settings.edits:
        if edit.action == "copy":
            assert edit.class_name is not None
            assert edit.seed is not None
            step = settings.steps[edit.stage] if edit.step is None else edit.step
            copies.setdefault((edit.class_name, edit.seed), set()).add((edit.stage, step))
    return copies


def work_of(model: ECAR, settings: Settings) -> int:
    """Operations of a run, its copies included, without the decoder."""
    flops = model.flops(
        settings.steps,
        settings.guidance,
        settings.solver,
        guidance_interval=settings.all_intervals,
        time_power=settings.all_powers,
    )
    stages = [sum(parts) for parts in zip(*flops.values(), strict=True)]
    depths = [1 + max(moments)[0] for moments in copies_of(settings).values()]
    return sum(stages) + sum(sum(stages[:depth]) for depth in depths)


def budget_of(model: ECAR) -> int:
    """The dearest run without copies: the most steps, each looked at twice, all of them guided."""
    stages = model.schedule.num_stages
    flops = model.flops(
        [MAX_STEPS] * stages, [2.0] * stages, "heun", guidance_interval=(0.0, 1.0), time_power=1.0
    )
    return sum(map(sum, flops.values()))


def check_work(model: ECAR, settings: Settings) -> None:
    """
    Raises:
        EcarError: more steps, edits or operations than one run may have.
    """
    if max(settings.steps) > MAX_STEPS:
        raise EcarError(f"{max(settings.steps)} flow steps in a stage: use at most {MAX_STEPS}")
    if len(settings.edits) > MAX_EDITS:
        raise EcarError(f"{len(settings.edits)} edits: use at most {MAX_EDITS}")
    stages = model.schedule.num_stages
    if any(edit.stage >= stages for edit in settings.edits):
        return  # the run says so itself
    work, budget = work_of(model, settings), budget_of(model)
    if work > budget:
        copied = len(copies_of(settings))
        raise EcarError(
            f"this run needs {work / 1e9:.3g} GFLOP, with {copied} other images that it copies "
            f"from, and one run may take {budget / 1e9:.3g}: use fewer steps or fewer copies"
        )
