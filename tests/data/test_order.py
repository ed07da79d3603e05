"""Order: a function of seed and epoch, shared among processes, resumed where it was left."""

import io

import numpy as np
import PIL.Image
import pytest
import torch

from ecar_lab.data import open_dataset
from tests.data.pictures import (
    epoch_of,
    flat,
    numbers,
    write_parquet,
)


def test_order_is_a_function_of_seed_and_epoch(numbered):
    data = open_dataset(str(numbered))
    once = epoch_of(data, seed=3, epoch=1)
    assert sorted(flat(once)) == list(range(60))
    assert once == epoch_of(open_dataset(str(numbered)), seed=3, epoch=1)
    assert once != epoch_of(data, seed=3, epoch=2)
    assert once != epoch_of(data, seed=4, epoch=1)


def test_labels_stay_with_their_images(numbered):
    for streaming in (False, True):
        for images, labels in open_dataset(str(numbered), streaming=streaming).batches(12):
            assert [n % 3 for n in numbers(images)] == labels.tolist()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_shares_of_the_processes_make_up_the_global_batch(numbered, streaming, processes):
    data = open_dataset(str(numbered), streaming=streaming, flip=True)
    whole = [images for images, _ in data.batches(12, seed=1)]
    shares = [
        [images for images, _ in data.batches(12, seed=1, process_index=p, num_processes=processes)]
        for p in range(processes)
    ]
    assert len(whole) == 5
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(batch, torch.cat(parts))


@pytest.mark.parametrize("streaming", [False, True])
def test_start_goes_on_where_the_epoch_was_left(numbered, streaming):
    data = open_dataset(str(numbered), streaming=streaming, flip=True)
    whole = list(data.batches(12, epoch=2))
    rest = list(data.batches(12, epoch=2, start=3))
    assert len(rest) == 2
    for (images, labels), (again, labels_again) in zip(whole[3:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)
    assert list(data.batches(12, epoch=2, start=5)) == []


@pytest.mark.parametrize("streaming", [False, True])
def test_last_batch_is_kept_when_asked_for(numbered, streaming):
    data = open_dataset(str(numbered), streaming=streaming)
    assert [len(batch) for batch in epoch_of(data, 16)] == [16, 16, 16]
    kept = epoch_of(data, 16, drop_last=False)
    assert [len(batch) for batch in kept] == [16, 16, 16, 12]
    assert sorted(flat(kept)) == list(range(60))
    shares = [epoch_of(data, 16, drop_last=False, process_index=p, num_processes=2) for p in (0, 1)]
    assert [[len(batch) for batch in share] for share in shares] == [[8, 8, 8, 8], [8, 8, 8, 4]]


def test_flips_mirror_half_the_images_and_change_with_the_epoch(tmp_path):
    half = np.zeros((8, 8, 3), dtype=np.uint8)
    half[:, :4] = 255
    stream = io.BytesIO()
    PIL.Image.fromarray(half).save(stream, "PNG")
    path = write_parquet(tmp_path / "a.parquet", [{"bytes": stream.getvalue(), "path": None}] * 400)

    def mirrored(epoch: int, flip: bool = True) -> torch.Tensor:
        (images, _), *_ = open_dataset(str(path), flip=flip).batches(400, epoch=epoch)
        assert set(images[:, 0, 0, 0].tolist()) <= {-1.0, 1.0}
        return images[:, 0, 0, 0] < 0

    assert mirrored(0, flip=False).sum() == 0
    assert 150 < mirrored(0).sum() < 250
    assert torch.equal(mirrored(0), mirrored(0))
    assert not torch.equal(mirrored(0), mirrored(1))


def test_arrays_are_decoded_once(numbered):
    data = open_dataset(str(numbered))
    assert data.arrays()[0] is data.arrays()[0]


def test_set_in_memory_needs_no_threads_for_its_batches(numbered, monkeypatch):
    data = open_dataset(str(numbered))
    data.arrays()
    monkeypatch.setattr("ecar_lab.data.datasets.in_background", None)
    monkeypatch.setattr("ecar_lab.data.sources.Decoder.__call__", None)
    assert len(epoch_of(data)) == 5
