"""E-CAR = schedule + transformer + flow head.

:class:`ECAR` holds the three, computes the training loss, and offers the pieces that
``ecar_lab.trace`` calls to generate. It is a diffusers model: ``save_pretrained``,
``from_pretrained``, ``.config``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from ecar_lab.cost import sampling_flops
from ecar_lab.errors import EcarError
from ecar_lab.flow import FlowHead, endpoints, pyramid
from ecar_lab.schedule import Coupling, StageSchedule, per_stage
from ecar_lab.transformer import MultistageTransformer

TIME_BINS = 8


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
    """

    noise: tuple[Tensor, ...]
    local_time: Tensor
    class_drop: Tensor
    latent_noise: Tensor

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
        )


@dataclass(frozen=True)
class LossOutput:
    """Mean squared velocity error.

    Attributes:
        loss: scalar with gradient: the mean of ``per_stage``.
        per_stage: (S,). per_bin: (S, 8), over eight equal bins of local time; NaN where no image
            fell into the bin. Both without gradient.
    """

    loss: Tensor
    per_stage: Tensor
    per_bin: Tensor


class ECAR(ModelMixin, ConfigMixin):
    """The multistage generator of E-CAR (arXiv 2412.14170) over the latents of a tokenizer.

    Args:
        latent_size, latent_channels: R and C of the full-size latent (B, C, R, R).
        patch_size: side of the patch of latent pixels that makes one token.
        num_stages, window_ends, coupling: see :class:`StageSchedule`.
        history: what the transformer reads of earlier stages: ``end_states`` or ``none``.
        num_classes, class_names: ids 0 ... num_classes - 1 and their names, if they have any.
        width, num_heads: of transformer and head alike.
        transformer_layers: paid once a stage. head_layers: paid at every flow step.
        num_inference_steps: default steps per stage. guidance_scale: default guidance.

    All sizes are our own choices; the paper's are not public.

    Raises:
        EcarError: sizes that do not divide, unknown options.
    """

    if TYPE_CHECKING:  # diffusers keeps the arguments of __init__ here, by attribute
        config: Any

    @register_to_config
    def __init__(
        self,
        latent_size: int = 16,
        latent_channels: int = 4,
        patch_size: int = 2,
        num_stages: int = 3,
        window_ends: Sequence[float] | None = None,
        coupling: Coupling = "independent",
        history: str = "end_states",
        num_classes: int = 10,
        class_names: Sequence[str] | None = None,
        width: int = 256,
        num_heads: int = 4,
        transformer_layers: int = 3,
        head_layers: int = 5,
        num_inference_steps: int | Sequence[int] = 8,
        guidance_scale: float | Sequence[float] = 1.0,
    ):
        super().__init__()
        factor = patch_size * 2 ** (num_stages - 1)
        if latent_size % factor:
            raise EcarError(
                f"a latent of {latent_size} is not divisible by {factor} ({num_stages} stages, "
                f"patches of {patch_size}): use {-(-latent_size // factor) * factor}"
            )
        if history not in ("end_states", "none"):
            raise EcarError(f"history {history!r} is unknown: use end_states or none")
        if class_names is not None and len(class_names) != num_classes:
            raise EcarError(
                f"{len(class_names)} class names for {num_classes} classes: give one each"
            )
        self.schedule = StageSchedule(
            latent_size, num_stages, tuple(window_ends) if window_ends else None, coupling
        )
        shared: dict[str, Any] = dict(
            token_sides=[side // patch_size for side in self.schedule.resolutions],
            latent_channels=latent_channels,
            patch_size=patch_size,
            num_classes=num_classes,
            width=width,
            num_heads=num_heads,
        )
        self.transformer = MultistageTransformer(
            **shared, num_layers=transformer_layers, history=history
        )
        self.head = FlowHead(**shared, schedule=self.schedule, num_layers=head_layers)

    @classmethod
    def from_preset(cls, name: str, **overrides) -> ECAR:
        """A model with random weights in the shape of a preset, e.g. ``imagenet256-s``."""
        from ecar_lab.presets import get_preset

        return cls(**{**get_preset(name).model, **overrides})

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

    def class_ids(self, labels: str | int | Sequence[str | int] | Tensor) -> Tensor:
        """Names or ids (mixed as you like) -> (B,) ids.

        Raises:
            EcarError: a name that is not known, an id out of range, no label at all.
        """
        if isinstance(labels, Tensor):
            labels = labels.flatten().tolist()
        elif isinstance(labels, str | int):
            labels = [labels]
        if len(labels) == 0:
            raise EcarError("no class was given: name at least one")
        ids = [self._class_id(label) for label in labels]
        return torch.tensor(ids, device=self.device)

    def _class_id(self, label: str | int) -> int:
        if isinstance(label, str) and label in self.class_names:
            return self.class_names.index(label)
        known = ", ".join(self.class_names[:20]) + (", ..." if self.num_classes > 20 else "")
        if isinstance(label, str) and not label.lstrip("-").isdigit():
            raise EcarError(f"class {label!r} is unknown: use one of {known}")
        if isinstance(label, bool) or (not isinstance(label, str) and int(label) != label):
            raise EcarError(
                f"class {label!r} is neither a name nor a whole number: use one of {known}"
            )
        if not 0 <= int(label) < self.num_classes:
            raise EcarError(f"class {label} is out of range: use 0 to {self.num_classes - 1}")
        return int(label)

    def inference_steps(self, steps: int | Sequence[int] | None = None) -> list[int]:
        """Flow steps of each stage; None means the model's default.

        Raises:
            EcarError: a number below 1, or a list of another length.
        """
        steps = self.config.num_inference_steps if steps is None else steps
        values = per_stage(steps, self.schedule.num_stages, "num_inference_steps")
        for value in values:
            if value != int(value) or value < 1:
                raise EcarError(
                    f"{value} flow steps: every stage needs a whole number of at least 1"
                )
        return [int(value) for value in values]

    def guidance(self, scale: float | Sequence[float] | None = None) -> list[float]:
        """Guidance of each stage; None means the model's default, 1.0 none.

        Raises:
            EcarError: a value that is not finite or below 0, or a list of another length.
        """
        scale = self.config.guidance_scale if scale is None else scale
        values = per_stage(scale, self.schedule.num_stages, "guidance_scale")
        for value in values:
            if not 0 <= float(value) < float("inf"):
                raise EcarError(
                    f"guidance {value} is not a finite number >= 0: 1.0 means no guidance"
                )
        return [float(value) for value in values]

    def pyramid(self, latent: Tensor) -> list[Tensor]:
        """D_0(x) ... D_{S-1}(x), coarsest first."""
        return pyramid(latent, self.schedule.num_stages)

    def draw(self, batch_size: int, generator: torch.Generator) -> TrainingDraw:
        """Everything random for one training step of ``batch_size`` images."""
        channels, stages = self.config.latent_channels, self.schedule.num_stages
        device = generator.device

        def white(side: int) -> Tensor:
            shape = (batch_size, channels, side, side)
            return torch.randn(shape, generator=generator, device=device)

        jitter = torch.rand(batch_size, stages, generator=generator, device=device)
        strata = torch.rand(batch_size, stages, generator=generator, device=device).argsort(dim=0)
        return TrainingDraw(
            noise=tuple(white(side) for side in self.schedule.resolutions),
            local_time=(strata + jitter) / batch_size,
            class_drop=torch.rand(batch_size, generator=generator, device=device),
            latent_noise=white(self.schedule.latent_size),
        )

    def loss(
        self,
        latent: Tensor,
        class_labels: Tensor,
        draw: TrainingDraw,
        class_dropout: float = 0.0,
        stage_strides: Sequence[int] | None = None,
    ) -> LossOutput:
        """Teacher-forced velocity error of all stages in one pass.

        ``x_tau = (1 - tau) start + tau end``, target ``end - start``; the transformer reads the end
        states of earlier stages.

        Args:
            latent: clean, (B, C, R, R), zero mean and unit standard deviation over the data.
            class_labels: (B,) ids. class_dropout: share of images that lose their class.
            stage_strides: stage s is trained on every k_s-th image (k_0 = 1; each divides the
                next). A stage has a quarter of the next one's tokens, so (1, 1, 4) shows the coarse
                stages, which decide what is in the picture, about twice as many images in the same
                time.

        Raises:
            EcarError: strides that do not nest.
        """
        labels = torch.where(draw.class_drop < class_dropout, self.null_class, class_labels)
        starts, ends = endpoints(self.schedule, latent, draw.noise)
        groups = nested_rows(len(latent), self.schedule.num_stages, stage_strides)
        # per group: the token maps of the stages that its images are trained on
        group_maps = [
            self.transformer(
                [take(end, rows) for end in ends[: depth - 1]], take(labels, rows), depth
            )
            for depth, rows in groups
        ]
        losses, bins = [], []
        for stage in range(self.schedule.num_stages):
            reaching = [index for index, (depth, _) in enumerate(groups) if depth > stage]
            token_map = torch.cat([group_maps[index][stage] for index in reaching])
            rows = join([groups[index][1] for index in reaching])
            local_time = take(draw.local_time[:, stage], rows)
            error = self._stage_error(
                stage,
                take(starts[stage], rows),
                take(ends[stage], rows),
                token_map,
                local_time,
                take(labels, rows),
            )
            losses.append(error.mean())
            bins.append(mean_per_bin(error.detach(), local_time))
        per_stage_loss = torch.stack(losses)
        return LossOutput(per_stage_loss.mean(), per_stage_loss.detach(), torch.stack(bins))

    def _stage_error(
        self,
        stage: int,
        start: Tensor,
        end: Tensor,
        token_map: Tensor,
        local_time: Tensor,
        class_labels: Tensor,
    ) -> Tensor:
        """(B,): squared velocity error of one stage, mean over the latent's numbers."""
        tau = local_time[:, None, None, None]
        state = (1 - tau) * start + tau * end
        modulations = self.head.modulations(stage, local_time, class_labels)
        velocity = self.head(stage, state, self.head.read(token_map), modulations)
        return (velocity - (end - start)).square().mean(dim=(1, 2, 3))

    def flops(
        self,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        solver: str = "euler",
    ) -> dict[str, list[int]]:
        """FLOPs of one generated image per stage, 2 per multiply-add, without the decoder.

        Returns:
            ``{"transformer": [S numbers], "head": [S numbers]}``; matrix products and attention.
        """
        return sampling_flops(
            self, self.inference_steps(num_inference_steps), self.guidance(guidance_scale), solver
        )


def mean_per_bin(error: Tensor, local_time: Tensor) -> Tensor:
    """(B,) errors -> (TIME_BINS,) means over bins of local time, NaN for an empty bin."""
    bins = (local_time * TIME_BINS).long().clamp(max=TIME_BINS - 1)
    total = error.new_zeros(TIME_BINS).scatter_add_(0, bins, error)
    count = error.new_zeros(TIME_BINS).scatter_add_(0, bins, torch.ones_like(error))
    return total / count


def nested_rows(
    batch_size: int, num_stages: int, strides: Sequence[int] | None
) -> list[tuple[int, list[int] | None]]:
    """Images grouped by how many stages they are trained on: (depth, rows), deepest first.

    Rows None means all of them. Stage s is trained on the images whose index is a multiple of its
    stride, so a group of depth d holds those that stage d - 1 takes and stage d does not.

    Raises:
        EcarError: strides that do not begin with 1 or do not divide one another.
    """
    strides = [1] * num_stages if strides is None else list(strides)
    nested = len(strides) == num_stages and min(strides) >= 1 and strides[0] == 1
    if not nested or any(b % a for a, b in pairwise(strides)):
        raise EcarError(
            f"stage strides {strides} for {num_stages} stages: give one per stage, the first 1, "
            "each a multiple of the one before"
        )
    if strides[-1] == 1:
        return [(num_stages, None)]
    depth_of = [sum(row % stride == 0 for stride in strides) for row in range(batch_size)]
    groups = [
        (depth, [row for row in range(batch_size) if depth_of[row] == depth])
        for depth in range(num_stages, 0, -1)
    ]
    return [(depth, rows) for depth, rows in groups if rows]


def take(tensor: Tensor, rows: list[int] | None) -> Tensor:
    """Some rows of a tensor, or the tensor itself where rows is None."""
    return tensor if rows is None else tensor[rows]


def join(parts: list[list[int] | None]) -> list[int] | None:
    """The rows of several groups in one list; None (all rows) only ever stands alone."""
    return None if parts[0] is None else [row for part in parts for row in part or []]
