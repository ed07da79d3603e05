"""Notebook 8: the three design trade-offs as one figure, drawn from committed measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecar_lab.experiments.lab.figures import logarithmic, new_figure, style
from ecar_lab.teaching.explore import choice, explorer
from ecar_lab.teaching.figures import hue, table
from ecar_lab.teaching.session import Session

BUDGETS = {"equal images": "equal_images", "equal training FLOPs": "equal_flops"}
# Who is compared in the middle panel, from one token at a time to all of an image at once.
PARALLEL = ("token by token", "masked AR", "E-CAR", "one stage", "DiT")


@dataclass(frozen=True)
class Measured:
    """The three results that the figure is drawn from."""

    ablation: Mapping[str, Any]
    complexity: Mapping[str, Any]
    benchmark: Mapping[str, Any]

    @classmethod
    def of(cls, lab: Session) -> Measured:
        """Those in ``data/results``."""
        names = ("stage-ablation", "complexity", "benchmark")
        return cls(*(lab.result(f"{name}-cpu") for name in names))

    def stages(self, budget: str, steps: int) -> list[tuple[int, float, dict[str, Any]]]:
        """(stages, GFLOP of an image, spread of the distance) at so many steps per stage."""
        rows = []
        for row in self.ablation["rows"]:
            (entry,) = (q for q in row[BUDGETS[budget]]["quality"] if q["steps"][0] == steps)
            rows.append((row["model"]["num_stages"], entry["gflop"], entry["frechet"]))
        return rows

    def step_counts(self) -> list[int]:
        """Steps per stage that were measured."""
        quality = self.ablation["rows"][0]["equal_images"]["quality"]
        return [entry["steps"][0] for entry in quality]

    def methods(self, pixels: int) -> list[tuple[str, float, float]]:
        """(name, seconds of an image, peak MiB beyond the weights) at an image size."""
        rows = {row["name"]: row for row in self.complexity["rows"] if row["pixels"] == pixels}
        return [(name, rows[name]["seconds"], rows[name]["peak_mib"]) for name in PARALLEL]

    def sizes(self) -> list[int]:
        """Image sizes that were measured."""
        return sorted({row["pixels"] for row in self.complexity["rows"]})

    def batches(self) -> dict[int, float]:
        """Batch size -> peak MiB of E-CAR at 256 px."""
        (ecar,) = (one for one in self.benchmark["peers"]["models"] if one["name"] == "E-CAR")
        return {one["batch_size"]: one["peak_bytes"] / 2**20 for one in ecar["batches"]}

    def per_stage(self, batch: int) -> list[tuple[float, float]]:
        """(GFLOP, milliseconds) of each stage of one image of 256 px, in a batch of so many."""
        peers = self.benchmark["peers"]
        flops = peers["gflop_per_stage"]
        gflop = [a + b for a, b in zip(flops["transformer"], flops["head"], strict=True)]
        seconds = [sum(parts.values()) for parts in peers["stage_seconds"][str(batch)]]
        return [(g, 1e3 * s / batch) for g, s in zip(gflop, seconds, strict=True)]


def chart(measured: Measured, budget: str, steps: int, pixels: int, batch: int) -> Figure:
    """Three panels: stages and quality, parallel work and memory, resolution and cost."""
    figure, axes = new_figure(3, width=4.1, height=3.4)
    stages_and_quality(axes[0], measured, budget, steps)
    parallel_and_memory(axes[1], measured, pixels)
    resolution_and_cost(axes[2], measured, batch)
    return figure


def stages_and_quality(axis: Axes, measured: Measured, budget: str, steps: int) -> None:
    for number, gflop, distance in measured.stages(budget, steps):
        look: dict[str, Any] = {"color": hue(number - 1), "marker": "o", "capsize": 3}
        axis.errorbar(gflop, distance["mean"], distance["std"], **look)
        axis.annotate(f"  {number}", (gflop, distance["mean"]), color=hue(number - 1), fontsize=10)
    axis.set(xlabel="GFLOP for one image", ylabel="Frechet distance, two seeds")
    axis.set_title(f"stages: 1 to 4, {steps} steps in each,\n{budget}", fontsize=10)
    axis.margins(x=0.15)


def parallel_and_memory(axis: Axes, measured: Measured, pixels: int) -> None:
    for name, seconds, peak in measured.methods(pixels):
        look: dict[str, Any] = {**style(name), "linestyle": "", "markersize": 8}
        axis.plot([seconds], [peak], label=name, **look)
    logarithmic(axis, "x", "y", xlabel="seconds for one image", ylabel="peak MiB beyond weights")
    axis.set_title(f"computed at once: a token to an image,\n{pixels} px", fontsize=10)
    axis.legend(frameon=False, fontsize=7)
    axis.margins(0.2)


def resolution_and_cost(axis: Axes, measured: Measured, batch: int) -> None:
    rows = measured.per_stage(batch)
    totals = [sum(column) for column in zip(*rows, strict=True)]
    width = 0.38
    for column, (label, total) in enumerate(zip(("FLOPs", "time"), totals, strict=True)):
        shares = [100 * row[column] / total for row in rows]
        places = [stage + (column - 0.5) * width for stage in range(len(rows))]
        colours = [hue(stage) for stage in range(len(rows))]
        hatch = "//" if column else ""
        bars = axis.bar(places, shares, width, color=colours, edgecolor="white", hatch=hatch)
        axis.bar_label(bars, [f"{share:.0f}" for share in shares], fontsize=8)
        bars[0].set_label(f"{label} ({'hatched' if column else 'plain'})")
    axis.set_xticks(range(len(rows)), [f"stage {stage + 1}" for stage in range(len(rows))])
    axis.set_ylabel("share of an image, %")
    axis.set_title(f"cost of each resolution,\n256 px, batch {batch}", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def in_words(measured: Measured, budget: str, steps: int, pixels: int, batch: int) -> str:
    """What the panels say, in numbers."""
    distances = ", ".join(
        f"{number} {distance['mean']:.0f} ± {distance['std']:.0f}"
        for number, _, distance in measured.stages(budget, steps)
    )
    peaks = ", ".join(f"{n} {s:.3g} s, {m:.1f} MiB" for n, s, m in measured.methods(pixels))
    rows = measured.per_stage(batch)
    finest, whole = rows[-1], [sum(column) for column in zip(*rows, strict=True)]
    shares = f"{finest[0] / whole[0]:.0%} of the FLOPs, {finest[1] / whole[1]:.0%} of the time"
    return (
        f"Distance by number of stages: {distances}. At {pixels} px: {peaks}. The finest stage has "
        f"{shares}."
    )


def trade_offs(lab: Session) -> Any:
    """Controls for budget, steps, image size and batch above the three panels."""
    measured = Measured.of(lab)
    start = {"budget": "equal images", "steps": 4, "pixels": 256, "batch": 1}
    other = {"budget": "equal training FLOPs", "steps": 8, "pixels": 1024, "batch": 8}

    def draw(budget: str, steps: int, pixels: int, batch: int) -> Figure:
        return chart(measured, budget, steps, pixels, batch)

    return explorer(
        draw,
        {
            "budget": choice("left: trained with", list(BUDGETS), start["budget"]),
            "steps": choice("left: steps per stage", measured.step_counts(), start["steps"]),
            "pixels": choice("middle: image, pixels", measured.sizes(), start["pixels"]),
            "batch": choice("right: batch", list(measured.batches()), start["batch"]),
        },
        {"as the controls begin": {}, "other settings": other},
        "Figure 8.11. The three trade-offs, from `data/results` (`ecar experiment stage-ablation`, "
        "`ecar experiment complexity`, `ecar benchmark`). Left: trained models of digits, lower is "
        "better. Middle and right: random weights.",
        f"Three panels, twice. {in_words(measured, **start)} {in_words(measured, **other)}",
        columns=1,
    )


def numbers(lab: Session) -> dict[str, str]:
    """Trade-off -> what was measured, in a sentence."""
    measured = Measured.of(lab)
    by_stages = {number: (gflop, d) for number, gflop, d in measured.stages("equal images", 4)}
    (cheap, one), (dear, four) = by_stages[1], by_stages[4]
    methods = {name: (seconds, peak) for name, seconds, peak in measured.methods(256)}
    (slow, little), (fast, much) = methods["token by token"], methods["E-CAR"]
    batches = measured.batches()
    (small, large), rows = (min(batches), max(batches)), measured.per_stage(1)
    whole = [sum(column) for column in zip(*rows, strict=True)]
    return {
        "quality": f"1 stage: {one['mean']:.0f} ± {one['std']:.0f} at {cheap:.3f} GFLOP; 4 stages: "
        f"{four['mean']:.0f} ± {four['std']:.0f} at {dear:.3f} (4 steps each, digits, two seeds)",
        "memory": f"token by token {little:.1f} MiB in {slow:.1f} s, E-CAR {much:.1f} MiB in "
        f"{fast:.2f} s (256 px); E-CAR in a batch of {small} {batches[small]:.0f} MiB, of {large} "
        f"{batches[large]:.0f} MiB",
        "cost": f"finest of 4 stages: {rows[-1][0] / whole[0]:.0%} of the FLOPs, "
        f"{rows[-1][1] / whole[1]:.0%} of the time at 256 px, batch 1",
    }


def verdicts_of(measured: Measured) -> dict[str, str]:
    """Trade-off -> what may be said of it, no more than was measured."""
    ends = {}
    for budget in BUDGETS:
        rows = measured.stages(budget, 4)
        means = [distance["mean"] for _, _, distance in rows]
        ends[budget] = rows[0][1] == min(row[1] for row in rows), means[0] == max(means)
    cheapest = all(cheap for cheap, _ in ends.values())
    worst = [budget for budget, (_, last) in ends.items() if last]
    methods = {name: peak for name, _, peak in measured.methods(256)}
    more, but = methods["E-CAR"] > methods["token by token"], methods["DiT"] < methods["E-CAR"]
    return {
        "quality": f"one stage is {'' if cheapest else 'not '}the cheapest; the worst "
        + (f"at {' and at '.join(worst)} only" if worst else "nowhere")
        + ", two seeds",
        "memory": f"{'seen' if more else 'not seen'} against token by token"
        + ("; not as a rule, DiT computes all at once in less" if but else ""),
        "cost": "the cost is measured; *necessary* was not tested",
    }


def beside_the_seed(lab: Session, verdicts: Mapping[str, tuple[str, str, str]]) -> None:
    """Shows the seed's claims, its confidence, what was measured, how, and what may be said.

    Args:
        verdicts: claim -> (claim, verdict, numbers), as notebook 8 collects them.
    """
    made, found = numbers(lab), verdicts_of(Measured.of(lab))
    quality = lab.result("evaluate-cifar10")
    distance = next(v for k, v in quality["metrics"].items() if k.startswith("frechet_distance"))
    accuracy = quality["class_accuracy"]["generated"]
    of_kit = f"Frechet distance {distance:.2f}, {accuracy:.0%} classified correctly"

    def judged(claim: str, words: str) -> tuple[str, str]:
        _, state, reason = verdicts[claim]
        return reason, f"{state}{words}"

    by_name: dict[str, tuple[str, str, tuple[str, str]]] = {
        "the framework is sound": (
            "high",
            "evaluate --checkpoint cifar10",
            (
                f"{of_kit} ({quality['metrics']['images']:,} images, CIFAR-10)",
                "one reading of it trains and generates",
            ),
        ),
        "the reported numbers can be verified": (
            "medium",
            "benchmark",
            (
                verdicts["10× fewer FLOPs than DiT"][2],
                "reached at steps that we chose; quality at 256 px was not tried",
            ),
        ),
        "details needed to reproduce it": (
            "low",
            "",
            ("nothing: they are not public", "sizes, steps and recipe here are our reading"),
        ),
        "O(n³) becomes O(n²)": (
            "a mechanism, evidence weak",
            "experiment complexity",
            judged("O(n³) becomes O(n²)", ", three sizes"),
        ),
        "a stage need go only part of the way": (
            "a mechanism, evidence weak",
            "experiment windows-and-couplings",
            judged("a stage need go only part of the way", ", digits"),
        ),
        "continuous tokens": (
            "a mechanism, evidence weak",
            "experiment continuous-vs-quantized",
            judged("continuous beats quantized", ", not of bits (notebook 1)"),
        ),
        "fewer stages: faster, lower quality": (
            "not graded",
            "experiment stage-ablation",
            (made["quality"], found["quality"]),
        ),
        "more in parallel: more memory": (
            "not graded",
            "experiment complexity`, `ecar benchmark",
            (made["memory"], found["memory"]),
        ),
        "higher resolution: dearer, needed": (
            "not graded",
            "benchmark",
            (made["cost"], found["cost"]),
        ),
    }
    table(
        ["claim", "the seed's confidence", "measured here", "measure it again", "what may be said"],
        [
            (claim, grade, said, f"`ecar {command}`" if command else "", verdict)
            for claim, (grade, command, (said, verdict)) in by_name.items()
        ],
    )
