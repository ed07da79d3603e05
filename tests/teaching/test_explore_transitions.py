"""The exploration of notebook 4: noise inside 2x2 blocks, measured against its formula."""

import pytest
import torch

from ecar_lab import StageSchedule
from ecar_lab.teaching.explore import transitions as explore

LATENT = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("coupling", explore.COUPLINGS)
@pytest.mark.parametrize("end", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("renoise", [True, False])
def test_measured_noise_has_the_covariance_of_the_formula(end, coupling, renoise):
    noise = explore.block_noise(end, coupling, renoise)
    torch.testing.assert_close(noise.measured, noise.formula, rtol=0, atol=0.03)


@pytest.mark.parametrize("end", [0.1, 0.5, 0.9])
def test_both_couplings_reach_the_noise_of_their_time_and_only_one_is_white(end):
    white = explore.block_noise(end, "correlated", True)
    other = explore.block_noise(end, "independent", True)
    for noise in (white, other):
        assert noise.std == pytest.approx(noise.wanted, rel=0.02)
        assert noise.formula.diagonal() == pytest.approx(noise.wanted**2)
    own = white.formula - torch.diag(white.formula.diagonal())
    assert own.abs().max() < 1e-12
    assert other.formula[0, 1] == pytest.approx(other.wanted**2 / 4)


def test_without_new_noise_a_start_state_is_made_of_equal_blocks():
    schedule = StageSchedule(8, 2, (0.5, 1.0))
    state = explore.start_state(schedule, LATENT, renoise=False, seed=0)
    assert torch.equal(state[..., ::2, ::2], state[..., 1::2, 1::2])
    noisy = explore.start_state(schedule, LATENT, renoise=True, seed=0)
    assert not torch.equal(noisy[..., ::2, ::2], noisy[..., 1::2, 1::2])


def test_the_controls_redraw(monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = explore.transitions(LATENT)
    end, coupling, renoise, seed, trouble, view = box.children
    for control, value in ((end, 0.8), (coupling, "correlated"), (renoise, False), (seed, 5)):
        before = view.value
        control.value = value
        assert view.value != before
        assert trouble.value == ""
