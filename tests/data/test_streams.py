"""Streams: every image once, each process its own part, no reader left behind."""

import threading

import pytest

from ecar_lab.data import open_dataset, tables
from ecar_lab.errors import EcarError
from tests.data.pictures import CLASSES, encoded, epoch_of, flat, write_parquet


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


def test_processes_take_equally_many_batches_of_unequal_shards(tmp_path):
    """The longer half of the stream must not keep one process waiting for the other."""
    write_parquet(tmp_path / "train-0.parquet", [encoded(n) for n in range(6)])
    write_parquet(tmp_path / "train-1.parquet", [encoded(n) for n in range(6, 24)])
    data = open_dataset(str(tmp_path), streaming=True)
    shares = [epoch_of(data, 4, process_index=p, num_processes=2) for p in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]
    seen = [set(flat(share)) for share in shares]
    assert {len(part) for part in seen} == {6, 12}
    assert set(range(6)) in seen
    assert not seen[0] & seen[1]


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
