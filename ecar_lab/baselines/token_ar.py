"""MAR (arXiv 2406.11838): continuous tokens one after the other, each denoised in full by a small
head of its own. What E-CAR's stages put in place of: N transformer calls become S.

MAR-like, not MAR: the transformer is E-CAR's own block, the head's objective is flow matching
instead of DDPM, and the masked order has one bidirectional transformer, no encoder and decoder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ecar_lab.baselines.base import Baseline, Run, one_stage_event, refuse_change
from ecar_lab.baselines.token_cost import event_flops, token_ar_flops, tokens_per_event
from ecar_lab.baselines.token_parts import FlowTokenHead, PatchEmbedding, TokenTransformer
from ecar_lab.device import casting_once, synchronize
from ecar_lab.errors import EcarError
from ecar_lab.generator import LossOutput, TrainingDraw, mean_per_bin
from ecar_lab.interventions import Generators, Labels
from ecar_lab.latents import check_latent
from ecar_lab.layers import patchify, unpatchify
from ecar_lab.schedule import Intervals
from ecar_lab.trace import Stream
from ecar_lab.transformer import KVCache

__all__ = ["ORDERS", "TokenAR", "TokenDraw", "token_ar_flops"]

ORDERS = ("causal", "masked")


@dataclass(frozen=True, kw_only=True)
class TokenDraw(TrainingDraw):
    """A training step's randomness; ``noise`` and ``local_time`` (B, K) hold K draws per token.

    Attributes:
        order: (B, N), uniform: the tokens' places in the random order of the image (masked).
        mask_level: (B,), uniform, stratified over the batch: how far the image has come (masked).
    """

    order: Tensor
    mask_level: Tensor

    def _map(self, function) -> TokenDraw:
        base = super()._map(function)
        return TokenDraw(
            **vars(base), order=function(self.order), mask_level=function(self.mask_level)
        )


class TokenAR(Baseline):
    """Token by token over the same latents as E-CAR.

    Args:
        latent_size, latent_channels, patch_size, num_classes, class_names: as in ``ECAR``; a token
            is a patch.
        order: ``causal``: row by row, one token per step; its transformer can keep keys and values.
            ``masked``: a random order, several tokens per step, all at once seen from both sides.
        width, num_heads, transformer_layers: of the transformer, paid once per step.
        head_width, head_layers: of the MLP, paid per token and flow step.
        head_draws: noises and times that the head is trained on per token and image (MAR: 4).
        num_iterations: steps of the masked order (MAR: 64), at most one per token.
        num_inference_steps: flow steps of the head per token. guidance_scale: default guidance.

    Raises:
        EcarError: an unknown order, sizes that do not divide or are below 1.
    """

    always_saved: ClassVar[Sequence[str]] = (
        *Baseline.always_saved,
        *("order", "num_heads", "num_iterations"),
    )

    @register_to_config
    def __init__(
        self,
        latent_size: int = 16,
        latent_channels: int = 4,
        patch_size: int = 2,
        num_classes: int = 10,
        class_names: Sequence[str] | None = None,
        order: str = "causal",
        width: int = 256,
        num_heads: int = 4,
        transformer_layers: int = 7,
        head_width: int = 256,
        head_layers: int = 3,
        head_draws: int = 4,
        num_iterations: int = 64,
        num_inference_steps: int = 8,
        guidance_scale: float = 1.0,
    ):
        super().__init__()
        self._check_sizes()
        self.transformer = TokenTransformer(
            embedding=self._make_embedding(),
            side=latent_size // patch_size,
            order=order,
            num_classes=num_classes,
            width=width,
            num_layers=transformer_layers,
            num_heads=num_heads,
        )
        self.head = self._make_head()

    def _check_sizes(self) -> None:
        config = self.config
        if config.latent_size % config.patch_size:
            raise EcarError(
                f"a latent of {config.latent_size} is not divisible by patches of "
                f"{config.patch_size}: "
                f"use {-(-config.latent_size // config.patch_size) * config.patch_size}"
            )
        if config.order not in ORDERS:
            raise EcarError(f"order {config.order!r} is unknown: use {' or '.join(ORDERS)}")
        for name in ("transformer_layers", "head_width", "head_draws", "num_iterations"):
            if config[name] < 1:
                raise EcarError(f"{name} is {config[name]}: use 1 or more")

    @property
    def token_dim(self) -> int:
        """P, numbers in a token."""
        return self.config.latent_channels * self.config.patch_size**2

    @property
    def class_embeddings(self) -> list[nn.Embedding]:
        return [self.transformer.class_embedding]

    def _make_embedding(self) -> nn.Module:
        return PatchEmbedding(self.token_dim, self.config.width)

    def _make_head(self) -> Any:
        config = self.config
        return FlowTokenHead(
            token_dim=self.token_dim,
            map_width=config.width,
            width=config.head_width,
            num_layers=config.head_layers,
        )

    # -- training --------------------------------------------------------------------------------

    def draw(
        self,
        batch_size: int,
        generator: torch.Generator,
        head_draws: Sequence[int] | None = None,
    ) -> TokenDraw:
        """As every generator's; how many draws a token gets is the model's own ``head_draws``."""
        draw_once = super().draw
        *draws, last = (draw_once(batch_size, generator) for _ in range(self.config.head_draws + 1))
        one = replace(
            draws[0],
            noise=tuple(draw.noise[0] for draw in draws),
            local_time=torch.cat([draw.local_time for draw in draws], dim=1),
        )
        tokens = self.transformer.side**2
        order = torch.rand(batch_size, tokens, generator=generator, device=generator.device)
        return TokenDraw(**vars(one), order=order, mask_level=last.local_time[:, 0])

    def loss(
        self,
        latent: Tensor,
        class_labels: Tensor,
        draw: TrainingDraw,
        class_dropout: float = 0.0,
        stage_strides: Sequence[int] | None = None,
    ) -> LossOutput:
        """Mean squared velocity error of the head, every token knowing the clean tokens before it.

        Masked: ``ceil(N cos(pi/2 u))`` random tokens are unknown, u uniform, as often as sampling
        meets so many (our choice; MAR leaves 0.7 to 1 of them unknown); the mean runs over an
        image's unknown tokens, then over images.

        Raises:
            EcarError: strides for more than one stage, or a draw of another model.
        """
        if stage_strides is not None and list(stage_strides) != [1]:
            raise EcarError(f"stage strides {list(stage_strides)}: this model has one stage")
        if not isinstance(draw, TokenDraw):
            raise EcarError("the draw is of another kind of model: use this model's draw()")
        labels = torch.where(draw.class_drop < class_dropout, self.null_class, class_labels)
        tokens = patchify(latent, self.config.patch_size)
        known = self._known(draw)
        token_map = self.transformer(tokens, labels, known)
        error = self._token_error(token_map, tokens, draw)  # (B, K, N)
        if known is None:
            error = error.mean(dim=-1)
        else:
            unknown = ~known[:, None]
            error = (error * unknown).sum(dim=-1) / unknown.sum(dim=-1)
        per_bin = self._per_bin(error.detach(), draw.local_time)
        return LossOutput(error.mean(), error.detach().mean()[None], per_bin[None])

    def _known(self, draw: TokenDraw) -> Tensor | None:
        """(B, N) bool, which tokens the transformer is told; None in the causal order."""
        if self.config.order == "causal":
            return None
        tokens = draw.order.shape[1]
        unknown = (tokens * torch.cos(torch.pi / 2 * draw.mask_level)).ceil().clamp(min=1)
        place = draw.order.argsort(dim=1).argsort(dim=1)
        return place < tokens - unknown[:, None]

    def _token_error(self, token_map: Tensor, tokens: Tensor, draw: TokenDraw) -> Tensor:
        """(B, K, N)."""
        noise = torch.stack([patchify(eps, self.config.patch_size) for eps in draw.noise], dim=1)
        return self.head.error(token_map, tokens, noise, draw.local_time)

    def _per_bin(self, error: Tensor, local_time: Tensor) -> Tensor:
        return mean_per_bin(error.flatten(), local_time.flatten())

    # -- sampling --------------------------------------------------------------------------------

    def flops(
        self,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        solver: str | None = None,
        kv_cache: bool = True,
        *,
        guidance_interval: Intervals = None,
        time_power: float | Sequence[float] | None = None,
    ) -> dict[str, list[int]]:
        """FLOPs of one image, without the decoder: ``{"transformer": [n], "head": [n]}``."""
        self._refuse(guidance_interval, time_power)
        steps = self.inference_steps(num_inference_steps)[0]
        guidance = self.guidance(guidance_scale)[0]
        return token_ar_flops(self.config, steps, guidance, kv_cache, self.solver(solver))

    def trace(
        self,
        class_labels: Labels,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        generator: Generators = None,
        *,
        guidance_interval: Intervals = None,
        time_power: float | Sequence[float] | None = None,
        solver: str | None = None,
        dtype: torch.dtype | str | None = None,
        kv_cache: bool = True,
    ) -> Stream:
        """Generates images and yields one event per token (causal) or iteration (masked).

        The latent of an event holds zeros, the mean of the data, where nothing is known yet.
        ``t`` is the share of tokens made, ``seconds_split`` tells transformer and head apart. A
        latent that is sent back is refused.

        Args:
            kv_cache: False runs the transformer over all earlier tokens again for each new one
                (causal); the images are the same. The masked order cannot have a cache.

        Raises:
            EcarError: labels, steps, guidance or solver that do not fit; an interval that is not
                the whole of local time, or a grid that is not even.
        """
        self._refuse(guidance_interval, time_power)
        run = self.check_run(
            class_labels, num_inference_steps, guidance_scale, generator, solver, dtype, None, None
        )
        return self._token_events(run, kv_cache)

    def _refuse(self, guidance_interval: Any, time_power: Any) -> None:
        """Each token has its own way from noise to data, in even steps that are all guided."""
        if self.intervals(guidance_interval) != [(0.0, 1.0)] or self.powers(time_power) != [1.0]:
            raise EcarError(
                "a token-by-token model has even steps and guides them all: "
                "leave guidance_interval and time_power out"
            )

    @torch.no_grad()
    def _token_events(self, run: Run, kv_cache: bool) -> Stream:
        config, labels = self.config, run.labels
        noise = patchify(self.white(run), config.patch_size)  # (B, N, P)
        order = self._order(run)  # (B, N)
        counts = tokens_per_event(config)
        flops = event_flops(config, run.steps, run.guidance, kv_cache, run.solver)
        if run.guidance != 1.0:
            labels = torch.cat((labels, torch.full_like(labels, self.null_class)))
        causal = config.order == "causal"
        cache = self.transformer.new_cache() if causal and kv_cache else None
        tokens, known = torch.zeros_like(noise), torch.zeros_like(order, dtype=torch.bool)
        made = 0

        def event(step: int, output: Tensor | None, seconds: dict[str, float] | None) -> Any:
            latent = unpatchify(tokens, config.patch_size)
            return one_stage_event(
                run, step, len(counts), latent, latent, made / noise.shape[1], output, seconds,
                sum(flops[step - 1]) if step else 0, cache.bytes if cache else 0,
            )  # fmt: skip

        yield event(0, None, None)
        setup: tuple | None = None
        casts = self.casts_of_run()
        for step, count in enumerate(counts):
            chosen = order[:, made : made + count]
            started = self._now()
            with casting_once(self.device, run.dtype, casts):
                if setup is None:  # what all tokens share
                    setup = (
                        self.transformer.modulations(labels),
                        self._head_steps(run.steps, run.solver),
                    )
                modulations, head_steps = setup
                if causal:
                    token_map = self._next(tokens[:, :made], labels, modulations, cache)
                else:
                    token_map = self._some(tokens, known, chosen, labels, modulations)
                between = self._now()
                new, output = self._new_tokens(
                    token_map, rows(noise, chosen), head_steps, run.guidance
                )
            tokens = tokens.scatter(1, chosen[:, :, None].expand_as(new), new)
            known = known.scatter(1, chosen, True)
            made += count
            seconds = {"transformer": between - started, "head": self._now() - between}
            if step + 1 == len(counts):
                check_latent(tokens, 0, run.guidance)
            sent = yield event(step + 1, output, seconds)
            refuse_change(sent)

    def _order(self, run: Run) -> Tensor:
        """(B, N): indices of the tokens in the order in which they are made."""
        shape = (len(run.labels), self.transformer.side**2)
        if self.config.order == "causal":
            return torch.arange(shape[1], device=self.device).expand(shape)
        return randn_tensor(shape, run.generator, self.device, torch.float32).argsort(dim=1)

    def _next(
        self, prefix: Tensor, labels: Tensor, modulations: list[Tensor], cache: KVCache | None
    ) -> Tensor:
        """z of the token behind a prefix (B, n, P), for labels (B,) or (2B,): (B or 2B, 1, D)."""
        prefix = prefix.repeat(len(labels) // len(prefix), 1, 1)
        return self.transformer.read_prefix(prefix, labels, modulations, cache)[:, -1:]

    def _some(
        self,
        tokens: Tensor,
        known: Tensor,
        chosen: Tensor,
        labels: Tensor,
        modulations: list[Tensor],
    ) -> Tensor:
        """z of the tokens ``chosen`` (B, k) where others are known: (B or 2B, k, D)."""
        halves = len(labels) // len(tokens)
        tokens, known = tokens.repeat(halves, 1, 1), known.repeat(halves, 1)
        token_map = self.transformer.read_known(tokens, known, labels, modulations)
        return rows(token_map, chosen.repeat(halves, 1))

    def _head_steps(self, steps: int, solver: str) -> Any:
        """What the head's work on all tokens shares."""
        return self.head.steps(steps, solver, self.device)

    def _new_tokens(
        self, token_map: Tensor, noise: Tensor, head_steps: Any, guidance: float
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, k, P) and the last velocity, if there is one."""
        return self.head.sample(token_map, noise, head_steps, guidance)

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def rows(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Tokens (B, N, X) at the indices ``chosen`` (B, k): (B, k, X)."""
    return tokens.gather(1, chosen[:, :, None].expand(-1, -1, tokens.shape[2]))
