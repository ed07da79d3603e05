"""`ecar sample`: images from a checkpoint as a grid, and on request the stages of the first one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from diffusers.utils import logging
from tqdm import tqdm

from ecar_lab.baselines import load_pipeline
from ecar_lab.cli.switches import parse
from ecar_lab.cost import idle_guidance
from ecar_lab.device import pick_device, pick_dtype, told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.files import IMAGE_FORMATS, check_outputs, output_file
from ecar_lab.onnx.export import exported
from ecar_lab.onnx.exported import MANIFEST
from ecar_lab.onnx.pipeline import OnnxPipeline
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schema import Images, Seed, Steps, short
from ecar_lab.viz import pictures
from ecar_lab.viz.colours import decode

logger = getLogger(__name__)

# A small image is enlarged to about this many pixels, so that it can be looked at.
TILE_PIXELS = 128
MAX_SEED = 2**63
Options = Callable[[list[int]], dict[str, Any]]


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
    runtime: Literal["torch", "onnx"] = "torch"
    """onnx computes without PyTorch, on the CPU. --checkpoint is then a folder of ecar
    export onnx, or a checkpoint whose export is made once and kept."""


def run(arguments: list[str]) -> None:
    switches = parse(SampleSwitches, "sample", arguments)
    if not 0 <= switches.seed <= MAX_SEED - switches.per_class:
        raise EcarError(f"--seed is {switches.seed}: use 0 to {MAX_SEED - switches.per_class}")
    check_outputs(
        {
            "--out": (switches.out, IMAGE_FORMATS),
            "--strip": (switches.strip, IMAGE_FORMATS),
            "--gif": (switches.gif, (".gif",)),
        }
    )
    logging.disable_progress_bar()  # loading two files needs none
    pipe, options = on_onnx(switches) if switches.runtime == "onnx" else on_torch(switches)
    names = pipe.model.class_names
    asked = list(range(len(names))) if switches.classes == ["all"] else switches.classes
    ids = [number for number in pipe.model.class_numbers(asked) for _ in range(switches.per_class)]

    started = time.perf_counter()
    with told_when_memory_is_full():
        images, watched = generate(pipe, ids, switches, options)
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


def on_torch(switches: SampleSwitches) -> tuple[ECARPipeline, Options]:
    """The pipeline, and what its ``trace`` takes for the seeds of a batch."""
    device = pick_device(switches.device)
    dtype = pick_dtype(device, switches.dtype)
    if Path(switches.checkpoint).joinpath(MANIFEST).is_file():
        raise EcarError(f"{switches.checkpoint!r} is an export for ONNX: use --runtime onnx")
    pipe = load_pipeline(switches.checkpoint).to(device)

    def options(seeds: list[int]) -> dict[str, Any]:
        return {
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "dtype": dtype,
        }

    return pipe, options


def on_onnx(switches: SampleSwitches) -> tuple[OnnxPipeline, Options]:
    """The same on an export.

    Raises:
        EcarError: another device or dtype than those of the export is asked for.
    """
    if switches.device not in ("auto", "cpu"):
        raise EcarError(
            f"--device is {short(switches.device)}: --runtime onnx computes on the cpu, "
            "leave it out"
        )
    if switches.dtype not in ("auto", "float32"):
        raise EcarError(
            f"--dtype is {short(switches.dtype)}: --runtime onnx computes in float32, leave it "
            "out, or give a folder of ecar export onnx --weights float16"
        )
    pipe = OnnxPipeline(exported(switches.checkpoint, threads=torch.get_num_threads()))
    return pipe, lambda seeds: {"seeds": seeds}


def generate(
    pipe: ECARPipeline | OnnxPipeline, ids: list[int], switches: SampleSwitches, options: Options
) -> tuple[torch.Tensor, list[TraceEvent]]:
    """All images (N, 3, H, W) in [-1, 1], and the events of the first batch.

    Every image has a generator of its own: what it looks like depends on its class and seed, not
    on the batch it happens to be in.
    """
    steps, guidance, interval, power = map(
        one_or_many, (switches.steps, switches.guidance, switches.interval, switches.power)
    )
    model = pipe.model
    doubt = idle_guidance(
        model.inference_steps(steps),
        model.guidance(guidance),
        model.intervals(interval),
        model.powers(power),
    )
    if doubt:
        logger.warning("%s", doubt)
    seeds = [switches.seed + n % switches.per_class for n in range(len(ids))]
    images, watched = [], []
    for start in tqdm(range(0, len(ids), switches.batch_size), unit="batch", disable=None):
        part = slice(start, start + switches.batch_size)
        events = pipe.trace(
            ids[part],
            steps,
            guidance,
            guidance_interval=interval,
            time_power=power,
            solver=switches.solver,
            **options(seeds[part]),
        )
        for event in events:
            if start == 0:
                watched.append(event)
        images.append(decode(pipe.tokenizer, event.latent))
    return torch.cat(images), watched


def one_or_many(values: list):
    """What the sampler takes: None for its default, one number for all stages, or one per stage."""
    return values[0] if len(values) == 1 else values or None
