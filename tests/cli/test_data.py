"""`ecar data`: what is there, and a look into a set."""

from pathlib import Path

import pytest
from PIL import Image

from ecar_lab.cli import main as cli
from tests.cli.commands import complaint


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
