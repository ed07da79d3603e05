"""Data sets: what comes out, in which order, how it is shared, what is said when it cannot be."""

import io
import itertools
import threading
import types
import warnings
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from ecar_lab.data import dataset_names, find_datasets, open_dataset, tables
from ecar_lab.data.shapes import SHAPES, draw_shapes
from ecar_lab.errors import EcarError

datasets.disable_progress_bars()
CLASSES = ["cat", "dog", "frog"]


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A data root of the machine must not decide what these tests see, save those that ask."""
    if "data_root" in request.fixturenames:
        request.getfixturevalue("data_root")
    monkeypatch.delenv("ECAR_DATA", raising=False)


def picture(number: int) -> PIL.Image.Image:
    """8x8 pixels of the value ``number``, with a mark below that tells left from right."""
    pixels = np.full((8, 8, 3), number, dtype=np.uint8)
    pixels[-1, :4] = 255 - number
    return PIL.Image.fromarray(pixels)


def encoded(number: int) -> dict:
    stream = io.BytesIO()
    picture(number).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


BROKEN = {"bytes": b"no image at all", "path": None}


def write_parquet(
    path: Path, images: Sequence[dict | None], row_group: int = 1000, **columns
) -> Path:
    """A file as the Hub has them: image and class label columns, ``row_group`` rows a group."""
    labels = {"label": [n % len(CLASSES) for n in range(len(images))]}
    features = {"image": datasets.Image()}
    for name in columns or labels:
        is_class = name in ("label", "labels")
        features[name] = (
            datasets.ClassLabel(names=CLASSES) if is_class else datasets.Value("string")
        )
        if is_class and isinstance((columns or labels)[name][0], str):
            features[name] = datasets.Value("string")
    table = datasets.Dataset.from_dict(
        {"image": images, **(columns or labels)}, features=datasets.Features(features)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, batch_size=row_group)
    return path


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """60 pictures, number n in all pixels of the n-th, in 4 row groups."""
    return write_parquet(tmp_path / "train.parquet", [encoded(n) for n in range(60)], row_group=15)


def numbers(images: torch.Tensor) -> list[int]:
    """The pixel value of each picture of ``picture``."""
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def epoch_of(data, batch_size: int = 12, **options) -> list[list[int]]:
    return [numbers(images) for images, _ in data.batches(batch_size, **options)]


# what comes out


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_offline_sets_give_rgb_floats_between_minus_one_and_one(name):
    data = open_dataset(name)
    images, labels = next(data.batches(40))
    size = data.info.image_size
    assert images.shape == (40, 3, size, size)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0.2
    assert 0 <= labels.min() <= labels.max() < data.info.num_classes


def test_arrays_of_digits_hold_every_digit_once_in_either_split():
    train, test = (open_dataset("digits", split=split) for split in ("train", "test"))
    (images, labels), (held_out, _) = train.arrays(), test.arrays()
    assert images.dtype == torch.uint8
    assert images.shape == (1437, 3, 8, 8)
    assert len(held_out) == 360
    assert labels.bincount().min() >= 139
    both = torch.cat([images, held_out])[:, 0].flatten(1)
    assert len(both.unique(dim=0)) == 1797
    assert torch.equal(images[:, 0], images[:, 2])
    assert train.info.class_names == tuple("0123456789")


def test_digits_scale_to_any_size():
    images, _ = open_dataset("digits", image_size=16, limit=20).arrays()
    assert images.shape == (20, 3, 16, 16)


def test_images_are_scaled_by_the_shorter_side_and_cropped_at_the_centre(tmp_path):
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 200  # the middle square
    folder = tmp_path / "set" / "cat"
    folder.mkdir(parents=True)
    PIL.Image.fromarray(wide).save(folder / "wide.png")
    data = open_dataset(str(tmp_path / "set"), image_size=10)
    assert (data.arrays()[0].float() - 200).abs().max() < 20
    assert open_dataset(str(tmp_path / "set")).info.image_size == 20


def test_large_jpeg_keeps_its_content_when_scaled_while_decoding(tmp_path):
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(np.tile(ramp, (640, 1))).save(stream, "JPEG", quality=95)
    path = write_parquet(tmp_path / "a.parquet", [{"bytes": stream.getvalue(), "path": None}])
    images, _ = open_dataset(str(path), image_size=32).arrays()
    expected = torch.from_numpy(ramp.astype(np.float32).reshape(32, 20).mean(1))
    assert (images[0, 0].float() - expected).abs().max() < 4


def test_grey_transparent_palette_and_16_bit_images_become_rgb(tmp_path):
    folder = tmp_path / "set" / "cat"
    folder.mkdir(parents=True)
    PIL.Image.new("L", (8, 8), 100).save(folder / "a.png")
    PIL.Image.new("RGBA", (8, 8), (100, 100, 100, 0)).save(folder / "b.png")
    picture(100).quantize().save(folder / "c.gif")
    PIL.Image.fromarray(np.full((8, 8), 100 * 256, dtype=np.uint16)).save(folder / "d.png")
    images, _ = open_dataset(str(tmp_path / "set")).arrays()
    assert images.shape == (4, 3, 8, 8)
    assert images[:, :, 0, 0].tolist() == [[100] * 3, [255] * 3, [100] * 3, [100] * 3]


def test_photo_is_turned_upright(tmp_path):
    folder = tmp_path / "set" / "cat"
    folder.mkdir(parents=True)
    half = np.zeros((8, 8, 3), dtype=np.uint8)
    half[:, :4] = 255  # white on the left
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    PIL.Image.fromarray(half).save(folder / "a.png", exif=exif)
    images, _ = open_dataset(str(tmp_path / "set")).arrays()
    assert images[0, 0, 0].tolist() == [0] * 4 + [255] * 4


# shapes


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


# order


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


# streams


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


# folders and files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of 6 cats and 4 dogs, with what else lies about in such folders."""
    root = tmp_path / "pets"
    for name, first, count in (("dog", 6, 4), ("cat", 0, 6)):
        (root / name).mkdir(parents=True)
        for n in range(first, first + count):
            picture(n).save(root / name / f"{n}.png")
    (root / "cat" / ".hidden.png").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("not an image")
    return root


@pytest.mark.parametrize("streaming", [False, True])
def test_folder_of_class_folders(folder, streaming):
    data = open_dataset(str(folder), streaming=streaming)
    assert data.info.class_names == ("cat", "dog")
    assert data.info.num_images == 10
    images, labels = next(data.batches(10))
    assert sorted(zip(numbers(images), labels.tolist(), strict=True)) == [
        (n, int(n >= 6)) for n in range(10)
    ]


def test_splits_of_a_folder_number_their_classes_alike(tmp_path):
    for split, name in (("train", "cat"), ("train", "dog"), ("val", "dog")):
        (tmp_path / split / name).mkdir(parents=True)
        picture(1).save(tmp_path / split / name / "a.png")
    data = open_dataset(str(tmp_path), split="test")
    assert data.info.split == "val"
    assert data.info.class_names == ("cat", "dog")
    assert data.arrays()[1].tolist() == [1]


def test_class_called_train_is_a_class(tmp_path):
    for name in ("train", "car"):
        (tmp_path / name).mkdir()
        picture(1).save(tmp_path / name / "a.png")
    assert open_dataset(str(tmp_path)).info.class_names == ("car", "train")


def test_folder_without_class_folders_is_one_class(tmp_path):
    (tmp_path / "flowers").mkdir()
    picture(1).save(tmp_path / "flowers" / "a.png")
    assert open_dataset(str(tmp_path / "flowers")).info.class_names == ("flowers",)


def test_data_root_by_argument_and_by_variable(tmp_path, monkeypatch):
    write_parquet(tmp_path / "cifar10" / "train.parquet", [encoded(n) for n in range(3)])
    assert open_dataset("cifar10", data_root=tmp_path).info.num_images == 3
    monkeypatch.setenv("ECAR_DATA", str(tmp_path))
    assert open_dataset("cifar10").info.num_images == 3


def test_any_folder_of_the_data_root_has_a_name(tmp_path):
    write_parquet(tmp_path / "mine" / "train.parquet", [encoded(1)])
    assert open_dataset("mine", data_root=tmp_path).info.name == "mine"


@pytest.mark.parametrize(("there", "asked"), [("validation", "test"), ("test", "validation")])
def test_held_out_splits_stand_for_each_other(tmp_path, there, asked):
    write_parquet(tmp_path / "train.parquet", [encoded(1)])
    write_parquet(tmp_path / f"{there}.parquet", [encoded(2)] * 2)
    info = open_dataset(str(tmp_path), split=asked).info
    assert (info.split, info.num_images) == (there, 2)


def test_files_of_one_split_are_joined(tmp_path):
    for n in range(3):
        write_parquet(tmp_path / "data" / f"train-{n:05d}-of-00003.parquet", [encoded(n)])
    assert numbers(open_dataset(str(tmp_path)).arrays()[0].float() / 127.5 - 1) == [0, 1, 2]


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_are_found_or_given(tmp_path, streaming):
    images = [encoded(n) for n in range(2)]
    path = write_parquet(tmp_path / "a.parquet", images, labels=["dog", "cat"], breed=["x", "y"])
    data = open_dataset(str(path), streaming=streaming)
    assert data.info.class_names == ("cat", "dog")
    assert sorted(next(data.batches(2))[1].tolist()) == [0, 1]
    data = open_dataset(str(path), label_column="breed", image_column="image", streaming=streaming)
    assert data.info.class_names == ("x", "y")
    data = open_dataset(str(path), label_column="none", streaming=streaming)
    assert data.info.class_names == ("image",)
    assert next(data.batches(2))[1].tolist() == [0, 0]


@pytest.mark.parametrize("streaming", [False, True])
def test_plain_bytes_are_an_image_column(tmp_path, streaming):
    """Parquet files that `datasets` did not write know no image type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"img": [encoded(n)["bytes"] for n in range(4)], "label": [7, 9, 7, 9]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    data = open_dataset(str(tmp_path / "a.parquet"), streaming=streaming)
    images, labels = next(data.batches(4))
    assert data.info.class_names == ("7", "9")
    assert sorted(zip(numbers(images), labels.tolist(), strict=True)) == [
        (0, 0), (1, 1), (2, 0), (3, 1)
    ]  # fmt: skip


def test_limit_is_a_fixed_choice_from_the_whole_set(numbered):
    chosen, _ = open_dataset(str(numbered), limit=20).arrays()
    again, _ = open_dataset(str(numbered), limit=20).arrays()
    assert torch.equal(chosen, again)
    assert len(chosen) == len(chosen.flatten(1).unique(dim=0)) == 20
    assert chosen.max() > 30


def test_data_sets_of_a_root_are_listed(tmp_path, folder):
    write_parquet(tmp_path / "cifar10" / "train.parquet", [encoded(n) for n in range(3)])
    write_parquet(tmp_path / "cifar10" / "test.parquet", [encoded(1)])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"version of a pointer file")
    (tmp_path / "nothing").mkdir()
    assert find_datasets(tmp_path) == {
        "broken": {"train": 0},
        "cifar10": {"test": 1, "train": 3},
        "pets": {"train": 10},
    }
    assert dataset_names() == ["digits", "shapes", "cifar10", "imagenette"]


# unreadable images


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


# what is said when it cannot be


def refusal(*args, **options) -> str:
    with pytest.raises(EcarError) as caught:
        open_dataset(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_data_root_names_switch_and_variable(tmp_path, monkeypatch):
    message = refusal("cifar10", data_root=tmp_path / "gone")
    assert "gone" in message
    assert "--data" in message
    assert "ECAR_DATA" in message
    monkeypatch.setenv("ECAR_DATA", str(tmp_path / "gone"))
    assert "ECAR_DATA" in refusal("cifar10")


def test_set_missing_in_the_data_root_says_what_is_there(tmp_path):
    write_parquet(tmp_path / "mine" / "train.parquet", [encoded(1)])
    message = refusal("cifar10", data_root=tmp_path)
    assert "there is no data set 'cifar10'" in message
    assert "which holds mine" in message
    assert "--data" in message


def test_unknown_name_lists_the_known_ones():
    message = refusal("cifar11")
    for word in ("'cifar11'", "digits", "imagenette", "hub:OWNER/NAME", "--data", "ECAR_DATA"):
        assert word in message
    assert "there is no data set ''" in refusal("")


@pytest.mark.parametrize("name", ["cifar10", "hub:ecar-lab/no-such-set"])
def test_unreachable_hub_is_one_sentence(name, monkeypatch):
    def unreachable(*args, **options):
        raise ConnectionError("Couldn't reach the Hub\nand more lines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    message = refusal(name)
    assert name in message
    assert "Couldn't reach the Hub" in message
    assert "ECAR_DATA" in message


def test_hub_set_with_configuration_and_split(monkeypatch, numbered):
    asked = []

    def load(*args, streaming):
        asked.append(args)
        rows = datasets.Dataset.from_parquet(str(numbered), keep_in_memory=True)
        return {"train": rows, "validation": rows.select(range(5))}

    monkeypatch.setattr(datasets, "load_dataset", load)
    info = open_dataset("hub:owner/name:small", split="test").info
    assert asked == [("owner/name", "small")]
    assert (info.split, info.num_images, info.class_names) == ("validation", 5, tuple(CLASSES))
    open_dataset("cifar10")
    assert asked[-1] == ("uoft-cs/cifar10", None)


def test_stream_without_class_names_is_refused(monkeypatch, tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [encoded(1)], label=["cat"])
    rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, streaming: {"train": rows})
    assert "open it without streaming" in refusal("hub:owner/name", streaming=True)


def test_unknown_split_lists_the_splits(numbered):
    assert "has no split 'test': use one of train" in refusal(str(numbered), split="test")
    assert "has no split 'dream': use one of train, test" in refusal("digits", split="dream")
    assert "has no split 'dream': use one of train, test" in refusal("shapes", split="dream")


def test_file_that_is_no_data_set(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "give a folder or a .parquet file" in refusal(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize("streaming", [False, True])
def test_damaged_parquet_file(numbered, streaming):
    numbered.write_bytes(numbered.read_bytes()[:-100])
    message = refusal(str(numbered), streaming=streaming)
    assert str(numbered) in message
    assert "fetch it again" in message


def test_folder_without_images(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    assert "holds no images: give a folder with one folder" in refusal(str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_empty_table(tmp_path, streaming):
    path = write_parquet(tmp_path / "a.parquet", [encoded(1)])
    datasets.Dataset.from_parquet(str(path), keep_in_memory=True).select([]).to_parquet(path)
    assert "is empty: give a data set with images" in refusal(str(path), streaming=streaming)


def test_unknown_columns_list_the_columns(tmp_path):
    path = str(write_parquet(tmp_path / "a.parquet", [encoded(1)], text=["a cat"]))
    message = refusal(path)
    assert "no label column '' among image, text" in message
    assert "'none' to take the set as one class" in message
    assert "no image column 'pixels' among image, text" in refusal(path, image_column="pixels")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "b.parquet")
    assert "no image column '' among text" in refusal(str(tmp_path / "b.parquet"))


def test_label_outside_the_classes(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [encoded(1)] * 2, label=[-1, -1])
    assert "has the label -1, none of its 3 classes" in refusal(str(path))


def test_batch_that_does_not_divide_or_is_too_large(numbered):
    data = open_dataset(str(numbered))
    with pytest.raises(EcarError, match="a batch of 10 does not divide among 4 processes"):
        data.batches(10, num_processes=4)
    for streaming in (False, True):
        with pytest.raises(EcarError, match="a batch of 64 is larger than the set"):
            next(open_dataset(str(numbered), streaming=streaming).batches(64))
    with pytest.raises(EcarError, match="a batch of 64 is larger than the set"):
        next(open_dataset(str(numbered), streaming=True, limit=20).batches(64))


@pytest.mark.parametrize("option", ["image_size", "limit"])
def test_size_and_limit_are_positive(option):
    assert "0 is not positive: use 1 or more" in refusal("digits", **{option: 0})


def test_set_larger_than_the_memory_is_refused(numbered, monkeypatch):
    data = open_dataset(str(numbered))
    free = types.SimpleNamespace(available=60 * 3 * 8 * 8)
    monkeypatch.setattr(tables.psutil, "virtual_memory", lambda: free)
    with pytest.raises(EcarError, match=r"needs .* GiB of memory .* use streaming"):
        data.arrays()
    assert "GiB of memory" in refusal("digits", image_size=64)
    assert "GiB of memory" in refusal(str(numbered), image_size=64, streaming=True)


# the real ones


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
