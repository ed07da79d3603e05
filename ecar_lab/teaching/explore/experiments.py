"""Notebook 8: its figures and tables, drawn from numbers that its cells have computed or read.

The figures of experiments are those that ``ecar experiment`` draws; here they get their captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from IPython.utils.capture import capture_output
from torch import Tensor

from ecar_lab.experiments import few_shot, load_experiment
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import plus_minus
from ecar_lab.experiments.lab.sizes import SIZES
from ecar_lab.experiments.steps_and_guidance import front, of_models
from ecar_lab.teaching.explore import shipped
from ecar_lab.teaching.explore.result_lines import results
from ecar_lab.teaching.explore.trade_offs import beside_the_seed, trade_offs
from ecar_lab.teaching.figures import hue, new_figure, show, table
from ecar_lab.teaching.question import quiz

__all__ = ["beside_the_seed", "quiet", "results", "shipped", "trade_offs"]  # and all below

Result = Mapping[str, Any]
Entry = Mapping[str, Any]  # a spread: mean, std, values
quiet = capture_output  # around what has progress bars


# -- part 1: how to judge --------------------------------------------------------------------------


def few_images(counts: Sequence[int], lines: Mapping[str, Sequence[Entry]], repeats: int) -> None:
    """Shows the distance over the number of images that are judged, a line for each kind."""
    figure, (axis,) = new_figure(width=6)
    for index, (name, entries) in enumerate(lines.items()):
        figures.line(axis, name, counts, entries, index)
        pairs = zip(counts, entries, strict=True)
        print(f"{name}:", ", ".join(f"{n} images {plus_minus(dict(e), 1)}" for n, e in pairs))
    figures.logarithmic(axis, "x", "y", xlabel="images that are judged", ylabel="Frechet distance")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.legend(frameon=False)
    show(
        figure,
        f"Figure 8.2. The same images, more or fewer of them; mean and spread of {repeats} draws. "
        "Judged on few images, real ones look worse than noisy ones judged on many.",
        "Two falling lines over the number of images. They lie close together, within their "
        "spread, at 50 and 100 images and part towards the right; with all images noisy digits "
        "lie clearly above real ones.",
    )


def three_clouds(
    truth: Tensor,
    cases: Mapping[str, Tensor],
    measured: Mapping[str, tuple[float, float, float]],
) -> None:
    """Shows generated points over real ones with what is measured of them, a panel per case.

    Args:
        measured: case -> (distance, precision, recall).
    """
    figure, axes = new_figure(3, width=3.6, height=3.8)
    for axis, (name, fake) in zip(axes, cases.items(), strict=True):
        distance, precision, recall = measured[name]
        axis.plot(*truth.T, ".", color="#B8BFC7", markersize=4)
        axis.plot(*fake.T, "x", color=hue(0), markersize=4)
        numbers = f"distance {distance:.2f}\nprecision {precision:.2f}, recall {recall:.2f}"
        axis.set_title(f"{name}\n{numbers}", fontsize=10)
        axis.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
    distance, precision, _ = measured["a cloud"]
    show(
        figure,
        "Figure 8.3. Real points grey, generated ones blue. The cloud has the ring's mean and "
        f"covariance, so its distance is {distance:.2f}; only precision ({precision:.2f}) tells "
        "that it misses the ring.",
        "Three scatter plots over a ring of eight grey clusters: crosses on all clusters, on three "
        "of them, and in one round cloud that fills the middle as well.",
    )


def without_noise(rows: Mapping[str, Entry]) -> None:
    """Shows distance, precision and recall with the noise of transitions and without it."""
    measures = ("frechet", "precision", "recall")
    table(
        ["8 + 8 steps", *measures],
        [(name, *(plus_minus(entry[m]) for m in measures)) for name, entry in rows.items()],
    )


# -- parts 2 and 3: stages -------------------------------------------------------------------------


def two_stages(result: Result) -> None:
    """Shows distance over cost for one stage and for two."""
    show(
        load_experiment("two-stage").draw(result),
        "Figure 8.4. One stage and two, of equal size and with equal images seen "
        f"({result['rows'][0]['images']:,}), three seeds. Both get worse again after a few steps.",
        "Distance over GFLOP per image for one and for two stages. Both lines fall steeply at "
        "first, have their lowest point at two to four steps and rise again; the line of two "
        "stages rises higher.",
    )


def costs_of_stages(best: Mapping[str, Entry], times: Mapping[str, Entry]) -> None:
    """Prints cost and distance of chosen plans, and the time of an image at eight steps."""
    for name, entry in best.items():
        distance, steps = plus_minus(entry["frechet"], 1), entry["steps"][0]
        print(f"{name}, {steps} steps per stage: {entry['gflop']:.4f} GFLOP, {distance}")
    for name, timed in times.items():
        print(f"{name}, 8 steps per stage: {1e3 * timed['seconds_per_image']:.1f} ms per image")


def pyramids(result: Result) -> None:
    """Shows distance, cost and time of every pyramid of resolutions."""
    rows = [(row["name"], row["quality"][-1], row["seconds_per_image"]) for row in result["rows"]]
    header = ["latent sides", "Frechet, 8 steps per stage", "GFLOP"]
    table(
        [*header, f"ms, {result['timed_steps']} steps"],
        [
            (name, plus_minus(entry["frechet"]), f"{entry['gflop']:.3f}", f"{1e3 * seconds:.2f}")
            for name, entry, seconds in rows
        ],
    )


def budgets(result: Result) -> None:
    """Shows what models of one to four stages were trained with, under both budgets."""
    header = ["stages", "parameters", "images", "training TFLOP"]
    table(
        [*header, "images at equal FLOPs", "training TFLOP"],
        [
            (
                *(row["name"], row["equal_images"]["parameters"]),
                *(row["equal_images"]["images"], tflop(row["equal_images"])),
                *(row["equal_flops"]["images"], tflop(row["equal_flops"])),
            )
            for row in result["rows"]
        ],
    )


def tflop(trained: Entry) -> str:
    """FLOPs of a training."""
    return f"{1e3 * trained['train_pflop']:.2f}"


def two_budgets(result: Result) -> None:
    """Shows distance over cost for one to four stages, a panel for each budget."""
    show(
        load_experiment("stage-ablation").draw(result),
        "Figure 8.5. The same four models under two budgets. Left, three and four stages are "
        "lowest; right, where they see fewer images, the lines of one, three and four stages lie "
        "on each other.",
        "Two panels, distance over FLOPs per image, a line for each number of stages from one to "
        "four. In the left one the lines of three and four stages lie lowest; in the right one "
        "those of one, three and four coincide, and that of two lies well above.",
    )


def flow_and_noise(result: Result) -> None:
    """Shows distance over steps for flow matching and noise prediction, per stage and in all."""
    show(
        load_experiment("flow-vs-diffusion").draw(result),
        "Figure 8.6. The same network with two objectives: filled markers are flow matching, "
        "hollow ones noise prediction. E-CAR, blue, has no such twin. The grey dotted line is real "
        "training images. One seed.",
        "Three panels over steps per stage: stage 1 alone, stage 2 alone, end to end. Noise "
        "prediction lies above its twin in flow matching at every step count, most of all at two "
        "steps. In stage 2 E-CAR lies above full denoise per scale.",
    )


def growth(result: Result, exponents: Mapping[str, tuple[float, float]]) -> None:
    """Shows the exponents in theory beside those that were measured: method -> (FLOPs, seconds)."""
    table(
        ["exponents over the three largest images", "FLOPs, in theory", "FLOPs", "seconds"],
        [
            (name, result["theory"][name][0], *(f"{p:.2f}" for p in measured))
            for name, measured in exponents.items()
        ],
    )


def complexity(result: Result, memory: Mapping[str, float]) -> None:
    """Shows FLOPs, seconds and memory of an image over its side, a line for each method.

    Args:
        memory: method -> peak MiB at the largest image.
    """
    most, least = max(memory, key=memory.__getitem__), min(memory, key=memory.__getitem__)
    show(
        load_experiment("complexity").draw(result),
        "Figure 8.7. FLOPs, seconds and memory of one image, random weights, 64 to 1024 px. FLOPs "
        "need no training, so these carry. Memory grows alike for all, but at 1024 px "
        f"{most} ({memory[most]:.0f} MiB) needs most and {least} ({memory[least]:.0f} MiB) least. "
        "Long runs were timed in part and extrapolated.",
        "Three panels over image side. In FLOPs token by token without cache rises most steeply "
        "and ends far above all others; E-CAR is lowest at every size, and from 512 px on lower "
        "still with windows. In seconds E-CAR with and without windows is lowest at every size. "
        f"Memory grows alike for all, but at 1024 px {most} needs most and {least} least.",
    )


# -- parts 4 to 6 ----------------------------------------------------------------------------------


def boundaries(result: Result) -> None:
    """Shows the distance of every window and coupling, and the score of its block borders."""
    figure = load_experiment("windows-and-couplings").draw(result)
    axis = figure.axes[1]
    axis.set_xlim(1, 1.3)
    for label, row in zip(axis.texts, result["rows"], strict=False):  # the last is of the data
        label.set_text(f"{row['boundary']['mean']:.2f}")
        label.set_bbox(dict(facecolor="white", edgecolor="none", pad=0.5))
    show(
        figure,
        "Figure 8.8. Left: the distance at 4 + 4 steps, three seeds. Right: the boundary score; "
        "its axis begins at 1, the dashed line is the score of real latents.",
        "Two panels of horizontal bars for nine variants. Left: full denoise per scale has the "
        "shortest bar. Right, on an axis from 1: all scores lie between 1.1 and 1.25, none beyond "
        "the dashed line of the data.",
    )


def tokens(result: Result) -> None:
    """Shows continuous beside quantized tokens, and says in what else the two differ."""
    measures = ("bits", "psnr", "frechet_reconstructed", "frechet_generated")
    table(
        ["16 tokens", "bits each", "PSNR, dB", "Frechet, reconstructed", "Frechet, generated"],
        [(row["name"], *(plus_minus(row[m], 1) for m in measures)) for row in result["rows"]],
    )
    print("\n".join(f"not equal: {sentence}" for sentence in result["confounded"]))


def ways_to_sample(result: Result) -> None:
    """Shows all ways of sampling the shipped models with their fronts, and what guidance buys."""
    tried = {
        name: f"{len(rows)} ways to sample the shipped {name}, {len(front(rows))} on its front"
        for name, rows in of_models(result).items()
    }
    show(
        load_experiment("steps-and-guidance").draw(result),
        f"Figure 8.9. {'; '.join(tried.values())}; {result['size']['num_samples']} images each. "
        "Right: guidance buys classes classified correctly with recall.",
        "Left: distance over FLOPs, for each model a step line along its lowest points; E-CAR's is "
        "below DiT's. Right: over E-CAR's guidance scale the distance falls and rises again with "
        "its lowest point at 1.5, the share classified correctly rises, recall falls.",
    )


def stage_errors(lines: Mapping[str, Sequence[float]]) -> None:
    """Shows the distance with more and more stages taken from real images."""
    taken = [str(count) for count in range(len(lines["no guidance"]))]
    table(
        ["stages taken from real images", *taken],
        [(name, *(f"{distance:.2f}" for distance in line)) for name, line in lines.items()],
    )


def new_class(result: Result) -> None:
    """Shows how a class is learned from few images, and large what it looks like."""
    show(
        load_experiment("few-shot").draw(result),
        "Figure 8.10. A class that was not trained on, for three classes one after the other. "
        f"Right: what the new class {result['strips']['class']} looks like.",
        "Left and middle: share classified correctly and distance over the number of images shown. "
        "With learned embeddings DiT does better than E-CAR at every number; mixes of other "
        "classes are hardly better than nothing. Right: strips of generated digits, real ones on "
        "top.",
    )
    figure, (axis,) = new_figure(width=7, height=7)
    few_shot.draw_strips(axis, dict(result))
    axis.tick_params(labelsize=10)
    show(
        figure,
        "The strips of Figure 8.10, enlarged: k is the number of images shown.",
        f"Rows of small images of the new class {result['strips']['class']}: real ones, then "
        "those of E-CAR and DiT for every number of images shown, and of models trained with it.",
    )


# -- part 8: experiments of one's own --------------------------------------------------------------


def workbench(folder: Path, **changes: Any) -> Lab:
    """A lab of the smallest size, ``smoke``, that keeps its runs in a folder.

    Args:
        changes: fields of the size that are to be others, e.g. ``seeds`` or ``num_samples``.
    """
    return Lab(replace(SIZES["smoke"], **changes), folder)


def own_result(result: Result) -> None:
    """Shows cost, distance and recall of every way of sampling."""
    table(
        [f"digits, {result['size']['num_samples']} images", "GFLOP", "Frechet distance", "recall"],
        [
            (r["name"], f"{r['gflop']:.3f}", plus_minus(r["frechet"]), plus_minus(r["recall"]))
            for r in result["rows"]
        ],
    )


def all_verdicts(verdicts: Mapping[str, tuple[str, str, str]]) -> None:
    """Shows every verdict with its numbers."""
    table(["claim or question", "verdict", "the numbers"], list(verdicts.values()))


def equal_in_what():
    """A question: what may differ although parameters and images seen are equal."""
    return quiz(
        "E-CAR and DiT have equal parameters and saw equal numbers of images. What else may still "
        "differ?",
        {
            "Nothing: the comparison is fair": "Fair in two respects. Training FLOPs and FLOPs of "
            "sampling can still differ by any factor.",
            "FLOPs of training and of sampling": "Stages, steps and what is trained per image "
            "decide those. Say which of them are equal.",
            "The feature net": "It judges both alike, as long as one and the same is used.",
        },
        right="FLOPs of training and of sampling",
    )
