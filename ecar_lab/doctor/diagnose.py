"""Named diagnostics of a training run and of a model: numbers in, a :class:`Diagnosis` out.

Every function looks for one known way to fail. Its docstring gives the formula, the threshold and
why it stands where it stands. Nothing here reads a file or runs a model: ``run.py`` does, for
``ecar doctor RUN``, and so does the experiment ``failure-signatures``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Sign(NamedTuple):
    """What is known of a failure: what to do about it, and whether the result is of no use then."""

    remedy: str
    grave: bool


SIGNS = {
    "diverged": Sign("train again with a lower lr, and keep grad_clip at 1", True),
    "loss_not_falling": Sign(
        "look at lr and at how long it warms up; train for longer if the run is short", True
    ),
    "loss_oscillating": Sign("train with a lower lr or a larger batch", True),
    "gradients_clipped_always": Sign(
        "every step has the same length: lower lr, or raise grad_clip above the usual norm", False
    ),
    "stage_lagging": Sign(
        "show this stage more images (stage_strides), or give its window less to do", False
    ),
    "data_starved": Sign("keep cache_latents on, or put the data on a faster disk", False),
    "training_slow": Sign(
        "raise the batch size, or choose bfloat16; other programs may hold the cores", False
    ),
    "leak": Sign(
        "the transformer sees the noise that the state holds: train with coupling independent, or "
        "correlated with history none",
        True,
    ),
    "flat_samples": Sign(
        "train for longer, look for a leak, and sample with the noise at transitions (renoise)",
        True,
    ),
    "boundary_artefacts": Sign(
        "sample with the noise at transitions (renoise), with more steps in the stage named", True
    ),
    "efficiency_not_realised": Sign(
        "the time goes where the FLOPs do not: fewer steps in the slowest stage, more images at "
        "once",
        False,
    ),
}


@dataclass(frozen=True)
class Diagnosis:
    """What one diagnostic found.

    Attributes:
        name: one of ``SIGNS``.
        value: the number that was judged; None if it could not be measured.
        threshold: where the diagnostic fires. fired: whether it does.
        found: the same in words.
    """

    name: str
    value: float | None
    threshold: float
    fired: bool
    found: str

    @property
    def remedy(self) -> str:
        return SIGNS[self.name].remedy

    @property
    def grave(self) -> bool:
        return SIGNS[self.name].grave


def unmeasured(name: str, why: str) -> Diagnosis:
    """A diagnostic that has nothing to go by."""
    return Diagnosis(name, None, math.nan, False, f"not measured: {why}")


# -- from the log ----------------------------------------------------------------------------------

FEWEST_ROWS = 5  # logged losses below which nothing is said about their course
ZERO_LOSS = 2.0  # of a velocity of zero: E|x - eps|² for unit variance of both
RISE = 3.0
FALL = 0.05
SWING = 0.1
CLIPPED_SHARE = 0.9
LAG, LEARNED = 0.15, 0.3
WAITING_SHARE = 0.2
LEAST_MFU = 0.01


def diverged(losses: Sequence[float | None], zero_loss: float = math.inf) -> Diagnosis:
    """``max_i L_i / min(L_0, ..., L_{i-1}, zero_loss)``: how far the loss left what it had reached.

    Fires above 3, or if any loss is not finite. A falling curve gives 1 or less; noise of a tenth
    between two logs cannot make 3. ``zero_loss`` catches a run that exploded before its first log:
    it is the loss of a model that predicts nothing.

    Args:
        losses: as logged; None where it was not finite.
    """
    level, value, at = zero_loss, 0.0, 0
    for row, loss in enumerate(losses):
        if loss is None or not math.isfinite(loss):
            return Diagnosis("diverged", math.inf, RISE, True, f"loss {row + 1} is not finite")
        if loss / max(level, 1e-12) > value:
            value, at = loss / max(level, 1e-12), row
        level = min(level, loss)
    if not losses:
        return unmeasured("diverged", "no loss was logged")
    found = (
        f"logged loss {at + 1}, {losses[at]:.3g}, is {value:.3g} times the lowest level before it"
        if value > 1
        else "the loss never rose above its lowest level"
    )
    return Diagnosis("diverged", value, RISE, value > RISE, found)


def noise_of(losses: Sequence[float]) -> list[float]:
    """``(L_i - (L_{i-1} + L_{i+1}) / 2) / √1.5``: for independent noise of standard deviation s
    about any straight line, numbers of standard deviation s about zero."""
    around = zip(losses, losses[1:], losses[2:], strict=False)
    return [(here - (before + after) / 2) / math.sqrt(1.5) for before, here, after in around]


def loss_not_falling(losses: Sequence[float]) -> Diagnosis:
    """``1 - late / early``, the medians of the last and of the first fifth of the logged losses.

    Fires below the larger of 0.05 and three standard errors of the difference, the noise taken from
    the median of :func:`noise_of`. A velocity that learns anything loses the first half of its loss
    within some hundred steps, so that a twentieth is next to nothing.
    """
    if len(losses) < FEWEST_ROWS:
        return unmeasured("loss_not_falling", f"{len(losses)} logged losses, {FEWEST_ROWS} needed")
    count = max(1, len(losses) // 5)
    early, late = statistics.median(losses[:count]), statistics.median(losses[-count:])
    noise = 1.4826 * statistics.median(map(abs, noise_of(losses)))
    needed = max(FALL, 3 * noise * math.sqrt(2 / count) / early)
    fall = 1 - late / early
    moved = f"fell by {fall:.1%}" if fall >= 0 else "rose"
    wanted = f"a fall of {needed:.1%} or more is expected"
    if needed >= 1:
        wanted = "it scatters too much for any fall to show"
    found = f"from {early:.3g} to {late:.3g}: {moved}, {wanted}"
    return Diagnosis("loss_not_falling", fall, needed, fall < needed, found)


def loss_oscillating(losses: Sequence[float]) -> Diagnosis:
    """Root mean square of :func:`noise_of` over the second half of the run, divided by its median
    loss.

    Fires above 0.1. A logged loss is the mean over some thousand images; that of a healthy run
    scatters by 1 or 2 per cent. One loss that doubles among ten gives 0.3.
    """
    half = losses[len(losses) // 2 :]
    if len(half) < FEWEST_ROWS:
        why = f"{len(losses)} logged losses, {2 * FEWEST_ROWS} needed"
        return unmeasured("loss_oscillating", why)
    swings = noise_of(half)
    value = math.sqrt(statistics.fmean(swing**2 for swing in swings)) / statistics.median(half)
    found = f"scatters by {value:.1%} about its course in the second half of the run"
    return Diagnosis("loss_oscillating", value, SWING, value > SWING, found)


def gradients_clipped_always(norms: Sequence[float], clip: float) -> Diagnosis:
    """Share of the logged gradient norms, the first quarter left out, that exceed ``clip``.

    Fires from 0.9: then the gradient's length, which falls as a run settles, never counts, and
    ``clip`` is in truth a part of the learning rate.
    """
    late = norms[len(norms) // 4 :]
    if len(late) < FEWEST_ROWS:
        return unmeasured("gradients_clipped_always", f"{len(norms)} logged gradient norms")
    value = statistics.fmean(norm > clip for norm in late)
    found = f"{value:.0%} of the logged norms exceed {clip:g}, median {statistics.median(late):.3g}"
    return Diagnosis(
        "gradients_clipped_always", value, CLIPPED_SHARE, value >= CLIPPED_SHARE, found
    )


def stage_lagging(stage_losses: Sequence[Sequence[float]]) -> Diagnosis:
    """Of ``p_s = 1 - late_s / early_s``, the smallest divided by the largest; medians of fifths.

    Fires below 0.15 once some stage has ``p_s > 0.3``: one stage learns and another does not. A
    stage that is through with learning before the first log is taken for one that lags, which is
    why this is a note.

    Args:
        stage_losses: rows of one loss per stage.
    """
    if len(stage_losses) < FEWEST_ROWS or len(stage_losses[0]) < 2:
        return unmeasured("stage_lagging", "it takes two stages and some logged losses")
    count = max(1, len(stage_losses) // 5)
    progress = [
        1 - statistics.median(column[-count:]) / statistics.median(column[:count])
        for column in zip(*stage_losses, strict=True)
    ]
    best, slowest = max(progress), progress.index(min(progress))
    value = min(progress) / best if best > 0 else 1.0
    found = f"losses fell by {', '.join(f'{p:.0%}' for p in progress)}; stage {slowest} the least"
    if best <= 0:
        found = "the loss of no stage has fallen"
    return Diagnosis("stage_lagging", value, LAG, best > LEARNED and value < LAG, found)


def data_starved(waits: Sequence[float]) -> Diagnosis:
    """Median share of the time that the trainer waits for images. Fires above 0.2."""
    if not waits:
        return unmeasured("data_starved", "nothing was logged")
    value = statistics.median(waits)
    found = f"{value:.1%} of the time went into waiting for images"
    return Diagnosis("data_starved", value, WAITING_SHARE, value > WAITING_SHARE, found)


def training_slow(mfus: Sequence[float]) -> Diagnosis:
    """Median of the model's FLOP/s in training over that of a plain matrix product here.

    Fires below 0.01: the machine could do the same work a hundred times as fast, so it is busy with
    something else. The smallest preset trains at a twentieth of the rate on a CPU.
    """
    if not mfus:
        return unmeasured("training_slow", "no rate was logged")
    value = statistics.median(mfus)
    found = f"trained at {value:.1%} of the machine's rate for a plain matrix product"
    return Diagnosis("training_slow", value, LEAST_MFU, value < LEAST_MFU, found)


def from_log(rows: Sequence[dict[str, Any]], config: dict[str, Any]) -> list[Diagnosis]:
    """All that the rows of a run's ``metrics.jsonl`` tell. ``config`` is its ``config.json``."""
    rows = [row for row in rows if "loss" in row]

    def column(name: str) -> list[Any]:
        return [row[name] for row in rows if row.get(name) is not None]

    is_model = config.get("kind", "model") == "model"
    found = [
        diverged([row["loss"] for row in rows], ZERO_LOSS if is_model else math.inf),
        loss_not_falling(column("loss")),
        loss_oscillating(column("loss")),
        gradients_clipped_always(column("gradient_norm"), config.get("grad_clip", 1.0)),
        data_starved(column("data_wait")),
        training_slow(column("mfu")),
    ]
    if is_model:
        stages = [row for row in column("loss_stage") if None not in row]
        found.insert(4, stage_lagging(stages))
    return found


# -- from a model ----------------------------------------------------------------------------------

LEAK_RATIO = 0.5
FLAT = 0.65
GRID, GRID_ALONE = 1.25, 1.5
REALISED = 0.5


def leak(errors: Mapping[int, tuple[float, float]]) -> Diagnosis:
    """The smallest ratio, over stages s >= 1, of velocity errors: block means / rest of the block.

    Both per degree of freedom and near the end of the stage, local time 3/4 to 1. There the state
    holds D_s(x) and noise of equal strength in both bands. An honest model cannot tell them apart:
    for a Gaussian of variance P and noise s the error is ``P s² / (τ² P + (1 - τ)² s²)``, which for
    τ → 1 is s² whatever P is, and the ratio 1. It is far below 1 only if the block means are known
    from elsewhere: from a history that holds the same noise, which no sample will ever have.

    Fires below 0.5.

    Args:
        errors: {stage: mean squared errors of block means and of the rest, per degree of freedom}.
    """
    if not errors:
        return unmeasured("leak", "it takes a second stage that starts from noisy end states")
    ratios = {stage: low / high for stage, (low, high) in errors.items()}
    stage = min(ratios, key=lambda s: ratios[s])
    value = ratios[stage]
    found = (
        f"late in stage {stage} the error in block means is {value:.2g} times that in the rest; "
        "an honest model has about 1"
    )
    return Diagnosis("leak", value, LEAK_RATIO, value < LEAK_RATIO, found)


def flat_samples(bands: Sequence[float], reference: Sequence[float]) -> Diagnosis:
    """The smallest ratio of standard deviations, generated over real, over bands of detail.

    A band is what a stage adds: D_0, then D_s minus D_{s-1} upsampled. Fires below 0.65: by the
    law of total variance a model that draws means instead of samples loses variance, first in the
    finest band. A model of a few minutes keeps 0.75 there; guidance, which sharpens, is left out.

    Args:
        bands, reference: one standard deviation a band.
    """
    ratios = [made / real for made, real in zip(bands, reference, strict=True)]
    value = min(ratios)
    which = f"band {ratios.index(value)}" if len(ratios) > 1 else "the latent"
    found = f"{which} has {value:.2f} times the standard deviation of real ones"
    return Diagnosis("flat_samples", value, FLAT, value < FLAT, found)


def boundary_artefacts(
    scores: Mapping[int, float], reference: Mapping[int, float] | None = None
) -> Diagnosis:
    """The largest ``max(r, 1/r)`` over stages s >= 1, r = boundary score, generated over real.

    The score (``metrics.boundary_score``) is that of D_s(x) on the blocks that one pixel of stage
    s-1 became. Above 1 blocks stand apart, below 1 they are busier inside than at their borders;
    either way the picture knows a grid that real ones do not. Fires above 1.25: with 64 latents of
    4x4 the score of a sound model scatters by some hundredths. Against 1, where no real ones are at
    hand, it fires above 1.5: real latents themselves score 1.05 (CIFAR-10) to 1.2 (digits).

    Args:
        scores, reference: {stage: boundary score}.
    """
    if not scores:
        return unmeasured("boundary_artefacts", "one stage has no borders")
    limit = GRID if reference else GRID_ALONE
    real = reference or dict.fromkeys(scores, 1.0)

    def strength(stage: int) -> float:
        ratio = max(scores[stage] / real[stage], 1e-12)
        return max(ratio, 1 / ratio)

    worst = max(scores, key=strength)
    value = strength(worst)
    beside = f"real ones {real[worst]:.3g}" if reference else "1 is without a trace of blocks"
    found = f"stage {worst}: boundary score {scores[worst]:.3g}, {beside}"
    return Diagnosis("boundary_artefacts", value, limit, value > limit, found)


def efficiency_not_realised(
    flops: Sequence[float], seconds: Sequence[float], baseline_flops: float, baseline_seconds: float
) -> Diagnosis:
    """Time saved over FLOPs saved: ``(T_b / T) / (F_b / F)`` against a baseline b, batch and
    machine equal.

    Fires below 0.5: less than half of the advantage on paper arrives.

    Args:
        flops, seconds: of one sampling run, per stage.
    """
    in_flops = baseline_flops / sum(flops)
    in_time = baseline_seconds / sum(seconds)
    value = in_time / in_flops
    slowest = min(range(len(flops)), key=lambda s: flops[s] / seconds[s])
    found = (
        f"{in_flops:.3g} times fewer FLOPs than a DiT at 50 steps, {in_time:.3g} times less time "
        f"({value:.0%}); stage {slowest} takes {seconds[slowest] / sum(seconds):.0%} of the "
        f"time for {flops[slowest] / sum(flops):.0%} of the FLOPs"
    )
    return Diagnosis("efficiency_not_realised", value, REALISED, value < REALISED, found)
