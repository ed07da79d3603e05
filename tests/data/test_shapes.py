"""Single pictures that the kit draws."""

import pytest
import torch

from ecar_lab.data.shapes import PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_the_kit_draws_its_pictures_at_any_size(name):
    for size in (8, 32):
        picture = PICTURES[name](size)
        assert picture.shape == (1, 3, size, size)
        assert -1 <= picture.min() < picture.max() <= 1
        assert torch.equal(picture, PICTURES[name](size))
