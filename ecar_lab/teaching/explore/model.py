"""Notebook 5: what its cells show and ask, and what the flow head says at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ecar_lab.experiments import stage_errors
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching.explore import choice, explorer, real, whole
from ecar_lab.teaching.explore import model_figures as draw
from ecar_lab.teaching.explore.moment import TRUE_CLASS, moment, scene, strip
from ecar_lab.teaching.figures import show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.viz.pictures import image_grid

# -- what is shown ---------------------------------------------------------------------------------


def show_images(images: Tensor, names: Sequence[str]) -> None:
    """Figure 5.1: what the three parts of the model made together."""
    show(
        image_grid(images, 4, scale=4, labels=list(names)),
        "Figure 5.1. Four images that the three made together; of twelve seeds the best, by eye.",
        "Four small generated images in a row: an automobile, a horse, a ship and a truck.",
    )


def show_parts(
    weights: Mapping[str, int],
    per_call: Mapping[str, int],
    calls: Mapping[str, int],
    flops: Mapping[str, int],
) -> None:
    """A table of transformer and head: weights, FLOPs per call, calls, FLOPs of an image."""
    header = ["part", "weights", "GFLOP per call, finest stage", "calls there"]
    table(
        [*header, "GFLOP of an image, guided"],
        [
            (
                *(part, f"{weights[part] / 1e6:.2f} M", f"{per_call[part] / 1e9:.3f}"),
                *(calls[part], f"{flops[part] / 1e9:.2f}"),
            )
            for part in weights
        ],
    )


def show_shares(weights: Mapping[str, int], flops: Mapping[str, int]) -> None:
    """Figure 5.2: the shares of transformer and head in weights and FLOPs."""
    parts = [values["transformer"] / sum(values.values()) for values in (weights, flops)]
    shares = f"{parts[0]:.0%} of the weights, {parts[1]:.0%} of the FLOPs"
    show(
        draw.shares({"weights": weights, "FLOPs of an image": flops}),
        f"Figure 5.2. The transformer: {shares}. What is paid at every step costs most.",
        f"Two pairs of bars, transformer and head. The transformer has {shares}; the head all the "
        "rest.",
    )


def show_times(schedule: StageSchedule) -> None:
    """Figure 5.3: the windows of the stages in flow time, and their slices for the head."""
    show(
        draw.times(schedule, 0.6),
        "Figure 5.3. Left: windows. At t = 0.6 (dotted) two stages are at work. Right: slices. No "
        "number belongs to two.",
        "Three bars per panel. Left, the windows of neighbouring stages overlap; a dotted line at "
        "0.6 crosses those of stages 2 and 3. Right, the slices follow one another with small "
        "gaps.",
    )


def show_token_maps(
    maps: Tensor, own_part: Tensor, common: float, images: Tensor, names: Sequence[str]
) -> None:
    """Figure 5.4: token maps (B, N, D), the same less their mean, and the images.

    Args:
        common: share of the maps' variance that is the same in all of them.
    """
    show(
        draw.token_maps(maps, own_part, images, names),
        "Figure 5.4. Token maps of the last stage, 8×8 tokens. Left: they look alike; "
        f"{common:.0%} of their variance is the same in all four (25% by chance), and tells where "
        "a token is. Middle: what is left differs from image to image, but is not a picture that "
        "an eye could read.",
        "Four rows: token map, token map less the mean, image. The maps of all four images have "
        "the same pattern of colours, changing with position; with the mean taken out each has a "
        "mottled pattern of its own.",
    )


def show_spoiled(found: Mapping[str, Sequence[float]], standing_still: Sequence[float]) -> None:
    """Figure 5.5: the head's error in each stage with its own token map and with spoiled ones."""
    show(
        draw.spoiled(found, standing_still),
        "Figure 5.5. Loss with a spoiled token map. Dotted: the error of standing still (velocity "
        "zero). In stage 1 images of one class share their map, so swapping it within the class "
        "changes nothing.",
        "; ".join(
            f"{name}: {loss[0]:.3f} in stage 1, {loss[1]:.3f} in stage 2"
            for name, loss in found.items()
        ),
    )


def show_error_over_time(share: Tensor) -> None:
    """Figure 5.6: error of each stage over local time, as a share of that of standing still."""
    rows = (
        f"stage {number}: {', '.join(f'{value:.2f}' for value in row.tolist())}"
        for number, row in enumerate(share, 1)
    )
    show(
        draw.error_over_time(share),
        "Figure 5.6. Where on its way each stage of the digits model errs, by local time. Part of "
        "it no training removes: many images fit one state, and the best answer is the mean of "
        "their velocities.",
        f"Two lines over local time, one per stage. Shares per bin: {'; '.join(rows)}.",
    )


def show_guidance_costs(bills: Mapping[tuple[float, ...], Mapping[str, Sequence[int]]]) -> None:
    """A table of what guidance costs.

    Args:
        bills: scale of each stage -> part -> FLOPs of each stage.
    """
    rows = []
    for scales, bill in bills.items():
        costs = (f"{sum(bill[part]) / 1e9:.2f}" for part in ("transformer", "head"))
        rows.append((" / ".join(map(str, scales)), *costs))
    table(["guidance by stage", "GFLOP, transformer", "GFLOP, head"], rows)


def show_distances(distances: Mapping[str, float]) -> None:
    """A table of how far several sets of end states of stage 1 are from true ones."""
    table(
        ["stage 1 of the digits model", "Frechet distance to true end states"],
        [(name, f"{distance:.3f}") for name, distance in distances.items()],
    )


def show_stage_errors(result: Mapping[str, Any]) -> None:
    """Figure 5.7: the result of `ecar experiment stage-errors`."""
    rows = [row for row in result["rows"] if set(row["guidance_scale"]) == {1.0}]
    falls = ", ".join(f"{row['frechet']:.2f}" for row in rows)
    show(
        stage_errors.draw(dict(result)),
        "Figure 5.7. Distance to real images with 0 to 3 stages real: without guidance "
        f"{falls} ({rows[0]['images']:,} images each; lower is better; not FID).",
        f"Two lines over 0 to 3 real stages. Without guidance {falls}; with guidance it lies "
        "lower, but for the last point, where both meet.",
    )


def show_bill(rows: Sequence[Sequence[Any]], channels: int, width: int) -> None:
    """A table of every FLOP of an image.

    Args:
        rows: per stage: side, its tokens, tokens it sees, FLOPs of the transformer, of the head's
            set-up, of one run of the head, "steps × halves", FLOPs of the head in all.
    """
    header = ["stage", "latent", "token map", "tokens it sees", "GFLOP, transformer"]
    header += ["GFLOP, head's set-up", "GFLOP, head once", "steps × halves", "GFLOP, head"]
    cells = []
    for number, (side, tokens, seen, *costs, runs, head) in enumerate(rows, 1):
        shapes = f"{channels}×{side}×{side}", f"{tokens}×{width}", seen
        gflop = [f"{value / 1e9:.3f}" for value in (*costs, head)]
        cells.append((number, *shapes, *gflop[:-1], runs, gflop[-1]))
    table(header, cells)


def show_learning(curve: Tensor) -> None:
    """Figure 5.8: the loss of each stage while ten images are learned by heart, (steps, S)."""
    ends = zip(curve[0].tolist(), curve[-5:].mean(0).tolist(), strict=True)
    fall = ", ".join(f"stage {n} from {a:.2f} to {b:.4f}" for n, (a, b) in enumerate(ends, 1))
    show(
        draw.learning(curve),
        f"Figure 5.8. Ten images learned by heart: {fall} (mean of the last 5 steps).",
        f"Two falling lines on a logarithmic axis, one per stage: {fall}.",
    )


def show_recalled(images: Tensor, difference: float, others: float, num_steps: int) -> None:
    """Figure 5.9: ten images and, below them, what the model makes of noise and their classes.

    Args:
        difference: mean squared, of the latents; others: that of two different originals.
    """
    said = (
        f"{difference:.3f} after {num_steps} steps; two different originals differ by {others:.2f}"
    )
    show(
        image_grid(images, 10, scale=8),
        "Figure 5.9. Top: the ten images. Bottom: what your model makes of noise and the class. "
        f"Mean squared difference of the latents: {said}.",
        "Two rows of ten digits of 8×8 pixels, originals above, samples below. Mean squared "
        f"difference: {said}.",
    )


# -- questions -------------------------------------------------------------------------------------


def ask_token_map() -> Any:
    """What happens to the token map from step to step."""
    return quiz(
        "The head goes from step to step within a stage. What happens to the token map meanwhile?",
        {
            "It is made anew from the state": "The transformer sees end states only.",
            "Nothing: it was made and read once": "So the stage pays for the transformer once, "
            "however many steps the head takes.",
            "It is made anew for the new time": "Time enters through the head's modulations only.",
        },
        right="Nothing: it was made and read once",
    )


def ask_first_loss() -> Any:
    """What a wrong first loss points to."""
    return quiz(
        "A new model's first loss is far from E|end - start|² in one stage. What do you look at "
        "first?",
        {
            "The learning rate": "No step has been made yet.",
            "The wiring: its output layer, or the target of that stage": "A new head gives zero, "
            "so the loss is known before training. Something gives another output or another "
            "target.",
            "The data": "It enters start and end alike; the equality holds for any data.",
        },
        right="The wiring: its output layer, or the target of that stage",
    )


# -- controls --------------------------------------------------------------------------------------


def velocity(pipe: ECARPipeline, name: str = TRUE_CLASS):
    """Controls for stage, local time and the classes told; the head's answer below them."""
    at = scene(pipe, name)
    last, other = pipe.model.schedule.num_stages - 1, at.labels[0 if at.labels[0] != name else 1]

    def redraw(stage: int, local_time: float, to_head: str, to_transformer: str) -> Image.Image:
        return strip(at, moment(at, stage - 1, local_time, to_head, to_transformer))

    def times_worse(stage: int) -> float:
        right, wrong = (moment(at, stage, 0.5, told, told).error for told in (name, other))
        return wrong / right

    return explorer(
        redraw,
        {
            "stage": whole("stage", 1, last + 1, last + 1),
            "local_time": real("local time", 0.0, 1.0, 0.5, 0.05),
            "to_head": choice("class told to head", at.labels, name),
            "to_transformer": choice("... to transformer", at.labels, name),
        },
        {
            f"stage {stage + 1}, local time 0.5, both told {told}": {
                "stage": stage + 1,
                "to_head": told,
                "to_transformer": told,
            }
            for stage in (0, last)
            for told in (name, other)
        },
        f"One generated {name}, noised as in training. Each row: the state, where it should go, "
        "where the head says it goes, the clean latent that follows. When head and transformer are "
        f"both told another class, the head errs {times_worse(0):.2f} times as much in stage 1, "
        f"{times_worse(last):.2f} times in stage {last + 1}, where the history says what is in the "
        "picture.",
        "Four rows of five pictures: state, true velocity, predicted velocity, clean estimate and "
        f"the estimate decoded; two rows for stage 1, two for stage {last + 1}, told {name} and "
        f"{other}. In stage {last + 1} the {name} can be seen in both.",
        columns=1,
    )
