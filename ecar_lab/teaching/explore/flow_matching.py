"""Notebook 3: what its cells show and ask; its points and particles are in ``plane.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ecar_lab.events import TraceEvent
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.explore import flow_matching_figures as draw
from ecar_lab.teaching.explore.flow_matching_figures import FRAME
from ecar_lab.teaching.explore.plane import DATA, Field, points, sandbox, trajectory
from ecar_lab.teaching.figures import show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.viz.colours import LatentColours
from ecar_lab.viz.pictures import enlarge, image_grid, stage_tiles

# For cells and other notebooks, beside what is defined here.
__all__ = ["DATA", "FRAME", "Field", "points", "sandbox", "trajectory"]

# -- what is shown ---------------------------------------------------------------------------------


def show_flow(pipe: ECARPipeline, events: Sequence[TraceEvent]) -> None:
    """Figure 3.1: the latents of one stage, step by step, and the decoded clean estimates."""
    colours = LatentColours.of(pipe.tokenizer)
    columns = [stage_tiles(event, pipe.tokenizer, colours) for event in events]
    pictures = [enlarge(column[row], 112) for row in (0, 2) for column in columns]
    show(
        image_grid(pictures, len(events), labels=[f"t = {event.t:.2f}" for event in events] * 2),
        "Figure 3.1. One flow, step by step. Top: the latent, from half noise to none. Bottom: "
        "what the velocity says the finished image is; at the start, the estimate of the stage "
        "before. From the first call on the estimate is nearly final.",
        "Two rows of seven tiles. Above, a noisy patchwork of colours that becomes smooth; below, "
        "first a striped blur, then from the second tile on a ship that changes little.",
    )


def show_data(panels: Mapping[str, Tensor]) -> None:
    """Figure 3.2: noise, and the four data sets."""
    show(
        draw.clouds(panels, width=1.9)[0],
        "Figure 3.2. Noise, and what it shall become.",
        "Five panels of points: a round cloud of noise, two interleaved moons, two rings, a "
        "two-armed spiral, and three blobs that overlap.",
    )


def show_mean_velocity(
    begin: Tensor, targets: Tensor, times: Sequence[float], path: Tensor
) -> None:
    """Figure 3.3: lines of pairs on a line, and paths (K, N, 1) of the mean velocity."""
    show(
        draw.pairs_and_paths(begin, targets, times, path),
        "Figure 3.3. Left: lines of pairs cross at will. Right: paths of the mean velocity do not; "
        "they bend apart towards the nearer point.",
        "Two panels of x over t. Left, fans of straight lines from 16 starts to both targets, "
        "crossing everywhere. Right, 16 curves that never cross: the upper ones end at plus one, "
        "the lower ones at minus one.",
    )


def show_losses(losses: Mapping[str, float]) -> None:
    """A table of losses halfway, one per velocity field."""
    table(
        ["velocity field", "loss at t = 0.5"],
        [(name, f"{loss:.3f}") for name, loss in losses.items()],
    )


def show_field(
    states: Tensor, shown: Sequence[int], velocity: Callable[[Tensor, float], Tensor]
) -> None:
    """Figure 3.4: a field and the particles it moves, at some steps of a run (K + 1, N, 2)."""
    show(
        draw.field_and_crowd(states, shown, velocity),
        "Figure 3.4. The learned field (arrows) and the particles it moves (blue). Far from all "
        "particles the network was never asked: its arrows there mean nothing.",
        "Four panels at growing t. At 0 all arrows point to the middle; later the cloud takes the "
        "shape of two moons, and the arrows point to the nearer moon.",
    )


def show_euler(runs: Mapping[str, Tensor]) -> None:
    """Figure 3.5: the ends of runs in 1, 2, 4 and 16 Euler steps, and the way of some particles."""
    show(
        draw.ways(runs),
        "Figure 3.5. Euler in 1, 2, 4 and 16 steps. One step collapses; the moons appear with more "
        "steps.",
        "Four panels. With 1 step all particles lie near the middle; with 2 they form a slanted "
        "band; with 4 the moons' outline shows, filled in between; with 16 two sharp moons. Lines "
        "show the way of some particles; with 16 steps they bend.",
    )


def show_solvers(
    counts: Sequence[int], euler: Sequence[float], heun: Sequence[float], floor: float
) -> None:
    """Figure 3.6: distance over network calls of both solvers.

    Args:
        counts: steps. Heun, with two calls per step, has them but for the last.
    """
    first, last = counts.index(8), len(counts) - 1
    at = {count: (euler[k], heun[k - 1]) for k, count in ((first, "8"), (last, "64"))}
    show(
        draw.curves({"Euler": (counts, euler), "Heun": (counts[1:], heun)}, floor),
        f"Figure 3.6. 8 calls: Euler {at['8'][0]:.3f}, Heun {at['8'][1]:.3f}. 64 calls: "
        f"{at['64'][0]:.3f} and {at['64'][1]:.3f}. What then is left above the floor is the "
        "network's error, and no solver mends it.",
        "Two falling curves of distance over network calls, on logarithmic axes, both flat at the "
        f"end. At 8 calls Euler is at {at['8'][0]:.3f}, Heun at {at['8'][1]:.3f}; the floor is "
        f"{floor:.3f}.",
    )


def show_pairings(starts: Mapping[str, Tensor], data: Tensor) -> None:
    """Figure 3.7: noise and data of one batch, paired in two ways."""
    show(
        draw.pairings(starts, data),
        "Figure 3.7. Noise (blue) and data (grey) of one batch, paired at random and paired by "
        "optimal transport.",
        "Two panels with lines between noise and data. Left a tangle of long crossing lines; right "
        "short lines, each to a data point near by, almost none crossing.",
    )


def show_pairing_results(rows: Mapping[str, tuple[float, float, Sequence[float]]]) -> None:
    """A table of both pairings: loss, bend of the paths, distances at 1, 2, 4 and 64 steps."""
    table(
        ["pairing", "loss", "bend", "1 step", "2 steps", "4 steps", "64 steps"],
        [
            (name, *(f"{value:.3f}" for value in (loss, bend, *distances)))
            for name, (loss, bend, distances) in rows.items()
        ],
    )


def show_samplers(counts: Sequence[int], arms: Mapping[str, Sequence[float]], floor: float) -> None:
    """Figure 3.8: distance over network calls of flow matching and of noise prediction."""
    at = [counts.index(count) for count in (2, 8, 64)]
    listed = "; ".join(
        f"{name} {scores[at[0]]:.2f} / {scores[at[1]]:.3f} / {scores[at[2]]:.3f}"
        for name, scores in arms.items()
    )
    show(
        draw.curves({name: (counts, scores) for name, scores in arms.items()}, floor, "noise"),
        f"Figure 3.8. Distance at 2 / 8 / 64 calls: {listed}. One seed.",
        f"Four falling curves of distance over network calls. At 2, 8 and 64 calls: {listed}.",
    )


def show_calls(
    counts: Sequence[int],
    arms: Mapping[str, Sequence[float]],
    needed: Mapping[str, int | None],
    wanted: float,
) -> None:
    """A table of distances, and of the calls that each arm needs to reach ``wanted``."""
    table(
        ["distance after so many calls", *map(str, counts), f"calls to reach {wanted:.3f}"],
        [
            (name, *(f"{d:.3f}" for d in scores), needed[name] or f"more than {counts[-1]}")
            for name, scores in arms.items()
        ],
    )


def tell_where_calls_fall(
    early: float, times: Sequence[float], bends: tuple[float, float], blown_up: float
) -> None:
    """Prints where the path turns, where even DDIM steps fall, and what its first estimate does."""
    print(f"share of the turning before t = 1/8: {early:.0%}")
    print(f"{len(times)} even DDIM steps start at t =", *(f"{t:.3f}" for t in times))
    print(f"bend of the whole path: flow {bends[0]:.2f}, DDIM in its own scale {bends[1]:.2f}")
    print(f"an error of the noise, in DDIM's first estimate of x: times {blown_up:.0f}")


def show_guidance(
    made: Mapping[str, Tensor], everything: Tensor, told: Mapping[str, tuple[float, float]]
) -> None:
    """Figure 3.9 and its table: samples of one class at growing guidance.

    Args:
        told: name -> share nearest to their own centre, spread; ``g = 1`` and ``g = 4`` are quoted.
    """
    (share, spread), (guided_share, guided_spread) = told["g = 1"], told["g = 4"]
    show(
        draw.clouds(made, behind=everything, width=1.9, frame=3.5)[0],
        "Figure 3.9. One class (blue) over all data (grey). From g = 1 to g = 4 the samples "
        f"nearest to their own centre go from {share:.0%} to {guided_share:.0%}, their spread from "
        f"{spread:.2f} to {guided_spread:.2f}.",
        "Five panels: the class as it is; g = 0, samples everywhere; g = 1, a blob like the real "
        "one; g = 2 and g = 4, ever smaller clouds pushed outwards, away from the other classes.",
    )
    table(
        ["", "nearest to their own centre", "spread"],
        [(name, f"{near:.0%}", f"{wide:.2f}") for name, (near, wide) in told.items()],
    )


def show_half_way(panels: Mapping[str, Tensor], apart: float, of_two: float) -> None:
    """Figure 3.10: states halfway, walked and mixed, their clean estimate, and the data.

    Args:
        apart: distance of walked and mixed; ``of_two``: that of two fresh mixes.
    """
    show(
        draw.clouds(panels, width=2.4)[0],
        f"Figure 3.10. Half the way. Walked and mixed are {apart:.3f} apart, two fresh mixes of "
        f"this size {of_two:.3f}. The clean estimate is not the data yet: it is the mean of what "
        "may still become of a state.",
        "Four panels. The first two look alike: a soft, slightly tilted cloud. The third is a "
        "short slanted band, narrower than the data; the fourth shows the moons.",
    )


def show_part_way(counts: Sequence[int], half: Sequence[float], whole: Sequence[float]) -> None:
    """A table of distances after a few Euler steps to t = 0.5 and to t = 1."""
    rows = zip(counts, half, whole, strict=False)
    table(
        ["Euler steps", "to t = 0.5", "to t = 1"],
        [(steps, f"{near:.3f}", f"{far:.3f}") for steps, near, far in rows],
    )


def show_loss_over_time(bins: Tensor, target: Sequence[float]) -> None:
    """Figure 3.11: loss per bin of local time, (S, 8), as it is and as a share of the target's."""
    said = "; ".join(
        f"stage {number}: {row[0]:.2f} in the first bin, {row.min():.2f} at least"
        for number, row in enumerate(bins, 1)
    )
    show(
        draw.loss_over_time(bins, target),
        "Figure 3.11. Loss of the flow head over local time, as it is (left) and as a share of "
        f"what is to be told (right). {said}.",
        f"Two panels with a curve per stage over local time. {said}.",
    )


def show_flow_or_noise(result: Mapping[str, Any]) -> None:
    """A table of the result of `ecar experiment flow-vs-diffusion`, stage by stage."""
    stages, rows = result["per_stage"], []
    for name in ("full denoise per scale", "noise prediction per scale"):
        for alone, whole_run in zip(stages[name], result["end_to_end"][name], strict=True):
            each = [f"{stage['at_level']['mean']:.2f}" for stage in alone["stages"]]
            both = f"{whole_run['frechet']['mean']:.1f}", f"{whole_run['recall']['mean']:.2f}"
            rows.append((name, alone["steps"], *each, *both))
    header = ["Frechet distance (lower is better)", "steps per stage", "stage 1 alone"]
    table([*header, "stage 2 alone", "end to end", "its recall"], rows)
    size = result["arms"]["full denoise per scale"]
    print(
        f"{size['parameters']:,} parameters, {size['images']:,} images seen, "
        f"{result['samples']} samples"
    )


# -- questions -------------------------------------------------------------------------------------


def ask_steps_of_diffusion() -> Any:
    """How many steps diffusion takes, and what that means."""
    right = (
        "250 to 1000 (fast samplers: 20 to 50); each step is a full call of the network at full "
        "resolution"
    )
    return quiz(
        "How many denoising steps are typically required in standard diffusion models, and what is "
        "the computational implication?",
        {
            "1 to 4; sampling costs about as much as a GAN": "That takes distillation or "
            "straightened paths, trained for on purpose.",
            right: "DDPM walks its 1000 levels, the DiT paper samples with 250 steps; DDIM and its "
            "like do with 20 to 50. The cost is steps × network × all tokens, which is what "
            "E-CAR's coarse stages and partial windows attack.",
            "1000, but each step is cheap because it changes little": "How little the image "
            "changes does not matter: every step runs the whole network.",
        },
        right=right,
    )


def ask_objective() -> Any:
    """What tells the objectives of flow matching and diffusion apart."""
    right = (
        "Flow matching regresses the velocity of a straight path, diffusion the noise that was "
        "added"
    )
    return quiz(
        "What is the key difference between flow matching and traditional diffusion in terms of "
        "objective function?",
        {
            "Flow matching minimises a likelihood, diffusion a squared error": "Both minimise a "
            "plain squared error.",
            right: "The target is x - ε on (1 - t) ε + t x, instead of ε on DDPM's arc. With it "
            "changes how errors are weighted over time and how bent the path is that a sampler has "
            "to follow.",
            "Flow matching needs pairs of noise and data that belong together": "Any pairs will "
            "do; optimal transport only makes the paths straighter.",
        },
        right=right,
    )


def ask_loss() -> Any:
    """What a loss that no longer falls says."""
    right = "Nothing yet: a part of it is the spread of the velocities around their mean"
    return quiz(
        "A flow head's training loss stays at 0.4 and no longer falls. What do you conclude?",
        {
            "The learning rate is too low": "Perhaps, but the loss alone cannot tell.",
            right: "The floor is not 0 and not known. Compare with other runs, per stage and per "
            "bin of time, and look at samples.",
            "The head is too small": "Perhaps, but the loss alone cannot tell.",
        },
        right=right,
    )
