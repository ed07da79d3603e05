"""Open question 3: a class that was not trained on, from a few images of it or from none.

E-CAR and a DiT of equal size are trained without one class. Then only its rows in the class
embeddings are chosen: the mean of all other classes' rows (no image is needed), the mix of one or
two classes that fits k images best, or rows learned from k images, with that mean to begin with.
Both architectures get the same images, optimizer steps and learning rate, and as many sampling
steps.

What is generated is compared with real images of the class, half of those that were not shown; the
other half says how near real images come. All distances are between sets of equal size. The models
that were trained with the class have seen some of these images in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecar_lab.baselines import load_pipeline
from ecar_lab.device import autocast
from ecar_lab.evaluation.evaluate import trained_on
from ecar_lab.evaluation.feature_net import extract, to_unit_range
from ecar_lab.evaluation.judge import Judge, fingerprint
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.one_class import (
    METRICS,
    OneClass,
    decode,
    encode,
    own_judge,
    real_class,
    sample_class,
)
from ecar_lab.experiments.lab.records import Trained
from ecar_lab.experiments.lab.scores import plus_minus, spread
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.training.new_class import Learning, best_mix, learn_class, mix_classes

ARMS = {"E-CAR": "ecar", "DiT": "dit"}
MEAN, MIX, LEARNED, TRAINED = "mean of the others", "best mix", "learned", "trained with it"


@dataclass(frozen=True)
class Extent:
    """How much is done at a size.

    Attributes:
        classes: how many are left out, one after the other, each with the first ``seeds`` seeds.
        shots: numbers of images, increasing. samples: generated of each kind.
        steps, batch_size: of learning. mixed: at most so many classes in a mix.
    """

    classes: int = 3
    seeds: int = 1
    shots: tuple[int, ...] = (1, 5, 20)
    samples: int = 320
    steps: int = 100
    batch_size: int = 32
    mixed: int = 2


EXTENTS = {
    "smoke": Extent(classes=1, shots=(1, 5), samples=16, steps=2, batch_size=8, mixed=1),
    "cpu": Extent(),
    "gpu": Extent(samples=2000, steps=500, batch_size=256),
}


def run(lab: Lab) -> dict[str, Any]:
    """Share named right, distances, precision and recall of every way to a new class."""
    extent = EXTENTS[lab.size.name]
    seeds = lab.size.seeds[: extent.seeds]
    complete = {
        (arm, seed): lab.train(architecture=ARMS[arm], seed=seed)
        for arm, seed in lab.each([(a, s) for a in ARMS for s in seeds], "training with all")
    }
    first = complete["E-CAR", seeds[0]].folder
    pipe, dataset = load_pipeline(first), trained_on(first)
    names, steps = pipe.model.class_names, {"E-CAR": pipe.model.inference_steps()}
    steps["DiT"] = [sum(steps["E-CAR"])]
    cases = list(itertools.product(spaced(len(names), extent.classes), seeds))
    partial = {
        (label, seed, arm): lab.train(architecture=ARMS[arm], seed=seed, leave_out=[names[label]])
        for (label, seed), arm in lab.each(list(itertools.product(cases, ARMS)), "leaving one out")
    }

    judge = own_judge(dataset, pipe.image_size)
    found: dict[tuple[str, str, int], list[dict]] = {}
    real = []
    images: dict[str, Any] = {}
    for label, seed in lab.each(cases, "new classes"):
        amount = {"shown": extent.shots[-1], "compared": extent.samples, "seed": seed}
        new = real_class(lab, dataset, pipe.image_size, judge, label, **amount)
        trial = Trial(lab, judge, new, seed, extent)
        real.append(new.quality(judge, new.rest, seed))
        images.setdefault("real", encode(new.shown))
        for arm in ARMS:
            trainings = partial[label, seed, arm], complete[arm, seed]
            for (how, shots), result in trial.ways(trainings, steps[arm]):
                found.setdefault((arm, how, shots), []).append(result)
                images.setdefault(key(arm, how, shots), result["strip"])
    return {
        "arms": {arm: complete[arm, seeds[0]].record() for arm in ARMS},
        "learned_numbers": {arm: row_numbers(complete[arm, seeds[0]]) for arm in ARMS},
        "learning": {"steps": extent.steps, "batch_size": extent.batch_size, "lr": Learning.lr},
        "sampling_steps": steps,
        "left_out": [names[label] for label in spaced(len(names), extent.classes)],
        "seeds": list(seeds),
        "images_compared": len(new.rest.features),
        "shots": list(extent.shots),
        "rows": [
            {"arm": arm, "how": how, "shots": shots, **over(results)}
            for (arm, how, shots), results in found.items()
        ],
        "real": over(real),
        "strips": {"class": names[cases[0][0]], "images": images},
    }


def spaced(num_classes: int, count: int) -> list[int]:
    """So many ids, evenly spaced from 0 on: of 10 classes three are 0, 3 and 6."""
    count = min(count, num_classes)
    return [index * (num_classes // count) for index in range(count)]


def row_numbers(trained: Trained) -> int:
    """How many numbers stand for one class."""
    tables = load_pipeline(trained.folder).model.class_embeddings
    return sum(table.embedding_dim for table in tables)


@dataclass(frozen=True)
class Trial:
    """One class that was left out, under one seed."""

    lab: Lab
    judge: Judge
    new: OneClass
    seed: int
    extent: Extent

    def ways(
        self, trainings: tuple[Trained, Trained], steps: list[int]
    ) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
        """Every way to the class with one architecture: (how, shots) and what comes of it.

        Args:
            trainings: the model trained without the class, and the one trained with it.
        """
        few = [(how, shots) for how in (MIX, LEARNED) for shots in self.extent.shots]
        for how, shots in [(MEAN, 0), *few, (TRAINED, 0)]:
            trained = trainings[how == TRAINED]
            settings = {
                **{"checkpoint": fingerprint(trained.folder), "judge": self.judge.fingerprint},
                **{"label": self.new.label, "how": how, "shots": shots, "seed": self.seed},
                **{"steps": steps, "extent": vars(self.extent)},
                **{"device": self.lab.device, "dtype": self.lab.dtype},
            }

            def measure(trained=trained, how=how, shots=shots) -> dict[str, Any]:
                return self.measure(trained, steps, how, shots)

            yield (how, shots), self.lab.remember("few-shot", settings, measure)

    def measure(self, trained: Trained, steps: list[int], how: str, shots: int) -> dict[str, Any]:
        """Chooses the rows of the class, generates, compares."""
        pipe = load_pipeline(trained.folder, dtype=torch.float32).to(self.lab.torch_device)
        choice = {} if how == TRAINED else self.choose(pipe, how, shots)
        count = self.extent.samples
        images = sample_class(self.lab, pipe, self.new.label, steps, count, self.seed)
        made = extract(self.judge.net, images, device=self.lab.torch_device)
        quality = self.new.quality(self.judge, made, self.seed)
        return {**quality, **choice, "strip": encode(images)}

    def choose(self, pipe: ECARPipeline, how: str, shots: int) -> dict[str, Any]:
        """Sets the rows of the class in the model; returns what there is to say about them."""
        model, label, extent, lab = pipe.model, self.new.label, self.extent, self.lab
        others = [other for other in range(model.num_classes) if other != label]
        mix_classes(model, label, others)
        if how == MEAN:
            return {}
        with torch.no_grad(), autocast(lab.torch_device, lab.torch_dtype):
            shown = to_unit_range(self.new.shown[:shots].to(lab.torch_device))
            latent = pipe.tokenizer.encode(shown).float()
        learning = Learning(extent.steps, extent.batch_size, seed=self.seed, dtype=lab.torch_dtype)
        if how == LEARNED:
            losses = learn_class(model, label, latent, learning)
            return {"loss": [losses[0], losses[-1]]}
        sizes = range(1, extent.mixed + 1)
        mixes = [mix for size in sizes for mix in itertools.combinations(others, size)]
        chosen = best_mix(model, label, latent, mixes, learning)
        return {"mix": [pipe.class_names[other] for other in chosen]}


def over(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The spread of every measure over classes and seeds, and what was chosen for each."""
    row: dict[str, Any] = {
        name: spread([result[name] for result in results]) for name in ("named_right", *METRICS)
    }
    chosen = {name: [r[name] for r in results] for name in ("mix", "loss") if name in results[0]}
    return {**row, **chosen}


def key(arm: str, how: str, shots: int) -> str:
    """What a strip of images is called in the result."""
    return f"{arm}, {how}, {shots}"


def draw(result: dict[str, Any]) -> Figure:
    """Share named right and distance over the number of images, and what the images look like."""
    figure, axes = figures.new_figure(columns=3, width=4.0, height=4.2)
    positions = ["0", *map(str, result["shots"])]
    for axis, metric, title in zip(
        axes, ("named_right", "frechet"), ("Share named right", "Frechet distance"), strict=False
    ):
        for arm in ARMS:
            draw_arm(axis, result, arm, metric, positions)
        floor = result["real"][metric]["mean"]
        axis.axhline(floor, color="#59626E", linestyle=(0, (1, 1)), label="real images")
        axis.set_xticks(range(len(positions)), positions)
        axis.set_xlabel("images of the new class (0: mean of the others)")
        axis.set_title(title, fontsize=10, loc="left")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center", ncols=7, fontsize=7.5, frameon=False,
    )  # fmt: skip
    draw_strips(axes[2], result)
    return figure


def draw_arm(
    axis: Axes, result: dict[str, Any], arm: str, metric: str, positions: list[str]
) -> None:
    """One architecture: learned from k images, mixed, and the model trained with the class."""
    rows = {(row["how"], row["shots"]): row for row in result["rows"] if row["arm"] == arm}
    shots = result["shots"]
    x = list(range(len(positions)))
    learned = [rows[MEAN, 0], *(rows[LEARNED, k] for k in shots)]
    look: dict[str, Any] = figures.style(arm)
    hollow: dict[str, Any] = {**look, "linestyle": ":", "markerfacecolor": "white"}
    figures.line(axis, f"{arm}, {LEARNED}", x, [row[metric] for row in learned], **look)
    figures.line(axis, f"{arm}, {MIX}", x[1:], [rows[MIX, k][metric] for k in shots], **hollow)
    axis.axhline(
        rows[TRAINED, 0][metric]["mean"], color=look["color"], linestyle=look["linestyle"],
        linewidth=1, alpha=0.6, label=f"{arm}, {TRAINED}",
    )  # fmt: skip


def draw_strips(axis: Axes, result: dict[str, Any]) -> None:
    """Real images, and below them a strip of every kind, E-CAR above DiT."""
    images = result["strips"]["images"]
    few = [(f"k = {k}", LEARNED, k) for k in result["shots"]]
    kinds = [("k = 0", MEAN, 0), *few, ("all", TRAINED, 0)]
    strips = [("real", decode(images["real"]))]
    strips += [
        (f"{label}, {arm}", decode(images[key(arm, how, shots)]))
        for label, how, shots in kinds
        for arm in ARMS
    ]
    height, width, gap = strips[0][1].shape[0], strips[1][1].shape[1], strips[0][1].shape[0] // 4
    sheet = np.full((len(strips) * (height + gap) - gap, width, 3), 255, np.uint8)
    for row, (_, strip) in enumerate(strips):
        top = row * (height + gap)
        sheet[top : top + height, : strip.shape[1]] = strip[:, :width]
    axis.imshow(sheet, interpolation="nearest")
    centres = [row * (height + gap) + height / 2 - 0.5 for row in range(len(strips))]
    axis.set_yticks(centres, [label for label, _ in strips], fontsize=7)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_title(f"New class {result['strips']['class']}, learned", fontsize=10, loc="left")


def table(result: dict[str, Any]) -> str:
    """One row per way, best read against the last ones: the model trained with the class, and real
    images."""
    kinds = [
        (MEAN, 0),
        *((how, k) for how in (MIX, LEARNED) for k in result["shots"]),
        (TRAINED, 0),
    ]
    rows = {(row["arm"], row["how"], row["shots"]): row for row in result["rows"]}
    lines = [
        [arm, how, shots if how != TRAINED else "all", *cells(rows[arm, how, shots])]
        for how, shots in kinds
        for arm in ARMS
    ]
    lines.append(["real images", "-", "-", *cells(result["real"])])
    header = ["", "rows of the class", "images", "named right", "Frechet distance"]
    return figures.markdown_table([*header, "precision", "recall"], lines)


def cells(row: dict[str, Any]) -> list[str]:
    """The measures of one row."""
    return [
        f"{row['named_right']['mean']:.1%}",
        plus_minus(row["frechet"]),
        plus_minus(row["precision"]),
        plus_minus(row["recall"]),
    ]
