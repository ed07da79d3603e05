"""Forks: which noise they keep, which they get anew; a stage's end from elsewhere."""

from itertools import count

import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.flow import endpoints
from ecar_lab.interventions import fork_seeds, stage_end_of, stage_noise
from ecar_lab.trace import trace
from tests.conftest import tiny_model


def test_a_fork_has_the_early_noise_of_the_run_and_other_noise_from_its_stage_on():
    model = tiny_model(num_stages=3)
    run = stage_noise(model, 7)
    for seeds in fork_seeds((7, 7, 7), 1, 2, [1, 2]):
        fork = stage_noise(model, seeds)
        same = [torch.equal(one, other) for one, other in zip(run, fork, strict=True)]
        assert same == [True, False, False]
        assert torch.equal(fork[2], stage_noise(model, seeds[-1])[2])


def test_a_fork_takes_no_seed_that_the_run_has_from_its_stage_on():
    assert fork_seeds((4, 2, 0), 1, 3, count()) == [(4, 1, 1), (4, 3, 3), (4, 4, 4)]
    assert fork_seeds((4, 2), 1, 3, [2, 5]) == [(4, 5)]


@pytest.mark.parametrize("stage", [0, 2])
def test_a_fork_needs_a_stage_before_it_and_one_to_draw_anew(stage):
    with pytest.raises(EcarError, match=f"a fork at stage {stage}: use 1 to 1"):
        fork_seeds((4, 4), stage, 1, [5])


# -- a stage's end state from elsewhere ------------------------------------------------------------


@pytest.mark.parametrize("coupling", ["correlated", "independent"])
def test_a_given_picture_ends_a_stage_as_training_ends_it(coupling):
    model = tiny_model(num_stages=3, patch_size=1, coupling=coupling)
    latent = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    alone = [stage_noise(model, seed) for seed in (0, 1)]
    noise = [torch.cat(both) for both in zip(*alone, strict=True)]
    event = stage_end_of(model, latent, 1, [0, 2], noise)
    _, ends = endpoints(model.schedule, latent, noise)
    assert event.is_stage_end
    assert not event.is_final
    assert torch.equal(event.latent, ends[1])
    assert [torch.equal(a, b) for a, b in zip(event.history, ends[:1], strict=True)] == [True]
    events = list(trace(model, [0, 2], 2, start_from=event, noise=dict(enumerate(noise))))
    assert [e.stage for e in events] == [2] * 3
    # The stage after starts where training has it start.
    starts, _ = endpoints(model.schedule, latent, noise)
    torch.testing.assert_close(events[0].latent, starts[2])


@pytest.mark.parametrize(
    ("stage", "latent", "labels", "words"),
    [
        (1, (1, 3, 8, 8), [0], "stage names stage 1: use 0 to 0"),
        (0, (1, 3, 4, 4), [0], r"the latent is \(1, 3, 4, 4\)"),
        (0, (2, 3, 8, 8), [0, 1], "the noise is"),
        (0, (1, 3, 8, 8), [0, 1], "2 labels for 1 images"),
    ],
)
def test_a_picture_that_fits_no_stage_is_refused(stage, latent, labels, words):
    model = tiny_model()
    with pytest.raises(EcarError, match=words):
        stage_end_of(model, torch.zeros(latent), stage, labels, stage_noise(model, 0))
