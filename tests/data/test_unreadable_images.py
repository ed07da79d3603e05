"""Unreadable images: left out, counted, replaced in a stream."""

import pytest

from ecar_lab.data import open_dataset
from ecar_lab.errors import EcarError
from tests.data.pictures import BROKEN, encoded, epoch_of, flat, write_parquet


def test_unreadable_images_are_left_out_counted_and_the_first_one_named(folder):
    (folder / "cat" / "2.png").write_bytes(b"")
    whole = (folder / "cat" / "4.png").read_bytes()
    (folder / "cat" / "4.png").write_bytes(whole[: len(whole) // 2])
    data = open_dataset(str(folder))
    with pytest.warns(UserWarning, match=r"2\.png is no readable image") as caught:
        images, labels = data.arrays()
    assert len(caught) == 1
    assert data.skipped == 2
    assert data.info.num_images == len(images) == len(labels) == 8
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert len(epoch_of(data, 8)) == 1


@pytest.mark.filterwarnings("ignore:.*no readable image")
def test_neighbour_stands_in_for_an_unreadable_image_of_a_stream(tmp_path):
    images = [BROKEN if n in (0, 7, 8) else encoded(n) for n in range(24)]
    path = write_parquet(tmp_path / "a.parquet", images, row_group=6)
    data = open_dataset(str(path), streaming=True)
    seen = epoch_of(data, 4)
    assert [len(batch) for batch in seen] == [4] * 6
    assert set(flat(seen)) == set(range(24)) - {0, 7, 8}
    assert data.skipped == 3
    epoch_of(data, 4)
    assert data.skipped == 3
    shares = [epoch_of(data, 4, process_index=p, num_processes=4) for p in range(4)]
    assert [len(share) for share in shares] == [6] * 4


@pytest.mark.filterwarnings("ignore:.*no readable image")
def test_set_with_a_missing_image_still_reads(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [encoded(1), None])
    data = open_dataset(str(path))
    assert len(data.arrays()[0]) == 1
    assert data.skipped == 1


@pytest.mark.filterwarnings("ignore:.*no readable image")
@pytest.mark.parametrize("streaming", [False, True])
def test_set_of_unreadable_images_is_refused(tmp_path, streaming):
    path = write_parquet(tmp_path / "a.parquet", [BROKEN] * 3)
    with pytest.raises(EcarError, match=r"no image of .* can be read \(3 tried\): give a data set"):
        open_dataset(str(path), streaming=streaming)
