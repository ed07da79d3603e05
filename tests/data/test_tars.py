"""Tar files of samples: the same set as any other, and every bad one a sentence."""

import pytest

from ecar_lab.data import open_dataset
from ecar_lab.data.opening import survey
from ecar_lab.errors import EcarError
from tests.data.pictures import encoded, numbers, write_tar

TWELVE = [encoded(n) for n in range(12)]


def held(data) -> dict[int, str]:
    """Number of each picture -> name of its class."""
    images, labels = data.arrays()
    names = [data.info.class_names[label] for label in labels.tolist()]
    return dict(zip(numbers(images.float() / 127.5 - 1), names, strict=True))


def test_classes_are_numbers_names_or_in_json(tmp_path):
    for kind, labels in {
        "cls": [n % 3 for n in range(12)],
        "txt": ["cat" if n % 2 else "dog" for n in range(12)],
        "json": [{"label": n % 3, "image": "x.png", "more": [1]} for n in range(12)],
    }.items():
        folder = tmp_path / kind
        folder.mkdir()
        write_tar(folder / "train-000000.tar", TWELVE[:7], **{kind: labels[:7]})
        write_tar(folder / "train-000001.tar", TWELVE[7:], **{kind: labels[7:]})
        column = {"label_column": "txt"} if kind == "txt" else {}
        data = open_dataset(str(folder), **column)
        plain = [label["label"] if kind == "json" else label for label in labels]
        assert held(data) == {n: str(label) for n, label in enumerate(plain)}


def test_one_tar_file_is_a_set_and_its_content_tells_it_from_others(tmp_path):
    one = open_dataset(str(write_tar(tmp_path / "a.tar", TWELVE)))
    other = open_dataset(str(write_tar(tmp_path / "b.tar", TWELVE[:11])))
    assert one.info.num_images == 12
    assert one.fingerprint != other.fingerprint
    assert open_dataset(str(tmp_path / "a.tar"), streaming=True).fingerprint == one.fingerprint


def test_splits_are_found_and_counted(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write_tar(folder / "set-train-000000.tar", TWELVE)
    write_tar(folder / "set-val-000000.tar", TWELVE[:6])
    assert survey(tmp_path) == {"set": {"train": 12, "validation": 6}}


def test_sample_without_an_image_is_left_out_and_named(tmp_path):
    data = open_dataset(str(write_tar(tmp_path / "a.tar", [*TWELVE[:3], None])))
    assert data.info.num_images == 3
    assert data.layout.skipped["without an image"] == (1, ("a.tar: 000003",))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"cls": [0, 1, None]}, "some labels of .* are missing"),
        ({"json": ["x", "y", "z"]}, "no label column"),
        ({"cls": ["a" * 70_000, "a", "b"]}, "labels 000000.cls in .* cannot be read"),
    ],
)
def test_labels_that_are_none_are_explained(tmp_path, labels, words):
    file = write_tar(tmp_path / "a.tar", TWELVE[:3], **labels)
    with pytest.raises(EcarError, match=words):
        open_dataset(str(file))


def test_damaged_file_is_explained(tmp_path):
    file = write_tar(tmp_path / "a.tar", TWELVE)
    whole = file.read_bytes()
    for content in (whole[:700], b"no tar file at all", b""):
        file.write_bytes(content)
        with pytest.raises(EcarError, match=r"cannot read .*a\.tar"):
            open_dataset(str(file))


def test_tar_files_beside_pictures_are_left_out(folder):
    write_tar(folder / "raw.tar", TWELVE)
    data = open_dataset(str(folder))
    assert data.info.num_images == 10
    assert ".tar and no image" in data.layout.skipped
