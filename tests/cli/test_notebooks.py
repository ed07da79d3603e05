"""`ecar notebooks`: copied, and nobody's work overwritten."""

from pathlib import Path

import pytest

from ecar_lab.cli import main as cli
from tests.cli.commands import complaint, files

SOURCE = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = {file.name for file in SOURCE.glob("[0-9]*.ipynb")}


def test_notebooks_are_copied_and_with_solutions_too(capsys):
    assert len(NAMES) == 12
    assert cli.main(["notebooks", "a/course"]) == 0
    assert files(Path("a/course")) == NAMES
    name = sorted(NAMES)[0]
    assert Path("a/course", name).read_bytes() == (SOURCE / name).read_bytes()
    assert cli.main(["notebooks", "a/course", "--solutions"]) == 0
    assert "12 notebooks copied into a/course, 12 were there already" in capsys.readouterr().out
    assert files(Path("a/course")) == NAMES | {f"solutions/{one}" for one in NAMES}


def test_what_a_notebook_opens_and_the_package_lacks_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ECAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ecar_lab.cli.notebooks.left_behind", lambda: {"cifar10-dit": tmp_path})
    assert cli.main(["notebooks", "one"]) == 0
    assert "08_experiments.ipynb asks in a cell for cifar10-dit" in capsys.readouterr().out
    (tmp_path / "cache" / "checkpoints" / "cifar10-dit").mkdir(parents=True)
    assert cli.main(["notebooks", "two"]) == 0
    assert "cifar10-dit" not in capsys.readouterr().out


@pytest.mark.parametrize("in_the_way", ["file", "folder", "link"])
def test_what_differs_stays_and_nothing_else_is_written(capsys, in_the_way):
    Path("course").mkdir()
    place = Path("course", sorted(NAMES)[5])
    if in_the_way == "file":
        place.write_text("my work")
    elif in_the_way == "folder":
        place.mkdir()
    else:
        place.symlink_to("nowhere")
    assert "is not overwritten" in complaint(capsys, cli.main(["notebooks", "course"]))
    assert [one.name for one in Path("course").iterdir()] == [place.name]


def test_a_folder_that_cannot_be_is_one_sentence(capsys, no_room):
    Path("file").write_text("x")
    assert "cannot write" in complaint(capsys, cli.main(["notebooks", "file"]))
    assert "cannot write" in complaint(capsys, cli.main(["notebooks", "full"]))
    assert files(Path("full")) == set()
    assert "ecar notebooks --help" in complaint(capsys, cli.main(["notebooks"]))
