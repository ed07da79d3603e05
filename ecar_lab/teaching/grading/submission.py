"""A learner's notebook as a file: which notebook it is, and where its exercises stand."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from ecar_lab.documents import read_json
from ecar_lab.errors import EcarError
from ecar_lab.teaching.exercises import Task, every, of_notebook

REMEDY = "give a notebook of this kit that a learner filled in, an .ipynb file"
MARK = re.compile(r"exercise-(\d{1,3})-\d{1,3}")


@dataclass(frozen=True)
class Cell:
    """A cell: its place, from 1 on, kind (``code``, ``markdown``), text and nbgrader's mark."""

    place: int
    kind: str
    text: str
    mark: str


@dataclass
class Located:
    """Where an exercise stands.

    Attributes:
        cells: places of the cells that may hold it; the last one counts.
        trouble: why there is nothing to judge. notes: what a teacher should know.
    """

    task: Task
    cells: list[int] = field(default_factory=list)
    trouble: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Submission:
    """A learner's notebook.

    Attributes:
        number: of the kit's notebook that it is. cells: all of them.
        exercises: all that the kit's notebook has. notes: about the whole.
    """

    path: Path
    number: int
    cells: list[Cell]
    exercises: list[Located]
    notes: list[str]


def read(path: str | Path) -> Submission:
    """Reads a notebook and finds its exercises; runs nothing.

    Raises:
        EcarError: no file, no notebook, or none of the kit's.
    """
    path = Path(path)
    if path.is_dir():
        raise EcarError(f"{str(path)!r} is a folder: name the notebooks in it, {path}/*.ipynb")
    cells = _cells(read_json(path, "the notebook", REMEDY), path)
    number = _number(cells)
    tasks = [] if number is None else of_notebook(number)
    if number is None or not tasks:
        last = max(task.notebook for task in every().values())
        raise EcarError(
            f"{str(path)!r} is not one of this kit's notebooks: give notebook 0 to {last} as a "
            "learner filled it in"
        )
    located = [locate(task, cells) for task in tasks]
    notes = []
    if not any(cell.mark for cell in cells):
        notes.append("its cells have lost the marks of the exercises: found by what they define")
        for one in located:
            one.notes = [note for note in one.notes if "is not marked" not in note]
    return Submission(path, number, cells, located, notes)


def _cells(content: dict[str, Any], path: Path) -> list[Cell]:
    cells = content.get("cells")
    if content.get("nbformat") != 4 or not isinstance(cells, list):
        raise EcarError(f"{str(path)!r} is no notebook of format 4: {REMEDY}")
    found = []
    for place, cell in enumerate(cells, 1):
        text = cell.get("source", "") if isinstance(cell, dict) else None
        if isinstance(text, list) and all(isinstance(line, str) for line in text):
            text = "".join(text)
        if not isinstance(text, str):
            raise EcarError(f"{str(path)!r} is no notebook (cell {place} has no text): {REMEDY}")
        metadata = cell.get("metadata")
        marks = metadata.get("nbgrader") if isinstance(metadata, dict) else None
        mark = marks.get("grade_id") if isinstance(marks, dict) else None
        found.append(
            Cell(place, str(cell.get("cell_type")), text, mark if isinstance(mark, str) else "")
        )
    return found


def _number(cells: list[Cell]) -> int | None:
    """Which notebook it is: by its marks, by its first cell of code, by its title."""
    marks = Counter(int(found[1]) for cell in cells if (found := MARK.fullmatch(cell.mark)))
    if marks:
        return marks.most_common(1)[0][0]
    for kind, pattern in (("code", r"\bsetup\((\d{1,3})\)"), ("markdown", r"\A# (\d{1,3})\. ")):
        for cell in cells:
            if cell.kind == kind and (found := re.search(pattern, cell.text)):
                return int(found[1])
    return None


def locate(task: Task, cells: list[Cell]) -> Located:
    """Finds an exercise: its mark says which cell it is, and so does what a cell defines."""
    marked = [cell for cell in cells if cell.mark == task.grade_id]
    code = [cell for cell in marked if cell.kind == "code"]
    defining = [
        cell for cell in cells if cell.kind == "code" and _defines(cell, task.defines, cell in code)
    ]
    one, name = Located(task), f"`{task.defines}`"
    if defining:
        one.cells = [cell.place for cell in defining]
        if len(defining) > 1:
            one.notes.append(f"cells {_listed(one.cells)} define {name}: the last one counts")
        elif not marked:
            one.notes.append(
                f"cell {one.cells[0]} is not marked as the exercise: taken, since it defines {name}"
            )
        elif len(code) > 1:
            places = _listed([cell.place for cell in code])
            one.notes.append(f"cells {places} are marked as it: the one that defines {name} counts")
    elif code:
        others = [found for cell in code for found in _defined(cell)]
        instead = f", but `{others[-1]}`" if others else ""
        one.trouble = f"cell {code[-1].place} does not define {name}{instead}: keep its name"
    elif marked:
        one.trouble = f"cell {marked[-1].place} is {marked[-1].kind}: make it a code cell again"
    else:
        one.trouble = f"no cell defines {name}: its cell is missing"
    counts = [cell for cell in defining[-1:] if _reaches_into_the_kit(cell.text)]
    if counts:
        one.notes.append(f"cell {counts[0].place} reaches into the kit's checks: read it")
    return one


def _listed(places: list[int]) -> str:
    return " and ".join(map(str, places))


def _statements(text: str) -> list[ast.stmt] | None:
    """The statements of a cell, IPython's magics included; None where it is no Python."""
    if text.lstrip().startswith("%%"):  # as %%time, which runs the rest
        text = text.lstrip().partition("\n")[2]
    try:
        return ast.parse(TransformerManager().transform_cell(text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defines(cell: Cell, name: str, is_marked: bool) -> bool:
    """Whether a cell gives ``name`` a value that may be an answer: other cells use names too."""
    statements = _statements(cell.text)
    if statements is None:
        return re.search(rf"^(?:async +)?(?:def|class) +{name}\b", cell.text, re.M) is not None
    for node in ast.walk(ast.Module(statements, [])):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = any(isinstance(one, ast.Name) and one.id == name for one in targets)
            if named and (isinstance(node.value, ast.Lambda) or (is_marked and node in statements)):
                return True
    return name in _defined(cell, statements)


def _defined(cell: Cell, statements: list[ast.stmt] | None = None) -> list[str]:
    """The functions and classes of a cell, those inside others left out."""
    found, left = [], list(statements or _statements(cell.text) or [])
    while left:
        node = left.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append(node.name)
        else:  # if, try, with
            left += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


def _reaches_into_the_kit(text: str) -> bool:
    """Whether an answer names the checks, whose own versions would pass."""
    return re.search(r"\.reference\b|\bteaching\b|\bcheck\s*\.|\bpieces\b", text) is not None
