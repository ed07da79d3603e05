"""The multistage autoregressive transformer: one token map per stage, each made in one call.

Stage s reads the class and what the earlier stages left: the input tokens of stage s are the end
state of stage s-1, upsampled by two and cut into patches, so they lie on the very grid that the
output tokens M_s lie on. A token sees its own stage and all earlier ones, never a later one. While
training, all stages run in one call under a block-causal mask; while sampling, stage by stage with
the earlier keys and values kept in a :class:`KVCache`. Both give the same maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecar_lab.attention import same_window, windows_among
from ecar_lab.errors import EcarError
from ecar_lab.flow import upsample
from ecar_lab.layers import (
    Blocks,
    BlockStyle,
    Linear,
    cached_table,
    embed_classes,
    modulate,
    patchify,
    position_embedding,
    rotary_table,
    zero_init,
)


class KVCache:
    """Keys and values of the tokens seen so far, for every layer, in memory set aside once.

    A list would be copied whenever a stage is added; here a stage is written behind the last, and
    attention reads a view. One cache belongs to one sampling run.
    """

    def __init__(self, num_layers: int, capacity: int):
        self.capacity = capacity
        self.num_layers = num_layers
        self.lengths = [0] * num_layers
        self.memory: Tensor | None = None  # (layers, 2, B, h, capacity, d)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds key and value (B, h, N, d) of new tokens; returns those of all tokens so far.

        Raises:
            EcarError: more tokens than the cache was made for.
        """
        batch, heads, tokens, head_dim = key.shape
        start, end = self.lengths[layer], self.lengths[layer] + tokens
        if end > self.capacity:
            raise EcarError(
                f"{end} tokens do not fit in a KV cache of {self.capacity}: start a new one"
            )
        if self.memory is None:
            self.memory = key.new_empty(self.num_layers, 2, batch, heads, self.capacity, head_dim)
        self.memory[layer, 0, :, :, start:end] = key
        self.memory[layer, 1, :, :, start:end] = value
        self.lengths[layer] = end
        return self.memory[layer, 0, :, :, :end], self.memory[layer, 1, :, :, :end]

    def keep(self, batch: int) -> None:
        """Forgets all but the first ``batch`` rows (the half without class, if not needed)."""
        if self.memory is not None and self.memory.shape[2] > batch:
            self.memory = self.memory[:, :, :batch]

    def copy(self) -> KVCache:
        """An independent cache with the same content."""
        twin = KVCache(self.num_layers, self.capacity)
        twin.lengths = list(self.lengths)
        twin.memory = None if self.memory is None else self.memory.clone()
        return twin

    @property
    def num_tokens(self) -> int:
        """Tokens held by every layer."""
        return self.lengths[-1]

    @property
    def bytes(self) -> int:
        """Bytes in use (not those set aside)."""
        if self.memory is None:
            return 0
        used = self.memory[..., : self.num_tokens, :]
        return used.element_size() * used.numel()


@cached_table
def block_causal_mask(tokens_per_stage: tuple[int, ...], device: torch.device) -> Tensor:
    """(N, N) bool over the tokens of all stages: True where the query's stage >= the key's."""
    stage = torch.repeat_interleave(
        torch.arange(len(tokens_per_stage)), torch.tensor(tokens_per_stage, dtype=torch.long)
    ).to(device)
    return stage[:, None] >= stage[None, :]


class MultistageTransformer(nn.Module):
    """[class | Up2(e_0) | ... | Up2(e_{S-2})] -> [M_0 | M_1 | ... | M_{S-1}].

    Args:
        token_sides: tokens per side of each stage, coarsest first.
        history: ``end_states``: a stage reads what the earlier ones left. ``none``: it reads class
            and stage alone, the right partner of the ``correlated`` coupling, under which the end
            states would give the answer away.
        attention_window: side of a window in tokens. In a stage larger than that a token sees its
            own window of the stage (shifted by half a window in every second block) and all tokens
            of the stages without windows; of the others, what the input tokens carry. So its cost
            is the same however large the stage. None: it sees everything, in every stage.
    """

    def __init__(
        self,
        *,
        token_sides: Sequence[int],
        latent_channels: int,
        patch_size: int,
        num_classes: int,
        width: int,
        num_layers: int,
        num_heads: int,
        history: str = "end_states",
        attention_window: int | None = None,
        style: BlockStyle = BlockStyle(),  # noqa: B008 (frozen)
    ):
        super().__init__()
        self.token_sides = tuple(token_sides)
        self.tokens_per_stage = tuple(side * side for side in self.token_sides)
        self.attention_window = attention_window
        windows = windows_among(self.token_sides, attention_window)
        # Tokens of the stages that later stages see: those without windows.
        self.shared_tokens = sum(self.tokens_per_stage) - sum(windows.lengths if windows else ())
        self.patch_size = patch_size
        self.width = width
        self.head_dim = width // num_heads
        self.history = history
        self.patch_embedding = Linear(latent_channels * patch_size**2, width)
        self.stage_embedding = nn.Embedding(len(self.token_sides), width)
        self.class_embedding = nn.Embedding(num_classes + 1, width)  # the last one: no class
        self.blocks = Blocks(num_layers, width, num_heads, style)
        self.final_modulation = zero_init(Linear(width, 2 * width))
        nn.init.normal_(self.stage_embedding.weight, std=0.02)
        nn.init.normal_(self.class_embedding.weight, std=0.02)

    def new_cache(self) -> KVCache:
        """An empty cache with room for all stages (without windows)."""
        return KVCache(len(self.blocks), self.shared_tokens)

    def embed(self, stage: int, previous_end: Tensor | None, class_labels: Tensor) -> Tensor:
        """Input tokens (B, N_s, D), from the end state (B, C, r, r) of the stage before."""
        side = self.token_sides[stage]
        positions = position_embedding(side, self.width).to(class_labels.device)
        tokens = (positions + self.stage_embedding.weight[stage])[None]
        if stage == 0:
            return tokens + embed_classes(self.class_embedding, class_labels)[:, None]
        if self.history == "none":
            return tokens.expand(class_labels.shape[0], -1, -1)  # len() would fix it when traced
        assert previous_end is not None
        ratio = side // self.token_sides[stage - 1]
        patches = patchify(upsample(previous_end, ratio), self.patch_size)
        return tokens + self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))

    def forward(
        self, end_states: Sequence[Tensor], class_labels: Tensor, num_stages: int | None = None
    ) -> list[Tensor]:
        """Teacher forcing: the token maps of all stages in one masked call.

        Args:
            end_states: e_0 ... e_{S-2}, each (B, C, r_s, r_s).
            class_labels: (B,) ids; ``num_classes`` stands for no class. Or shares of the classes,
                as ``embed_classes`` takes them.
            num_stages: only the first so many stages (with as many end states, less one).
        Returns:
            M_0 ... M_{S-1}, each (B, N_s, D).
        """
        num_stages = len(self.token_sides) if num_stages is None else num_stages
        previous = (None, *end_states)
        tokens = torch.cat(
            [self.embed(stage, previous[stage], class_labels) for stage in range(num_stages)], dim=1
        )
        lengths = self.tokens_per_stage[:num_stages]
        windows = windows_among(self.token_sides[:num_stages], self.attention_window)
        shared = lengths[: -len(windows.sides)] if windows else lengths
        mask = block_causal_mask(shared, tokens.device)
        token_maps = self._run(tokens, class_labels, self.token_sides[:num_stages], mask=mask)
        return list(token_maps.split(lengths, dim=1))

    def step(
        self,
        stage: int,
        previous_end: Tensor | None,
        class_labels: Tensor,
        cache: KVCache,
        attention_layer: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Sampling: the token map of the next stage; its keys and values go into the cache.

        Returns:
            M_s (B, N_s, D), and who looked where in ``attention_layer``: (B, h, N_s, tokens so
            far), or None where no layer was asked for. A stage with windows leaves nothing in the
            cache.
        """
        x = self.embed(stage, previous_end, class_labels)
        sides = (self.token_sides[stage],)
        if attention_layer is None:
            return self._run(x, class_labels, sides, cache=cache), None
        weights = self._attention_weights(x, class_labels, sides, cache, attention_layer)
        return self._run(x, class_labels, sides, cache=cache), weights

    def _run(self, x: Tensor, class_labels: Tensor, sides: tuple[int, ...], mask=None, cache=None):
        rotary = rotary_table(sides, self.head_dim, self.token_sides[-1], x.device)
        windows = windows_among(sides, self.attention_window)
        condition = F.silu(embed_classes(self.class_embedding, class_labels))  # (B, D)
        for layer, block in enumerate(self.blocks):
            x = block(x, block.modulation(condition), rotary, mask, cache, layer, windows, sides)
        shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
        return modulate(x, shift, scale)

    def _attention_weights(self, x, class_labels, sides, cache: KVCache, layer: int) -> Tensor:
        """Runs the blocks below ``layer`` on a copy of the cache, then forms softmax(q kᵀ) itself,
        since the fused kernel never holds it. Costs a second pass: only for display."""
        cache = cache.copy()
        rotary = rotary_table(sides, self.head_dim, self.token_sides[-1], x.device)
        condition = F.silu(embed_classes(self.class_embedding, class_labels))
        windows = windows_among(sides, self.attention_window)
        blocks = list(self.blocks)
        for index, block in enumerate(blocks[:layer]):
            x = block(x, block.modulation(condition), rotary, None, cache, index, windows, sides)
        block = blocks[layer]
        shift, scale = block.modulation(condition).chunk(6, dim=-1)[:2]
        query, key, value = block.attention.project(modulate(x, shift, scale), rotary)
        earlier, _ = cache.extend(layer, key[:, :, :0], value[:, :, :0])
        logits = query.float() @ torch.cat((earlier, key), dim=2).float().transpose(-1, -2)
        logits = logits * self.head_dim**-0.5
        if windows is None:
            return logits.softmax(dim=-1)
        seen = same_window(sides[0], windows.size, windows.shift(layer), x.device)
        logits[..., earlier.shape[2] :].masked_fill_(~seen, -torch.inf)
        weights = logits.softmax(dim=-1)
        so_far = sum(self.tokens_per_stage[: self.token_sides.index(sides[0]) + 1])
        unseen = weights.new_zeros(*weights.shape[:3], so_far - weights.shape[3])
        to_earlier, to_own = weights.split((earlier.shape[2], key.shape[2]), dim=3)
        return torch.cat((to_earlier, unseen, to_own), dim=3)
