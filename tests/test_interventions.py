"""Forks: which noise they keep, which they get anew."""

from itertools import count

import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.interventions import fork_seeds, stage_noise
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
