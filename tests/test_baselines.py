"""DiT with the flow objective."""

import pytest
import torch

from ecar_lab import EcarError
from ecar_lab.baselines import SIZES, DiT


@pytest.fixture(scope="module")
def dit():
    SIZES["tiny"] = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1)
    torch.manual_seed(0)
    yield DiT("tiny", latent_size=8, latent_channels=3, num_classes=4).eval()
    del SIZES["tiny"]


def generator():
    return torch.Generator().manual_seed(0)


def test_sampling_follows_the_velocity_from_noise(dit):
    noise = torch.randn(2, 3, 8, 8, generator=generator())
    labels = torch.tensor([0, 3])
    with torch.no_grad():
        half = noise + dit(noise, torch.zeros(2), labels) / 2
        full = half + dit(half, torch.full((2,), 0.5), labels) / 2
    torch.testing.assert_close(dit.sample([0, 3], 2, 1.0, generator()), full)


def test_guidance_moves_away_from_the_null_class(dit):
    noise = torch.randn(1, 3, 8, 8, generator=generator())
    with torch.no_grad():
        v = dit(noise, torch.zeros(1), torch.tensor([1]))
        v_none = dit(noise, torch.zeros(1), torch.tensor([dit.null_class]))
    expected = noise + v_none + 3 * (v - v_none)
    torch.testing.assert_close(dit.sample([1], 1, 3.0, generator()), expected, atol=1e-5, rtol=1e-5)


def test_the_small_size_is_that_of_the_paper():
    with torch.device("meta"):
        dit = DiT("S")
    blocks = sum(
        p.numel()
        for name, p in dit.named_parameters()
        if "attn" in name or "ff" in name or "norm1.linear" in name
    )
    assert blocks == pytest.approx(12 * 18 * 384**2, rel=0.01)


def test_an_unknown_size_is_named():
    with pytest.raises(EcarError, match="size 'M' is unknown: use S, B, XL"):
        DiT("M")
