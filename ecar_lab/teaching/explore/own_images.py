"""Notebook 11: a folder of pictures, what becomes of them, and a model of one's own beside them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from IPython.utils.capture import capture_output
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from ecar_lab.baselines import load_pipeline, make_pipeline
from ecar_lab.data.sources import picture_of
from ecar_lab.experiments.lab.figures import MARKERS
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.explore import choice, explorer, real, whole
from ecar_lab.teaching.figures import hue, new_figure, show, table
from ecar_lab.teaching.folders import SIZE, some_pictures
from ecar_lab.teaching.question import quiz
from ecar_lab.teaching.running import open_app, terminal
from ecar_lab.tokenizers.base import psnr
from ecar_lab.training.log import read_metrics
from ecar_lab.training.warm_start import warm_start
from ecar_lab.viz.pictures import enlarge, image_grid, to_pil

__all__ = [
    "against_copies",
    "beginnings",
    "begins_with",
    "contact_sheet",
    "curve",
    "evaluation",
    "finished",
    "loaded",
    "made",
    "nearest_pairs",
    "neighbours",
    "open_app",
    "reconstructions",
    "same_pixels",
    "squares",
    "terminal",
    "verdict",
    "warm_started",
    "whose_is_better",
]

NEIGHBOURS = 3
NEAR = 0.6  # from this share of pairs on a sentence says so
TILE = 96  # pixels of an image in a gallery
Square = Callable[[int, int], Sequence[float]]


# -- the folder ------------------------------------------------------------------------------------


def contact_sheet(file: Path) -> None:
    """Shows what ``ecar data`` has written."""
    show(
        Image.open(file),
        "Figure 11.1. The folder as the model will see it, a row per class: the middle square of "
        f"every picture, {SIZE}×{SIZE} pixels (`ecar data`).",
        "Rows of small square pictures, one row per class, each with the class's name below it.",
    )


def same_pixels(place: Path, square: Square) -> None:
    """Asserts that a square of the reader's, scaled, is what the kit cuts out."""
    for image in some_pictures(place):
        left, top, right, bottom = map(float, square(*image.size))
        own = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, right, bottom))
        of_kit = to_pil(picture_of(image, SIZE))[0]
        assert own.tobytes() == of_kit.tobytes(), "another part of the picture than the kit's"


def squares(place: Path, square: Square) -> None:
    """Shows pictures with the square that is kept, above what becomes of it."""
    found = some_pictures(place)
    if not found:
        print("no picture files here (a table?): the figure is left out")
        return
    figure, axes = new_figure(len(found), 2, width=1.5, height=1.6)
    longest = max(max(image.size) for image in found)
    for image, above, below in zip(found, axes[: len(found)], axes[len(found) :], strict=True):
        left, top, right, bottom = square(*image.size)
        above.imshow(image)
        frame = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False)
        frame.set(edgecolor=hue(1), linewidth=2)
        above.add_patch(frame)
        x, y = image.width / 2, image.height / 2
        above.set(xlim=(x - longest / 2, x + longest / 2), ylim=(y + longest / 2, y - longest / 2))
        above.set_title(f"{image.width}×{image.height}", fontsize=9)
        below.imshow(to_pil(picture_of(image, SIZE))[0])
        for axis in (above, below):
            axis.axis("off")
    show(
        figure,
        "Figure 11.2. Pictures at their true relative sizes, the kept square framed; below, what "
        f"the model gets: {SIZE}×{SIZE} pixels, enlarged.",
        f"{len(found)} pictures of different sizes, each with a square frame in its middle, and "
        "below each the square alone, coarse.",
    )


# -- the model -------------------------------------------------------------------------------------


def warm_started(checkpoint: str, names: Sequence[str], device: torch.device) -> ECARPipeline:
    """The model as the training begins it: a checkpoint's weights, and other classes."""
    with capture_output():  # progress bars
        source: Any = load_pipeline(checkpoint, dtype=torch.float32)
        shape = {**source.model.config, "num_classes": len(names), "class_names": list(names)}
        shape = {key: value for key, value in shape.items() if not key.startswith("_")}
        model = type(source.model)(**shape)
        warm_start(model, checkpoint, tokenizer=source.tokenizer)
    pipe: Any = make_pipeline(model, source.tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def loaded(checkpoint: Path, device: torch.device) -> ECARPipeline:
    """A trained model, without progress bars."""
    with capture_output():
        pipe: Any = load_pipeline(checkpoint, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def made(pipe: ECARPipeline, names: Sequence[str], seed: int, **how: Any) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    output: Any = pipe(list(names), generator=generator, output_type="pt", **how)
    return 2 * output.images.cpu() - 1


def reconstructions(images: Tensor, rebuilt: Mapping[str, Tensor]) -> None:
    """Shows held-out pictures above what each tokenizer makes of them."""
    values = {name: psnr(each, images) for name, each in rebuilt.items()}
    told = ", ".join(f"{name} {value:.1f} dB" for name, value in values.items())
    few = {"held out": images[:8], **{name: each[:8] for name, each in rebuilt.items()}}
    show(
        gallery(few, TILE),
        f"Figure 11.3. Held-out pictures, encoded and decoded. Mean over {len(images)}: {told}.",
        "Rows of the same pictures: as they are, then as each tokenizer gives them back. " + told,
    )


def begins_with(names: Sequence[str], rows: Sequence[int]) -> None:
    """Shows which row of the checkpoint's table each class begins with, and no class."""
    table(["class", "begins with row"], [*zip([*names, "no class"], rows, strict=True)])


def beginnings(images: Tensor, names: Sequence[str]) -> None:
    """Shows images of one noise for every class, before the training."""
    show(
        image_grid(images, len(names), scale=TILE // SIZE, labels=list(names)),
        "Figure 11.4. Before the first step, the same noise in every column: a class that the "
        "checkpoint does not know is drawn as *no class*.",
        "A row of images, one per class. Those of new classes are equal: the model draws something "
        "of its own old classes for all of them.",
    )


def curve(run: Path, images: int) -> None:
    """Shows the loss of every stage over passes through the set."""
    rows = read_metrics(run)
    figure, (axis,) = new_figure(width=6, height=2.8)
    logged = [row for row in rows if "loss_stage" in row]
    passes = [row["images"] / images for row in logged]
    told = []
    for stage in range(len(logged[0]["loss_stage"])):
        values = [row["loss_stage"][stage] for row in logged]
        look: dict[str, Any] = {"color": hue(stage), "marker": MARKERS[stage], "markersize": 4}
        axis.plot(passes, values, label=f"stage {stage + 1}", **look)
        told.append(f"stage {stage + 1} {values[0]:.3f} to {values[-1]:.3f}")
    axis.set(xlabel="passes through the pictures", ylabel="loss")
    axis.legend(frameon=False)
    show(
        figure,
        f"Figure 11.5. The training loss, {passes[-1]:.1f} passes: {', '.join(told)}.",
        f"One line per stage over passes through the pictures; {', '.join(told)}.",
    )


def finished(grid: Path, strip: Path) -> None:
    """Shows what ``ecar sample`` has written."""
    show(
        Image.open(grid),
        "Figure 11.6. Images of the trained model, a row per class (`ecar sample`).",
        "A grid of small generated images, one row per class, with the class's name below each.",
    )
    show(
        Image.open(strip),
        "Figure 11.7. How the first of them came to be, stage by stage.",
        "Three columns, one per stage, growing: noisy latent, clean estimate, decoded.",
    )


def evaluation(file: Path) -> None:
    """Shows what ``ecar evaluate`` has written: the model between its reference points."""
    result = json.loads(file.read_text("utf-8"))
    rows = []
    accuracy = result["class_accuracy"] or {}
    right = {"generated": accuracy.get("generated"), "real": accuracy.get("real")}
    for name, found in {"generated": result["metrics"], **result["reference_points"]}.items():
        numbers = {key.split("[")[0]: value for key, value in found.items()}
        share = right.get(name)
        rows.append(
            (
                *(name, found["images"], f"{numbers['frechet_distance']:.2f}"),
                *(f"{numbers[key]:.2f}" for key in ("precision_k3", "recall_k3")),
                "" if share is None else f"{share:.0%}",
            )
        )
    held_out = result["reference"]["images"]
    if right["real"] is not None:
        rows.append(
            (f"the {held_out} held-out images", held_out, "", "", "", f"{right['real']:.0%}")
        )
    header = ["compared with the held-out images", "images", "Frechet distance"]
    table([*header, "precision", "recall", "classified correctly"], rows)


# -- beside the training images --------------------------------------------------------------------


def gallery(rows: Mapping[str, Tensor], tile: int) -> Image.Image:
    """Rows of images under each other, each with its name below its first image."""
    widest = max(len(row) for row in rows.values())
    blank = Image.new("RGB", (SIZE, SIZE), "white")
    tiles: list[Image.Image] = []
    labels: list[str] = []
    for name, row in rows.items():
        tiles += [*to_pil(row), *[blank] * (widest - len(row))]
        labels += [name, *[""] * (widest - 1)]
    return image_grid(tiles, widest, scale=max(1, tile // tiles[0].width), labels=labels)


def nearest_pairs(images: Tensor, known: Tensor, found: tuple[Tensor, Tensor], count: int) -> None:
    """Shows the generated images that lie nearest to a training image, each above that one."""
    numbers, distances = (part.cpu() for part in found)
    order = distances.argsort()[:count]
    tiles = torch.cat((images[order], known[numbers[order]]))
    labels = [f"{distances[k]:.2f}" for k in order.tolist()] + ["training"] * len(order)
    show(
        image_grid(tiles, len(order), scale=TILE // SIZE, labels=labels),
        "Figure 11.8. The generated images that lie nearest to a training image, with their "
        "distance (RMS; black against white is 2), and below each that training image.",
        "Two rows: generated images, and below each the training image nearest to it.",
    )


def verdict(distance: Mapping[str, Tensor], share: float) -> None:
    """Shows the distances to the nearest training image, and says what their share allows."""
    table(
        ["distance to the nearest training image", "images", "least", "median", "largest"],
        [
            (name, len(d), *(f"{value:.3f}" for value in (d.min(), d.median(), d.max())))
            for name, d in distance.items()
        ],
    )
    said = "no sign of copies, by this distance"
    if share > NEAR:
        said = "nearer than new pictures would be: look at Figure 11.8, are they copies or blurred?"
    elif share < 1 - NEAR:
        said = "further from the training images than real ones: the model misses something"
    print(f"a generated image is the nearer one in {share:.0%} of the pairs: {said}")


def neighbours(
    pipe: ECARPipeline,
    known: Tensor,
    nearest: Callable[[Tensor, Tensor], Any],
    how: Mapping[str, Any],
):
    """Class, seed, guidance of the last two stages -> an image, its nearest training images."""
    names = list(pipe.model.class_names)

    def draw(name: str, seed: int, guidance: float) -> Image.Image:
        stages = len(pipe.model.sides)
        scales = [1.0] + [guidance] * (stages - 1)
        image = made(pipe, [name], seed, guidance_scale=scales, **how)
        rest, found, labels = known, [image[0]], ["generated"]
        for _ in range(min(NEIGHBOURS, len(known))):
            index, distance = nearest(image, rest)
            place = int(index[0])
            found.append(rest[place])
            labels.append(f"{float(distance[0]):.2f} away")
            rest = torch.cat((rest[:place], rest[place + 1 :]))
        tiles = [enlarge(tile, TILE) for tile in to_pil(torch.stack(found))]
        return image_grid(tiles, len(tiles), labels=labels)

    return explorer(
        draw,
        {
            "name": choice("class", names),
            "seed": whole("seed", 0, 50, 0),
            "guidance": real("guidance, stages 2 and 3", 1.0, 3.5, 2.0, 0.5),
        },
        {f"{name}": {"name": name} for name in itertools.islice(names, 4)},
        "Figure 11.9. A generated image of each class and the three training images nearest to it, "
        "with their distances.",
        "For each class a generated image and its three nearest training images.",
        columns=1,
    )


# -- questions -------------------------------------------------------------------------------------


def whose_is_better():
    """A question: whether distances of two folders compare."""
    return quiz(
        "Your model has a Frechet distance of 9 here, a friend's has 5, on another folder, with a "
        "feature net trained there. Whose is better?",
        {
            "The friend's: smaller is better": "On the same images, with the same net and the same "
            "number of samples. None of the three holds.",
            "It cannot be said": "Other pictures, another net, another number of images: these "
            "distances have different units.",
            "Mine: 9 of 10": "It is a distance: smaller is better, and it has no largest value.",
        },
        right="It cannot be said",
    )


def against_copies():
    """A question: what helps where a model repeats its training images."""
    return quiz(
        "The share is 0.97, and every image of Figure 11.8 is the training image below it. What "
        "helps most?",
        {
            "More pictures, or fewer passes over these": "A model repeats what it has seen often. "
            "Half the passes, or twice the pictures, and look again.",
            "More flow steps when sampling": "They follow the learned flow more exactly, to the "
            "same copies.",
            "Another seed": "Another noise leads to another copy.",
        },
        right="More pictures, or fewer passes over these",
    )
