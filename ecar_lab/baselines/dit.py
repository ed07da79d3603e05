"""DiT (arXiv 2212.09748): every step works at full resolution, which is what E-CAR's stages avoid.

The network is diffusers' ``DiTTransformer2DModel``, with the flow objective or DDPM's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.embeddings import LabelEmbedding
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from torch import Tensor, nn

from ecar_lab.baselines.base import Baseline, Run
from ecar_lab.baselines.objective import Objective, Walked, evaluations, make_objective
from ecar_lab.cost import block_flops
from ecar_lab.errors import EcarError
from ecar_lab.generator import (
    LossOutput,
    LossTerm,
    StagePrediction,
    TrainingDraw,
    mean_per_bin,
)
from ecar_lab.layers import with_kept_casts, zero_init
from ecar_lab.schedule import Intervals

SIZES = {
    "S": dict(num_heads=6, head_dim=64, num_layers=12),
    "B": dict(num_heads=12, head_dim=64, num_layers=12),
    "XL": dict(num_heads=16, head_dim=72, num_layers=28),
}
TIME_FREQUENCIES = 256  # of diffusers' time embedding, which every block has one of


class DiT(Baseline):
    """DiT over the same latents as E-CAR.

    Args:
        latent_size, latent_channels, patch_size, num_classes, class_names: as in ``ECAR``.
        num_layers, num_heads, head_dim: of the transformer; its width is heads times head_dim.
        objective: ``flow`` (velocity ``x - eps``) or ``epsilon`` (DDPM).
        num_inference_steps, guidance_scale, guidance_interval, time_power: defaults of sampling.

    Raises:
        EcarError: an unknown objective, sizes that do not divide.
    """

    always_saved: ClassVar[Sequence[str]] = (
        *Baseline.always_saved,
        *("objective", "num_heads", "head_dim"),
    )

    @register_to_config
    def __init__(
        self,
        latent_size: int = 32,
        latent_channels: int = 4,
        patch_size: int = 2,
        num_classes: int = 1000,
        class_names: Sequence[str] | None = None,
        num_layers: int = 12,
        num_heads: int = 6,
        head_dim: int = 64,
        objective: Objective = "flow",
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        guidance_interval: Intervals = None,
        time_power: float = 1.0,
    ):
        super().__init__()
        if latent_size % patch_size:
            raise EcarError(
                f"a latent of {latent_size} is not divisible by patches of {patch_size}: "
                f"use {-(-latent_size // patch_size) * patch_size}"
            )
        self.objective = make_objective(objective)
        self.network = DiTTransformer2DModel(
            num_attention_heads=num_heads,
            attention_head_dim=head_dim,
            num_layers=num_layers,
            sample_size=latent_size,
            patch_size=patch_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            num_embeds_ada_norm=num_classes,
        )
        with_kept_casts(self.network)
        self._prepare_training()

    def _prepare_training(self) -> None:
        """What the paper's training code does and diffusers, made for sampling, leaves out: gates
        and output start at zero, embeddings small; and classes are dropped by us, alike in every
        block."""
        for module in self.network.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0
                nn.init.normal_(module.embedding_table.weight, std=0.02)
            elif isinstance(module, Attention):
                module.set_processor(_AttentionProcessor())  # ty: ignore[invalid-argument-type]
        blocks: Any = self.network.transformer_blocks
        for block in blocks:
            zero_init(block.norm1.linear)
        zero_init(self.network.proj_out_1)
        zero_init(self.network.proj_out_2)

    @classmethod
    def from_size(cls, size: str, **options) -> DiT:
        """A DiT of the paper's size S, B or XL.

        Raises:
            EcarError: there is no such size.
        """
        if size not in SIZES:
            raise EcarError(f"DiT size {size!r} is unknown: use {', '.join(SIZES)}")
        return cls(**SIZES[size], **options)

    @property
    def class_embeddings(self) -> list[nn.Embedding]:
        modules = self.network.modules()
        return [part.embedding_table for part in modules if isinstance(part, LabelEmbedding)]

    def forward(self, state: Tensor, time: Tensor, class_labels: Tensor) -> Tensor:
        """What the objective predicts, (B, C, R, R) float32, at times (B,) in 0 ... 1000."""
        output = self.network(
            state.to(self.network.dtype), timestep=time, class_labels=class_labels
        )
        return output.sample.float()

    def loss(
        self,
        latent: Tensor,
        class_labels: Tensor,
        draw: TrainingDraw,
        class_dropout: float = 0.0,
        stage_strides: Sequence[int] | None = None,
        term: LossTerm | None = None,
    ) -> LossOutput:
        """Mean squared error of the prediction; see ``ECAR.loss``. There is one stage only.

        Raises:
            EcarError: strides for more than one stage.
        """
        if stage_strides is not None and list(stage_strides) != [1]:
            raise EcarError(f"stage strides {list(stage_strides)}: a DiT has one stage, leave out")
        labels = torch.where(draw.class_drop < class_dropout, self.null_class, class_labels)
        local_time = draw.local_time[:, 0]
        state, target, time = self.objective.corrupt(latent, draw.noise[0], local_time)
        output = self(state, time, labels)
        error = (output - target).square().mean(dim=(1, 2, 3))
        per_bin = mean_per_bin(error.detach(), local_time)
        loss = error.mean()
        if term is not None:
            images = torch.arange(len(latent), device=latent.device)
            loss = loss + term(StagePrediction(0, output, target, images)).mean()
        return LossOutput(loss, error.detach().mean()[None], per_bin[None])

    def check_run(self, *asked: Any, **named: Any) -> Run:
        """As of every baseline, and as the objective is walked.

        Raises:
            EcarError: steps, solver or grid that noise prediction does not take.
        """
        run = super().check_run(*asked, **named)
        self.objective.check(run.steps, run.solver, run.power)
        return run

    def walk(self, run: Run, noise: Tensor) -> Iterator[Walked]:
        both = torch.cat((run.labels, torch.full_like(run.labels, self.null_class)))

        def network(state: Tensor, time: float, step: int) -> Tensor:
            halves, labels = (2, both) if run.guided[step] else (1, run.labels)
            times = torch.full((len(labels),), time, device=state.device)
            output = self(state.repeat(halves, 1, 1, 1), times, labels)
            if halves == 1:
                return output
            with_class, without = output.chunk(2)
            return without + run.guidance * (with_class - without)

        return self.objective.walk(network, noise, run.steps, run.solver, run.power)

    def step_flops(self, guided: Sequence[bool], solver: str) -> list[int]:
        config = self.config
        tokens = (config.latent_size // config.patch_size) ** 2
        width = config.num_heads * config.head_dim
        token_dim = config.latent_channels * config.patch_size**2
        time_embedding = 2 * (TIME_FREQUENCIES + width) * width
        block = block_flops(tokens, tokens, width) + time_embedding + 2 * 6 * width**2
        ends = 4 * tokens * token_dim * width + time_embedding + 2 * 2 * width**2
        once = config.num_layers * block + ends
        once *= evaluations(config.objective, solver)
        return [(1 + both) * once for both in guided]


class _AttentionProcessor:
    """diffusers' fused attention; its plain one where the fused one's backward pass is slow (bf16
    on a CPU, see ``layers.attend``)."""

    def __init__(self) -> None:
        self.fused, self.plain = AttnProcessor2_0(), AttnProcessor()

    def __call__(self, attn: Attention, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        slow = hidden_states.device.type == "cpu" and torch.is_grad_enabled()
        return (self.plain if slow else self.fused)(attn, hidden_states, *args, **kwargs)
