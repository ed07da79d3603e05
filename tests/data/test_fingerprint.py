"""The fingerprint: follows the content, and nothing but the content."""

import os
import shutil

import datasets
import huggingface_hub
import pytest

from ecar_lab.data import open_dataset
from tests.data.pictures import encoded, picture, write_parquet


def of(place, **options) -> str:
    return open_dataset(str(place), **options).fingerprint


def test_fingerprint_is_hexadecimal_and_the_same_again(folder):
    word = of(folder)
    assert len(word) == 32
    assert int(word, 16) >= 0
    assert word == of(folder)


def test_fingerprint_of_a_folder_follows_place_name_and_times_not(folder, tmp_path):
    word = of(folder)
    moved = tmp_path / "elsewhere" / "animals"
    shutil.copytree(folder, moved)
    for path in moved.rglob("*.png"):
        os.utime(path, (1, 1))
    assert of(moved) == word


def test_swapping_two_class_folders_changes_the_fingerprint(folder):
    word = of(folder)
    (folder / "cat").rename(folder / "x")
    (folder / "dog").rename(folder / "cat")
    (folder / "x").rename(folder / "dog")
    assert of(folder) != word


def test_replacing_a_picture_by_one_of_the_same_size_changes_the_fingerprint(folder):
    word = of(folder)
    file = folder / "dog" / "7.png"
    size = file.stat().st_size
    picture(8).save(file)
    assert file.stat().st_size == size
    assert of(folder) != word


def test_renaming_a_class_changes_the_fingerprint(folder):
    word = of(folder)
    (folder / "dog").rename(folder / "doh")
    assert of(folder) != word


def test_large_picture_counts_by_its_size_and_both_ends(folder):
    file = folder / "dog" / "7.png"
    tail = bytearray(200_000)
    file.write_bytes(file.read_bytes() + tail)
    word = of(folder)
    tail[-1] = 1
    file.write_bytes(file.read_bytes()[:-200_000] + tail)
    assert of(folder) != word


@pytest.mark.parametrize("streaming", [False, True])
def test_fingerprint_of_parquet_follows_its_rows(tmp_path, streaming):
    def word(images, name="a", **options) -> str:
        return of(write_parquet(tmp_path / f"{name}.parquet", images), streaming=streaming)

    images = [encoded(n) for n in range(6)]
    first = word(images)
    assert word(images, name="b") == first
    assert word(images[::-1]) != first
    assert word(images[:-1]) != first


def test_fingerprint_follows_columns_limit_and_size(tmp_path):
    images = [encoded(n) for n in range(6)]
    path = write_parquet(
        tmp_path / "a.parquet", images, labels=["x", "y"] * 3, breed=["x", "y"] * 3
    )
    words = [
        of(path),
        of(path, label_column="breed"),
        of(path, limit=3),
        of(path, image_size=16),
        of(path, label_column="none"),
    ]
    assert len(set(words)) == len(words)


def test_fingerprint_of_built_in_sets():
    digits = open_dataset("digits")
    word = digits.fingerprint
    digits.arrays()
    assert open_dataset("digits").fingerprint == word
    words = [word, of("digits", split="test"), of("digits", limit=9), of("digits", image_size=16)]
    words += [of("shapes"), of("shapes", seed=1), of("shapes", split="test"), of("shapes", limit=8)]
    assert len(set(words)) == len(words)


def test_hub_set_goes_by_its_rows_and_a_stream_of_it_by_the_revision(monkeypatch, numbered):
    real = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *args, streaming: (
            real("parquet", data_files={"train": str(numbered)}, streaming=True)
            if streaming
            else {"train": datasets.Dataset.from_parquet(str(numbered), keep_in_memory=True)}
        ),
    )
    word = of("hub:owner/name")
    assert len(word) == 32
    assert of("hub:owner/name", limit=7) != word

    def unreachable(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    assert of("hub:owner/name", streaming=True) == ""
    revisions = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "dataset_info",
        lambda *args, **options: type("Info", (), {"sha": next(revisions)}),
    )
    first = of("hub:owner/name", streaming=True)
    assert len(first) == 32
    assert of("hub:owner/name", streaming=True) != first


def test_fingerprint_of_cifar10_is_the_same_whether_it_streams_or_not(data_root):
    both = [of("cifar10", data_root=data_root, streaming=s, split="test") for s in (False, True)]
    assert len(both[0]) == 32
    assert both[0] == both[1]
