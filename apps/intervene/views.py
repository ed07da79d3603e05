"""What the Intervene tab shows: base, changed image and difference; the fork; the picture to paint
on. Plain JSON for intervene.js; files lie in the runs' own folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from apps.intervene.runs import Made
from apps.shared.settings import Settings
from ecar_lab.viz.colours import STAGE_HUES
from ecar_lab.viz.pictures import heat, pixel_distance, pixel_spread, to_pil

MOMENTS = {"start": "its start", "middle": "its middle step", "end": "its end"}


def figure(file: Any, label: str, alt: str, note: str = "", hue: str = "") -> dict[str, str]:
    """One picture with what is written below it."""
    return {"file": str(file), "label": label, "alt": alt, "note": note, "hue": hue}


def base_view(base: Made) -> dict[str, Any]:
    """The base image alone."""
    return {
        "sentence": str(base.settings),
        "says": "The interventions above start from this image.",
        "groups": [{"title": "", "figures": [image_of(base, "Base")]}],
    }


def image_of(made: Made, label: str, note: str = "") -> dict[str, str]:
    """A finished image."""
    return figure(made.image, label, f"Generated image: {made.settings}", note)


def changed_view(
    base: Made, changed: Made, says: str = "", others: Sequence[tuple[str, Made]] = ()
) -> dict[str, Any]:
    """Base beside changed image, their difference, and where each stage ends in both.

    ``others``: further images to show beside, with their labels.
    """
    far = pixel_distance(changed.picture, base.picture)
    figures = [
        image_of(base, "Base", str(base.settings)),
        *(image_of(made, label, str(made.settings)) for label, made in others),
        image_of(changed, "Changed", ", ".join(changed.settings.differences())),
        figure(
            heat_file(changed, "difference", far),
            "Difference",
            f"Difference of the two images, up to {far.max():.2f} of the full range",
            _range_words(far),
        ),
    ]
    return {
        "sentence": str(changed.settings),
        "says": says,
        "groups": [
            {"title": "Images", "figures": figures},
            {"title": "Latents where each stage ends", "figures": stage_figures(base, changed)},
        ],
    }


def stage_figures(base: Made, changed: Made) -> list[dict[str, str]]:
    """The end of every stage in both runs, and by how much they differ."""
    figures = []
    for stage, before in enumerate(stage_ends(base)):
        after = stage_ends(changed)[stage]
        gap = (after - before).square().mean().sqrt().item()
        same = torch.equal(after, before)
        note = "the same, bit for bit" if same else f"differs by {gap:.2f} (root mean square)"
        hue = STAGE_HUES[stage % len(STAGE_HUES)]
        for made, name in ((base, "base"), (changed, "changed")):
            label = f"Stage {stage + 1}, {name}"
            alt = f"Latent where stage {stage + 1} ends, {name}; {note}"
            figures.append(
                figure(frame_file(made, stage), label, alt, note if made is changed else "", hue)
            )
    return figures


def stage_ends(made: Made) -> list[Tensor]:
    """The latent where each stage ends."""
    return [event.latent for event in made.events if event.is_stage_end]


def frame_file(made: Made, stage: int, step: int | None = None) -> str:
    """The picture of the latent after a step; None: where the stage ends."""
    step = made.settings.steps[stage] if step is None else step
    frames = made.progress.view["frames"]
    return next(f["noisy"] for f in frames if (f["stage"], f["step"]) == (stage, step))


def fork_view(base: Made, stage: int, variants: Sequence[Made], count: int) -> dict[str, Any]:
    """The variants there are so far, of ``count``; then, per pixel, how much they still differ."""
    sentence = ", ".join([str(base.settings), f"forked after stage {stage + 1}"])
    shown = [image_of(made, f"Seed {made.settings.seeds[-1]}") for made in variants]
    if len(variants) < count:
        images = [image_of(base, "Base", str(base.settings))]
        return {
            "sentence": f"{sentence}: {len(variants)} of {count} variants …",
            "says": "",
            "groups": [
                {"title": "", "figures": images},
                {"title": "Variants", "figures": shown},
            ],
        }
    undecided = pixel_spread([made.picture for made in variants])
    number = stage + 1
    kept = "stage 1" if number == 1 else f"stages 1 to {number}"
    figures = [
        image_of(base, "Base", str(base.settings)),
        figure(
            heat_file(variants[0], "undecided", undecided),
            f"Undecided after stage {number}",
            f"Standard deviation of the {len(variants)} variants per pixel, up to "
            f"{undecided.max():.2f} of the full range",
            _range_words(undecided),
        ),
    ]
    return {
        "sentence": sentence,
        "says": (
            f"All variants share the base's {kept}; later stages have noise of new seeds. Where "
            f"the map is dark, stage {number} has decided already. Standard deviation per pixel, "
            f"if 0 is black and 1 white: {undecided.mean():.3f} on average, "
            f"{undecided.max():.3f} at most."
        ),
        "groups": [
            {"title": "", "figures": figures},
            {"title": "Variants", "figures": shown},
        ],
    }


def heat_file(made: Made, name: str, values: Tensor) -> str:
    """Writes a map into the run's folder."""
    path = made.image.parent / f"{name}.png"
    to_pil(heat(values))[0].save(path, compress_level=1)
    return path.as_posix()


def _range_words(values: Tensor) -> str:
    top = values.max().item()
    return f"black 0, white {top:.2f}" if top > 0 else "0 everywhere"


# -- the painter -----------------------------------------------------------------------------------


def step_of(settings: Settings, stage: int, moment: str) -> int | None:
    """The flow step that a moment of ``MOMENTS`` stands for, as an edit has it."""
    return {"start": 0, "middle": settings.steps[stage] // 2, "end": None}[moment]


def painter_view(
    base: Made, stage: int, moment: str, mask: Sequence[str] | None = None
) -> dict[str, Any]:
    """The latent to paint on; a mask of another size is dropped."""
    side = next(e.latent.shape[-1] for e in base.events if e.stage == stage)
    if not mask or len(mask) != side:
        mask = ["0" * side] * side
    return {
        "picture": frame_file(base, stage, step_of(base.settings, stage, moment)),
        "alt": f"Latent of stage {stage + 1} at {MOMENTS[moment]}",
        "stage": stage,
        "side": side,
        "hue": STAGE_HUES[stage % len(STAGE_HUES)],
        "mask": list(mask),
    }
