"""What is said when a data set cannot be opened or read."""

import itertools
import types

import datasets
import numpy as np
import pytest

from ecar_lab import bounds, schema
from ecar_lab.data import open_dataset
from ecar_lab.errors import EcarError
from tests.data.pictures import CLASSES, encoded, write_parquet


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
    assert "give a folder, a .parquet or a .tar file" in refusal(str(tmp_path / "notes.txt"))


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
    assert "no label column 'label' among image, text" in message
    assert "'none' to take the set as one class" in message
    assert "no image column 'pixels' among image, text" in refusal(path, image_column="pixels")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "b.parquet")
    assert "no image column 'image' among text" in refusal(str(tmp_path / "b.parquet"))


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
    assert f"{option} is 0: use 1 or more" in refusal("digits", **{option: 0})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *itertools.product(["limit", "image_size"], [1.5, "3", [1], True, float("nan"), 2**70]),
        *itertools.product(["split", "label_column"], [1, ["train"]]),
        *itertools.product(["flip", "streaming"], ["false", 1]),
        *itertools.product(["seed"], ["a", None, 1.5]),
        ("split", None),
        ("data_root", 1),
    ],
)
def test_options_of_another_kind_are_refused(numbered, option, value):
    assert f"{option} is {schema.short(value)}: use " in refusal(str(numbered), **{option: value})


@pytest.mark.parametrize("name", [None, 1, b"x", ["a"]])
def test_names_of_another_kind_are_refused(name):
    assert "name is " in refusal(name)


def test_paths_and_numpy_numbers_are_taken(numbered):
    data = open_dataset(numbered, limit=np.int64(3), image_size=np.int32(8), seed=np.uint8(1))
    assert len(data.arrays()[0]) == 3


def test_no_image_is_scaled_to_more_than_the_memory(numbered):
    assert "GiB of memory" in refusal(numbered, image_size=10**6)


def test_set_larger_than_the_memory_is_refused(numbered, monkeypatch):
    data = open_dataset(str(numbered), image_size=128)
    free = types.SimpleNamespace(available=60 * 3 * 128 * 128)
    monkeypatch.setattr(bounds.psutil, "virtual_memory", lambda: free)
    with pytest.raises(EcarError, match=r"needs .* GiB of memory .* use streaming"):
        data.arrays()
    assert "GiB of memory" in refusal("digits", image_size=64)
    assert "GiB of memory" in refusal(str(numbered), image_size=1024, streaming=True)
