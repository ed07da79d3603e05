"""Streams: every image once, each process its own part, no reader left behind."""

import threading

import pytest

from ecar_lab.data import open_dataset, tables
from ecar_lab.errors import EcarError
from tests.data.pictures import CLASSES, encoded, epoch_of, flat, write_parquet, write_tar


def test_stream_of_parquet_gives_every_image_once(numbered):
    data = open_dataset(str(numbered), streaming=True)
    assert data.info.num_images is None
    assert data.info.class_names == tuple(CLASSES)
    first, second = epoch_of(data, epoch=0), epoch_of(data, epoch=1)
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(60))
    assert first != second
    assert first == epoch_of(open_dataset(str(numbered), streaming=True), epoch=0)


def test_process_draws_only_its_own_part_of_a_stream(numbered, monkeypatch):
    drawn = []
    take_label = tables.Table._class_of
    data = open_dataset(str(numbered), streaming=True)
    monkeypatch.setattr(
        tables.Table,
        "_class_of",
        lambda self, value: drawn.append(value) or take_label(self, value),
    )
    mine = epoch_of(data, process_index=0, num_processes=2)
    assert len(drawn) == len(flat(mine)) == 30


@pytest.fixture(params=["parquet", "tar"])
def unequal(request, tmp_path):
    """48 images in three shards of 5, 36 and 7."""
    write = {"parquet": write_parquet, "tar": write_tar}[request.param]
    for number, part in enumerate((range(5), range(5, 41), range(41, 48))):
        write(tmp_path / f"train-{number}.{request.param}", [encoded(n) for n in part])
    return open_dataset(str(tmp_path), streaming=True)


@pytest.mark.parametrize(("count", "size"), [(1, 8), (2, 4), (4, 16), (3, 12), (8, 8), (2, 6)])
def test_each_image_is_seen_once_whatever_the_number_of_processes(unequal, count, size):
    """The longer shards must neither keep a process waiting nor show others' images twice; and the
    batches are those of one process."""
    shares = [epoch_of(unequal, size, process_index=p, num_processes=count) for p in range(count)]
    assert {len(share) for share in shares} == {48 // size}
    assert sorted(number for share in shares for number in flat(share)) == list(range(48))
    together = [flat(parts) for parts in zip(*shares, strict=True)]
    assert [sorted(batch) for batch in together] == list(map(sorted, epoch_of(unequal, size)))


def test_what_fills_no_batch_is_left_out_of_one_epoch_or_shown_in_a_smaller_one(unequal):
    seen = flat(epoch_of(unequal, 20))
    assert len(set(seen)) == len(seen) == 40
    parts = [
        epoch_of(unequal, 20, process_index=p, num_processes=2, drop_last=False) for p in (0, 1)
    ]
    assert sorted(flat(parts[0]) + flat(parts[1])) == list(range(48))


def test_stream_honours_its_limit(numbered):
    data = open_dataset(str(numbered), streaming=True, limit=24)
    assert sorted(flat(epoch_of(data))) == list(range(24))


def test_stream_that_is_left_early_leaves_no_reader_behind(numbered):
    def readers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "prefetch" in thread.name]

    batches = open_dataset(str(numbered), streaming=True).batches(12)
    next(batches)
    assert len(readers()) == 1
    del batches
    assert readers() == []


def test_error_in_the_background_surfaces_in_the_loop(numbered, monkeypatch):
    data = open_dataset(str(numbered), streaming=True)
    monkeypatch.setattr("ecar_lab.data.sources.Decoder.fill", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(data.batches(12))


def test_stream_has_no_arrays(numbered):
    with pytest.raises(EcarError, match="is a stream: open it without streaming"):
        open_dataset(str(numbered), streaming=True).arrays()
