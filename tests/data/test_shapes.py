"""What the kit draws: the set of shapes and single pictures."""

import pytest
import torch

from ecar_lab.data import open_dataset
from ecar_lab.data.shapes import PICTURES, SHAPES, draw_shapes


@pytest.mark.parametrize("name", PICTURES)
def test_the_kit_draws_its_pictures_at_any_size(name):
    for size in (8, 32):
        picture = PICTURES[name](size)
        assert picture.shape == (1, 3, size, size)
        assert -1 <= picture.min() < picture.max() <= 1
        assert torch.equal(picture, PICTURES[name](size))


def test_shape_depends_on_its_seed_and_index_only():
    many, labels = draw_shapes(5, torch.arange(64), 16)
    few, _ = draw_shapes(5, torch.tensor([63, 7, 20]), 16)
    assert torch.equal(few, many[[63, 7, 20]])
    assert not torch.equal(draw_shapes(6, torch.arange(64), 16)[0], many)
    assert labels.bincount().tolist() == [64 // len(SHAPES)] * len(SHAPES)
    assert len(many.flatten(1).unique(dim=0)) == 64


def test_shape_is_the_same_picture_at_every_resolution():
    small, _ = draw_shapes(0, torch.arange(32), 32)
    large, _ = draw_shapes(0, torch.arange(32), 128)
    pooled = torch.nn.functional.avg_pool2d(large.float(), 4)
    assert (pooled - small.float()).abs().mean() < 2


def test_shape_classes_can_be_told_apart():
    indices = torch.arange(4000)
    images, labels = draw_shapes(1, indices, 24)
    background = images[:, :, 0, 0].float()[:, :, None, None]
    cover = ((images.float() - background).abs().sum(1) > 60).float()  # (B, H, W)
    area = cover.sum((1, 2))
    ys, xs = (cover.amax(2).sum(1), cover.amax(1).sum(1))
    fill = area / (xs * ys)
    mean = torch.stack([fill[labels == k].mean() for k in range(len(SHAPES))])
    names = list(SHAPES)
    assert mean[names.index("circle")] > mean[names.index("ring")] + 0.05
    assert mean[names.index("hexagon")] > mean[names.index("star")] + 0.2
    assert mean[names.index("square")] > mean[names.index("crescent")] + 0.1


def test_seed_and_split_choose_other_shapes():
    def first(**options):
        return open_dataset("shapes", image_size=16, limit=8, **options).arrays()[0]

    assert torch.equal(first(), first())
    assert not torch.equal(first(), first(seed=1))
    assert not torch.equal(first(), first(split="test"))


def test_shapes_give_the_same_images_drawn_in_batches_or_at_once():
    data = open_dataset("shapes", image_size=8, limit=32)
    drawn = torch.cat([images for images, _ in data.batches(8)])
    whole = data.arrays()[0].float() / 127.5 - 1
    assert torch.equal(drawn.flatten(1).unique(dim=0), whole.flatten(1).unique(dim=0))
