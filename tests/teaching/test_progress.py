"""What has been solved: noted by checks, once a notebook is open, and never lost."""

import json
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

from ecar_lab.teaching import check, progress, record, session
from ecar_lab.teaching.check import start
from ecar_lab.teaching.exercises import every


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder of an open notebook."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "_open", True)
    monkeypatch.setattr(record, "PATIENCE", 30.0)
    monkeypatch.delenv("ECAR_LAB_PROGRESS", raising=False)
    monkeypatch.delenv("ECAR_LAB_STRICT", raising=False)
    return tmp_path


def there() -> dict[str, str]:
    return json.loads(record.file().read_text("utf-8"))["solved"]


def test_a_check_notes_what_it_found_right_and_nothing_else(capsys):
    start.resolutions(lambda size, n: [size // 2 ** (n - 1 - s) for s in range(n)])
    start.num_tokens(lambda sides, patch: sides)
    assert list(there()) == ["0.1"]
    first = there()
    start.resolutions(start.resolutions.reference)
    assert there() == first, "the day on which it was first solved stays"


def test_nothing_is_written_before_a_notebook_is_open(here, monkeypatch):
    monkeypatch.setattr(record, "_open", False)
    start.resolutions(start.resolutions.reference)
    assert list(here.iterdir()) == []
    monkeypatch.setattr(session, "show", lambda *_: None)
    session.setup(0)
    start.resolutions(start.resolutions.reference)
    assert list(there()) == ["0.1"]


def test_the_list_of_all_exercises_says_which_are_open(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(progress, "table", lambda header, rows: shown.extend(rows))
    for number in ("0.1", "0.2", "0.3", "2.5", "77.7"):  # one of a kit of another age
        record.add(number)
    progress.show()
    rows = {row[0]: row[1:] for row in shown}
    assert rows["0 start"] == ("●●● 3 of 3", "✔")
    assert rows["2 autoregression"] == ("●○○○○○○ 1 of 7", "2.1, 2.2, 2.3, 2.4, 2.6, 2.7")
    assert f"4 of {len(every())} exercises solved." in capsys.readouterr().out
    assert "77.7" in there()


def test_kernels_that_write_at_once_lose_nothing():
    script = (
        "import sys; from ecar_lab.teaching import record; record.begin()\n"
        "for n in range(5): record.add(f'{sys.argv[1]}.{n}')"
    )
    # The other process is another kernel; threads are as near as one process gets.
    other = subprocess.Popen([sys.executable, "-c", script, "50"])
    threads = [
        threading.Thread(target=lambda k=k: [record.add(f"{k}.{n}") for n in range(5)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait() == 0
    assert set(there()) == {f"{k}.{n}" for k in (0, 1, 2, 3, 50) for n in range(5)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[1]", "is no JSON object"),
        ("{}", "has no list of what was solved"),
        ('{"solved": ["0.1"]}', "has no list of what was solved"),
        ('{"solved": {"0.1": 3}}', "'0.1' has no date"),
        ('{"solved": {"0.1": NaN}}', "is no JSON"),
    ],
)
def test_a_broken_record_is_kept_aside_with_a_sentence(here, capsys, content, words):
    record.file().write_text(content)
    record.add("0.2")
    (line,) = capsys.readouterr().out.splitlines()
    assert words in line
    assert line.endswith("it is kept as my_progress.broken.json, and a new one begins.")
    assert (here / "my_progress.broken.json").read_text() == content
    assert list(there()) == ["0.2"]
    record.file().write_text("again")
    assert record.solved() == {}
    assert (here / "my_progress.broken.json").read_text() == content
    assert (here / "my_progress.broken2.json").read_text() == "again"


def test_a_folder_in_its_place_is_put_aside_too(here, capsys):
    record.file().mkdir()
    record.add("0.2")
    assert "it is kept as my_progress.broken.json" in capsys.readouterr().out
    assert list(there()) == ["0.2"]


def test_where_nothing_can_be_written_the_lesson_goes_on(here, capsys, monkeypatch):
    (here / "file").write_text("")
    monkeypatch.setenv("ECAR_LAB_PROGRESS", str(here / "file" / "x.json"))
    start.resolutions(start.resolutions.reference)
    said = capsys.readouterr().out
    assert "x.json was not read or written: " in said
    assert "Traceback" not in said


def test_a_record_that_another_holds_is_waited_for_and_then_left(here, capsys, monkeypatch):
    monkeypatch.setattr(record, "PATIENCE", 0.05)
    with FileLock(record.file().with_suffix(".lock")):
        record.add("0.1")
    assert "another notebook holds it, try again" in capsys.readouterr().out


def test_a_reset_keeps_the_earlier_record(here, capsys):
    record.add("0.1")
    progress.reset()
    assert "the earlier one is kept as my_progress.before.json" in capsys.readouterr().out
    assert record.solved() == {}
    assert json.loads((here / "my_progress.before.json").read_text())["solved"].keys() == {"0.1"}
    progress.reset()
    assert capsys.readouterr().out == "my_progress.json is empty.\n"


def test_a_record_may_lie_elsewhere(here, monkeypatch):
    monkeypatch.setenv("ECAR_LAB_PROGRESS", str(here / "apart" / "mine.json"))
    record.add("0.1")
    assert list(there()) == ["0.1"]
    assert not (here / record.NAME).exists()
    assert check.judge(start.resolutions.diagnose, None).state == "wrong"
