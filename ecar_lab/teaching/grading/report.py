"""What grading found: as a table to read, as JSON, as rows for a list of grades."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SIGNS = {"right": "✔", "wrong": "✘", "missing": "○", "absent": "?"}


@dataclass(frozen=True)
class Grade:
    """The verdict on an exercise.

    Attributes:
        exercise, title: ``2.5``, ``attention``.
        state: ``right``, ``wrong``, ``missing`` (not filled in) or ``absent`` (no cell has it).
        points, maximum: given, and possible.
        sentence: the diagnosis. notes: what a teacher should look at.
    """

    exercise: str
    title: str
    state: str
    points: int
    maximum: int
    sentence: str
    notes: list[str]

    @property
    def passed(self) -> bool:
        return self.state == "right"


@dataclass(frozen=True)
class Report:
    """A graded notebook: which file, which notebook of the kit, every exercise, what to know."""

    file: str
    notebook: int
    exercises: list[Grade]
    notes: list[str]

    @property
    def points(self) -> int:
        return sum(one.points for one in self.exercises)

    @property
    def maximum(self) -> int:
        return sum(one.maximum for one in self.exercises)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        exercises = [{**asdict(one), "passed": one.passed} for one in self.exercises]
        return {
            **{"file": self.file, "notebook": self.notebook, "points": self.points},
            **{"maximum": self.maximum, "exercises": exercises, "notes": self.notes},
        }


def table(report: Report) -> str:
    """A report for who reads it in a terminal."""
    lines = [f"{report.file}: notebook {report.notebook}, {report.points} of {report.maximum}"]
    wide = max(len(one.title) for one in report.exercises)
    for one in report.exercises:
        points = f"{one.points:>2} of {one.maximum:<2}"
        words = [*([] if one.passed else [one.sentence]), *one.notes]
        head = f"  {SIGNS[one.state]} {one.exercise:<5} {one.title:<{wide}}  {points}  "
        lines.append((head + "; ".join(words)).rstrip())
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes)])


def as_csv(reports: Sequence[Report]) -> str:
    """One row per file: file, notebook, points, of how many, notes, and each exercise's points."""
    numbers = list(dict.fromkeys(one.exercise for it in reports for one in it.exercises))
    numbers.sort(key=lambda number: [int(part) for part in number.split(".")])
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow(["file", "notebook", "points", "maximum", "notes", *numbers])
    for report in reports:
        points = {one.exercise: one.points for one in report.exercises}
        notes = [*report.notes, *(f"{o.exercise}: {n}" for o in report.exercises for n in o.notes)]
        words = [_harmless(report.file), report.notebook, report.points, report.maximum]
        row = [*words, _harmless("; ".join(notes)), *(points.get(one, "") for one in numbers)]
        write.writerow(row)
    return out.getvalue()


def _harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula: file names are the learners'."""
    return f"'{text}" if text[:1] in "=+-@\t\r" and text else text
