"""The leak: a velocity read off the history instead of the state."""

import pytest
import torch

from ecar_lab.doctor import diagnose, probe
from ecar_lab.flow import upsample
from tests.conftest import tiny_model
from tests.doctor.examples import picture, value_of


def test_the_leak_is_a_matter_of_the_ratio_of_bands():
    assert not diagnose.leak({1: (0.3, 0.3), 2: (0.2, 0.25)}).fired
    found = diagnose.leak({1: (0.3, 0.3), 2: (0.02, 0.3)})
    assert found.fired
    assert "stage 3" in found.found
    assert diagnose.leak({}).value is None


@pytest.mark.parametrize(("coupling", "honest"), [("independent", True), ("correlated", False)])
def test_an_ideal_model_that_sees_the_history_leaks_only_under_correlated(coupling, honest):
    """The best linear estimate of the velocity from state and history, for white latents, leaves
    the error that a trained transformer would: none in the block means exactly where both share
    their noise."""
    from ecar_lab.flow import block_mean, endpoints
    from ecar_lab.schedule import StageSchedule

    schedule = StageSchedule(2, 2, (0.5, 1.0), coupling)
    draw = torch.Generator().manual_seed(0)
    latent = torch.randn(40_000, 1, 2, 2, generator=draw)
    noise = [torch.randn(40_000, 1, side, side, generator=draw) for side in (1, 2)]
    starts, ends = endpoints(schedule, latent, noise)
    tau = 0.875
    state = (1 - tau) * starts[1] + tau * ends[1]
    seen = torch.cat([state.flatten(1), ends[0].flatten(1)], dim=1).double()
    target = (ends[1] - starts[1]).flatten(1).double()
    error = target - seen @ torch.linalg.lstsq(seen, target, driver="gelsd").solution
    error = error.reshape(-1, 1, 2, 2)
    rest = error - upsample(block_mean(error))
    low = 4 * block_mean(error).square().mean().item()
    found = diagnose.leak({1: (low, rest.square().mean().item() * 4 / 3)})
    assert found.fired is not honest
    if honest:
        assert value_of(found) > 0.9


def test_band_errors_are_the_models_velocity_error_taken_apart():
    model = tiny_model(latent_channels=4)
    for parameter in model.head.out.parameters():  # a velocity of zero
        parameter.data.zero_()
    real = probe.RealLatents(picture(0), torch.arange(64) % 3)
    ((low, high),) = probe.band_errors(model, real).values()
    from ecar_lab.flow import endpoints

    draws = model.draw(64, torch.Generator().manual_seed(0))
    starts, ends = endpoints(model.schedule, real.latents, draws.noise)
    total = (ends[1] - starts[1]).square().mean().item()
    assert low / 4 + 3 * high / 4 == pytest.approx(total, rel=1e-4)
    clean_history = tiny_model(latent_channels=4, coupling="restart")
    assert probe.band_errors(clean_history, real) == {}
