"""Notebook 11: the folder that is drawn, the reader's own, what is shown of them, and the app."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ecar_lab import EcarError
from ecar_lab.data import open_dataset
from ecar_lab.teaching import drawn, folders, running, session
from ecar_lab.teaching.check import own_images as check
from ecar_lab.teaching.explore import own_images as explore


@pytest.fixture
def lab(monkeypatch, tmp_path):
    monkeypatch.setenv("ECAR_LAB_PROFILE", "full")
    monkeypatch.chdir(tmp_path)
    return session.Session(11, 0, torch.device("cpu"), torch.float32, "full")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return drawn.make_folder(tmp_path_factory.mktemp("drawn") / "pictures", 4, 2)


def test_the_drawn_folder_is_the_same_every_time_and_of_many_sizes(pictures, tmp_path):
    again = drawn.make_folder(tmp_path / "again", 4, 2)
    files = sorted(file.relative_to(pictures) for file in pictures.rglob("*") if file.is_file())
    assert [(pictures / file).read_bytes() for file in files] == [
        (again / file).read_bytes() for file in files
    ]
    sizes = {image.size for image in folders.some_pictures(pictures, 12)}
    assert len(sizes) >= 10
    assert set(drawn.CLASSES) == {path.name for path in (again / "test").iterdir()}


@pytest.mark.parametrize("static", [False, True])
def test_a_command_is_kept_and_its_progress_shown_as_plain_lines(monkeypatch, capsys, static):
    monkeypatch.setattr(running, "is_static", lambda: static)
    with explore.terminal() as captured:
        print("the result")
        print("step 1 of 2", file=sys.stderr)
    assert captured.stdout == "the result\n"
    assert captured.stderr == ("step 1 of 2\n" if static else "")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("" if static else "step 1 of 2\n", "")


def test_broken_files_are_skipped_and_counted(pictures):
    data = open_dataset(str(pictures), split="train", image_size=32)
    with pytest.warns(UserWarning, match=r"is no readable image"):
        images, labels = data.arrays()
    assert data.skipped == 3
    assert data.layout.num_skipped == 1  # the notes
    assert labels.bincount().tolist() == [4, 4, 4, 4]
    assert images.shape == (16, 3, 32, 32)


def test_pictures_are_read_as_the_model_sees_them(pictures):
    images, names = folders.pictures(pictures, "test")
    assert names == ("flower", "house", "ship", "tree")
    assert images.shape == (8, 3, 32, 32)
    assert -1 <= images.min() < 0 < images.max() <= 1
    sky = images[:, :, 0].mean(dim=(0, 2))
    assert sky.argmax() == 2  # blue


def test_a_drawing_stays_as_it_is_when_asked_for_again(pictures):
    file = next(pictures.rglob("*.png"))
    file.touch()
    before = file.stat().st_mtime_ns
    assert drawn.make_folder(pictures, 99, 99) == pictures
    assert file.stat().st_mtime_ns == before


def classes_of(place: Path, count: int) -> None:
    for name in ("apples", "pears"):
        (place / name).mkdir(parents=True)
        for number in range(count):
            drawn.draw("tree", number).save(place / name / f"{number}.png")


def test_a_folder_without_a_test_split_gets_one_and_stays_as_it_is(lab, tmp_path, capsys):
    classes_of(tmp_path / "fruit", 10)
    before = sorted((tmp_path / "fruit").rglob("*"))
    apart = folders.folder(lab, tmp_path / "fruit")
    splits = {
        split: len(open_dataset(str(apart), split=split, image_size=32).arrays()[0])
        for split in ("train", "test")
    }
    assert splits == {"train": 16, "test": 4}
    assert sorted((tmp_path / "fruit").rglob("*")) == before
    assert folders.folder(lab, tmp_path / "fruit") == apart
    assert "every fifth picture is held out" in capsys.readouterr().out
    assert folders.folder(lab, apart) == apart


def test_a_folder_that_is_none_is_refused_in_a_sentence(lab, tmp_path):
    with pytest.raises(EcarError, match="nowhere"):
        folders.folder(lab, tmp_path / "nowhere")


def test_pixels_are_compared_with_the_kit_s(pictures):
    explore.same_pixels(pictures, check.middle_square.reference)
    with pytest.raises(AssertionError, match="another part of the picture"):
        explore.same_pixels(pictures, lambda width, height: (0, 0, width, height))


def test_a_warm_start_knows_classes_by_name_only():
    names = ["flower", "ship"]
    pipe = explore.warm_started("cifar10", names, torch.device("cpu"))
    images = explore.made(pipe, names, 1, num_inference_steps=1)
    assert images.shape == (2, 3, 32, 32)
    rows = pipe.model.class_embeddings[0].weight
    assert torch.equal(rows[0], rows[2])  # no class
    assert not torch.equal(rows[1], rows[2])


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.5, "no sign of copies"), (0.9, "are they copies"), (0.1, "misses something")],
)
def test_a_verdict_says_no_more_than_the_share_does(share, words, capsys):
    distance = {"generated": torch.rand(3), "held out": torch.rand(4)}
    explore.verdict(distance, share)
    assert words in capsys.readouterr().out


def test_an_evaluation_is_shown_between_its_reference_points(tmp_path, monkeypatch):
    def measures(distance):
        names = ("frechet_distance[f]", "precision_k3[f]", "recall_k3[f]")
        return {**dict.fromkeys(names, distance), "images": 8}

    found = {
        "metrics": measures(0.9),
        "reference_points": {"reconstructions": measures(0.25)},
        "class_accuracy": {"generated": 0.5, "real": 0.75},
        "reference": {"images": 24},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(found), "utf-8")
    shown = []
    monkeypatch.setattr(explore, "table", lambda header, rows: shown.extend(rows))
    explore.evaluation(tmp_path / "evaluation.json")
    assert shown[0] == ("generated", 8, "0.90", "0.90", "0.90", "50%")
    assert shown[1][0] == "reconstructions"
    assert shown[2][-1] == "75%"


def test_neighbours_follow_their_controls(tiny_pipeline, monkeypatch, capsys):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    side = tiny_pipeline.image_size
    known = 2 * torch.rand(5, 3, side, side, generator=torch.Generator().manual_seed(0)) - 1
    how = {"num_inference_steps": 1}
    box = explore.neighbours(tiny_pipeline, known, check.nearest.reference, how)
    *controls, trouble, view = box.children
    before = view.value
    controls[1].value = 3
    assert view.value != before
    assert trouble.value == ""


def test_a_gallery_fills_short_rows_with_white():
    rows = {"a": torch.zeros(2, 3, 32, 32), "b": torch.zeros(1, 3, 32, 32)}
    assert isinstance(explore.gallery(rows, 32), Image.Image)


def test_the_app_is_waited_for_and_stopped_where_nobody_is_watching(monkeypatch, tmp_path):
    monkeypatch.setenv("ECAR_LAB_STATIC", "1")
    monkeypatch.chdir(tmp_path)

    def stands_in(checkpoint, port):
        return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]

    assert "app --checkpoint mine --port 1" in " ".join(running.command(Path("mine"), 1))
    monkeypatch.setattr(running, "command", stands_in)
    assert "stopped again" in running.open_app(tmp_path)
    monkeypatch.setattr(running, "command", lambda *_: [sys.executable, "-c", "raise SystemExit"])
    with pytest.raises(EcarError, match="the app ended: run `ecar app"):
        running.open_app(tmp_path)
