"""The real data sets, where the machine has them."""

import warnings

import pytest

from ecar_lab.data import open_dataset


def test_cifar10_reads_whole(data_root):
    data = open_dataset("cifar10", split="test", data_root=data_root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, labels = data.arrays()
    assert images.shape == (10_000, 3, 32, 32)
    assert labels.bincount().tolist() == [1000] * 10
    assert data.info.class_names[3] == "cat"
    assert images.float().mean((0, 2, 3)).tolist() == pytest.approx([126, 124, 115], abs=3)


@pytest.mark.parametrize("streaming", [False, True])
def test_imagenette_reads_at_another_size(data_root, streaming):
    data = open_dataset(
        "imagenette",
        split="test",
        image_size=64,
        limit=300,
        data_root=data_root,
        streaming=streaming,
    )
    assert data.info.split == "validation"
    images, labels = next(data.batches(100))
    assert images.shape == (100, 3, 64, 64)
    assert len(labels.unique()) >= 8
    assert data.info.class_names[0] == "tench"
