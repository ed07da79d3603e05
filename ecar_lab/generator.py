"""What every generator of latents shares, E-CAR and the baselines alike: the labels it understands,
its steps and guidance, and what is random in a training step.

Trainer, pipeline and evaluation know a generator by this alone, so all are treated the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from ecar_lab.arguments import plain, real_number, whole_number
from ecar_lab.bounds import check_images
from ecar_lab.device import Casts
from ecar_lab.errors import EcarError
from ecar_lab.flow import DEFAULT_SOLVER, check_solver
from ecar_lab.schedule import Intervals, check_interval, check_power, per_stage
from ecar_lab.schema import short
from ecar_lab.stored import StoredNetwork

if TYPE_CHECKING:
    from ecar_lab.tokenizers.base import Tokenizer

TIME_BINS = 8
# More steps, or more guidance, than any image can use: a slip of the pen rather than a wish.
MAX_STEPS, MAX_GUIDANCE = 10_000, 100


@dataclass(frozen=True)
class TrainingDraw:
    """All that is random in one training step, drawn for the whole batch at once.

    Because a step reads nothing else, the same draw cut into slices trains the same model on one
    process or on several.

    Attributes:
        noise: white eps_s per stage, (B, C, r_s, r_s).
        local_time: (B, S), uniform in [0, 1), stratified over the batch.
        class_drop: (B,), uniform: a class is dropped where it is below the drop rate.
        latent_noise: (B, C, R, R), white: samples the tokenizer's latent, mean + std * noise.
        more_noise, more_time: per stage, what the further draws of the head need, k_s - 1 per
            image: (B, k_s - 1, C, r_s, r_s) and (B, k_s - 1). Empty where each stage has one draw.
    """

    noise: tuple[Tensor, ...]
    local_time: Tensor
    class_drop: Tensor
    latent_noise: Tensor
    more_noise: tuple[Tensor, ...] = ()
    more_time: tuple[Tensor, ...] = ()

    def slice(self, start: int, stop: int) -> TrainingDraw:
        """The part of images start ... stop - 1."""
        return self._map(lambda tensor: tensor[start:stop])

    def to(self, device: torch.device | str) -> TrainingDraw:
        """The same draw on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function) -> TrainingDraw:
        return TrainingDraw(
            tuple(map(function, self.noise)),
            function(self.local_time),
            function(self.class_drop),
            function(self.latent_noise),
            tuple(map(function, self.more_noise)),
            tuple(map(function, self.more_time)),
        )


@dataclass(frozen=True)
class StagePrediction:
    """What a network said about F flows of one stage, of which an image may have several.

    Attributes:
        stage: its index. output, target: what was said and what was right, (F, C, r, r).
        images: (F,), which image of the batch each flow belongs to.
        layers: tokens after each block of E-CAR's head, (F, N, D); none of a baseline.
    """

    stage: int
    output: Tensor
    target: Tensor
    images: Tensor
    layers: Sequence[Tensor] = ()


# A further error of the flows, (F,), that a training may minimise; see ``train_terms``.
LossTerm = Callable[[StagePrediction], Tensor]


@dataclass(frozen=True)
class LossOutput:
    """Mean squared velocity error.

    Attributes:
        loss: scalar with gradient: the mean of ``per_stage``, plus a further term if there is one.
        per_stage: (S,). per_bin: (S, 8), over eight equal bins of local time; NaN where no image
            fell into the bin. Both without gradient.
    """

    loss: Tensor
    per_stage: Tensor
    per_bin: Tensor


class LatentGenerator(StoredNetwork):
    """A class-conditional generator of latents (B, C, R, R), trained by :meth:`loss`.

    Its configuration holds ``latent_size``, ``latent_channels``, ``num_classes``, ``class_names``,
    ``num_inference_steps`` and ``guidance_scale``.
    """

    if TYPE_CHECKING:  # diffusers keeps the arguments of __init__ here, by attribute
        config: Any

    # Weights in a lower dtype, kept from run to run; for a program that never changes the weights
    # again. None: every run makes its own.
    casts: Casts | None = None
    default_solver: ClassVar[str] = DEFAULT_SOLVER
    always_saved: ClassVar[Sequence[str]] = (
        *("latent_size", "latent_channels", "patch_size", "num_classes"),
        *("num_inference_steps", "guidance_scale"),
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # diffusers' loader looks for its ModelMixin in the module that a class lives in.
        vars(sys.modules[cls.__module__]).setdefault("ModelMixin", ModelMixin)

    def casts_of_run(self) -> Casts:
        """Where a run keeps its weights in a lower dtype."""
        return Casts() if self.casts is None else self.casts

    @property
    def sides(self) -> list[int]:
        """Side of the latent that each stage works on; one stage unless told otherwise."""
        return [self.config.latent_size]

    def prepare_for(self, tokenizer: Tokenizer) -> None:
        """Takes from the tokenizer what training must know beyond sizes. Nothing, as a rule."""

    def loss(
        self,
        latent: Tensor,
        class_labels: Tensor,
        draw: TrainingDraw,
        class_dropout: float = 0.0,
        stage_strides: Sequence[int] | None = None,
    ) -> LossOutput:
        """The training loss of clean latents (B, C, R, R) of classes (B,)."""
        raise NotImplementedError

    def draw(
        self,
        batch_size: int,
        generator: torch.Generator,
        head_draws: Sequence[int] | None = None,
    ) -> TrainingDraw:
        """Everything random for one training step of ``batch_size`` images.

        Args:
            head_draws: (noise, time) pairs per image that each stage's head learns from; None: one.

        Raises:
            EcarError: a number of draws below 1, or a list of another length.
        """
        channels, stages = self.config.latent_channels, len(self.sides)
        device = generator.device
        draws = per_stage([1] * stages if head_draws is None else head_draws, stages, "head_draws")
        if min(draws) < 1:
            raise EcarError(f"head draws {list(draws)}: every stage needs at least 1")

        def white(side: int, *leading: int) -> Tensor:
            shape = (batch_size, *leading, channels, side, side)
            return torch.randn(shape, generator=generator, device=device)

        def times(columns: int) -> Tensor:
            """(B, columns): each column has one time in every B-th of the unit interval."""
            jitter = torch.rand(batch_size, columns, generator=generator, device=device)
            strata = torch.rand(batch_size, columns, generator=generator, device=device)
            return (strata.argsort(dim=0) + jitter) / batch_size

        local_time = times(stages)
        once = TrainingDraw(
            noise=tuple(white(side) for side in self.sides),
            local_time=local_time,
            class_drop=torch.rand(batch_size, generator=generator, device=device),
            latent_noise=white(self.config.latent_size),
        )
        if max(draws) == 1:
            return once
        return replace(
            once,
            more_noise=tuple(white(s, k - 1) for s, k in zip(self.sides, draws, strict=True)),
            more_time=tuple(times(count - 1) for count in draws),
        )

    @property
    def class_embeddings(self) -> list[nn.Embedding]:
        """All tables that tell the network which class is wanted: a row each, null class last."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def null_class(self) -> int:
        """The id that stands for no class at all: one past the last."""
        return self.config.num_classes

    @property
    def class_names(self) -> list[str]:
        """Names by id; the ids themselves where the data set has none."""
        return list(self.config.class_names or map(str, range(self.num_classes)))

    def class_ids(self, labels: Any) -> Tensor:
        """Names or ids (mixed as you like; a list, an array, a tensor, or just one) -> (B,) ids.

        Raises:
            EcarError: a name that is not known, an id out of range, something that is neither (a
                number with a fraction, a bool, a one-hot row), no label at all; more than the
                memory holds the images of.
        """
        if self.device.type == "meta":
            raise EcarError("the device meta holds no weights: load the model with from_pretrained")
        return torch.tensor(self.class_numbers(labels), device=self.device)

    def class_numbers(self, labels: Any) -> list[int]:
        """The ids of :meth:`class_ids` as plain numbers, of a model without weights, too.

        Raises:
            EcarError: as there.
        """
        listed = plain(labels)
        listed = listed if isinstance(listed, list) else [listed]
        if len(listed) == 0:
            raise EcarError("no class was given: name at least one")
        check_images(self.config, len(listed), self.device.type)
        return [self._class_id(label) for label in listed]

    def _class_id(self, label: Any) -> int:
        names = self.class_names
        if isinstance(label, str) and label in names:
            return names.index(label)
        known = ", ".join(names[:20]) + (", ..." if self.num_classes > 20 else "")
        if isinstance(label, list):
            raise EcarError(
                f"class {short(label)} is a list in a list: give one name or number per image, "
                "and of one-hot rows their argmax(1)"
            )
        if isinstance(label, str):
            if not (label.isascii() and label.removeprefix("-").isdigit()):
                raise EcarError(f"class {short(label)} is unknown: use one of {known}")
            number = int(label[:20])
        else:
            number = None if isinstance(label, float) else whole_number(label)
        if number is None:
            raise EcarError(
                f"class {short(label)} is neither a name nor a whole number: use one of {known}"
            )
        if not 0 <= number < self.num_classes:
            raise EcarError(f"class {label} is out of range: use 0 to {self.num_classes - 1}")
        return number

    def inference_steps(self, steps: int | Sequence[int] | None = None) -> list[int]:
        """Flow steps of each stage; None means the model's default.

        Raises:
            EcarError: no whole number from 1 to ``MAX_STEPS``, or a list of another length.
        """
        steps = self.config.num_inference_steps if steps is None else steps
        counts = []
        for value in per_stage(steps, len(self.sides), "num_inference_steps"):
            count = whole_number(value)
            if count is None or not 1 <= count <= MAX_STEPS:
                raise EcarError(
                    f"{short(value)} flow steps: every stage needs a whole number of at least 1 "
                    f"and at most {MAX_STEPS}"
                )
            counts.append(count)
        return counts

    def guidance(self, scale: float | Sequence[float] | None = None) -> list[float]:
        """Guidance of each stage; None means the model's default, 1.0 none.

        Raises:
            EcarError: no number from 0 to ``MAX_GUIDANCE``, or a list of another length.
        """
        scale = self.config.guidance_scale if scale is None else scale
        scales = []
        for value in per_stage(scale, len(self.sides), "guidance_scale"):
            number = real_number(value)
            if number is None or not 0 <= number < float("inf"):
                raise EcarError(
                    f"guidance {short(value)} is not a finite number >= 0: 1.0 means no guidance"
                )
            if number > MAX_GUIDANCE:
                raise EcarError(
                    f"guidance {number:g} leaves nothing of the image: use 1 (none) to about 10, "
                    f"and {MAX_GUIDANCE} at most"
                )
            scales.append(number)
        return scales

    def intervals(self, interval: Intervals = None) -> list[tuple[float, float]]:
        """The local times of each stage between which guidance acts, see ``cost.guided_steps``.

        Args:
            interval: one (low, high) for all stages, or one per stage, in which None stands for
                the whole stage; None means the model's default, which is the whole of every stage
                where its config names no ``guidance_interval``.

        Raises:
            EcarError: an interval that ends before it begins or leaves 0 ... 1, or a list of
                another length.
        """
        interval = self.config.get("guidance_interval") if interval is None else interval
        interval = plain(interval)
        several = isinstance(interval, list)
        if not several or all(isinstance(end, int | float) for end in interval):
            return [check_interval(interval)] * len(self.sides)
        values = per_stage(interval, len(self.sides), "guidance_interval")
        return [check_interval(value) for value in values]

    def powers(self, power: float | Sequence[float] | None = None) -> list[float]:
        """The power of each stage's ``schedule.time_grid``; None means the model's default, which
        is 1, even steps, where its config names no ``time_power``.

        Raises:
            EcarError: a power that is not above 0, or a list of another length.
        """
        power = self.config.get("time_power", 1.0) if power is None else power
        return [check_power(value) for value in per_stage(power, len(self.sides), "time_power")]

    def solver(self, name: str | None = None) -> str:
        """How flows are followed, see ``flow.SOLVERS``; None means the model's default.

        Raises:
            EcarError: there is no such solver.
        """
        return check_solver(self.default_solver if name is None else name)


def mean_per_bin(error: Tensor, local_time: Tensor) -> Tensor:
    """(B,) errors -> (TIME_BINS,) means over bins of local time, NaN for an empty bin."""
    bins = (local_time * TIME_BINS).long().clamp(max=TIME_BINS - 1)
    total = error.new_zeros(TIME_BINS).scatter_add_(0, bins, error)
    count = error.new_zeros(TIME_BINS).scatter_add_(0, bins, torch.ones_like(error))
    return total / count
