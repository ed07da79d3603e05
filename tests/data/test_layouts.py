"""Layouts: what a folder is taken for, what is left out and said, what is refused."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from ecar_lab.data import find_datasets, open_dataset
from ecar_lab.errors import EcarError
from tests.data.pictures import encoded, put, write_parquet


def layout(place: Path, **options):
    return open_dataset(str(place), **options).layout


def refusal(place: Path, **options) -> str:
    with pytest.raises(EcarError) as caught:
        open_dataset(str(place), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(path: Path, count: int = 2) -> None:
    write_parquet(path, [encoded(n) for n in range(count)])


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("training", "testing"), ["test", "train"]),
        (("train", "val"), ["train", "val"]),
        (("Train", "TEST"), ["test", "train"]),
        (("train", "dev", "evaluation"), ["dev", "test", "train"]),
        (("train2017", "val2017"), ["train", "validation"]),
        (("my_train", "my-test"), ["test", "train"]),
        (("images/train", "images/val"), ["train", "val"]),
    ],
)
def test_folders_named_after_splits_are_splits(tmp_path, folders, splits):
    for folder in folders:
        put(tmp_path, f"{folder}/cat/1.png", f"{folder}/dog/1.png")
    found = layout(tmp_path)
    assert sorted(found.splits) == splits
    assert found.class_names == ("cat", "dog")
    assert set(found.splits.values()) == {2}
    assert not found.skipped


def test_what_lies_beside_the_splits_is_left_out_and_said(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "unlabeled/1.png", "a.png")
    (tmp_path / "notes.txt").write_text("hello")
    found = layout(tmp_path)
    assert found.splits == {"train": 2, "val": 1}
    assert found.class_names == ("cat", "dog")
    line = found.line()
    assert "2 splits, 2 classes, 3 images, 3 files skipped: " in line
    assert "2 beside the splits (a.png, ...)" in line
    assert "1 .txt and no image (notes.txt)" in line
    assert "beside the splits: 2 (a.png, unlabeled/1.png)" in found.report()


@pytest.mark.parametrize("other", ["unlabeled", "car"])
def test_flat_split_beside_another_flat_folder_is_refused(tmp_path, other):
    put(tmp_path, "train/1.png", "val/1.png", f"{other}/1.png")
    assert f"which names a split, beside {other!r}" in refusal(tmp_path)


def test_flat_test_beside_labelled_train_is_left_out_and_said(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/1.png", "test/2.png")
    found = layout(tmp_path)
    assert found.splits == {"train": 2}
    assert found.class_names == ("cat", "dog")
    assert found.skipped == {"in no class folder": (2, ("test/1.png", "test/2.png"))}
    assert "has no split 'test'" in refusal(tmp_path, split="test")


def test_stray_picture_is_no_class(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png", "dog/more/2.png", "logo.png")
    found = layout(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert found.skipped == {"in no class folder": (1, ("logo.png",))}
    put(tmp_path, "2.png", "3.png")
    assert "3 pictures in no class folder" in refusal(tmp_path)


def test_wrapping_folder_is_no_class(tmp_path):
    put(tmp_path, "images/cat/1.png", "images/dog/1.png")
    assert layout(tmp_path).class_names == ("cat", "dog")
    put(tmp_path, "deep/train/data/cat/1.png", "deep/train/data/dog/1.png", "deep/test/cat/1.png")
    assert layout(tmp_path / "deep").class_names == ("cat", "dog")


def test_classes_two_folders_deep_are_refused(tmp_path):
    put(tmp_path, "animals/cat/1.png", "plants/rose/1.png")
    assert "the class may be 'animals' or 'cat'" in refusal(tmp_path)


def test_empty_class_folder_is_a_class_without_images(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "fox").mkdir()
    (tmp_path / "elk").mkdir()
    (tmp_path / "elk" / "1.jxl").write_bytes(b"x")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x")
    data = open_dataset(str(tmp_path))
    assert data.info.class_names == ("cat", "dog", "elk", "fox")
    assert data.arrays()[1].tolist() == [0, 1]
    assert "2 classes without images: elk, fox" in data.layout.line()
    assert "1 .jxl, which cannot be read here (elk/1.jxl)" in data.layout.line()


@pytest.mark.parametrize(
    ("options", "words"), [({}, "1 class, 2 images"), ({"label_column": "none"}, "labels not read")]
)
def test_a_class_called_image_is_one_and_labels_that_are_not_read_are_none(
    tmp_path, options, words
):
    put(tmp_path, "image/1.png", "image/2.png")
    assert words in layout(tmp_path, **options).line()


def test_numbered_class_folders_are_sorted_as_numbers(tmp_path):
    put(tmp_path, *(f"{n}/1.png" for n in (10, 2, 0)))
    assert layout(tmp_path).class_names == ("0", "2", "10")


def test_names_of_pictures_that_speak_of_splits_are_refused(tmp_path):
    put(tmp_path, "my_train_1.png", "my_test_1.png")
    assert "speak of test and train" in refusal(tmp_path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_file_names_the_classes(tmp_path, ending):
    put(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    rows = [("a/1.png", "cat"), ("a/2.png", "dog"), ("b/3.png", "dog"), ("gone.png", "dog")]
    write_metadata(tmp_path / f"metadata.{ending}", rows)
    data = open_dataset(str(tmp_path))
    assert data.info.class_names == ("cat", "dog")
    assert data.arrays()[1].tolist() == [0, 1, 1]
    assert data.layout.skipped == {
        f"named in metadata.{ending} and not there": (1, ("gone.png",)),
        "not named in the metadata file": (1, ("b/4.png",)),
    }
    word = data.fingerprint
    rows[0] = ("a/1.png", "dog")
    rows[1] = ("a/2.png", "cat")
    write_metadata(tmp_path / f"metadata.{ending}", rows)
    assert open_dataset(str(tmp_path)).fingerprint != word


def write_metadata(path: Path, rows: list[tuple[str, str]], **columns) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    names = ["file_name", "label"]
    whole = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(whole, path)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(whole, path)
    else:
        import json

        path.write_text("".join(json.dumps(row) + "\n" for row in whole.to_pylist()))


def test_metadata_of_splits_shares_one_list_of_names(tmp_path):
    put(tmp_path, "train/1.png", "train/2.png", "test/1.png")
    write_metadata(tmp_path / "train/metadata.csv", [("1.png", "cat"), ("2.png", "dog")])
    assert "put one into the folder of each split" in refusal(tmp_path)
    write_metadata(tmp_path / "test/metadata.csv", [("1.png", "dog")])
    data = open_dataset(str(tmp_path), split="test")
    assert data.info.class_names == ("cat", "dog")
    assert data.arrays()[1].tolist() == [1]


def test_metadata_without_names_of_files_or_labels_is_refused(tmp_path):
    put(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / "metadata.csv").write_text("id,label\n1,2\n")
    assert "has no text column 'file_name' among id, label" in refusal(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/1.png,a cat\n")
    assert "no label column 'label' among text, image" in refusal(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,text\n../../etc/x.png,a cat\n")
    assert "none of the 1 pictures" in refusal(tmp_path, label_column="none")
    (tmp_path / "metadata.csv").write_text('file_name,"\n1')
    refusal(tmp_path)


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (("my_train.parquet", "my_test.parquet"), {"train": 2, "test": 2}),
        (("train.parquet", "eval.parquet"), {"train": 2, "test": 2}),
        (("default/train/0000.parquet", "default/test/0000.parquet"), {"train": 2, "test": 2}),
        (("default/train/0000.parquet",), {"train": 2}),
        (("train.PARQUET",), {"train": 2}),
        (("data/train-00000-of-00001.parquet", "data/odd-00000-of-00001.parquet"),
         {"train": 2, "odd": 2}),
        (("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"), {"train": 4}),
        (("a.parquet", "b.parquet"), {"train": 4}),
    ],
)  # fmt: skip
def test_parquet_files_fall_to_their_splits(tmp_path, files, splits):
    for file in files:
        table(tmp_path / file)
    assert layout(tmp_path, split=next(iter(splits))).splits == splits


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("train.parquet", "extra.parquet"), "extra.parquet of .* names no split"),
        (("train_test_split.parquet", "test.parquet"), "speaks of test and train"),
        (("default/train/0.parquet", "other/train/0.parquet"), "several configurations"),
        (("train-00000-of-00003.parquet", "train-00001-of-00003.parquet"), "2 of the 3 files"),
        (("train.parquet", "cat/1.png"), "beside folders of pictures"),
    ],
)
def test_parquet_files_that_can_be_taken_in_two_ways_are_refused(tmp_path, files, words):
    for file in files:
        (put if file.endswith("png") else lambda root, f: table(root / f))(tmp_path, file)
    with pytest.raises(EcarError, match=words):
        open_dataset(str(tmp_path))


def test_picture_beside_parquet_files_is_said(tmp_path):
    table(tmp_path / "train.parquet")
    put(tmp_path, "logo.png")
    assert layout(tmp_path).skipped == {"beside .parquet files": (1, ("logo.png",))}


def test_card_says_which_files_are_which_split(tmp_path):
    table(tmp_path / "one.parquet")
    table(tmp_path / "two.parquet", 3)
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    card += "  - split: train\n    path: one.parquet\n  - split: test\n    path: t*.parquet\n---\n"
    (tmp_path / "README.md").write_text(card)
    assert layout(tmp_path).splits == {"train": 2, "test": 3}
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    assert "cannot be read" in refusal(tmp_path)


def test_asked_split_is_never_another_of_the_same_set(tmp_path):
    for split in ("train", "val", "test"):
        put(tmp_path, f"{split}/cat/1.png", f"{split}/dog/1.png")
    for asked, given in (("validation", "val"), ("dev", "val"), ("eval", "test")):
        assert open_dataset(str(tmp_path), split=asked).info.split == given
    shutil.rmtree(tmp_path / "test")
    assert open_dataset(str(tmp_path), split="test").info.split == "val"


def test_own_folder_named_like_a_built_in_set_is_not_passed_over(tmp_path):
    put(tmp_path, "digits/cat/1.png", "digits/dog/1.png", "pets/cat/1.png", "pets/dog/1.png")
    with pytest.raises(EcarError, match="also a folder of the data root: rename the folder"):
        open_dataset("digits", data_root=tmp_path)
    assert open_dataset(str(tmp_path / "digits")).info.class_names == ("cat", "dog")
    assert list(find_datasets(tmp_path)) == ["pets"]


def test_listed_sets_are_those_that_open(tmp_path):
    put(tmp_path, "good/cat/1.png", "good/dog/1.png", "bad/train/1.png", "bad/car/1.png")
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "text").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text" / "train.parquet")
    assert find_datasets(tmp_path) == {"good": {"train": 2}}


def test_links_in_a_circle_end(tmp_path):
    put(tmp_path, "set/cat/1.png", "set/dog/1.png")
    (tmp_path / "set" / "dog" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "root").symlink_to("/")
    (tmp_path / "set" / "self").symlink_to("self")
    found = layout(tmp_path / "set")
    assert found.class_names == ("cat", "dog")
    assert found.num_images == 2
    assert found.skipped["linked a second time"][0] == 2
    assert found.skipped["no regular file"] == (1, ("self",))


def test_linked_class_folder_counts(tmp_path):
    put(tmp_path, "store/x/1.png", "set/dog/1.png")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "store" / "x")
    assert layout(tmp_path / "set").class_names == ("cat", "dog")


def test_pipes_and_devices_are_no_files(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    os.mkfifo(tmp_path / "cat" / "2.png")
    (tmp_path / "dog" / "zero.png").symlink_to("/dev/zero")
    assert (
        layout(tmp_path).skipped == {"no regular file": (2, ("dog/zero.png", "cat/2.png"))}
        or layout(tmp_path).skipped["no regular file"][0] == 2
    )
    os.mkfifo(tmp_path / "a.parquet")
    assert "is no data set" in refusal(tmp_path / "a.parquet")
    assert "is no data set" in refusal(Path("/dev/zero"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_folder_of_a_process_is_no_data_set():
    refusal(Path("/proc/self"))


def test_folder_with_too_many_other_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ecar_lab.data.places.MOST_OTHER_FILES", 3)
    put(tmp_path, "cat/1.png")
    for n in range(4):
        (tmp_path / f"{n}.txt").write_text("x")
    assert "more than 3 files that are no images" in refusal(tmp_path)


def test_names_that_are_no_text_are_said(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    try:
        shutil.copy(tmp_path / "cat/1.png", os.fsencode(tmp_path / "cat") + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert layout(tmp_path).skipped["whose name is no UTF-8"][0] == 1


def test_names_no_folder_can_have_are_refused():
    assert "is too long a name" in refusal(Path("x" * 5000))


def test_hidden_folders_are_left_out_and_said(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png", "__background__/1.png", "__MACOSX/cat/1.png")
    assert "1 hidden by its name (__background__)" in layout(tmp_path).line()


def test_arrow_files_are_left_out_with_the_remedy(tmp_path):
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"")
    assert ".arrow, which to_parquet of `datasets` makes readable" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("00000-of-00001", "00000-of-00002", "00001-of-00002"), "two writings of one split"),
        (("00000-of-00001-a1", "00000-of-00001-b2"), "2 times: keep one"),
        (("00000-of-00002-a1", "00000-of-00002-b2"), "2 times: keep one"),
    ],
)
def test_shards_that_are_there_twice_are_refused(tmp_path, names, words):
    for name in names:
        table(tmp_path / f"data/train-{name}.parquet")
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("name", ["train (1)", "train(2)", "train - Copy", "train copy 2"])
def test_a_copy_beside_its_file_is_refused(tmp_path, name):
    table(tmp_path / "train.parquet")
    table(tmp_path / f"{name}.parquet")
    assert f"'{name}.parquet' beside the file that it is a copy of" in refusal(tmp_path)
    (tmp_path / "train.parquet").unlink()
    assert layout(tmp_path).splits == {"train": 2}


def test_patterns_of_a_card_may_begin_with_a_dot(tmp_path):
    table(tmp_path / "data/a.parquet", 3)
    files = [{"split": "train", "path": "./data/a*"}]
    card = {"configs": [{"config_name": "default", "data_files": files}]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    assert layout(tmp_path).splits == {"train": 3}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("file_name,label\na.png,x\na.png,y\n", "gives a.png the classes 'x' and 'y': keep one"),
        ("file_name,label\n", "has no rows: name the pictures in it"),
        ("file_name,label\na,x\nb,y\n", "none of the 2 pictures that"),
        ("file_name,label\na.png,\xe9\n", "is no UTF-8: save it as UTF-8"),
        ("file_name,label\na.png,inf\nb.png,1.0\n", "the label inf of .* is beyond"),
        ("file_name,label\na.png,x,1\n", "mend it, or take it away to go by folders"),
    ],
)
def test_metadata_that_cannot_be_meant_is_refused(tmp_path, content, words):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_bytes(content.encode("latin-1"))
    assert re.search(words, refusal(tmp_path))


def test_metadata_written_on_windows_is_read(tmp_path):
    put(tmp_path, "in/a.png", "in/b.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\nin\\a.png,x\nin\\b.png,y\n")
    assert layout(tmp_path).splits == {"train": 2}


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("cat ", "cat"), ("01", "1")])
def test_classes_that_look_like_one_are_refused(tmp_path, one, other):
    put(tmp_path, f"train/{one}/1.png", "train/dog/1.png", f"test/{other}/1.png", "test/dog/1.png")
    assert "which look like one" in refusal(tmp_path)


def test_letters_of_both_cases_are_classes(tmp_path):
    put(tmp_path, "train/A/1.png", "train/a/1.png", "test/a/1.png")
    assert layout(tmp_path).class_names == ("A", "a")


def test_layout_is_said_once_where_a_set_is_opened(tmp_path, caplog):
    put(tmp_path, "pets/cat/1.png", "pets/dog/1.png", "pets/logo.png")
    with caplog.at_level("INFO", "ecar_lab"):
        open_dataset(str(tmp_path / "pets"))
        open_dataset(str(tmp_path / "pets"))
    said = [record.message for record in caplog.records]
    assert len(said) == 1
    assert (
        "1 split, 2 classes, 2 images, 1 file skipped: 1 in no class folder (logo.png)" in said[0]
    )
