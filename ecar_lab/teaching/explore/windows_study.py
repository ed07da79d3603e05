"""What notebook 4 shows of `ecar experiment windows-and-couplings`, from its committed results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecar_lab.experiments.lab.scores import plus_minus
from ecar_lab.teaching.explore import transitions_figures as draw
from ecar_lab.teaching.figures import show, table


def study_row(study: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The row of that name."""
    return next(row for row in study["rows"] if row["name"] == name)


def scores_of(row: Mapping[str, Any], plan: int, keys: Sequence[str]) -> list[str]:
    """Scores at one of the plans of steps, with their spread: ``0.31 ± 0.02``."""
    return [plus_minus(row["quality"][plan][key]) for key in keys]


def show_coupled(study: Mapping[str, Any]) -> None:
    """A table of the study's couplings: loss, distance, recall."""
    rows = []
    for name in (
        *("correlated, history (leak)", "correlated, no history"),
        "end 0.5, independent, history",
    ):
        row = study_row(study, name)
        scores = scores_of(row, -1, ("frechet", "recall"))
        rows.append((name, f"{row['loss_stage'][1]:.3f}", *scores))
    table(["", "training loss, stage 2", "Frechet, 8 + 8 steps", "recall"], rows)


def show_study_without_noise(study: Mapping[str, Any]) -> None:
    """A table of the study's model with its noise at transitions and without."""
    rows = []
    for name in ("end 0.5, independent, history", "re-noising left out"):
        row = study_row(study, name)
        scores = scores_of(row, 1, ("frechet", "precision", "recall"))
        rows.append((name, *scores, f"{row['boundary']['mean']:.2f}"))
    rows.append(("real digits", "–", "–", "–", f"{study['boundary_of_data']:.2f}"))
    table(["digits, 4 + 4 steps", "Frechet", "precision", "recall", "boundary score"], rows)


def show_window_ends(digits: Mapping[str, Any], cifar10: Mapping[str, Any]) -> None:
    """Figure 4.10: distance over the end of the first window, in two experiments."""
    show(
        draw.window_ends({"digits, 3 seeds": digits, "CIFAR-10, 1 seed": cifar10}),
        "Figure 4.10. Distance over the end of the first window. On digits later is better, on "
        "CIFAR-10 earlier. Short trainings; the nets that measure differ, so compare within a "
        "panel only.",
        "Two line charts of three lines each. Left the lines fall from 0.3 to 0.85, right they "
        "rise from 0.3 to 0.7.",
    )


def show_full_denoise(study: Mapping[str, Any]) -> None:
    """A table of the study's latest window end beside stages that denoise in full."""
    rows = []
    for name in ("first window ends at 0.85", "full denoise per scale"):
        row = study_row(study, name)
        plans = ("; ".join(scores_of(row, plan, ("frechet", "recall"))) for plan in range(3))
        rows.append((name, *plans))
    table(["digits: Frechet distance; recall", "2 + 2 steps", "4 + 4 steps", "8 + 8 steps"], rows)
