"""`ecar data`: what is there, and a look into a set."""

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from ecar_lab.cli import main as cli
from tests.cli.commands import complaint
from tests.data.pictures import put


def test_data_lists_what_is_there(data_root, capsys):
    assert cli.main(["data", "--data", str(data_root)]) == 0
    out = capsys.readouterr().out
    assert "train 50,000" in next(line for line in out.splitlines() if line.startswith("cifar10"))
    assert str(data_root) in out


def test_data_without_a_root_says_how_to_name_one(monkeypatch, capsys):
    monkeypatch.delenv("ECAR_DATA", raising=False)
    assert cli.main(["data"]) == 0
    out = capsys.readouterr().out
    assert "needs no file" in out
    assert "ECAR_DATA" in out


def test_data_looks_into_a_set(capsys):
    assert (
        cli.main(["data", "digits", "--look", "200", "--columns", "3", "--out", "sheet.png"]) == 0
    )
    out = capsys.readouterr().out
    assert "digits, split train: 1,437 images, 8 px" in out
    assert "10 classes; of 200 images looked at" in out
    width, height = Image.open("sheet.png").size
    assert height > width, "ten rows of three"


def test_data_says_what_it_recognised_and_what_it_left_out(tmp_path, capsys):
    put(tmp_path, "pets/train/cat/1.png", "pets/train/dog/1.png", "pets/extra/1.png")
    assert cli.main(["data", str(tmp_path / "pets")]) == 0
    out = capsys.readouterr().out
    assert "1 split, 2 classes, 2 images, 1 file skipped: 1 beside the splits" in out
    assert "class folders; train 2" in out
    assert "beside the splits: 1 (extra/1.png)" in out


def test_data_lists_only_what_it_would_open_and_says_why_not(tmp_path, capsys):
    put(tmp_path, "digits/cat/1.png", "pets/cat/1.png", "odd/train/1.png", "odd/car/1.png")
    assert cli.main(["data", "--data", str(tmp_path)]) == 0
    listed, _, refused = capsys.readouterr().out.partition("folders that are not opened:")
    assert "pets             train 1" in listed
    assert "odd" not in listed
    assert "digits" not in listed
    assert "'odd'" in refused or "odd' holds 'train'" in refused
    assert "'digits' is a set that the kit brings" in refused


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_in_another_script_print_on_any_terminal(tmp_path, monkeypatch, encoding):
    put(tmp_path, "猫/1.png", "собака/1.png")
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert cli.main(["data", str(tmp_path)]) == 0
    sys.stdout.flush()
    assert rb"\u732b: 1" in raw.getvalue()


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["cifar11"], "'cifar11'"),
        (["digits", "--split", "dream"], "'dream'"),
        (["digits", "--look", "0"], "--look is 0"),
        (["digits", "--image-size", "-8"], "-8"),
        (["--data", "nowhere"], "'nowhere'"),
        (["digits", "--out", "file.txt/sheet.png"], "file.txt"),
    ],
)
def test_data_refuses_what_is_not_there(capsys, tmp_path, switches, words):
    Path("file.txt").write_text("in the way")
    (tmp_path / "sets").mkdir()
    root = [] if "--data" in switches else ["--data", str(tmp_path / "sets")]
    assert words in complaint(capsys, cli.main(["data", *switches, *root]))
