"""The pages for a course are true: exercises, sections, points and minutes that they name."""

import re
from pathlib import Path

import pytest

from docs import draw_course
from ecar_lab.teaching.exercises import every, of_notebook
from notebooks import build

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "teaching"
PLAN, ASSIGNMENT = ((FOLDER / name).read_text("utf-8") for name in ("plan.md", "assignment.md"))
SESSIONS = re.split(r"^## (?=\d+\. )", PLAN, flags=re.MULTILINE)[1:]


def headings() -> set[str]:
    """All headings of all notebooks, exercises left out."""
    text = "\n".join(source.read_text("utf-8") for source in build.sources())
    return set(re.findall(r"^# #{2,3} (?!Exercise)(.+)$", text, re.MULTILINE))


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_every_exercise_named_exists(page):
    text = re.sub(r"<!-- times.*?<!-- end -->", "", page.read_text("utf-8"), flags=re.DOTALL)
    named = re.findall(r"\bexercises? ((?:\d+\.\d(?:, | and |, then | to )?)+)", text)
    for number in re.findall(r"\d+\.\d", " ".join(named)):
        assert number in every(), f"{page.name} names exercise {number}"


def test_there_are_ten_sessions_of_ninety_minutes_with_all_their_parts():
    assert [int(one.split(".")[0]) for one in SESSIONS] == list(range(1, 11))
    for one in SESSIONS:
        assert sum(map(int, re.findall(r"^\| (\d+) \|", one, re.MULTILINE))) == 90, one[:40]
        for part in ("Goals", "Before", "Optional", "Homework"):
            assert one.count(f"**{part}**") == 1, f"{one[:40]} has no {part}"
        assert "bibliography.md#" in one, "a paper to read"


def test_sections_that_the_plan_names_are_in_the_notebooks():
    there = headings()
    for one in SESSIONS:
        for name in re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", one):
            assert name in there, name


def test_every_exercise_of_a_notebook_that_is_taught_has_its_place():
    named = set(re.findall(r"\b\d+\.\d\b", " ".join(SESSIONS)))
    taught = {int(number.split(".")[0]) for number in named}
    assert taught >= set(range(11))
    assert named == {number for number, task in every().items() if task.notebook in taught}


def test_minutes_and_points_of_the_plan_are_the_notebooks():
    assert draw_course.page(PLAN) == PLAN, "write it anew: python -m docs.draw_course"
    assert draw_course.table().count("\n") == len(build.sources()) + 1


def test_points_of_the_assignment_are_those_that_the_grader_gives():
    listed = re.findall(r"(\d+\.\d) ([^|]+?) \| (\d+)", ASSIGNMENT)
    expected = [task for number in (2, 3, 4, 5) for task in of_notebook(number)]
    assert sorted(listed) == sorted((one.number, one.title, str(one.points)) for one in expected)
    assert f"for {len(expected)} exercises" in ASSIGNMENT
    per_notebook = [sum(one.points for one in of_notebook(n)) for n in (2, 3, 4, 5)]
    row = " | ".join(map(str, [*per_notebook, sum(per_notebook)]))
    assert f"| points | {row} |" in ASSIGNMENT


def test_all_points_of_the_assignment_sum_to_a_hundred():
    by_hand = re.search(r"^\| report \|.*?\n\n", ASSIGNMENT, re.MULTILINE | re.DOTALL)
    assert by_hand
    person = sum(map(int, re.findall(r"^\| [a-z: ]+ \| (\d+) \|", by_hand[0], re.MULTILINE)))
    grader = sum(one.points for number in (2, 3, 4, 5) for one in of_notebook(number))
    assert (grader, person) == (70, 30)
    assert "(70 points)" in ASSIGNMENT
    assert "(30 points)" in ASSIGNMENT
