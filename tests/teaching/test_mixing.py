"""Local mixing put into blocks that were built by hand."""

import pytest
import torch
from torch import nn

from ecar_lab.layers import Attention, BlockStyle, SquaredReLU, modulate
from ecar_lab.teaching import pieces
from ecar_lab.teaching.mixing import with_local_mixing
from ecar_lab.transformer import MultistageTransformer

SIZES = dict(
    token_sides=(1, 2, 4), latent_channels=4, patch_size=2, num_classes=3, width=32, num_layers=2,
    num_heads=2,
)  # fmt: skip


class Handmade(nn.Module):
    """A block as notebook 2 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(32, 2)
        self.mlp = nn.Sequential(nn.Linear(32, 128), SquaredReLU(), nn.Linear(128, 32))
        self.modulation = nn.Linear(32, 6 * 32)

    def forward(self, x, modulation, rotary, mask=None, cache=None, layer=0, *_, **__):
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        normed = modulate(x, shift1, scale1)
        x = x + gate1[:, None] * self.attention(normed, rotary, mask, cache, layer)
        return x + gate2[:, None] * self.mlp(modulate(x, shift2, scale2))


@pytest.mark.parametrize("kind", [Handmade, lambda: pieces.Block(32, 2)], ids=["own", "kit's"])
def test_it_fits_the_weights_of_a_model_with_local_mixing_and_gives_its_maps(kind):
    torch.manual_seed(0)
    kit = MultistageTransformer(**SIZES, style=BlockStyle(local_mixing=True)).eval()
    for weight in kit.parameters():
        nn.init.normal_(weight, std=0.2)
    mine = pieces.MultistageTransformer(**SIZES)
    mine.blocks = nn.ModuleList(kind() for _ in range(2))
    mine = with_local_mixing(mine).eval()
    mine.load_state_dict(kit.state_dict())
    ends, labels = [torch.randn(2, 4, side, side) for side in (2, 4)], torch.tensor([0, 2])
    with torch.no_grad():
        right = kit(ends, labels)
        torch.testing.assert_close(mine(ends, labels), right)
        cache = mine.new_cache()
        stepped = [mine.step(s, end, labels, cache) for s, end in enumerate((None, *ends))]
        torch.testing.assert_close(stepped, right, atol=1e-4, rtol=1e-4)
