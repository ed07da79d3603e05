"""E-CAR = schedule + transformer + flow head.

:class:`ECAR` holds the three, computes the training loss, and offers the pieces that
``ecar_lab.trace`` calls to generate. It is a diffusers model: ``save_pretrained``,
``from_pretrained``, ``.config``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ecar_lab.cost import guided_steps, sampling_flops
from ecar_lab.errors import EcarError
from ecar_lab.flow import (
    FEW_STEPS,
    FLOW_MAP,
    GUIDANCE_RANGE,
    FlowHead,
    another_way,
    endpoints,
    pyramid,
)
from ecar_lab.generator import (
    LatentGenerator,
    LossOutput,
    LossTerm,
    StagePrediction,
    TrainingDraw,
    mean_per_bin,
)
from ecar_lab.layers import BlockStyle
from ecar_lab.schedule import Coupling, Intervals, StageSchedule
from ecar_lab.transformer import MultistageTransformer

MODES = ("velocity", "few-step")


class ECAR(LatentGenerator):
    """The multistage generator of E-CAR (arXiv 2412.14170) over the latents of a tokenizer.

    Args:
        latent_size, latent_channels: R and C of the full-size latent (B, C, R, R).
        patch_size: side of the patch of latent pixels that makes one token.
        num_stages, window_ends, coupling, stage_ratio: see :class:`StageSchedule`.
        history: what the transformer reads of earlier stages: ``end_states`` or ``none``.
        num_classes, class_names: ids 0 ... num_classes - 1 and their names, if they have any.
        width, num_heads: of transformer and head alike.
        transformer_layers: paid once per stage. head_layers: paid at every flow step.
        attention_window: tokens per side of the windows that attention keeps to in stages larger
            than one window, in transformer and head; see :class:`MultistageTransformer`. None:
            full attention.
        local_mixing: a depthwise 3x3 convolution over each stage's tokens before every MLP, in
            transformer and head.
        mlp, norm: of every block, see :class:`BlockStyle`. long_skips: of the head, see
            :class:`FlowHead`.
        mode: ``velocity``, or ``few-step``: the head is a guided flow map, see :class:`FlowHead`.
        num_inference_steps, time_power: default steps per stage, and where they lie, see
            ``schedule.time_grid``. guidance_scale, guidance_interval: default guidance, and where
            in each stage it acts, see :meth:`intervals`.

    All sizes are our own choices; the paper's are not public.

    Raises:
        EcarError: sizes that do not divide, unknown options.
    """

    always_saved: ClassVar[Sequence[str]] = (
        *LatentGenerator.always_saved,
        *("num_stages", "window_ends", "coupling", "history", "num_heads"),
    )

    @register_to_config
    def __init__(
        self,
        latent_size: int = 16,
        latent_channels: int = 4,
        patch_size: int = 2,
        num_stages: int = 3,
        window_ends: Sequence[float] | None = None,
        coupling: Coupling = "independent",
        stage_ratio: int = 2,
        history: str = "end_states",
        num_classes: int = 10,
        class_names: Sequence[str] | None = None,
        width: int = 256,
        num_heads: int = 4,
        transformer_layers: int = 3,
        head_layers: int = 5,
        num_inference_steps: int | Sequence[int] = 8,
        guidance_scale: float | Sequence[float] = 1.0,
        attention_window: int | None = None,
        local_mixing: bool = False,
        mode: str = "velocity",
        guidance_interval: Intervals = None,
        time_power: float | Sequence[float] = 1.0,
        mlp: str = "relu2",
        norm: str = "layer",
        long_skips: bool = False,
    ):
        super().__init__()
        factor = patch_size * stage_ratio ** (num_stages - 1)
        if latent_size % factor:
            raise EcarError(
                f"a latent of {latent_size} is not divisible by {factor} ({num_stages} stages, "
                f"patches of {patch_size}): use {-(-latent_size // factor) * factor}"
            )
        if mode not in MODES:
            raise EcarError(f"mode {mode!r} is unknown: use {' or '.join(MODES)}")
        if history not in ("end_states", "none"):
            raise EcarError(f"history {history!r} is unknown: use end_states or none")
        if class_names is not None and len(class_names) != num_classes:
            raise EcarError(
                f"{len(class_names)} class names for {num_classes} classes: give one each"
            )
        ends = tuple(window_ends) if window_ends else None
        self.schedule = StageSchedule(latent_size, num_stages, ends, coupling, stage_ratio)
        shared: dict[str, Any] = dict(
            token_sides=[side // patch_size for side in self.schedule.resolutions],
            latent_channels=latent_channels,
            patch_size=patch_size,
            num_classes=num_classes,
            width=width,
            num_heads=num_heads,
            attention_window=attention_window,
            style=BlockStyle(local_mixing, mlp, norm),
        )
        self.transformer = MultistageTransformer(
            **shared, num_layers=transformer_layers, history=history
        )
        self.head = FlowHead(
            **shared,
            schedule=self.schedule,
            num_layers=head_layers,
            long_skips=long_skips,
            few_step=mode == "few-step",
        )

    @classmethod
    def from_preset(cls, name: str, **overrides) -> ECAR:
        """A model with random weights in the shape of a preset, e.g. ``imagenet256-s``."""
        from ecar_lab.presets import get_preset

        preset = get_preset(name).model_of(overrides.get("num_stages"))
        return cls(**{**preset, **overrides})

    def pyramid(self, latent: Tensor) -> list[Tensor]:
        """D_0(x) ... D_{S-1}(x), coarsest first."""
        return pyramid(latent, self.schedule.num_stages, self.schedule.ratio)

    @property
    def sides(self) -> list[int]:
        return list(self.schedule.resolutions)

    @property
    def few_step(self) -> bool:
        """Whether the head is a guided flow map: one pass per step, 1, 2 or 4 steps per stage."""
        return self.head.few_step

    def solver(self, name: str | None = None) -> str:
        """As of every generator; a few-step head has ``flow-map``, and by default uses it."""
        if not isinstance(name, str | None):
            return super().solver(name)
        if self.few_step and name in (None, FLOW_MAP):
            return FLOW_MAP
        if name == FLOW_MAP:
            raise EcarError(
                f"solver {FLOW_MAP!r} needs a few-step head, this checkpoint has none: use "
                "ab2, or a checkpoint of `ecar train turbo`"
            )
        return super().solver(name)

    def check_few_step(
        self,
        steps: Sequence[int],
        guidance: Sequence[float],
        powers: Sequence[float],
        solver: str,
    ) -> None:
        """Refuses what a few-step head was not trained on.

        Raises:
            EcarError: under ``flow-map`` steps other than 1, 2 or 4, or uneven ones; guidance
                outside its range.
        """
        if not self.few_step:
            return
        if solver == FLOW_MAP and set(powers) != {1.0}:
            raise EcarError(
                f"time_power {max(powers):g}: the few-step head was trained on even steps, use 1, "
                "or solver ab2"
            )
        for count in steps:
            if solver == FLOW_MAP and count not in FEW_STEPS:
                near = min(FEW_STEPS, key=lambda few: abs(few - count))
                raise EcarError(
                    f"{count} steps in a stage: the few-step head was trained on 1, 2 and 4, use "
                    f"{near}, or solver ab2 for any number"
                )
        low, high = GUIDANCE_RANGE
        for scale in guidance:
            if not low <= scale <= high:
                raise EcarError(
                    f"guidance {scale:g} is outside what the few-step head was trained on: use "
                    f"{low:g} to {high:g}"
                )

    @property
    def class_embeddings(self) -> list[nn.Embedding]:
        return [self.transformer.class_embedding, self.head.class_embedding]

    def loss(
        self,
        latent: Tensor,
        class_labels: Tensor,
        draw: TrainingDraw,
        class_dropout: float = 0.0,
        stage_strides: Sequence[int] | None = None,
        term: LossTerm | None = None,
    ) -> LossOutput:
        """Teacher-forced velocity error of all stages in one pass.

        ``x_tau = (1 - tau) start + tau end``, target ``end - start``; the transformer reads the end
        states of earlier stages. Where a draw holds several (noise, time) pairs for a stage, the
        head learns from all of them with one token map: other flows to the same clean latent.

        Args:
            latent: clean, (B, C, R, R), zero mean and unit standard deviation over the data.
            class_labels: (B,) ids. class_dropout: share of images that lose their class.
            stage_strides: stage s is trained on every k_s-th image (k_0 = 1; each divides the
                next). A stage has a quarter of the next one's tokens, so (1, 1, 4) shows the coarse
                stages, which decide what is in the picture, about twice as many images in the same
                time.
            term: a further error that is minimised with that of the velocity.

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
        losses, errors, bins = [], [], []
        for stage in range(self.schedule.num_stages):
            reaching = [index for index, (depth, _) in enumerate(groups) if depth > stage]
            read_map = self.head.read(torch.cat([group_maps[index][stage] for index in reaching]))
            rows = join([groups[index][1] for index in reaching])
            start, end, local_time = self._flows(stage, latent, starts, ends, draw)
            start, end, local_time = (take(part, rows) for part in (start, end, local_time))
            count = start.shape[1]  # flows per image, all with one token map
            layers = None if term is None else []
            prediction, target = self._predict(
                stage,
                start.flatten(0, 1),
                end.flatten(0, 1),
                read_map.repeat_interleave(count, dim=0),
                local_time.flatten(),
                take(labels, rows).repeat_interleave(count),
                layers,
            )
            error = (prediction - target).square().mean(dim=(1, 2, 3))
            errors.append(error.mean())
            bins.append(mean_per_bin(error.detach(), local_time.flatten()))
            losses.append(errors[-1])
            if term is not None and layers is not None:
                images = take(torch.arange(len(latent), device=latent.device), rows)
                images = images.repeat_interleave(count)
                said = StagePrediction(stage, prediction, target, images, layers)
                losses[-1] = losses[-1] + term(said).mean()
        return LossOutput(
            torch.stack(losses).mean(), torch.stack(errors).detach(), torch.stack(bins)
        )

    def _flows(
        self,
        stage: int,
        latent: Tensor,
        starts: Sequence[Tensor],
        ends: Sequence[Tensor],
        draw: TrainingDraw,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All flows of a stage that an image trains: starts, ends (B, k, C, r, r), times (B, k).

        The first is the one that the history goes on from; the draw may hold more.
        """
        start, end = starts[stage][:, None], ends[stage][:, None]
        local_time = draw.local_time[:, stage, None]
        if not draw.more_noise or not (more := draw.more_noise[stage]).shape[1]:
            return start, end, local_time
        previous_end = ends[stage - 1] if stage else None
        clean = self.pyramid(latent)[stage]
        others = [
            another_way(self.schedule, stage, clean, previous_end, ends[stage], noise)
            for noise in more.unbind(dim=1)
        ]
        start = torch.cat((start, torch.stack([way[0] for way in others], dim=1)), dim=1)
        end = torch.cat((end, torch.stack([way[1] for way in others], dim=1)), dim=1)
        return start, end, torch.cat((local_time, draw.more_time[stage]), dim=1)

    def _predict(
        self,
        stage: int,
        start: Tensor,
        end: Tensor,
        read_map: Tensor,
        local_time: Tensor,
        class_labels: Tensor,
        layers: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the head says between start and end and what it should say, (B, C, r, r) each."""
        tau = local_time[:, None, None, None]
        state = (1 - tau) * start + tau * end
        modulations = self.head.modulations(stage, local_time, class_labels)
        return self.head(stage, state, read_map, modulations, layers), end - start

    def flops(
        self,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        solver: str | None = None,
        *,
        guidance_interval: Intervals = None,
        time_power: float | Sequence[float] | None = None,
    ) -> dict[str, list[int]]:
        """FLOPs of one generated image per stage, 2 per multiply-add, without the decoder.

        Returns:
            ``{"transformer": [S numbers], "head": [S numbers]}``; matrix products and attention.
        """
        plan = zip(
            self.inference_steps(num_inference_steps),
            self.guidance(guidance_scale),
            self.intervals(guidance_interval),
            self.powers(time_power),
            strict=True,
        )
        guided = [guided_steps(*stage) for stage in plan]
        return sampling_flops(self.config, guided, self.solver(solver))


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
