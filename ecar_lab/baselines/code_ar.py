"""The quantized twin of ``TokenAR``: the same transformer over the codes of a VQ tokenizer, with a
softmax over the code book in place of the flow head.

What "continuous tokens are better" is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ecar_lab.baselines.token_ar import TokenAR, TokenDraw
from ecar_lab.baselines.token_parts import guided
from ecar_lab.errors import EcarError
from ecar_lab.generator import TIME_BINS
from ecar_lab.layers import Linear, SquaredReLU

if TYPE_CHECKING:
    from ecar_lab.tokenizers.base import Tokenizer


CHUNK = 8192  # tokens whose distances to all codes stand in memory at once


class CodeBook(nn.Module):
    """K codes, each with its vector (C,) in the normalised latent and a learned embedding (D,)."""

    def __init__(self, size: int, channels: int, width: int):
        super().__init__()
        self.table = nn.Embedding(size, width)
        nn.init.normal_(self.table.weight, std=0.02)
        # As bits: a model that is cast to bfloat16 must not move its codes.
        vectors = torch.randn(size, channels, dtype=torch.float32)
        self.register_buffer("bits", vectors.view(torch.int32))

    @property
    def vectors(self) -> Tensor:
        """(K, C) float32."""
        bits = self.bits
        assert isinstance(bits, Tensor)
        return bits.view(torch.float32)

    def ids(self, tokens: Tensor) -> Tensor:
        """The code nearest to each of (..., C): (...)."""
        nearest = [
            torch.cdist(part, self.vectors, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
            for part in tokens.flatten(0, -2).float().split(CHUNK)
        ]
        return torch.cat(nearest).view(tokens.shape[:-1])

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, D)."""
        return self.table(self.ids(tokens))


class CodeHead(nn.Module):
    """z (..., D) -> logits (..., K): the flow head's MLP, without a time to depend on."""

    def __init__(self, *, codebook_size: int, map_width: int, width: int, num_layers: int):
        super().__init__()
        self.map_embedding = Linear(map_width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width, eps=1e-6),
                Linear(width, width),
                SquaredReLU(),
                Linear(width, width),
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        # An embedding, not a linear map: its rows are codes, and Muon, which the trainer uses for
        # maps between features, is not made for them.
        self.codes = nn.Embedding(codebook_size, width)
        self.bias = nn.Parameter(torch.zeros(codebook_size))
        nn.init.zeros_(self.codes.weight)

    def forward(self, token_map: Tensor) -> Tensor:
        """Logits, float32."""
        x = self.map_embedding(token_map)
        for block in self.blocks:
            x = x + block(x)
        return F.linear(self.norm(x), self.codes.weight, self.bias).float()


class CodeAR(TokenAR):
    """Token by token over the codes of a VQ tokenizer.

    Args:
        codebook_size: K, that of the tokenizer.
        patch_size: 1, for a token is a code. All others: as in ``TokenAR``; ``head_draws`` and
            ``num_inference_steps`` have no meaning and are 1.

    Raises:
        EcarError: patches larger than 1, sizes that do not divide.
    """

    @register_to_config
    def __init__(
        self,
        latent_size: int = 16,
        latent_channels: int = 4,
        patch_size: int = 1,
        num_classes: int = 10,
        class_names: Sequence[str] | None = None,
        codebook_size: int = 1024,
        order: str = "causal",
        width: int = 256,
        num_heads: int = 4,
        transformer_layers: int = 7,
        head_width: int = 256,
        head_layers: int = 3,
        head_draws: int = 1,
        num_iterations: int = 64,
        num_inference_steps: int = 1,
        guidance_scale: float = 1.0,
    ):
        super().__init__(
            latent_size=latent_size,
            latent_channels=latent_channels,
            patch_size=patch_size,
            num_classes=num_classes,
            class_names=class_names,
            order=order,
            width=width,
            num_heads=num_heads,
            transformer_layers=transformer_layers,
            head_width=head_width,
            head_layers=head_layers,
            head_draws=head_draws,
            num_iterations=num_iterations,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )

    def _check_sizes(self) -> None:
        super()._check_sizes()
        if self.config.patch_size != 1:
            raise EcarError(
                f"patches of {self.config.patch_size}: a token is one code, use a patch_size of 1"
            )

    def _make_embedding(self) -> nn.Module:
        config = self.config
        return CodeBook(config.codebook_size, config.latent_channels, config.width)

    def _make_head(self) -> Any:
        config = self.config
        return CodeHead(
            codebook_size=config.codebook_size,
            map_width=config.width,
            width=config.head_width,
            num_layers=config.head_layers,
        )

    @property
    def codebook(self) -> CodeBook:
        book = self.transformer.patch_embedding
        assert isinstance(book, CodeBook)
        return book

    def prepare_for(self, tokenizer: Tokenizer) -> None:
        """Takes over the tokenizer's codes.

        Raises:
            EcarError: it does not quantise, or its code book is of another size.
        """
        quantiser = getattr(tokenizer, "quantiser", None)
        if quantiser is None:
            raise EcarError(
                "this tokenizer does not quantise: name one of kind 'vq' with --tokenizer"
            )
        codes = quantiser.codebook.detach().float()
        if len(codes) != self.config.codebook_size:
            raise EcarError(
                f"the tokenizer has {len(codes)} codes, the model {self.config.codebook_size}: "
                f"give codebook_size {len(codes)} in the model's arguments"
            )
        vectors = (codes - tokenizer.latent_shift) * tokenizer.latent_scale
        self.codebook.bits = vectors.contiguous().view(torch.int32).to(self.device)

    def _token_error(self, token_map: Tensor, tokens: Tensor, draw: TokenDraw) -> Tensor:
        """Cross-entropy in nats, (B, 1, N)."""
        logits = self.head(token_map)
        return F.cross_entropy(logits.mT, self.codebook.ids(tokens), reduction="none")[:, None]

    def _per_bin(self, error: Tensor, local_time: Tensor) -> Tensor:
        return error.new_full((TIME_BINS,), torch.nan)  # a softmax has no time

    def _head_steps(self, steps: int, solver: str) -> Any:
        return None

    def _new_tokens(
        self, token_map: Tensor, noise: Tensor, head_steps: Any, guidance: float
    ) -> tuple[Tensor, Tensor | None]:
        """Codes drawn at temperature 1; the noise's first channel says where in the distribution
        function, so that an image does not depend on the batch it is in."""
        logits = guided(self.head(token_map), guidance, len(token_map) // len(noise))
        cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
        uniform = torch.special.ndtr(noise[:, :, :1])
        ids = torch.searchsorted(cumulative, uniform).squeeze(-1)
        return self.codebook.vectors[ids.clamp(max=self.config.codebook_size - 1)], None
