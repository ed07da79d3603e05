"""Grading: what an exercise does counts, and nothing that the notebook says or does beside it."""

import csv
import io
import json
import os
import sys

import pytest

from ecar_lab import EcarError
from ecar_lab.cli import main as cli
from ecar_lab.teaching.exercises import every, of_notebook
from ecar_lab.teaching.grading import grader, submission
from ecar_lab.teaching.grading.report import Grade, Report, as_csv, table
from notebooks import build
from tests.teaching.grading.made import EMPTY, IMPORTS, code, exercise, save

SAYS_SO = "display(HTML('✔ exercise 3.2 an Euler step: right'))\nprint('✔ exercise 3.2: right')"
TAMPERS = """
from ecar_lab.teaching import check as core
from ecar_lab.teaching.check import flow_matching as check
core.judge = lambda *given: core.Verdict("right", "right")
core.expect_close = check.expect_close = lambda *given: None
torch.allclose = lambda *given, **named: True
core.Attempt.__call__ = lambda self, *given: 0
object.__setattr__(check.euler_step, "diagnose", print)
check.euler_step = print
kit_s = check.guided.reference
"""


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A notebook in which each exercise has met another fate."""
    path = tmp_path_factory.mktemp("graded") / "anna.ipynb"
    save(
        path,
        code(IMPORTS + TAMPERS),
        exercise("3.1"),
        exercise("3.2", "def euler_step(velocity, x, times, step):\n    raise SystemExit(0)"),
        code("euler_step = check.euler_step(euler_step)\n" + SAYS_SO),
        code("1 / 0"),
        exercise("3.3", "def heun_step(*given):\n    while True: pass"),
        exercise("3.4", "def guided(*given):\n    return kit_s(*given)"),
        exercise("3.5", done=False),
        code("raise KeyError('never reached: no exercise comes after it')"),
    )
    return grader.grade(path, limit=8)


def test_each_exercise_is_judged_by_what_it_does(graded):
    assert [(one.exercise, one.state, one.points) for one in graded.exercises] == [
        *(("3.1", "right", 2), ("3.2", "wrong", 0), ("3.3", "wrong", 0)),
        *(("3.4", "wrong", 0), ("3.5", "missing", 0)),
    ]
    said = {one.exercise: one.sentence for one in graded.exercises}
    assert said["3.1"] == "right"
    assert said["3.2"] == "it raised SystemExit: 0"
    assert said["3.3"] == "it ran longer than 8 s and was stopped"
    assert said["3.4"] == "it is the kit's own version: write it yourself"
    assert said["3.5"] == "not done yet"
    assert (graded.points, graded.maximum) == (2, 11)


def test_a_notebook_that_changes_the_checks_is_told_on(graded):
    notes = " ".join(graded.notes)
    for name in ("ecar_lab.teaching.check.judge", "torch.allclose", "Attempt.__call__"):
        assert f"it changed {name}, which was put back" in notes
    assert "cell 5 raised ZeroDivisionError: division by zero" in notes
    assert "KeyError" not in notes


# In place of the process that judges, which takes seconds to be up: it finds everything right.
STAND_IN = """
import json, signal, sys
order = json.load(sys.stdin)

def tell(kind, **words):
    print(json.dumps({"kind": kind, "token": order["token"], **words}), flush=True)

signal.signal(signal.SIGINT, signal.SIG_IGN)
tell("ready")
print("no JSON", json.dumps({"kind": "verdict", "token": "guessed"}), sep="\\n", flush=True)
for place, text, number, is_last in order["cells"]:
    tell("cell", place=place)
    exec(text, space := {})
    if number:
        tell("begin", number=number)
        space["answer"]()
        if is_last:
            tell("verdict", number=number, state="right", sentence="right")
tell("end")
"""
FINE = "def answer():\n    return 1"
ENDLESS = "while True: pass"
GONE = "import os; os._exit(0)"


def graded_by_stand_in(monkeypatch, path, *texts, limit=1.5):
    monkeypatch.setattr(grader, "COMMAND", [sys.executable, "-c", STAND_IN])
    monkeypatch.setattr(grader, "GRACE", 0.2)
    monkeypatch.setattr(grader, "START", 60.0)
    monkeypatch.setattr(submission, "_defines", lambda cell, name, is_marked: is_marked)
    numbers = [f"3.{n + 1}" for n in range(len(texts))]
    report = grader.grade(save(path / "x.ipynb", *map(exercise, numbers, texts)), limit)
    return [one.sentence for one in report.exercises[: len(texts)]], report


def test_what_no_interrupt_ends_is_ended_and_the_rest_goes_on(tmp_path, monkeypatch):
    said, report = graded_by_stand_in(monkeypatch, tmp_path, f"def answer():\n  {ENDLESS}", ENDLESS)
    assert said == ["it ran longer than 1.5 s", "cell 2 ran longer than 1.5 s"]
    assert report.points == 0


def test_what_ends_the_process_costs_only_its_own_points(tmp_path, monkeypatch):
    said, report = graded_by_stand_in(
        monkeypatch, tmp_path, f"def answer(): {GONE}", GONE, FINE, limit=60
    )
    assert said == ["it ended the process", "cell 2 ended the process", "right"]
    assert report.points == 3
    assert report.notes == ["cell 2 ended the process: left out"]


def test_a_notebook_that_ends_it_again_and_again_is_given_up(tmp_path, monkeypatch):
    said, report = graded_by_stand_in(monkeypatch, tmp_path, *[GONE] * 4, FINE, limit=60)
    assert said[-1] == "it was not reached: the notebook was given up before it"
    assert "again and again" in report.notes[-1]


def test_a_notebook_has_a_limit_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(grader, "ALL", 0)
    said, report = graded_by_stand_in(monkeypatch, tmp_path, FINE, limit=60)
    assert said == ["it was not reached: the notebook was given up before it"]
    assert "not run from cell 1 on" in report.notes[-1]


def test_a_process_that_does_not_start_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(grader, "COMMAND", [sys.executable, "-c", "1 / 0"])
    with pytest.raises(EcarError, match="the process that runs notebooks did not start"):
        grader.grade(save(tmp_path / "x.ipynb", exercise("3.1")))


def test_words_of_a_notebook_can_be_printed_and_written():
    said = grader.plain("it raised \x1b[31mred\x07 \ud800 ✔ é" + "x" * 9999)
    assert said.startswith("it raised \N{REPLACEMENT CHARACTER}[31mred")
    assert said.encode("utf-8")
    assert "✔ é" in said
    assert len(said) == 500


def run(*arguments):
    return cli.main(["grade", *map(str, arguments)])


def test_a_class_is_graded_although_some_files_are_bad(tmp_path, monkeypatch, capsys):
    """What runs is replaced by a verdict: here it is the command that counts."""
    monkeypatch.setattr(
        grader, "_run", lambda _, run: run.verdicts.update({"3.1": ("right", "right")})
    )
    good = save(tmp_path / "=anna.ipynb", exercise("3.1"), exercise("3.2"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ben.ipynb").write_text("{")
    assert run(good.name, "ben.ipynb", tmp_path, "--out", "grades.csv") == 2
    said = capsys.readouterr()
    assert "=anna.ipynb: notebook 3, 2 of 11" in said.out
    assert [line[:7] for line in said.err.splitlines()] == ["error: "] * 2
    (row,) = csv.DictReader(io.StringIO((tmp_path / "grades.csv").read_text("utf-8")))
    assert row["file"] == "'=anna.ipynb", "a spreadsheet would take it for a formula"
    assert (row["points"], row["maximum"], row["3.1"], row["3.2"]) == ("2", "11", "2", "0")
    assert run(good.name, good.name, "--out", "grades.json") == 0
    document = json.loads((tmp_path / "grades.json").read_text("utf-8"))
    (report,) = document["notebooks"]
    assert set(report["exercises"][0]) == {
        *("exercise", "title", "state", "points", "maximum", "sentence", "notes", "passed")
    }
    assert document["refused"] == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.ipynb"], "cannot read the notebook 'none.ipynb' (No such file"),
        (["."], "is a folder: name the notebooks in it"),
        (["x.ipynb", "--limit", "0"], "--limit is 0"),
        (["x.ipynb", "--out", "grades.xls"], "has another ending: use .json or .csv"),
        ([], "notebooks"),
    ],
)
def test_what_cannot_be_graded_is_one_sentence_and_status_2(
    tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_the_help_says_that_it_runs_what_learners_wrote(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    assert "THIS RUNS THE CODE" in capsys.readouterr().out


def test_a_notebook_that_nobody_touched_has_no_points(tmp_path, monkeypatch):
    missing = {f"3.{n}": ("missing", "not done yet") for n in range(1, 6)}
    monkeypatch.setattr(grader, "_run", lambda _, run: run.verdicts.update(missing))
    path = save(tmp_path / "x.ipynb", *(cell for cell in EMPTY.cells if cell.cell_type == "code"))
    report = grader.grade(path)
    assert report.points == 0
    assert report.notes == ["nothing is filled in yet"]


def test_keys_and_passwords_are_not_handed_on(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("ECAR_DATA", "somebody's")
    monkeypatch.setenv("ECAR_LAB_STRICT", "1")
    handed = grader._environment()
    assert not {"HF_TOKEN", "ECAR_DATA", "ECAR_LAB_STRICT"} & set(handed)
    assert handed["PATH"] == os.environ["PATH"]


def test_a_report_is_a_table_that_can_be_read():
    grades = [
        Grade("3.1", "the training pair", "right", 2, 2, "right", ["cell 4 is not marked"]),
        Grade("3.2", "an Euler step", "wrong", 0, 2, "it squares", []),
    ]
    report = Report("anna.ipynb", 3, grades, ["cell 2 raised ValueError: no"])
    assert table(report).splitlines() == [
        "anna.ipynb: notebook 3, 2 of 4",
        "  ✔ 3.1   the training pair   2 of 2   cell 4 is not marked",
        "  ✘ 3.2   an Euler step       0 of 2   it squares",
        "  note: cell 2 raised ValueError: no",
    ]
    assert as_csv([]) == "file,notebook,points,maximum,notes\n"


def test_every_exercise_of_the_sources_is_on_the_list_with_its_points():
    tasks = every()
    for source in build.sources():
        number = int(source.stem[:2])
        marked = {
            cell.metadata["nbgrader"]["grade_id"]: cell
            for cell in build.make(source, True).cells
            if "nbgrader" in cell.metadata
        }
        listed = of_notebook(number)
        assert [one.number for one in listed] == [f"{number}.{n + 1}" for n in range(len(listed))]
        for one in listed:
            cell = marked.pop(one.grade_id)
            assert f"def {one.defines}(" in cell.source or f"class {one.defines}" in cell.source
            assert cell.metadata["nbgrader"]["points"] == one.points == tasks[one.number].points
        assert set(marked) == {f"check-{one.number.replace('.', '-')}" for one in listed}
