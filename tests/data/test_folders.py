"""Folders and files: which of them make up a set, its splits, its classes and columns."""

import pytest
import torch

from ecar_lab.data import dataset_names, find_datasets, open_dataset
from ecar_lab.errors import EcarError
from tests.data.pictures import encoded, numbers, picture, put, write_parquet


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


def test_class_called_train_needs_a_split_above_it(tmp_path):
    for name in ("train", "car"):
        put(tmp_path, f"one/{name}/a.png", f"two/train/{name}/a.png")
    with pytest.raises(EcarError, match="'train', which names a split, beside 'car'"):
        open_dataset(str(tmp_path / "one"))
    assert open_dataset(str(tmp_path / "two")).info.class_names == ("car", "train")


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
