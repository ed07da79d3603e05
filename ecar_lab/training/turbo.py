"""Teaching a head to walk a stage in one, two or four steps: a guided flow map.

The teacher is a trained E-CAR. From the real start of every stage it walks the guided flow in small
steps, and so shows where the flow stands at 0, 1/4, 1/2, 3/4 and 1. The student learns the mean
velocity between any two of these that its steps lead to, the guidance being one of its inputs: what
took the teacher two passes per step and many steps takes it one pass. Given the history and the
start, a stage's flow is a deterministic map, so no average over possible images blurs it.

Beside the spans the student goes on learning the velocity itself (span 0), from real images.
Ideas: shortcut models (arXiv 2410.12557), model guidance (2502.12154), MeanFlow's weighted loss.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecar_lab.baselines import load_pipeline
from ecar_lab.bounds import check_batch, least_activations
from ecar_lab.errors import EcarError
from ecar_lab.files import hash_tensors, resolve_checkpoint
from ecar_lab.flow import FEW_STEPS, GUIDANCE_RANGE, ab2_step, endpoints
from ecar_lab.generator import TrainingDraw
from ecar_lab.model import ECAR
from ecar_lab.schedule import per_stage
from ecar_lab.training.config import TurboTrainConfig
from ecar_lab.training.launch import initial_seed, launched, training_images
from ecar_lab.training.loop import Trainer
from ecar_lab.training.model import LatentTask
from ecar_lab.training.state import going_on_from
from ecar_lab.training.warm_start import warm_start

logger = logging.getLogger(__name__)
QUARTERS = 4
# (first quarter, last quarter) of every span that is learned: one whole, two halves, four quarters.
SPANS = [
    (QUARTERS // count * step, QUARTERS // count * (step + 1))
    for count in FEW_STEPS
    for step in range(count)
]
ERROR_POWER = (
    0.75  # an error counts as error / (error + floor)^power: large ones do not drown small
)
ERROR_FLOOR = 1e-3


def train_turbo(cfg: TurboTrainConfig) -> Path:
    """Trains the few-step head; the pipeline is in ``final/`` of the returned run folder.

    Raises:
        EcarError: a bad value, a teacher that is no E-CAR, missing data, a full disk, divergence.
        KeyboardInterrupt: SIGINT ended it. SystemExit: SIGTERM or SIGHUP did.
    """
    cfg.check()
    teacher_folder = resolve_checkpoint(cfg.teacher)
    with launched(cfg) as launch:
        device = launch.accelerator.device
        pipeline = load_pipeline(teacher_folder, dtype=torch.float32)
        teacher, tokenizer = pipeline.model, pipeline.tokenizer
        if not isinstance(teacher, ECAR):
            raise EcarError(
                f"the teacher {cfg.teacher!r} is a {type(teacher).__name__}: a few-step head "
                "belongs to an E-CAR, so name the checkpoint of one with --teacher"
            )
        tokenizer.to(device).requires_grad_(False)
        data = training_images(cfg, pipeline.image_size, launch.accelerator)
        if list(data.info.class_names) != teacher.class_names:
            raise EcarError(
                f"the teacher {cfg.teacher!r} knows the classes "
                f"{', '.join(teacher.class_names[:8])}, the data set {cfg.dataset_name!r} has "
                f"{', '.join(data.info.class_names[:8])}: train on the set that the teacher was "
                "trained on, --dataset"
            )
        initial_seed(cfg)
        goes_on = going_on_from(cfg, launch) is not None
        student = few_step_student(teacher, None if goes_on else teacher_folder)
        check_batch(cfg.batch_size, least_activations(student.config), device.type)
        student.transformer.requires_grad_(cfg.train_transformer)
        task = TurboTask(cfg, student, tokenizer, data, launch.accelerator, teacher=teacher)
        return Trainer(cfg, task, launch).run()


def few_step_student(teacher: ECAR, folder: Path | None) -> ECAR:
    """A model of the teacher's shape and weights whose head also takes a span and a guidance.

    Args:
        folder: the teacher's; None leaves random weights, for a run that has its own.
    """
    settings = {name: value for name, value in teacher.config.items() if not name.startswith("_")}
    few = [4] * (teacher.schedule.num_stages - 1) + [2]
    own = {"num_inference_steps": few, "time_power": 1.0, "guidance_scale": guidance_of(teacher)}
    student = ECAR(**{**settings, **own, "mode": "few-step"})
    if folder is not None:
        warm_start(student, folder, ("head.span_embedding.", "head.guidance_embedding."))
    return student


def guidance_of(teacher: ECAR) -> float | list[float]:
    """The teacher's default guidance, or the nearest that a few-step head is trained with."""
    given, (low, high) = teacher.config.guidance_scale, GUIDANCE_RANGE
    scales = per_stage(given, teacher.schedule.num_stages, "guidance_scale")
    nearest = [min(max(scale, low), high) for scale in scales]
    if nearest == scales:
        return given
    logger.warning(
        "the teacher's default guidance is %s, and the head is trained with %g to %g: its default "
        "will be %s",
        *(given, low, high, nearest),
    )
    return nearest


@dataclass(frozen=True)
class TurboDraw:
    """What is random in one step: that of plain training, and the guidance (B,) of every image."""

    training: TrainingDraw
    guidance: Tensor

    @property
    def latent_noise(self) -> Tensor:
        return self.training.latent_noise

    def slice(self, start: int, stop: int) -> TurboDraw:
        """The part of images start ... stop - 1."""
        return TurboDraw(self.training.slice(start, stop), self.guidance[start:stop])

    def to(self, device: torch.device | str) -> TurboDraw:
        """The same draw on another device."""
        return TurboDraw(self.training.to(device), self.guidance.to(device, non_blocking=True))


def draw_guidance(count: int, random: torch.Generator) -> Tensor:
    """(B,): one in five is 1, no guidance; the others lie evenly on a logarithmic scale."""
    low, high = GUIDANCE_RANGE
    place = torch.rand(count, generator=random)
    plain = torch.rand(count, generator=random) < 0.2
    return torch.where(plain, torch.ones(()), low * (high / low) ** place)


class TurboObjective(nn.Module):
    """The loss of the few-step head: spans learned from the teacher, the velocity from images."""

    def __init__(self, student: ECAR, teacher: ECAR, class_dropout: float, teacher_steps: int):
        super().__init__()
        self.student, self.class_dropout = student, class_dropout
        self.teacher_steps = teacher_steps
        self._teacher = [teacher.requires_grad_(False).eval()]  # no part of what is trained

    @property
    def teacher(self) -> ECAR:
        return self._teacher[0]

    def forward(
        self, mean: Tensor, std: Tensor, labels: Tensor, draw: TurboDraw
    ) -> tuple[Tensor, dict[str, Tensor]]:
        latent = mean + std * draw.latent_noise
        dropped = draw.training.class_drop < self.class_dropout
        labels = torch.where(dropped, self.student.null_class, labels)
        guidance = torch.where(dropped, torch.ones_like(draw.guidance), draw.guidance)
        starts, ends = endpoints(self.student.schedule, latent, draw.training.noise)
        with torch.no_grad():
            guided_maps = self.teacher.transformer(ends[:-1], labels)
            plain_maps = self.teacher.transformer(
                ends[:-1], torch.full_like(labels, self.teacher.null_class)
            )
        own_maps = (
            self.student.transformer(ends[:-1], labels)
            if any(p.requires_grad for p in self.student.transformer.parameters())
            else guided_maps
        )
        losses, errors = [], []
        for stage in range(self.student.schedule.num_stages):
            guide = Guide(self.teacher, stage, labels, guided_maps[stage], plain_maps[stage])
            loss, error = self.stage_loss(
                guide, own_maps[stage], starts[stage], ends[stage],
                draw.training.local_time[:, stage], guidance,
            )  # fmt: skip
            losses.append(loss)
            errors.append(error)
        per_stage = torch.stack(errors)  # (S, rows of one image)
        return torch.stack(losses).mean(), {
            "error_stage": per_stage.mean(dim=1),
            **{f"error_{name}": value for name, value in by_span(per_stage).items()},
        }

    def stage_loss(
        self,
        guide: Guide,
        token_map: Tensor,
        start: Tensor,
        end: Tensor,
        local_time: Tensor,
        guidance: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The weighted loss of one stage, and the plain mean error of every span (velocity last).

        Args:
            start, end: (B, C, r, r). local_time, guidance: (B,).
        """
        with torch.no_grad():
            states = guide.walk(start, guidance, self.teacher_steps)  # at 0, 1/4, ..., 1
            tau = local_time[:, None, None, None]
            at_time = (1 - tau) * start + tau * end
            push = guide.push(at_time, local_time)
            guided = end - start + (guidance - 1)[:, None, None, None] * push
        lengths = [(last - first) / QUARTERS for first, last in SPANS]
        pairs = [(states[first], states[last]) for first, last in SPANS]
        state = torch.cat([*(before for before, _ in pairs), at_time])
        target = torch.cat(
            [
                *((after - before) / d for (before, after), d in zip(pairs, lengths, strict=True)),
                guided,
            ]
        )
        begins = [torch.full_like(local_time, first / QUARTERS) for first, _ in SPANS]
        times = torch.cat([*begins, local_time])
        spans = torch.cat([torch.full_like(local_time, d) for d in (*lengths, 0.0)])
        count = len(SPANS) + 1
        head = self.student.head
        modulations = head.modulations(
            guide.stage, times, guide.labels.repeat(count), spans, guidance.repeat(count)
        )
        read_map = head.read(token_map).repeat(count, 1, 1)
        velocity = head(guide.stage, state, read_map, modulations)
        error = (velocity - target).square().mean(dim=(1, 2, 3))  # (rows * B,)
        weight = (error.detach() + ERROR_FLOOR) ** -ERROR_POWER
        return (weight * error).mean(), error.detach().unflatten(0, (count, -1)).mean(dim=1)


def by_span(per_stage: Tensor) -> dict[str, Tensor]:
    """Errors (S, rows) by the length of the span, mean over stages; the last is span 0."""
    lengths = [last - first for first, last in SPANS]
    named = {}
    for count in FEW_STEPS:
        columns = [i for i, length in enumerate(lengths) if length == QUARTERS // count]
        named[f"span_1_{count}"] = per_stage[:, columns].mean()
    named["velocity"] = per_stage[:, -1].mean()
    return named


class Guide:
    """The teacher's guided flow in one stage.

    Args:
        labels: (B,). with_class, without: token maps (B, N, D).
    """

    def __init__(
        self, teacher: ECAR, stage: int, labels: Tensor, with_class: Tensor, without: Tensor
    ):
        self.head, self.stage, self.labels = teacher.head, stage, labels
        self.both = torch.cat((labels, torch.full_like(labels, teacher.null_class)))
        self.read_map = self.head.read(torch.cat((with_class, without)))

    def _halves(self, state: Tensor, modulations: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Velocity with class and without."""
        output = self.head(self.stage, state.repeat(2, 1, 1, 1), self.read_map, modulations)
        with_class, without = output.chunk(2)
        return with_class, without

    def push(self, state: Tensor, local_time: Tensor) -> Tensor:
        """v_class - v_none: what guidance adds to the velocity, (w - 1) times. Times (B,)."""
        modulations = self.head.modulations(self.stage, local_time.repeat(2), self.both)
        with_class, without = self._halves(state, modulations)
        return with_class - without

    def walk(self, start: Tensor, guidance: Tensor, steps: int) -> list[Tensor]:
        """States at local times 0, 1/4, 1/2, 3/4, 1, by Adams-Bashforth 2 in equal steps."""
        times = [step / steps for step in range(steps + 1)]
        moments = torch.tensor(times[:-1], device=start.device)[:, None]
        modulations = self.head.modulations(self.stage, moments, self.both)
        scale = guidance[:, None, None, None]

        def velocity(state: Tensor, step: int) -> Tensor:
            with_class, without = self._halves(state, [part[step] for part in modulations])
            return without + scale * (with_class - without)

        state, states, previous = start, [start], None
        for step in range(steps):
            state, previous = ab2_step(velocity, state, times, step, previous)
            if (step + 1) % (steps // QUARTERS) == 0:
                states.append(state)
        return states


class TurboTask(LatentTask[TurboTrainConfig]):
    """What the trainer needs to know about a few-step head."""

    defaults = "the student's defaults of sampling, which are its teacher's (model/config.json)"

    def __init__(self, cfg: TurboTrainConfig, model: ECAR, *others: Any, teacher: ECAR):
        self.objective = TurboObjective(model, teacher, cfg.class_dropout, cfg.teacher_steps)
        super().__init__(cfg, model, *others)
        self.identity["teacher"] = hash_tensors(teacher.state_dict())
        self.teachers = (teacher.to(self.device),)

    def draw(self, random: torch.Generator) -> TurboDraw:
        training = self.generator.draw(self.share.global_batch, random)
        return TurboDraw(training, draw_guidance(self.share.global_batch, random))

    def _describe(self) -> str:
        millions = self.generator.num_parameters() / 1e6
        return (
            f"A few-step E-CAR of ecar_lab, taught by `{Path(self.cfg.teacher).name}`: "
            f"{millions:.1f} M parameters. One, two or four steps per stage, each one pass, with "
            f"any guidance from {GUIDANCE_RANGE[0]:g} to {GUIDANCE_RANGE[1]:g}."
        )
