"""Reading a learner's notebook: what is no notebook, which one it is, where its exercises stand."""

import json
import os
from textwrap import indent

import pytest

from ecar_lab import EcarError
from ecar_lab.teaching.grading.submission import read
from tests.teaching.grading.made import code, exercise, save, words

NUMBERS = [f"3.{n}" for n in range(1, 6)]


def found(path, number):
    (one,) = [one for one in read(path).exercises if one.task.number == number]
    return one


def test_a_notebook_is_found_with_all_its_exercises(tmp_path):
    path = save(tmp_path / "anna.ipynb", *map(exercise, NUMBERS))
    submission = read(path)
    assert submission.number == 3
    assert [(one.task.number, one.cells) for one in submission.exercises] == [
        (number, [place]) for place, number in enumerate(NUMBERS, 1)
    ]
    assert not any(one.notes or one.trouble for one in submission.exercises)
    assert submission.notes == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no JSON"),
        ('{"cells": [', "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"a": 1}', "is no notebook of format 4"),
        ('{"nbformat": 3, "worksheets": []}', "is no notebook of format 4"),
        ('{"nbformat": 4, "cells": {}}', "is no notebook of format 4"),
        ('{"nbformat": 4, "cells": [3]}', r"is no notebook \(cell 1 has no text\)"),
        ('{"nbformat": 4, "cells": [{"source": [1]}]}', r"\(cell 1 has no text\)"),
        ('{"nbformat": 4, "cells": []}', "is not one of this kit's notebooks: give notebook 0 to"),
    ],
)
def test_what_is_no_notebook_of_the_kit_is_refused_in_a_sentence(tmp_path, content, words):
    path = tmp_path / "x.ipynb"
    path.write_text(content)
    with pytest.raises(EcarError, match=words):
        read(path)


def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(EcarError, match=r"is a folder: name the notebooks in it"):
        read(tmp_path)
    with pytest.raises(EcarError, match="No such file"):
        read(tmp_path / "none.ipynb")
    (tmp_path / "picture.ipynb").write_bytes(b"\x89PNG\r\n\xff")
    with pytest.raises(EcarError, match="is not UTF-8 text"):
        read(tmp_path / "picture.ipynb")
    os.mkfifo(tmp_path / "pipe.ipynb")
    with pytest.raises(EcarError, match="is no regular file"):
        read(tmp_path / "pipe.ipynb")


def test_another_notebook_is_refused(tmp_path):
    path = save(tmp_path / "x.ipynb", words("# 3 wishes"), code("setup(99)"), code("a = 1"))
    with pytest.raises(EcarError, match="is not one of this kit's notebooks"):
        read(path)


@pytest.mark.parametrize("first", [code("lab = setup(3)"), words("# 3. Flow matching\n")])
def test_a_notebook_without_marks_is_known_by_its_first_cells(tmp_path, first):
    bare = [code(exercise(number)["source"]) for number in NUMBERS]
    submission = read(save(tmp_path / "x.ipynb", first, *bare))
    assert [one.cells for one in submission.exercises] == [[n] for n in range(2, 7)]
    (note,) = submission.notes
    assert "lost the marks" in note
    assert not any(one.notes for one in submission.exercises)


EULER = exercise("3.2")["source"]


@pytest.mark.parametrize(
    ("cells", "places", "said"),
    [
        ([], [], "no cell defines `euler_step`: its cell is missing"),
        ([exercise("3.2", "")], [], "cell 2 does not define `euler_step`: keep its name"),
        (
            [exercise("3.2", EULER.replace("euler_step", "my_step"))],
            [],
            "cell 2 does not define `euler_step`, but `my_step`: keep its name",
        ),
        ([words("## notes"), code(EULER)], [3], "cell 3 is not marked as the exercise"),
        ([exercise("3.2"), code(EULER)], [2, 3], "cells 2 and 3 define `euler_step`: the last one"),
        ([exercise("3.2"), exercise("3.2")], [2, 3], "the last one counts"),
        ([exercise("3.2", "1"), exercise("3.2")], [3], "cells 2 and 3 are marked as it"),
        ([exercise("3.2") | {"cell_type": "raw"}], [], "cell 2 is raw: make it a code cell again"),
        ([exercise("3.2", EULER + "\nc = check.euler_step")], [2], "reaches into the kit's checks"),
        ([exercise("3.2", f"{EULER}\n  oops")], [2], ""),  # what it raises is said by the grader
        ([exercise("3.2", f"%%time\n{EULER}\n!ls")], [2], ""),
        ([exercise("3.2", "euler_step = lambda *a: a[1]")], [2], ""),
        ([exercise("3.2", f"if True:\n{indent(EULER, '  ')}")], [2], ""),
        ([exercise("3.2"), code("euler_step = check.euler_step(euler_step)")], [2], ""),
        ([exercise("3.2"), code("def other():\n    def euler_step(): pass")], [2], ""),
    ],
)
def test_where_an_exercise_stands_and_what_is_odd_about_it(tmp_path, cells, places, said):
    one = found(save(tmp_path / "x.ipynb", exercise("3.1"), *cells), "3.2")
    assert one.cells == places
    assert len([*one.notes, *filter(None, [one.trouble])]) == bool(said)
    assert said in " ".join([one.trouble, *one.notes])
    assert bool(one.trouble) == (not places)


def test_text_in_lines_and_metadata_of_any_kind_are_read(tmp_path):
    lines = exercise("3.2") | {"source": EULER.splitlines(keepends=True)}
    odd = [{"cell_type": "code", "source": "", "metadata": strange} for strange in (None, 3, [])]
    odd.append({"cell_type": "code", "source": "", "metadata": {"nbgrader": {"grade_id": 5}}})
    odd.append({"cell_type": "code", "source": "\ud800", "metadata": {}})
    odd[-2]["metadata"]["nbgrader"]["grade_id"] = f"exercise-{'9' * 5000}-1"
    path = save(tmp_path / "x.ipynb", lines, *odd)
    assert found(path, "3.2").cells == [1]
    content = json.loads(path.read_text())
    path.write_text("\ufeff" + json.dumps(content))  # as some editors begin a file
    assert found(path, "3.2").cells == [1]
