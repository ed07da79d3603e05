"""Classes are known by their names: across files, splits, sets and models."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecar_lab.data import open_dataset
from ecar_lab.errors import EcarError
from tests.data.pictures import encoded, put, write_parquet


def write(path, labels, kind=None, column="label"):
    images = [encoded(n) for n in range(len(labels))]
    columns = {"image": images}
    if labels is not None and column:
        columns[column] = pa.array(labels, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_named(path, labels, names):
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(names))
    )
    rows = {"image": [encoded(n) for n in range(len(labels))], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def names_of(place, **options) -> list[str]:
    data = open_dataset(str(place), **options)
    (_, labels) = next(data.batches(len_of(data), drop_last=False))
    return sorted(data.info.class_names[label] for label in labels.tolist())


def len_of(data) -> int:
    return data.layout.splits[data.info.split]


def refusal(place, **options) -> str:
    with pytest.raises(EcarError) as caught:
        next(open_dataset(str(place), **options).batches(1))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_text_labels_of_two_splits_share_one_list_of_names(tmp_path, streaming):
    write(tmp_path / "train.parquet", ["cat", "dog"])
    write(tmp_path / "test.parquet", ["cat", "fox"])
    for split, words in (("train", ["cat", "dog"]), ("test", ["cat", "fox"])):
        data = open_dataset(str(tmp_path), split=split, streaming=streaming)
        assert data.info.class_names == ("cat", "dog", "fox")
        assert names_of(tmp_path, split=split, streaming=streaming) == words


@pytest.mark.parametrize("streaming", [False, True])
def test_files_that_number_their_classes_differently_are_matched_by_name(tmp_path, streaming):
    write_named(tmp_path / "train-0.parquet", [0, 1], ["cat", "dog"])
    write_named(tmp_path / "train-1.parquet", [0, 1, 1], ["dog", "elk"])
    write_named(tmp_path / "test.parquet", [0], ["elk", "cat"])
    write(tmp_path / "test-1.parquet", ["dog"])
    assert names_of(tmp_path, streaming=streaming) == ["cat", "dog", "dog", "elk", "elk"]
    assert names_of(tmp_path, split="test", streaming=streaming) == ["dog", "elk"]
    assert open_dataset(str(tmp_path)).info.class_names == ("cat", "dog", "elk")


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ([7, 0, 2], "int8", ("0", "2", "7")),
        ([1.0, 10.0, 2.0], "float64", ("1", "2", "10")),
        ([True, False], "bool", ("False", "True")),
        (["10", "2", "0"], "string", ("0", "2", "10")),
        (["b", "a"], "large_string", ("a", "b")),
        ([2**63], "uint64", (str(2**63),)),
    ],
)
def test_labels_of_any_plain_type_become_names(tmp_path, labels, kind, names):
    write(tmp_path / "a.parquet", labels, kind)
    data = open_dataset(str(tmp_path / "a.parquet"))
    assert data.info.class_names == names
    texts = [names[label] for label in data.arrays()[1].tolist()]
    assert texts == [str(int(v) if kind == "float64" else v) for v in labels]


def test_categories_of_pandas_become_names(tmp_path):
    column = pa.array(["cat", "dog", "cat"]).dictionary_encode()
    pq.write_table(
        pa.table({"image": [encoded(n) for n in range(3)], "label": column}), tmp_path / "a.parquet"
    )
    data = open_dataset(str(tmp_path / "a.parquet"))
    assert data.info.class_names == ("cat", "dog")
    assert data.arrays()[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[1], [2]], "of the type list"),
        ([{"a": 1}], "of the type dict"),
        ([0.5], "the label 0.5 .* is a fraction"),
        ([0, -1], "the label -1 .* is negative"),
        (["cat", None], "some labels .* are missing"),
        (["cat", ""], "some labels .* are missing"),
        ([1.0, float("nan")], "some labels .* are missing"),
        ([b"cat"], "of the type binary"),
        ([None], "of the type null"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, words, streaming):
    write(tmp_path / "a.parquet", labels)
    with pytest.raises(EcarError, match=words):
        open_dataset(str(tmp_path / "a.parquet"), streaming=streaming)
    assert open_dataset(str(tmp_path / "a.parquet"), label_column="none").info.num_classes == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_unlabelled_split_is_refused_and_the_labelled_one_opens(tmp_path, streaming):
    write_named(tmp_path / "train.parquet", [0, 1], ["cat", "dog"])
    write_named(tmp_path / "test.parquet", [-1, -1], ["cat", "dog"])
    assert names_of(tmp_path, streaming=streaming) == ["cat", "dog"]
    assert "has the label " in refusal(tmp_path, split="test", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_files_that_do_not_fit_together_are_refused(tmp_path, streaming):
    write(tmp_path / "a" / "train-0.parquet", ["cat"])
    write(tmp_path / "a" / "train-1.parquet", [3])
    message = refusal(tmp_path / "a", streaming=streaming)
    assert "are text in train-0.parquet and whole numbers in train-1.parquet" in message
    write(tmp_path / "b" / "train-0.parquet", ["cat"])
    write(tmp_path / "b" / "train-1.parquet", ["cat"], column="class")
    message = refusal(tmp_path / "b", streaming=streaming)
    assert "no label column 'label' among image, class in train-1.parquet" in message
    write(tmp_path / "c" / "train.parquet", ["cat"])
    write(tmp_path / "c" / "test.parquet", ["fox"])
    assert "have no class in common ('cat', 'fox', ...)" in refusal(tmp_path / "c")


def test_one_spelling_of_an_accented_name(tmp_path):
    put(tmp_path, "train/caf\u00e9/1.png", "train/bar/1.png", "test/cafe\u0301/1.png")
    assert open_dataset(str(tmp_path), split="test").info.class_names == ("bar", "caf\u00e9")


def test_set_takes_the_numbers_of_a_model_by_name(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png", "elk/1.png")
    data = open_dataset(str(tmp_path))
    same = data.numbered_as(["elk", "cat", "dog"])
    assert same.info.class_names == ("elk", "cat", "dog")
    assert same.arrays()[1].tolist() == [1, 2, 0]
    assert sorted(next(same.batches(3))[1].tolist()) == [0, 1, 2]
    assert data.arrays()[1].tolist() == [0, 1, 2]
    assert data.numbered_as(("cat", "dog", "elk")) is data
    with pytest.raises(EcarError, match=r"other classes than the checkpoint .*: give the data set"):
        data.numbered_as(["cat", "dog", "fox"])
    with pytest.raises(EcarError, match="3 classes, the checkpoint 2"):
        data.numbered_as(["cat", "dog"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("folder", ["[v1]", "a::b", "hf*?", "label=3"])
def test_folder_of_any_name_streams(tmp_path, streaming, folder):
    write_parquet(tmp_path / "plain" / "train.parquet", [encoded(n) for n in range(3)])
    place = (tmp_path / "plain").rename(tmp_path / folder)
    assert names_of(place, streaming=streaming) == ["cat", "dog", "frog"]
    assert names_of(place / "train.parquet", streaming=streaming) == ["cat", "dog", "frog"]


def test_streaming_of_local_files_writes_nowhere(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "train.parquet", [encoded(n) for n in range(3)])
    home = tmp_path / "home"
    for name in ("HF_DATASETS_CACHE", "HF_CACHE_HOME", "HF_MODULES_CACHE"):
        monkeypatch.setattr(datasets.config, name, home)
    assert names_of(path, streaming=True) == ["cat", "dog", "frog"]
    assert not home.exists()


def test_cache_of_the_hub_that_cannot_be_written_is_named(monkeypatch):
    def load(*args, **options):
        raise PermissionError(13, "Permission denied", "/home/x/.cache")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert "'/home/x/.cache' (Permission denied): name a folder" in refusal("hub:owner/name")


def test_splits_of_the_hub_with_other_names_are_matched_by_name(monkeypatch):
    def part(labels, names):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
        rows = {"image": [encoded(n) for n in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    splits = {"train": part([0, 1], ["cat", "dog"]), "test": part([0], ["dog", "cat"])}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, streaming: splits)
    data = open_dataset("hub:owner/name", split="test")
    assert data.info.class_names == ("cat", "dog")
    assert data.arrays()[1].tolist() == [1]
