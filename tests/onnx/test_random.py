"""The numbers of ``torch.randn`` without torch, number by number."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecar_lab.onnx.random import Generator

# Of the last bits: torch's logarithm, sine and cosine are its processor's vector instructions.
CLOSE = 1e-6
SEEDS = st.one_of(st.integers(0, 2**64 - 1), st.integers(-(2**63), -1), st.integers(0, 20))


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, sizes=st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_the_numbers_are_those_of_torch_whatever_the_seed_and_the_sizes(seed, sizes):
    """One generator through all sizes: a pair of which half was used is kept over larger draws."""
    ours, theirs = Generator(seed), torch.Generator().manual_seed(seed)
    for size in sizes:
        drawn = ours.randn((size,))
        wanted = torch.randn(size, generator=theirs).numpy()
        assert drawn.dtype == wanted.dtype
        np.testing.assert_allclose(drawn, wanted, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("size", [*range(1, 50), 1000, 4096, 50_001])
def test_every_size_near_the_border_between_the_two_ways_is_drawn_alike(size):
    for seed in (0, 5489, 2**32 - 1):
        drawn = Generator(seed).randn((size,))
        wanted = torch.randn(size, generator=torch.Generator().manual_seed(seed)).numpy()
        np.testing.assert_allclose(drawn, wanted, rtol=0, atol=CLOSE)


def test_nearly_all_numbers_are_torchs_to_the_last_bit():
    drawn = Generator(1).randn((4, 64, 64))
    wanted = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(1)).numpy()
    assert (drawn == wanted).mean() > 0.5
    assert np.abs(drawn - wanted).max() < CLOSE


def test_another_seed_draws_other_numbers_and_the_same_one_the_same():
    first, again, other = (Generator(seed).randn((64,)) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
