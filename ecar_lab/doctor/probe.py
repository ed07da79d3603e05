"""What the diagnostics of ``diagnose.py`` need to know of a model: a few latents, generated and
real ones, their statistics, the model's error on real ones, and the time that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ecar_lab.baselines import build
from ecar_lab.benchmark.timing import open_gates
from ecar_lab.data import open_dataset
from ecar_lab.device import pick_dtype
from ecar_lab.doctor.diagnose import Diagnosis, efficiency_not_realised
from ecar_lab.evaluation.feature_net import to_unit_range
from ecar_lab.evaluation.metrics import boundary_score
from ecar_lab.flow import block_mean, endpoints, pyramid, upsample
from ecar_lab.generator import LatentGenerator
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ECARPipeline, ImageOutput
from ecar_lab.trace import Stream, trace

LATE = 0.75  # local time from which the velocity error is looked at, see diagnose.leak
REAL_IMAGES = 256
BASELINE_STEPS = 50
REPEATS = 3


class RealLatents(NamedTuple):
    """Latents (N, C, R, R) of real images, and their classes (N,)."""

    latents: Tensor
    labels: Tensor


@torch.no_grad()
def real_latents(
    pipe: ECARPipeline, dataset: str, data_root: str | None = None, count: int = REAL_IMAGES
) -> RealLatents:
    """A fixed random choice of the data set's images, as the model was shown them.

    Raises:
        EcarError: the data set is not here.
    """
    data = open_dataset(
        dataset, split="train", image_size=pipe.image_size, data_root=data_root, limit=count
    )
    images, labels = data.arrays()
    mean, std = pipe.tokenizer.moments(to_unit_range(images.to(pipe.device)))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).to(mean)
    return RealLatents((mean + std * noise).float(), labels.to(pipe.device))


def sample_latents(pipe: ECARPipeline, count: int, seed: int = 0, **options: Any) -> Tensor:
    """Generated latents (count, C, R, R), classes in turn, without guidance."""
    labels = [index % pipe.model.num_classes for index in range(count)]
    settings: dict[str, Any] = {
        "guidance_scale": 1.0,
        "generator": torch.Generator().manual_seed(seed),
        "dtype": pick_dtype(pipe.device),
        **options,
    }
    output = pipe(class_labels=labels, output_type="latent", **settings)
    return cast(ImageOutput, output).images


def levels(model: LatentGenerator, latent: Tensor) -> list[Tensor]:
    """The latent at every stage's resolution, coarsest first."""
    if not isinstance(model, ECAR):
        return [latent]
    return pyramid(latent, model.schedule.num_stages, model.schedule.ratio)


def bands(model: LatentGenerator, latent: Tensor) -> list[float]:
    """Root mean square of D_0 and of what every later stage adds: D_s - Up(D_{s-1})."""
    parts = levels(model, latent)
    rest = [
        fine - upsample(coarse, fine.shape[-1] // coarse.shape[-1])
        for coarse, fine in pairwise(parts)
    ]
    return [part.square().mean().sqrt().item() for part in (parts[0], *rest)]


def boundary_scores(model: LatentGenerator, latent: Tensor) -> dict[int, float]:
    """{stage: boundary score} of D_s on the blocks that a pixel of stage s-1 became."""
    parts = levels(model, latent)
    blocks = {
        stage: parts[stage].shape[-1] // parts[stage - 1].shape[-1]
        for stage in range(1, len(parts))
    }
    return {
        stage: boundary_score(parts[stage], block)
        for stage, block in blocks.items()
        if parts[stage].shape[-1] >= 2 * block
    }


@torch.no_grad()
def band_errors(model: LatentGenerator, real: RealLatents) -> dict[int, tuple[float, float]]:
    """{stage: squared velocity errors of block means and of the rest}, per degree of freedom.

    Teacher-forced as in training, late in each stage, of the stages s >= 1 that start from a noisy
    end state: a clean one tells the block means by right.
    """
    if not isinstance(model, ECAR):
        return {}
    schedule, (latent, labels) = model.schedule, real
    draw = model.draw(len(latent), torch.Generator().manual_seed(0)).to(latent.device)
    starts, ends = endpoints(schedule, latent, draw.noise)
    maps = model.transformer(ends[:-1], labels, schedule.num_stages)
    found = {}
    for stage in range(1, schedule.num_stages):
        if schedule.ends[stage - 1] == 1:
            continue
        local_time = LATE + (1 - LATE) * draw.local_time[:, stage]
        tau = local_time[:, None, None, None]
        state = (1 - tau) * starts[stage] + tau * ends[stage]
        modulations = model.head.modulations(stage, local_time, labels)
        velocity = model.head(stage, state, model.head.read(maps[stage]), modulations)
        error = velocity - (ends[stage] - starts[stage])
        mean = block_mean(error, schedule.ratio)
        rest = error - upsample(mean, schedule.ratio)
        count = schedule.ratio**2  # a block has one mean and count - 1 degrees of freedom besides
        low = count * mean.square().mean().item()
        found[stage] = (low, rest.square().mean().item() * count / (count - 1))
    return found


@dataclass(frozen=True)
class Timing:
    """FLOPs and seconds of generating a batch, per stage, and of DiT doing the same.

    DiT has as many parameters (random ones) and takes 50 steps; its time is that of one step.
    """

    flops: list[float]
    seconds: list[float]
    baseline_flops: float
    baseline_seconds: float

    def judge(self) -> Diagnosis:
        return efficiency_not_realised(
            self.flops, self.seconds, self.baseline_flops, self.baseline_seconds
        )


def time_sampling(
    model: ECAR, batch_size: int, steps: int | Sequence[int] | None = None, repeats: int = REPEATS
) -> Timing:
    """Times the model and DiT without guidance, the fastest of ``repeats``, in turns.

    Raises:
        EcarError: no DiT of this size can be made.
    """
    shape = {name: value for name, value in model.config.items() if not name.startswith("_")}
    dit = cast(Any, open_gates(build("dit", shape))).to(model.device).eval()
    labels, dtype = [0] * batch_size, pick_dtype(model.device)

    def run(events: Stream, stages: int) -> tuple[list[float], list[float]]:
        flops, seconds = [0.0] * stages, [0.0] * stages
        for event in events:
            flops[event.stage] += batch_size * event.flops
            seconds[event.stage] += event.seconds
        return flops, seconds

    ours, theirs = [], []
    for seed in range(repeats):
        noise = torch.Generator().manual_seed(seed)
        ours.append(run(trace(model, labels, steps, 1.0, noise, dtype=dtype), len(model.sides)))
        theirs.append(run(dit.trace(labels, 1, 1.0, noise, dtype=dtype), 1))
    flops, seconds = min(ours, key=lambda one: sum(one[1]))
    baseline_seconds = min(one[1][0] for one in theirs)
    return Timing(
        flops, seconds, BASELINE_STEPS * theirs[0][0][0], BASELINE_STEPS * baseline_seconds
    )
