"""Errors, channels and rounding, piece by piece."""

import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.tokenizers.study import error_map, ramp, round_latent, without_channel


def test_rounding_stays_within_half_a_step_and_uses_the_levels_it_says():
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latent[0, 1] = 0.7  # constant
    for bits in (1, 3, 8):
        rounded = round_latent(latent, bits)
        for channel, own in zip(latent.flatten(0, 1), rounded.flatten(0, 1), strict=True):
            step = (channel.max() - channel.min()) / (2**bits - 1)
            assert (own - channel).abs().max() <= step / 2 + 1e-6
            assert len(own.unique()) <= 2**bits
    assert torch.equal(round_latent(latent, 2)[0, 1], latent[0, 1])
    with pytest.raises(EcarError, match="0 bits per number: use 1 to 16"):
        round_latent(latent, 0)


def test_a_channel_set_to_its_mean_leaves_the_others():
    latent = torch.randn(1, 3, 4, 4)
    changed = without_channel(latent, 1)
    assert torch.equal(changed[:, 1], torch.zeros(1, 4, 4))
    assert torch.equal(changed[:, [0, 2]], latent[:, [0, 2]])
    assert not torch.equal(latent, changed)


def test_the_error_map_is_a_share_of_the_range_and_its_ramp_only_gets_lighter():
    white, black = torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)
    assert torch.equal(error_map(white, black), torch.ones(1, 2, 2))
    half = white.clone()
    half[:, 0] = -1  # one colour of three
    assert error_map(white, half)[0, 0, 0].item() == pytest.approx(1 / 3)
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    light = torch.einsum("bchw,c->bw", ramp(torch.linspace(0, 0.5, 50)[None, None], 0.5), weights)
    assert (light.diff() > 0).all()
    assert torch.equal(ramp(torch.full((1, 1, 1), 9.0), 0.5), ramp(torch.full((1, 1, 1), 0.5), 0.5))
    assert ramp(torch.zeros(1, 1, 1), 0.0).isfinite().all()
