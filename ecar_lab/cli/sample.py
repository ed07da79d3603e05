"""`ecar sample`: images from a checkpoint as a grid, and on request the stages of the first one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from diffusers.utils import logging
from tqdm import tqdm

from ecar_lab.baselines import load_pipeline
from ecar_lab.cli.switches import parse
from ecar_lab.device import pick_device, pick_dtype, told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.files import IMAGE_FORMATS, check_output, output_file
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schema import Images, Seed, Steps
from ecar_lab.viz import pictures
from ecar_lab.viz.colours import decode

# A small image is enlarged to about this many pixels, so that it can be looked at.
TILE_PIXELS = 128
MAX_SEED = 2**63


@dataclass
class SampleSwitches:
    """Make images with a checkpoint and save them as one grid."""

    checkpoint: str = "cifar10"
    """A checkpoint folder, or the name of one that ships."""
    classes: list[str] = field(default_factory=lambda: ["all"])
    """Names or numbers of classes, or all."""
    per_class: Images = 1
    """Images of each class. Image n of a class has the seed --seed + n, whatever else is made."""
    steps: Annotated[list[Steps], tyro.conf.arg(aliases=["--num-inference-steps"])] = field(
        default_factory=list
    )
    """Flow steps: one number, or one per stage; by default the model's own."""
    guidance: Annotated[list[float], tyro.conf.arg(aliases=["--guidance-scale"])] = field(
        default_factory=list
    )
    """Guidance scale: one number, or one per stage; by default the model's own. 1 is none."""
    interval: Annotated[
        list[tuple[float, float]], tyro.conf.arg(aliases=["--guidance-interval"])
    ] = field(default_factory=list)
    """Local times between which guidance acts, 0 1 is the whole stage: one pair, or one per stage;
    by default the model's own."""
    power: Annotated[list[float], tyro.conf.arg(aliases=["--time-power"])] = field(
        default_factory=list
    )
    """Of the steps' times (i / K) ** p, 1 is even steps: one number, or one per stage; by default
    the model's own."""
    solver: Literal["ab2", "euler", "heun"] | None = None
    """ab2 takes the last step's velocity into account, heun asks the flow head twice per step; by
    default the model's own."""
    seed: Seed = 0
    """The same seed makes the same images."""
    batch_size: Images = 50
    """Images made at once."""
    out: Annotated[Path, tyro.conf.arg(aliases=["--output"])] = Path("grid.png")
    """The picture to write."""
    strip: Path | None = None
    """Write the stages of the first image, side by side, to this picture."""
    gif: Path | None = None
    """Write those stages as they grow, step by step, to this GIF."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """auto, float32 or bfloat16."""


def run(arguments: list[str]) -> None:
    switches = parse(SampleSwitches, "sample", arguments)
    if not 0 <= switches.seed <= MAX_SEED - switches.per_class:
        raise EcarError(f"--seed is {switches.seed}: use 0 to {MAX_SEED - switches.per_class}")
    for path, formats in [
        (switches.out, IMAGE_FORMATS),
        (switches.strip, IMAGE_FORMATS),
        (switches.gif, (".gif",)),
    ]:
        if path is not None:
            check_output(path, formats)
    logging.disable_progress_bar()  # loading two files needs none
    device = pick_device(switches.device)
    dtype = pick_dtype(device, switches.dtype)
    pipe = load_pipeline(switches.checkpoint).to(device)
    names = pipe.model.class_names
    asked = list(range(len(names))) if switches.classes == ["all"] else switches.classes
    ids = pipe.model.class_ids(asked).repeat_interleave(switches.per_class).tolist()

    started = time.perf_counter()
    with told_when_memory_is_full():
        images, watched = generate(pipe, ids, switches, dtype)
    seconds = time.perf_counter() - started
    side = images.shape[-1]
    with output_file(switches.out) as fresh:
        pictures.image_grid(
            images,
            switches.per_class if switches.per_class > 1 else None,
            scale=max(1, round(TILE_PIXELS / side)),
            labels=[names[number] for number in ids],
        ).save(fresh)
    print(f"{switches.out}: {len(ids)} images of {side} px in {seconds:.1f} s")
    if switches.strip:
        with output_file(switches.strip) as fresh:
            pictures.stage_strip(watched, pipe.tokenizer).save(fresh)
        print(f"{switches.strip}: the stages of the first image")
    if switches.gif:
        with output_file(switches.gif) as fresh:
            pictures.save_gif(pictures.strip_frames(watched, pipe.tokenizer), fresh)
        print(f"{switches.gif}: those stages, step by step")


def generate(
    pipe: ECARPipeline, ids: list[int], switches: SampleSwitches, dtype: torch.dtype
) -> tuple[torch.Tensor, list[TraceEvent]]:
    """All images (N, 3, H, W) in [-1, 1], and the events of the first batch.

    Every image has a generator of its own: what it looks like depends on its class and seed, not
    on the batch it happens to be in.
    """
    seeds = [switches.seed + n % switches.per_class for n in range(len(ids))]
    images, watched = [], []
    for start in tqdm(range(0, len(ids), switches.batch_size), unit="batch", disable=None):
        part = slice(start, start + switches.batch_size)
        events = pipe.trace(
            ids[part],
            one_or_many(switches.steps),
            one_or_many(switches.guidance),
            [torch.Generator().manual_seed(seed) for seed in seeds[part]],
            guidance_interval=one_or_many(switches.interval),
            time_power=one_or_many(switches.power),
            solver=switches.solver,
            dtype=dtype,
        )
        for event in events:
            if start == 0:
                watched.append(event)
        images.append(decode(pipe.tokenizer, event.latent))
    return torch.cat(images), watched


def one_or_many(values: list):
    """What the sampler takes: None for its default, one number for all stages, or one per stage."""
    return values[0] if len(values) == 1 else values or None
