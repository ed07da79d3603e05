"""Signs in made latents: without detail, with blocks that show."""

import pytest
import torch
from torch.nn import functional as F

from ecar_lab.doctor import diagnose, probe
from ecar_lab.evaluation.metrics import boundary_score
from ecar_lab.flow import upsample
from tests.conftest import tiny_model
from tests.doctor.examples import SEEDS, fired, picture


def judged(made: torch.Tensor, real: torch.Tensor) -> list[diagnose.Diagnosis]:
    model = tiny_model(latent_channels=4)
    return [
        diagnose.flat_samples(probe.bands(model, made), probe.bands(model, real)),
        diagnose.boundary_artefacts(
            probe.boundary_scores(model, made), probe.boundary_scores(model, real)
        ),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_sound_latents_raise_nothing(seed):
    assert fired(judged(picture(seed), picture(seed + 50))) == []
    # A little less detail and a little too much of all is no failure yet.
    assert fired(judged(0.8 * picture(seed), picture(seed + 50))) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_latents_without_their_detail_are_flat(seed):
    made, real = picture(seed), picture(seed + 50)
    assert "flat_samples" in fired(judged(0.5 * made, real))
    coarse = upsample(F.avg_pool2d(made, 2))
    found = judged(coarse + 0.4 * (made - coarse), real)
    assert "flat_samples" in fired(found)
    assert "band 1" in found[0].found


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_that_stand_apart_and_blocks_that_are_too_busy_are_seen(seed):
    made, real = picture(seed), picture(seed + 50)
    coarse = upsample(F.avg_pool2d(made, 2))
    apart = coarse + 0.8 * (made - coarse) + 0.5 * upsample(torch.randn(64, 4, 4, 4))
    assert "boundary_artefacts" in fired(judged(apart, real))
    inside = made - coarse
    busy = 0.3 * coarse + 1.4 * inside
    assert "boundary_artefacts" in fired(judged(busy, real))


def test_the_bar_is_higher_where_no_real_latents_are_at_hand():
    assert diagnose.boundary_artefacts({1: 1.3}, {1: 1.0}).fired
    assert not diagnose.boundary_artefacts({1: 1.3}).fired
    assert not diagnose.boundary_artefacts({1: 1.3}, {1: 1.2}).fired
    assert diagnose.boundary_artefacts({1: 1.6}).fired
    assert diagnose.boundary_artefacts({1: 0.6}).fired
    assert diagnose.boundary_artefacts({1: 0.0}).fired


def test_bands_add_up_and_the_score_is_that_of_the_finest_blocks():
    model, latent = tiny_model(latent_channels=4), picture(0)
    low, high = probe.bands(model, latent)
    assert low**2 + high**2 == pytest.approx(latent.square().mean().item(), rel=1e-5)
    assert probe.boundary_scores(model, latent) == {1: boundary_score(latent, 2)}
    single = tiny_model(latent_channels=4, num_stages=1)
    assert len(probe.bands(single, latent)) == 1
    assert diagnose.boundary_artefacts(probe.boundary_scores(single, latent), {}).value is None
