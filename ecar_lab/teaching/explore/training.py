"""Notebook 6: figures and tables of its trainings, of their failures, and of what they cost."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ecar_lab.doctor.run import judge_samples, real_or_why
from ecar_lab.evaluation.feature_net import accuracy, extract, load_features
from ecar_lab.experiments import failure_signatures as failures
from ecar_lab.generator import TrainingDraw
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.explore.training_curves import (
    Rows,
    budget,
    budget_hours,
    charts,
    committed_runs,
    losses,
    series,
    training_flops,
)
from ecar_lab.teaching.figures import show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.viz.pictures import image_grid, to_pil

__all__ = ["budget", "budget_hours", "committed_runs", "losses", "training_flops"]  # and below
SPEED = ("data_starved", "training_slow")  # they depend on what else the machine does


# -- what the cells ask for ------------------------------------------------------------------------


def short_lived_folder() -> Path:
    """A folder that vanishes with the kernel."""
    folder = tempfile.TemporaryDirectory(prefix="ecar_notebook_")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def judge_of(dataset: str, device: torch.device) -> nn.Module:
    """The small classifier of a data set."""
    return load_features(dataset).to(device)


def share_right(judge: nn.Module, images: Tensor, digits: Tensor) -> float:
    """Share of images (B, 3, H, W) in [0, 1] that the classifier takes for these digits."""
    device = next(judge.parameters()).device
    return accuracy(extract(judge, 2 * images - 1, device=device).logits, digits)


def with_times(draw: TrainingDraw, times: Tensor) -> TrainingDraw:
    """The same draw with other local times."""
    return replace(draw, local_time=times)


def judged(pipe: ECARPipeline, latents: Tensor, dataset: str | None) -> dict[str, Any]:
    """Diagnoses of generated latents by name, beside real ones where the data set is here."""
    model: Any = pipe.model
    found = judge_samples(model, latents, *real_or_why(pipe, dataset, None))
    return {one.name: one for one in found}


def folder_of_classes(images: Tensor, kinds: Tensor, names: Sequence[str], place: Path) -> None:
    """Writes images of bytes (B, 3, H, W) as PNG files into a folder per class."""
    for index, (image, kind) in enumerate(zip(images, kinds, strict=True)):
        (place / names[kind]).mkdir(parents=True, exist_ok=True)
        to_pil(image[None] / 127.5 - 1)[0].save(place / names[kind] / f"{index}.png")


# -- digits ----------------------------------------------------------------------------------------


def digits(number: str, images: Tensor, samples: int, whose: str, share: str) -> None:
    """Shows forty digits, a column per class; images in [0, 1].

    Args:
        number: of the figure. whose: who made them. share: of all samples, what is classified
            correctly, as it is to be said.
    """
    show(
        image_grid(2 * images[:40] - 1, 10, scale=max(1, 100 // images.shape[-1])),
        f"Figure {number}. Forty of {samples} digits of {whose}, {images.shape[-1]}×"
        f"{images.shape[-1]} pixels, one column per class: {share} classified correctly.",
        f"A grid of forty generated digits of {whose}, one column for each of 0 to 9: {share} "
        "classified correctly.",
    )


# -- a step and the loop ---------------------------------------------------------------------------


def what_is_drawn(draw: TrainingDraw) -> None:
    """Prints the shapes of what is random in a step."""
    for name in ("noise", "local_time", "class_drop", "latent_noise"):
        value = getattr(draw, name)
        shapes = [tuple(t.shape) for t in value] if isinstance(value, tuple) else tuple(value.shape)
        print(f"{name:<13}{shapes}")


def rate_cut_short(
    planned: Mapping[int, float], shortened: Mapping[int, float], jump: float
) -> None:
    """Shows the learning rate of a plan, and of one that is cut short: step -> fraction."""
    lines = {
        name: (list(rate), list(rate.values()))
        for name, rate in (("planned", planned), ("cut short", shortened))
    }
    at = next(iter(shortened))
    show(
        charts({"fraction of the peak learning rate": lines}, width=6),
        f"Figure 6.2. Warm-up and cosine. Cut short at step {at}, the rate jumps by {jump:.2g}.",
        f"A curve rises to 1 within 100 steps, falls to nearly 0 at step {len(planned)}; a branch "
        f"leaves it at {at}.",
    )


def resumed(courses: Mapping[str, Rows]) -> None:
    """Shows the loss of a run that was never killed, of one up to the kill, and after it."""
    lines = {name: series(log, "loss")["loss"] for name, log in courses.items()}
    show(
        charts({"loss": lines}, thick=True, width=6),
        "Figure 6.4. The run that was killed lies on the one that never was, number for number (on "
        "a GPU up to rounding).",
        "A thick loss curve; on it the points before the kill, and those of the resumed run after "
        "it.",
    )


# -- reading the log -------------------------------------------------------------------------------


def log_of_the_run(rows: Rows, limit: float) -> None:
    """Shows losses, gradient norm, speed and waiting of a run; limit: where gradients are cut."""
    kinds = ("loss per stage", "gradient norm", "images per second", "waiting for data")
    clipped = sum(row["gradient_norm"] > limit for row in rows) / len(rows)
    coarse, fine = rows[-1]["loss_stage"]
    show(
        charts({kind: series(rows, kind) for kind in kinds}, 2, from_zero=True, height=2.3),
        f"Figure 6.6. The log of the run. {clipped:.0%} of the logged gradient norms exceed the "
        f"clip, {limit:g}; the last losses are {coarse:.3f} (stage 1) and {fine:.3f} (stage 2). "
        "Waiting is a share of the time.",
        "Four charts over the step: losses of two stages, gradient norm, images per second, "
        "waiting.",
    )


def by_local_time(rows: Rows, middles: Sequence[float], largest: Sequence[float]) -> None:
    """Shows the loss over local time at three moments, a chart per stage.

    Args:
        middles: of the bins of local time. largest: where it is largest at the end, by stage.
    """
    moments = [rows[0], rows[len(rows) // 4], rows[-1]]
    panels = {
        f"loss, stage {stage + 1}": {
            f"step {row['step']}": (middles, row["loss_bin"][stage]) for row in moments
        }
        for stage in (0, 1)
    }
    show(
        charts(panels, x="local time τ", from_zero=True),
        "Figure 6.7. Loss by local time. At the end it is largest around τ = "
        f"{largest[0]:.2f} in stage 1 and {largest[1]:.2f} in stage 2.",
        "Two charts, one per stage, of the loss over local time at three moments; later curves lie "
        "lower.",
    )


def raw_and_averaged(steps: Sequence[int], scores: Mapping[str, Sequence[float]]) -> None:
    """Shows the share classified correctly by step, with raw weights and with averaged ones."""
    lines = {name: (steps, [100 * share for share in shares]) for name, shares in scores.items()}
    raw, averaged = ([f"{share:.1%}" for share in shares] for shares in scores.values())
    show(
        charts({"classified correctly, %": lines}, width=5),
        f"Figure 6.8. At step {steps[0]} {raw[0]} are classified correctly with raw weights, "
        f"{averaged[0]} with averaged ones; at the end {raw[-1]} and {averaged[-1]}.",
        "Two lines over the step, raw and averaged weights, of the share of samples classified "
        "correctly.",
    )


# -- what goes wrong -------------------------------------------------------------------------------


def diagnoses(findings: Mapping[str, Sequence[Any]], logs: Mapping[str, Rows]) -> None:
    """Shows which diagnoses fire for every run, and the remedy of the first; speed left out."""
    rows = []
    for name, found in findings.items():
        fired = [one for one in found if one.fired and one.name not in SPEED]
        first = f"{fired[0].found} → {fired[0].remedy}" if fired else "–"
        names = ", ".join(one.name for one in fired) or "nothing"
        rows.append((name, logs[name][-1]["step"], names, first))
    table(["run", "steps", "fired", "the first of them → its remedy"], rows)


def three_failures(panels: Mapping[str, Sequence[str]], logs: Mapping[str, Rows]) -> None:
    """Shows the loss of failures beside the healthy run, a chart per cause: cause -> runs."""
    lines = {
        title: {name: series(logs[name], "loss")["loss"] for name in names}
        for title, names in panels.items()
    }
    show(
        charts(lines, logarithmic=True, thick=True, width=3.6),
        "Figure 6.9. Loss of three failures beside the healthy run (thick), which is their cure: a "
        "rate that warms up, neither too high nor next to nothing, and a batch that is large "
        "enough.",
        "Three charts of the loss on a logarithmic axis. Left: one curve explodes within a few "
        "steps, one stays flat, the healthy one falls. Middle: with a batch of 1 the loss jumps up "
        "and down. Right: without warm-up the loss first rises and then falls late.",
    )


def which_rate_is_too_high(curves: Mapping[str, Rows]):
    """A question over three logs of experiment `failure-signatures`: which rate is too high."""
    chosen = {"A": "lr 1e-7", "B": "healthy", "C": "lr 0.3 with AdamW, not clipped"}
    panels = {letter: series(curves[name], "loss") for letter, name in chosen.items()}
    show(
        charts(panels, logarithmic=True, width=3.2, height=2.2),
        "Figure 6.10. Three logs of the experiment `failure-signatures`. Mind the axes.",
        "Three loss curves. A stays within a few per cent of one value, B falls, C grows "
        "thirtyfold.",
    )
    return quiz(
        "Which of the three needs a lower learning rate?",
        {
            "A": "It does not move at all: its rate is so low that a hundred steps change nothing. "
            "Look at the axis: what seems to swing is a few per cent.",
            "B": "It falls and settles. Leave it alone.",
            "C": "It grows by an order of magnitude: diverged, and stopped by the trainer.",
        },
        right="C",
    )


def leaky_and_healthy(
    late: Mapping[str, float], judged: Mapping[str, tuple[Mapping[str, Any], float]]
) -> None:
    """Shows by run the finest stage's late loss, two diagnoses, and the share of right digits."""
    table(
        [
            *("run", "finest stage's loss, last fifth", "leak (below 0.5 fires)"),
            *("flat_samples", "classified correctly"),
        ],
        [
            (
                *(name, f"{late[name]:.3f}", f"{found['leak'].value:.2f}"),
                *(f"{found['flat_samples'].value:.2f}", f"{share:.0%}"),
            )
            for name, (found, share) in judged.items()
        ],
    )


def boundaries(images: Mapping[str, Tensor], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Shows images of one seed without re-noising and with it, and what is found in them."""
    pictures: list[Image.Image] = [one for row in images.values() for one in to_pil(2 * row - 1)]
    said = {
        name: f"{one['boundary_artefacts'].found}; {one['flat_samples'].found}"
        for name, one in found.items()
    }
    show(
        image_grid(pictures, len(pictures) // len(images), scale=4),
        f"Figure 6.11. Above, broken: {said['re-noising off']}. Below, cured: "
        f"{said['re-noising on']}.",
        "Two rows of ten generated CIFAR-10 images of the same seed. The upper row is flat and "
        "blurred, without any object; the lower row has contrast, colour and detail.",
    )


def times_of_stages(timings: Mapping[str, Any]) -> None:
    """Shows the share of stage 1 in FLOPs and in time, and what is diagnosed from it."""
    rows = []
    for name, timing in timings.items():
        verdict = timing.judge()
        flops, seconds = (f"{p[0] / sum(p):.0%}" for p in (timing.flops, timing.seconds))
        state = "fired" if verdict.fired else "silent"
        rows.append((name, flops, seconds, f"{verdict.value:.2f}", state))
    saved = "time saved / FLOPs saved, against a DiT of 50 steps"
    header = ["sampling", "stage 1: of the FLOPs", "stage 1: of the time", saved]
    table([*header, "verdict (fires below 0.5)"], rows)


def speeds(found: Mapping[int, float]) -> None:
    """Shows images per second by how many are made at once."""
    images = tuple(f"{speed:.1f}" for speed in found.values())
    table(["images at once", *map(str, found)], [("images per second", *images)])


def signatures(result: Mapping[str, Any]) -> None:
    """Shows what fired in every case of experiment `failure-signatures`, and how many were seen."""
    rows = []
    for row in result["rows"]:
        seen = [n for n in result["columns"] if any(n in failures.fired(r) for r in row["seeds"])]
        values = ", ".join(f"{n} ({failures.cell(row, n)[0]})" for n in seen) or "–"
        rows.append((row["name"], values, failures.told(row)))
    table(["case", "fired (median value)", "seeds"], rows)
    said = "{detected} of {provoked} seen, {false_alarms} false alarms in {sound} sound cases"
    print(said.format(**result["verdict"]))


# -- data and cost ---------------------------------------------------------------------------------


def commands(images: int | None) -> None:
    """Prints how real data sets are trained on; images: of CIFAR-10, None where it is not here."""
    here = "CIFAR-10 is not here. With it one would type:"
    if images is not None:
        here = f"{images:,} images of CIFAR-10 are here. In a terminal:"
    print(here)
    print('ecar train tokenizer --preset cifar10 --data "$ECAR_DATA"')
    print('ecar train model --preset cifar10 --data "$ECAR_DATA" --max-minutes 480')
    print("Imagenette:")
    print("ecar train tokenizer --preset imagenet64\necar train model --preset imagenet64")


def knobs(costs: Mapping[tuple[Any, Any], float]) -> None:
    """Shows the cost of a training image: (stage_strides, head_draws) -> FLOPs, the plain first."""
    plain, *_ = costs.values()
    table(
        ["stage_strides", "head_draws", "GFLOP per image", "of the plain cost"],
        [
            (
                *("1 1 1" if values is None else " ".join(map(str, values)) for values in knob),
                *(f"{flops / 1e9:.2f}", f"{flops / plain:.0%}"),
            )
            for knob, flops in costs.items()
        ],
    )


def after_a_kill():
    """A question: what to do with a run that was killed."""
    return quiz(
        "A run was killed at step 7,340; checkpoints are written every 500 steps. What do you do?",
        {
            "Start it again with the same command": "It finds the checkpoint of step 7,000, drops "
            "the log rows after it, and repeats 340 steps with the same numbers.",
            "Start it again with a new seed, so that it does not see the same batches twice": "The "
            "kit refuses: another seed bends the curve. And the 340 steps left no trace in the "
            "checkpoint, so nothing is seen twice.",
            "Lower the learning rate, since it is resumed": "The optimiser's state and the plan "
            "are in the checkpoint: the rate goes on where it was.",
        },
        right="Start it again with the same command",
    )
