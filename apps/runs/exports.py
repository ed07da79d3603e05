"""What a finished run can be taken away as: GIF, contact sheet, latents, recipe with timings.

Pictures and latents are not kept from the first time: the same settings give the same run again.
Files lie in the run's own folder and vanish with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from apps.shared.recipes import Origin, Recipe, timings, with_dtype
from apps.shared.studio import Run, Studio
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.files import write_error
from ecar_lab.viz.pictures import contact_sheet, save_gif, strip_frames

GONE = "run {} is gone, only the last ones are kept: choose another"
LARGEST = 128  # pixels of the last stage in the GIF


@dataclass(frozen=True)
class Export:
    """A kind of file. ``label``: of its button. ``needs_model``: the run is made once more."""

    label: str
    suffix: str
    needs_model: bool
    write: Callable[[Job, Path], object]


@dataclass(frozen=True)
class Job:
    """A run, its recipe, and all that happened in it (nothing, where that is not needed)."""

    run: Run
    recipe: Recipe
    studio: Studio
    events: list[TraceEvent]


def export(studio: Studio, origin: Origin, run: Run, kind: str) -> Path:
    """The file of one kind (see ``EXPORTS``) in the run's folder; made when first asked for.

    Raises:
        EcarError: the run is gone, the memory or the disk is full.
    """
    wanted = EXPORTS[kind]
    path = run.folder / f"{Path(run.settings.file_name).stem}{wanted.suffix}"
    if path.exists():
        return path
    if not run.folder.is_dir():
        raise EcarError(GONE.format(run.number))
    recipe = Recipe.of(run, origin)
    try:
        with told_when_memory_is_full():
            maker = with_dtype(studio, recipe.origin.dtype)
            events = list(maker.trace(run.settings)) if wanted.needs_model else []
            unfinished = path.with_suffix(f".part{path.suffix}")
            wanted.write(Job(run, recipe, studio, events), unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise write_error(path.name, error) from error
    finally:
        studio.folders.close_run(run.folder)
    if not path.exists():
        raise EcarError(GONE.format(run.number))
    return path


def write_recipe(job: Job, path: Path) -> None:
    """The recipe, and what the run took. Reading it back leaves the timings aside."""
    values = {**job.recipe.to_json(), "timings": timings(job.run.progress.costs)}
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def write_latents(job: Job, path: Path) -> None:
    """An NPZ without pickles.

    ``stage``, ``step``, ``t``: one number per event, stages from 0. ``latent_S`` and
    ``clean_estimate_S``: (events of stage S, C, r_S, r_S), step by step. ``recipe``: its JSON.
    """
    arrays: dict[str, np.ndarray] = {
        "stage": np.array([event.stage for event in job.events]),
        "step": np.array([event.step for event in job.events]),
        "t": np.array([float(event.t) for event in job.events]),
        "recipe": np.array(json.dumps(job.recipe.to_json())),
    }
    for stage in range(job.events[-1].stage + 1):
        own = [event for event in job.events if event.stage == stage]
        if not own:  # a painting took its place
            continue
        for name in ("latent", "clean_estimate"):
            values = [getattr(event, name)[0].float().cpu().numpy() for event in own]
            arrays[f"{name}_{stage}"] = np.stack(values)
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # ty: ignore[invalid-argument-type]


def write_gif(job: Job, path: Path) -> None:
    """The strip of stages, growing."""
    frames = strip_frames(
        job.events, job.studio.pipeline.tokenizer, colours=job.studio.colours, side=LARGEST
    )
    # GIFs have 256 colours anyway; so reduced, the frames of a long run take a third of the memory.
    save_gif([frame.quantize(256, dither=Image.Dither.NONE) for frame in frames], path)


def write_sheet(job: Job, path: Path) -> None:
    """All frames in order, as PNG."""
    title, tokenizer = str(job.run.settings), job.studio.pipeline.tokenizer
    contact_sheet(job.events, tokenizer, title=title, colours=job.studio.colours).save(path, "PNG")


EXPORTS = {
    "gif": Export("Make GIF", ".gif", True, write_gif),
    "sheet": Export("Make contact sheet", "-frames.png", True, write_sheet),
    "latents": Export("Make latents (NPZ)", "-latents.npz", True, write_latents),
    "recipe": Export("Make recipe (JSON)", "-recipe.json", False, write_recipe),
}
