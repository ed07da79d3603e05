"""What the strip at the top knows of a model before anything has run: its parts in order."""

from __future__ import annotations

from typing import Any

from apps.shared.studio import Studio
from ecar_lab.cost import stage_tokens
from ecar_lab.viz.colours import STAGE_HUES

SENTENCES = {
    "class": "The class becomes one vector, which every block of the transformer and of the flow "
    "head reads.",
    "up": "The end of the stage before is drawn at twice the side and gets a little new noise, so "
    "that there is something left to decide.",
    "map": "One call of the transformer reads the class and all stages so far, and says for every "
    "patch what belongs there.",
    "flow": "The flow head carries the latent from noise towards the image, in steps that follow "
    "its velocity.",
    "decode": "The tokenizer's decoder turns the finished latent into pixels.",
}


def parts_of(studio: Studio) -> list[dict[str, Any]]:
    """The parts: where each is, its sentence, its tensors with their shapes, and the GFLOP that it
    takes with the model's own settings (None: not counted). A tensor's ``key`` names its range in a
    run's facts (``apps.shared.stream``); ``stage`` is whose."""
    pipeline, own = studio.pipeline, studio.defaults()
    model, config = pipeline.model, pipeline.model.config
    flops = model.flops(
        own.steps,
        own.guidance,
        own.solver,
        guidance_interval=own.all_intervals,
        time_power=own.all_powers,
    )
    sides, width = model.schedule.resolutions, config.width
    tokens = stage_tokens(config)
    last = len(sides) - 1

    def latent(stage: int, name: str, key: str = "latent") -> dict[str, Any]:
        side = sides[stage]
        return tensor(name, (config.latent_channels, side, side), key, stage)

    parts = [part("class", 0, "Class", [tensor("class vector", (width,))])]
    for stage, side in enumerate(sides):
        grid = f"{side}×{side}"
        patches = (tokens[stage], width)
        if stage:
            sigma = model.schedule.transition(stage).sigma
            parts.append(
                part(
                    "up",
                    stage,
                    "Upsample + re-noise",
                    [latent(stage - 1, "end of the stage before"), latent(stage, "start", "start")],
                    note=f"The new noise has σ = {sigma:.2f}.",
                    gflop=0.0,
                )
            )
        token_map = tensor("token map", patches, "map", stage)
        work = {name: flops[name][stage] / 1e9 for name in ("transformer", "head")}
        parts += [
            part(
                "map", stage, f"Token map {stage + 1}", [token_map], gflop=work["transformer"],
                note=f"{tokens[stage]} patches, {width} numbers each.",
            ),
            part(
                "flow", stage, f"Flow {grid}",
                [token_map, latent(stage, "latent"), latent(stage, "clean estimate", "clean")],
                gflop=work["head"],
                note=f"{own.steps[stage]} steps in the model's own settings.",
            ),
        ]  # fmt: skip
    pixels = (3, pipeline.image_size, pipeline.image_size)
    decoded = [latent(last, "finished latent"), tensor("image", pixels)]
    return [*parts, part("decode", len(sides), "Decode", decoded)]


def part(
    kind: str,
    stage: int,
    name: str,
    tensors: list[dict[str, Any]],
    note: str = "",
    gflop: float | None = None,
) -> dict[str, Any]:
    """One part of the strip, for the page."""
    hue = "" if kind in ("class", "decode") else STAGE_HUES[stage % len(STAGE_HUES)]
    said = {"name": name, "sentence": SENTENCES[kind], "note": note, "tensors": tensors}
    return {"part": kind, "stage": stage, "hue": hue, "gflop": gflop, **said}


def tensor(
    name: str, shape: tuple[int, ...], key: str | None = None, stage: int = 0
) -> dict[str, Any]:
    """A tensor of one image: its name, its shape, and where a run's facts have its range."""
    shown = " × ".join(map(str, shape))
    return {"name": name, "shape": shown, "key": key, "stage": stage}
