"""What the flow head says at one moment of one stage, for notebook 5."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ecar_lab.flow import clean_estimate, endpoints
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.colours import LatentColours, decode
from ecar_lab.viz.pictures import enlarge, image_grid, to_pil

NO_CLASS = "no class"
TRUE_CLASS = "horse"
TILE = 128


@dataclass(frozen=True)
class Scene:
    """One image of the model's own, with all that teacher forcing makes of it.

    Attributes:
        labels: what head and transformer can be told; the last is no class.
        starts, ends: of every stage, (1, C, r_s, r_s).
        token_maps: of every stage, (labels, N_s, D): one for each class told to the transformer.
    """

    pipe: ECARPipeline
    labels: list[str]
    starts: list[Tensor]
    ends: list[Tensor]
    token_maps: list[Tensor]
    colours: LatentColours


@dataclass(frozen=True)
class Moment:
    """The head's answer at one moment: latents (1, C, r_s, r_s), and its mean squared error."""

    state: Tensor
    target: Tensor
    velocity: Tensor
    estimate: Tensor
    error: float


@torch.no_grad()
def scene(pipe: ECARPipeline, name: str = TRUE_CLASS, seed: int = 7) -> Scene:
    """Draws an image, noises it as training does, and makes the token maps of all classes."""
    model, generator = pipe.model, torch.Generator().manual_seed(seed)
    *_, final = pipe.trace([name], generator=generator)
    starts, ends = endpoints(
        model.schedule, final.latent, model.draw(1, generator).to(model.device).noise
    )
    labels = torch.arange(model.num_classes + 1, device=model.device)
    history = [end.expand(len(labels), -1, -1, -1) for end in ends[:-1]]
    return Scene(
        pipe,
        [*pipe.class_names, NO_CLASS],
        starts,
        ends,
        model.transformer(history, labels),
        LatentColours.of(pipe.tokenizer),
    )


@torch.no_grad()
def moment(at: Scene, stage: int, local_time: float, to_head: str, to_transformer: str) -> Moment:
    """What the head answers in a stage at a local time, told these classes."""
    model, start, end = at.pipe.model, at.starts[stage], at.ends[stage]
    state = (1 - local_time) * start + local_time * end
    row = at.labels.index(to_transformer)
    read_map = model.head.read(at.token_maps[stage][row : row + 1])
    label = torch.tensor([at.labels.index(to_head)], device=state.device)
    time = torch.tensor([local_time], device=state.device)
    velocity = model.head(stage, state, read_map, model.head.modulations(stage, time, label))
    previous_end = at.ends[stage - 1] if stage else None
    return Moment(
        state,
        end - start,
        velocity,
        clean_estimate(model.schedule, stage, state, velocity, local_time, previous_end),
        (velocity - (end - start)).square().mean().item(),
    )


def strip(at: Scene, found: Moment) -> Image.Image:
    """The moment as a row of pictures."""
    latents = {
        "state": found.state,
        "true velocity": found.target,
        f"predicted, error {found.error:.3f}": found.velocity,
        "clean estimate": found.estimate,
    }
    tiles = [to_pil(at.colours(latent))[0] for latent in latents.values()]
    tiles += to_pil(decode(at.pipe.tokenizer, found.estimate))
    return image_grid([enlarge(tile, TILE) for tile in tiles], 5, labels=[*latents, "decoded"])
