"""Efficiency: time saved over FLOPs saved."""

import pytest

from ecar_lab.doctor import diagnose, probe
from tests.conftest import tiny_model


def test_efficiency_is_time_saved_over_flops_saved():
    found = diagnose.efficiency_not_realised([1.0, 3.0], [1.0, 1.0], 40.0, 10.0)
    assert found.value == pytest.approx((10 / 2) / (40 / 4))
    assert not found.fired
    slow = diagnose.efficiency_not_realised([1.0, 3.0], [5.0, 1.0], 40.0, 10.0)
    assert slow.fired
    assert "stage 1 takes 83% of the time for 25% of the FLOPs" in slow.found


def test_timing_knows_the_flops_of_both_models():
    model = tiny_model(width=64, latent_size=16, transformer_layers=2, head_layers=2)
    timing = probe.time_sampling(model, 2, [3, 1], repeats=1)
    assert sum(timing.flops) == 2 * sum(map(sum, model.flops([3, 1], 1.0).values()))
    assert len(timing.seconds) == 2
    assert min(timing.seconds) > 0
    assert timing.baseline_seconds > 0
    assert timing.judge().name == "efficiency_not_realised"
