"""What a token-by-token generator is made of: a transformer over patches, and a head per token.

N tokens of P numbers each, D the transformer's width, w the head's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecar_lab.flow import SOLVERS, num_times
from ecar_lab.layers import (
    Blocks,
    Linear,
    SquaredReLU,
    TimeEmbedding,
    modulate,
    position_embedding,
    rotary_table,
    zero_init,
)
from ecar_lab.transformer import KVCache, block_causal_mask


class PatchEmbedding(Linear):
    """Tokens (..., P) -> (..., D), whatever the dtype they come in."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype))


class TokenTransformer(nn.Module):
    """One output z_i (D,) per token, from the class and the tokens that are known.

    ``causal``: slot i holds token i - 1 (slot 0 the class) and looks at slots up to i, so z_i knows
    tokens 0 ... i - 1. ``masked``: slot i holds token i, or a mask and the class where it is not
    known, and looks everywhere. Either way slot i has the position of token i.
    """

    def __init__(
        self,
        *,
        embedding: nn.Module,
        side: int,
        order: str,
        num_classes: int,
        width: int,
        num_layers: int,
        num_heads: int,
    ):
        super().__init__()
        self.side, self.width, self.head_dim = side, width, width // num_heads
        self.patch_embedding = embedding
        self.class_embedding = nn.Embedding(num_classes + 1, width)  # the last one: no class
        self.blocks = Blocks(num_layers, width, num_heads)
        self.final_modulation = zero_init(Linear(width, 2 * width))
        nn.init.normal_(self.class_embedding.weight, std=0.02)
        if order == "masked":
            self.mask_embedding = nn.Parameter(0.02 * torch.randn(width))

    def new_cache(self) -> KVCache:
        """An empty cache with room for all tokens."""
        return KVCache(len(self.blocks), self.side**2)

    def modulations(self, class_labels: Tensor) -> list[Tensor]:
        """Shifts, scales and gates of every block (B, 6D) and of the output (B, 2D): they know the
        class alone, so a sampling run makes them once."""
        condition = F.silu(self.class_embedding(class_labels))
        layers = [*(block.modulation for block in self.blocks), self.final_modulation]
        return [layer(condition) for layer in layers]

    def forward(self, tokens: Tensor, class_labels: Tensor, known: Tensor | None) -> Tensor:
        """Training: z (B, N, D) of tokens (B, N, P); ``known`` (B, N) bool, or None for causal."""
        modulations = self.modulations(class_labels)
        if known is None:
            return self.read_prefix(tokens[:, :-1], class_labels, modulations)
        return self.read_known(tokens, known, class_labels, modulations)

    def read_prefix(
        self,
        prefix: Tensor,
        class_labels: Tensor,
        modulations: Sequence[Tensor],
        cache: KVCache | None = None,
    ) -> Tensor:
        """Causal: z_0 ... z_n of the tokens 0 ... n - 1 (B, n, P); with a cache only the z's that
        it has not seen the slots of."""
        first = cache.num_tokens if cache is not None else 0
        x = self.patch_embedding(prefix[:, max(0, first - 1) :])
        if first == 0:
            x = torch.cat((self.class_embedding(class_labels)[:, None], x), dim=1)
        mask = None
        if cache is None:
            slots = x.shape[1]
            mask = block_causal_mask((1,) * self.side**2, x.device)[:slots, :slots]
        return self._run(x, first, modulations, mask, cache)

    def read_known(
        self, tokens: Tensor, known: Tensor, class_labels: Tensor, modulations: Sequence[Tensor]
    ) -> Tensor:
        """Masked: z (B, N, D) of all tokens (B, N, P), of which those ``known`` (B, N) are read."""
        unknown = (self.mask_embedding + self.class_embedding(class_labels))[:, None]
        x = torch.where(known[:, :, None], self.patch_embedding(tokens), unknown)
        return self._run(x, 0, modulations, None, None)

    def _run(
        self,
        x: Tensor,
        first: int,
        modulations: Sequence[Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        """The blocks on the slots first ... first + n - 1, whose content is x (B, n, D)."""
        slots = slice(first, first + x.shape[1])
        x = x + position_embedding(self.side, self.width).to(x.device)[slots]
        rotary = rotary_table((self.side,), self.head_dim, self.side, x.device)[slots]
        for layer, block in enumerate(self.blocks):
            x = block(x, modulations[layer], rotary, mask, cache, layer)
        shift, scale = modulations[-1].chunk(2, dim=-1)
        return modulate(x, shift, scale)


class HeadBlock(nn.Module):
    """``x += gate * mlp(modulate(x))``, shift, scale and gate set by the condition (adaLN-zero)."""

    def __init__(self, width: int):
        super().__init__()
        self.modulation = zero_init(Linear(width, 3 * width))
        self.mlp = nn.Sequential(Linear(width, width), SquaredReLU(), Linear(width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (M, 1, w), condition (M, w) -> (M, 1, w)."""
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        hidden = self.mlp(modulate(x, shift, scale))
        return torch.addcmul(x, gate[:, None].to(x.dtype), hidden.to(x.dtype))


class Steps(NamedTuple):
    """The flow steps of a run: grid of times, their embeddings (K, w), and the solver."""

    times: list[float]
    embedded: Tensor
    solver: str


class FlowTokenHead(nn.Module):
    """The "diffusion loss" of MAR (arXiv 2406.11838, section 3.2) with the flow objective: an MLP
    that carries one token from noise to data, conditioned on the time and the token's z.

    Tokens do not look at one another here. As in MAR the class reaches the head through z alone.
    """

    def __init__(self, *, token_dim: int, map_width: int, width: int, num_layers: int):
        super().__init__()
        self.patch_embedding = PatchEmbedding(token_dim, width)
        self.map_embedding = Linear(map_width, width)
        self.time_embedding = TimeEmbedding(width)
        self.blocks = nn.ModuleList(HeadBlock(width) for _ in range(num_layers))
        self.final_modulation = zero_init(Linear(width, 2 * width))
        self.out = zero_init(Linear(width, token_dim))

    def forward(self, state: Tensor, condition: Tensor) -> Tensor:
        """The velocity (..., P) float32 at the state (..., P), for conditions (..., w)."""
        condition = F.silu(condition).flatten(0, -2)
        x = self.patch_embedding(state.flatten(0, -2))[:, None]  # (M, 1, w)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
        return self.out(modulate(x, shift, scale)).float().view(state.shape)

    def error(self, token_map: Tensor, tokens: Tensor, noise: Tensor, local_time: Tensor) -> Tensor:
        """Squared velocity error of every token at K draws of noise and time.

        ``x_t = (1 - t) eps + t x``, target ``x - eps``.

        Args:
            token_map: z (B, N, D). tokens: x (B, N, P). noise: (B, K, N, P). local_time: (B, K).
        Returns:
            (B, K, N), mean over the token's numbers.
        """
        t = local_time[:, :, None, None]
        clean = tokens[:, None]
        time = self.time_embedding(local_time.flatten()).unflatten(0, local_time.shape)
        condition = self.map_embedding(token_map)[:, None] + time[:, :, None]  # (B, K, N, w)
        velocity = self((1 - t) * noise + t * clean, condition)
        return (velocity - (clean - noise)).square().mean(dim=-1)

    def steps(self, count: int, solver: str, device: torch.device) -> Steps:
        """What all tokens of a run share."""
        times = torch.linspace(0, 1, count + 1, dtype=torch.float64).tolist()
        looked_at = torch.tensor(times[: num_times(count, solver)], device=device).float()
        return Steps(times, self.time_embedding(looked_at), solver)

    def sample(
        self, token_map: Tensor, noise: Tensor, steps: Steps, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, k, P) from noise (B, k, P), and the last velocity.

        ``token_map`` (B, k, D), or (2B, k, D) with the half without class behind.
        """
        read, halves = self.map_embedding(token_map), len(token_map) // len(noise)

        def velocity(state: Tensor, index: int) -> Tensor:
            output = self(state.repeat(halves, 1, 1), read + steps.embedded[index])
            return guided(output, guidance, halves)

        state, slope = noise, None
        for step in range(len(steps.times) - 1):
            state, slope = SOLVERS[steps.solver](velocity, state, steps.times, step, slope)
        assert slope is not None  # there is at least one step
        return state, slope


def guided(output: Tensor, guidance: float, halves: int) -> Tensor:
    """``none + g (class - none)`` of the two halves of an output; the output itself if one."""
    if halves == 1:
        return output
    with_class, without = output.chunk(2)
    return without + guidance * (with_class - without)
