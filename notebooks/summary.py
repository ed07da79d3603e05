"""A page to print for each notebook: goals, what to keep, formulas, symbols, exercises.

It is one side of A4. All is taken from the notebook, the symbols from docs/symbols.md, points from
``ecar grade``.
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path

from nbformat import NotebookNode

from ecar_lab.teaching.exercises import of_notebook
from notebooks.slides import markdown, output_html

STYLE = Path(__file__).with_name("summary.css")
SYMBOLS = Path(__file__).resolve().parents[1] / "docs" / "symbols.md"
MOST_FORMULAS, MOST_SYMBOLS = 8, 16
SIZES = ((2500, 10.2), (3000, 9.4), (3600, 8.6), (10**9, 7.8))  # letters below this -> points
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.S)
# A formula within a line, or one that is written as code.
INLINE = re.compile(r"(?<!\$)\$([^$\n]+)\$(?!\$)|`([^`\n]{1,12} = [^`\n]{3,60})`")
SHORTEST, LONGEST = 9, 130  # letters of a formula that says something and fits into a column
UNNAMED = 40  # letters from which on a formula without an equals sign is one


def page(notebook: NotebookNode, number: int) -> str:
    """The summary as HTML."""
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    whole = "\n".join(c.source for c in notebook.cells)
    title = re.search(r"^# (.+)$", text, re.M)
    assert title, "a notebook begins with its title"
    columns = [
        ("After it you can", _list(text, r"\*\*After it you can\*\*\n")),
        ("To keep", _list(text, r"## Recap\n")),
        ("Formulas", formulas(text)),
        ("Exercises", exercises(notebook, number)),
        ("Symbols", symbols(whole)),
    ]
    length = sum(len(body) for _, body in columns)
    size = next(size for most, size in SIZES if length < most)
    boxes = "\n".join(
        f"<section><h2>{name}</h2>\n{markdown(body)}</section>" for name, body in columns if body
    )
    name = html.escape(title[1])
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE.read_text('utf-8')}</style></head>\n"
        f'<body style="font-size: {size}pt"><h1>{name}</h1>\n<p>{_time(text)}</p>\n'
        f"{_picture(notebook)}\n<main>\n{boxes}\n</main></body></html>\n"
    )


def _picture(notebook: NotebookNode) -> str:
    """The first picture, the notebook's place in the whole."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return output_html(output)
    return ""


def _list(text: str, above: str) -> str:
    """The list that follows ``above``."""
    found = re.search(above + r"\n?((?:- .+\n(?:  .+\n)*)+)", text + "\n")
    return found[1] if found else ""


def _time(text: str) -> str:
    found = re.search(r"\*\*Time\*\*: (.+?) on ", text)
    return f"{found[1]} to run" if found else ""


def formulas(text: str) -> str:
    """The notebook's equations, as a list: those of a line of their own first."""
    blocks = [f"$${one.strip()}$$" for one in BLOCK.findall(text) if len(one) <= LONGEST]
    rest = BLOCK.sub("", text)
    rows = [
        f"${one}$" if one else f"`{other}`"
        for one, other in INLINE.findall(rest)
        if other or len(one) > UNNAMED or (re.search("[=≈∝]", one) and len(one) >= SHORTEST)
    ]
    rows = [one for one in rows if not re.search(r"= -?\d+\W$", one)]  # a value, no formula
    every = list(dict.fromkeys([*blocks, *rows]))[:MOST_FORMULAS]
    return "\n".join(f"- {' '.join(one.split())}" for one in every)


def exercises(notebook: NotebookNode, number: int) -> str:
    """Each exercise with what is to be written, and its points."""
    rows = []
    for task in of_notebook(number):
        (cell,) = [
            one
            for one in notebook.cells
            if one.metadata.get("nbgrader", {}).get("grade_id") == task.grade_id
        ]
        node = next(
            one
            for one in ast.parse(cell.source).body
            if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name == task.defines
        )
        said = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
        given = f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef) else ""
        rows.append(
            f"- **{task.number} {task.title}** ({task.points}): `{node.name}{given}` {said}"
        )
    return "\n".join(rows)


def symbols(text: str) -> str:
    """The rows of the page of symbols that this notebook uses, by name in code or by letter."""
    rows = []
    for row in re.findall(r"^\| (\$.+?) \| (.*?) ?\| (.+) \|$", SYMBOLS.read_text("utf-8"), re.M):
        letters, in_code, meaning = row
        names = re.findall(r"`([a-z_.]{4,})", in_code)
        if any(re.search(rf"\b{re.escape(name)}\b", text) for name in names):
            short = re.sub(r" \(on the page [^()]*\([^)]*\)\)", "", meaning)
            rows.append(f"- {letters} {in_code.strip()}: {short}")
    return "\n".join(rows[:MOST_SYMBOLS])
