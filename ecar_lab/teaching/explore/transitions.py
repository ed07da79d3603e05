"""Notebook 4: what its cells show and ask, and controls of a transition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.doctor.diagnose import Diagnosis
from ecar_lab.events import TraceEvent
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schedule import Coupling, StageSchedule
from ecar_lab.teaching.explore import choice, explorer, flag, real, whole
from ecar_lab.teaching.explore import transitions_figures as draw
from ecar_lab.teaching.explore.block_noise import COUPLINGS, block_noise, picture_of, start_state
from ecar_lab.teaching.explore.windows_study import (
    show_coupled,
    show_full_denoise,
    show_study_without_noise,
    show_window_ends,
)
from ecar_lab.teaching.figures import show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.viz.colours import LatentColours
from ecar_lab.viz.pictures import enlarge, image_grid, to_pil

# For the cells, beside what is defined here.
__all__ = [
    "show_coupled",
    "show_full_denoise",
    "show_study_without_noise",
    "show_window_ends",
]

# -- what is shown ---------------------------------------------------------------------------------


def show_transitions(
    pipe: ECARPipeline, moments: Sequence[tuple[TraceEvent, str]], image: int
) -> None:
    """Figure 4.1: latents and decoded clean estimates of one image of a run, at some moments."""
    colours = LatentColours.of(pipe.tokenizer)
    one = slice(image, image + 1)
    latents = [colours(event.latent[one]) for event, _ in moments]
    believed = [pipe.decode(event.clean_estimate[one]) * 2 - 1 for event, _ in moments]
    words = [f"stage {event.stage + 1} {what}, t = {event.t:.2f}" for event, what in moments]
    show(
        image_grid(
            [enlarge(to_pil(picture)[0], 150) for picture in (*latents, *believed)],
            len(moments),
            labels=[*words, *["clean estimate"] * len(moments)],
        ),
        "Figure 4.1. An automobile before and after both transitions. Above: the latent. At a "
        "transition it gets four times the pixels and more noise: time goes back. Below: what the "
        "model believes the clean latent to be, decoded. At a start that is the last belief, "
        "upsampled, which the decoder shows coarsely.",
        "Two rows of five pictures. Above, noisy latents of 4×4, 8×8, 8×8, 16×16 and a clear one "
        "of 16×16. Below, the decoded estimates, from a blur to a car.",
    )


def show_noise_left(rows: Sequence[Sequence[float]]) -> None:
    """A table of the noise before and after each transition: t and noise before, t and noise after,
    a row per transition."""
    table(
        ["transition", "t before", "noise", "1 - t", "t after", "noise", "1 - t"],
        [
            (
                f"{stage} → {stage + 1}",
                *(f"{v:.2f}" for v in (t, before, 1 - t, later, after, 1 - later)),
            )
            for stage, (t, before, later, after) in enumerate(rows, 1)
        ],
    )


def show_pyramid(pyramid: Sequence[Tensor]) -> None:
    """Figure 4.2: six digits at the size of each stage."""
    tiles = [draw.tile(level[index] / level.std()) for level in pyramid for index in range(6)]
    show(
        image_grid(tiles, 6),
        "Figure 4.2. Six digits in three stages: at 2×2 where the ink is, at 8×8 a digit. Each "
        "stage in a contrast of its own.",
        "Three rows of the same six digits as 2×2, 4×4 and 8×8 grey pixels, each clearer than "
        "above.",
    )


def show_windows(schedule: StageSchedule) -> None:
    """Figure 4.3: windows in flow time, and what the head is told in their place."""
    show(
        draw.windows(schedule),
        "Figure 4.3. Windows of the shipped model overlap (left); what the head is told never does "
        "(right).",
        "Two charts of three bars. Left: 0 to 0.40, 0.25 to 0.70, 0.54 to 1. Right: three slices "
        "one after another with small gaps.",
    )


def show_eigenvalues(curves: Mapping[float, tuple[Tensor, Tensor]]) -> None:
    """Figure 4.4: the smallest eigenvalue of the noise to be added, over the start of a window.

    Args:
        curves: end b of the window before -> starts a, smallest eigenvalues.
    """
    zeros = [start[smallest >= 0][-1].item() for start, smallest in curves.values()]
    show(
        draw.eigenvalues(curves),
        "Figure 4.4. The smallest eigenvalue of the noise to be added. Below zero there is no such "
        "noise: the dots are the latest possible starts.",
        f"Three falling curves for b = {_listed(f'{end}' for end in curves)}, crossing zero at "
        f"dots near a = {_listed(f'{zero:.2f}' for zero in zeros)}.",
    )


def show_covariances(
    numbers: Mapping[str, Sequence[float]], matrices: Mapping[str, Sequence[Tensor]], largest: float
) -> None:
    """Figure 4.5 and its table: the noise of many starts, measured.

    Args:
        numbers: coupling -> mean, a · D, variance, (1 - a)², largest error of the covariance.
        matrices: coupling -> covariances of what is brought, what is added, both.
    """
    table(
        ["coupling", "mean", "a · D", "variance", "(1 - a)²", "covariance, largest error"],
        [(f"`{name}`", *(f"{v:.4f}" for v in values)) for name, values in numbers.items()],
    )
    show(
        draw.covariances(matrices, largest),
        "Figure 4.5. Measured covariances in a 2×2 block at b = 0.5. White noise (top) fills the "
        "diagonal up and leaves the rest. Noise without block means (bottom) takes away just what "
        "was too much.",
        "Two rows of three four-by-four matrices. Brought: 0.11 everywhere. Added: top a diagonal "
        "of 0.33; bottom 0.33 on the diagonal and minus 0.11 beside it. Sum: 0.44 on both "
        "diagonals, beside it 0.11 on top and 0 below.",
    )


def show_pairs(first: Sequence[Tensor], last: Sequence[Tensor], taus: Sequence[float]) -> None:
    """Figure 4.6: one digit on the straight line from start to end of each of two stages."""
    shown = [draw.tile(((1 - tau) * first[s] + tau * last[s])[0]) for s in (0, 1) for tau in taus]
    show(
        image_grid(shown, 5, labels=[f"stage {s}, τ = {tau}" for s in (1, 2) for tau in taus]),
        "Figure 4.6. The pairs of one digit: every row is one straight line. Stage 1 ends half "
        "noise; stage 2 starts with more noise than that, at four times the pixels, and ends "
        "clean.",
        "Two rows of five pictures. Upper row, 4×4: noise turning into a coarse digit, still "
        "noisy. Lower row, 8×8: a noisy 3 turning into a clean one.",
    )


def show_clean_errors(rows: Sequence[tuple[str, int, Sequence[float]]]) -> None:
    """A table of the largest error of the clean estimate at three local times: coupling, stage."""
    table(
        ["coupling", "stage", "largest error, τ = 0", "τ = 0.3", "τ = 1"],
        [(f"`{name}`", stage, *(f"{gap:.0e}" for gap in gaps)) for name, stage, gaps in rows],
    )


def show_unknown(rows: Sequence[tuple[str, bool, Sequence[float]]]) -> None:
    """A table of how much of the clean block means cannot be told at three local times."""
    table(
        ["coupling", "y seen", "d unknown at τ = 0.25", "τ = 0.5", "τ = 0.75"],
        [
            (f"`{name}`", "yes" if history else "no", *(f"{share:.3f}" for share in shares))
            for name, history, shares in rows
        ],
    )


def show_models(rows: Mapping[str, Sequence[float]]) -> None:
    """A table of four trainings: loss, three distances, and two ratios of generated over real."""
    header = ["", "training loss, stage 2", "Frechet, 2 steps", "4 steps", "8 steps"]
    table(
        [*header, "std of D₀", "std of detail"],
        [(name, *(f"{number:.2f}" for number in numbers)) for name, numbers in rows.items()],
    )


def show_samples(rows: Mapping[str, Tensor]) -> None:
    """Figure 4.7: digits of three models above real ones."""
    show(
        draw.samples(rows),
        "Figure 4.7. Digits 0 to 9 of the three models, 8 steps per stage, equal noise, above real "
        "ones. In single pictures the damage is easy to miss; the table above sums over all of "
        "them.",
        "Four rows of ten small digits: three generated, one real. All rows show digits; by eye "
        "the first is hardly worse than the others.",
    )


def show_signs(
    losses: Mapping[str, Tensor],
    errors: Mapping[str, Sequence[float]],
    changes: Mapping[str, Sequence[float]],
    taus: Sequence[float],
) -> None:
    """Figure 4.8: three signs of the leak, for each model."""
    show(
        draw.signs(losses, errors, changes, taus),
        "Figure 4.8. The leaky model (circles) in training: a low loss, and next to no error in "
        "block means once τ has left 0. In sampling (right) it stays, from its third step on, with "
        "what it has guessed. Honest models go on revising.",
        "Three line charts with three models each. Loss and error of block means are lowest for "
        "correlated with history; its velocity stops changing after the third of eight steps, the "
        "other two change more and more.",
    )


def tell_findings(name: str, **findings: Diagnosis) -> None:
    """Prints what signs of `ecar doctor` say of a model."""
    print(f"{name}:")
    for sign, found in findings.items():
        print(f"  {sign} {'FIRES' if found.fired else 'silent'}: {found.found}")


def show_best_guesses(rows: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> None:
    """A table of what end states tell of the coarsest latent: coupling, windows, shares missed."""
    table(
        ["coupling", "window ends", "D₀ unknown from e₀", "from e₁", "from both"],
        [(f"`{name}`", ends, *(f"{share:.3f}" for share in found)) for name, ends, found in rows],
    )


def show_wrong_history(deltas: Sequence[float], rows: Mapping[str, Sequence[float]]) -> None:
    """A table of distances after histories that are wrong by ``deltas``, and after the own one."""
    table(
        ["Frechet distance", *(f"δ = {delta}" for delta in deltas), "own history"],
        [(name, *(f"{score:.2f}" for score in scores)) for name, scores in rows.items()],
    )


def show_without_noise(
    with_noise: Tensor, without: Tensor, detail: Tensor, names: Sequence[str]
) -> None:
    """Figure 4.9: images with and without the noise at transitions, and the latter's detail."""
    words = [
        f"{name}, {what}" for what in ("with noise", "without", "detail × 8") for name in names
    ]
    show(
        image_grid(torch.cat((with_noise, without, detail)), 4, scale=4, labels=words),
        "Figure 4.9. Same class, same first stage. Middle: without the noise at the transitions, "
        "blurred patches of little colour. Bottom: what is left of their detail (less the mean of "
        "5×5 pixels), eight times as strong: edges and a regular grid.",
        "Three rows of four images. Above a horse, a truck, a ship and an automobile; in the "
        "middle the same scenes as blurred patches; below grey pictures with a fine grid of lines.",
    )


def show_boundaries(
    scores: Mapping[str, Sequence[float]], bands: Mapping[str, Sequence[float]]
) -> None:
    """A table of boundary scores (stages 2 and 3) and of standard deviations, band by band."""
    rows = [
        (name, *(f"{scores[name][s]:.2f}" for s in (1, 2)), *(f"{v:.2f}" for v in bands[name]))
        for name in scores
    ]
    table(["", "boundary score, stage 2", "stage 3", "std of D₀", "detail 1", "detail 2"], rows)


def _listed(words: Any) -> str:
    """a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}"


# -- questions -------------------------------------------------------------------------------------


def ask_correlation() -> Any:
    """How strongly two pixels of a block correlate."""
    return quiz(
        "`independent`, any b: how strongly do two pixels of a block correlate in their noise "
        "after the transition?",
        {
            "Not at all": "So it is with `correlated`. White noise adds to the diagonal only.",
            "With 1/4": "c² beside (1 - a)² on the diagonal, and c = (1 - a) / 2, whatever b is.",
            "More as b grows": "c and 1 - a shrink in proportion as b grows: their ratio stays.",
        },
        right="With 1/4",
    )


def ask_lower_loss() -> Any:
    """What to look at when a loss is too good."""
    return quiz(
        "A colleague trains `correlated` with history and has a lower loss than you. What do you "
        "look at?",
        {
            "More flow steps": "They do not mend it: the model stays with its first guess.",
            "Errors of block means against the rest": "Late in a stage: this is `diagnose.leak`.",
            "The learning rate": "A loss that is too good raises another question: what can it "
            "see?",
        },
        right="Errors of block means against the rest",
    )


# -- controls --------------------------------------------------------------------------------------


def transitions(latent: Tensor):
    """Controls for b, the coupling and the re-noising, above matrices and a start state.

    Args:
        latent: (B, 1, R, R); the first one is shown.
    """
    one = latent[:1]

    def redraw(previous_end: float, coupling: Coupling, renoise: bool, seed: int) -> Figure:
        schedule = StageSchedule(one.shape[-1], 2, (previous_end, 1.0), coupling)
        state = start_state(schedule, one, renoise, seed)
        return picture_of(one, block_noise(previous_end, coupling, renoise), state)

    return explorer(
        redraw,
        {
            "previous_end": real("b, end of the window before", 0.05, 0.95, 0.5, 0.05),
            "coupling": choice("coupling", COUPLINGS),
            "renoise": flag("add noise at the transition", True),
            "seed": whole("seed of the picture", 0, 99, 0),
        },
        {
            "independent": {"coupling": "independent"},
            "correlated": {"coupling": "correlated"},
            "b = 0.8, no noise added": {"previous_end": 0.8, "renoise": False},
        },
        "Covariance of the noise inside a 2×2 block, measured and by formula, and one start state. "
        "With `correlated` only the diagonal is left; with `independent` a quarter of it stands "
        "beside it; without new noise all sixteen numbers are equal and the picture is made of "
        "blocks.",
        "Three groups of two four-by-four matrices and a small noisy digit. Measured and formula "
        "agree in each. Independent: 0.44 on the diagonal, 0.11 beside it. Correlated: 0.44 on the "
        "diagonal, zero beside it. No noise: one value everywhere, and a digit of flat blocks.",
        columns=1,
    )
