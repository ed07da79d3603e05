"""Maps as pictures: tokens, who may look where, where pictures differ."""

import numpy as np
import pytest
import torch

from ecar_lab.transformer import block_causal_mask
from ecar_lab.viz.colours import principal_colours, token_grid
from ecar_lab.viz.pictures import heat, mask_picture, pixel_distance, pixel_spread


def test_the_mask_is_drawn_as_the_model_has_it():
    mask = block_causal_mask((1, 4, 16), torch.device("cpu"))
    pixels = np.asarray(mask_picture(mask, (1, 4, 16)))
    np.testing.assert_array_equal(pixels[..., 3] == 255, mask.numpy())
    columns = [tuple(pixels[20, key, :3]) for key in (0, 1, 4, 5, 20)]
    assert columns[1] == columns[2]
    assert columns[3] == columns[4]
    assert len(set(columns)) == 3


def test_principal_colours_know_how_much_they_hold():
    flat = torch.randn(1, 3, 4, 4) * torch.tensor([4.0, 2.0, 1.0]).view(1, 3, 1, 1)
    turned = torch.einsum("dc,bchw->bdhw", torch.linalg.qr(torch.randn(32, 3))[0], flat)
    assert principal_colours([turned]).explained == pytest.approx(1, abs=1e-6)
    even = torch.eye(64).T.reshape(1, 64, 8, 8)  # 64 tokens as far apart as can be
    assert principal_colours([even]).explained == pytest.approx(3 / 63, rel=1e-3)
    assert principal_colours([torch.ones(1, 8, 2, 2)]).explained == 1


def test_the_spread_is_the_standard_deviation():
    pictures = [torch.full((3, 2, 2), value) for value in (-1.0, 0.0, 1.0)]
    pictures[1][:, 0, 0] = 1.0
    expected = np.std([0, 0.5, 1], ddof=1)
    found = pixel_spread(pictures)
    assert found[1, 1] == pytest.approx(expected)
    assert found[0, 0] == pytest.approx(np.std([0, 1, 1], ddof=1))
    assert pixel_spread([pictures[1]] * 4).max() == 0


def test_heat_is_black_where_nothing_is_and_lightest_at_the_top():
    picture = heat(torch.tensor([[0.0, 0.1], [0.2, 0.4]]))
    brightness = picture[0].sum(dim=0).flatten().tolist()
    assert brightness == sorted(brightness)
    assert (picture[0, :, 0, 0] == -1).all()
    assert heat(torch.zeros(2, 2)).max() == -1


def test_the_distance_is_a_share_of_the_range():
    black, white = -torch.ones(3, 2, 2), torch.ones(3, 2, 2)
    red = black.clone()
    red[0] = 1
    assert torch.equal(pixel_distance(black, white), torch.ones(2, 2))
    assert pixel_distance(black, red)[0, 0] == pytest.approx((1 / 3) ** 0.5)


def test_a_token_grid_keeps_rows_and_columns():
    grid = token_grid(torch.arange(8.0).view(1, 4, 2))
    assert torch.equal(grid[0, 0], torch.tensor([[0.0, 2.0], [4.0, 6.0]]))
    assert torch.equal(grid[0, 1], torch.tensor([[1.0, 3.0], [5.0, 7.0]]))
