"""What a reader meets in the cells: the method, not how figures of it are drawn."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "notebooks" / "source").glob("*.py"))
MOST_PRESENTATION = 0.25  # of the lines of code
MOST_IMPORTS = 8  # lines
# What shows something: these calls, and any call of a method of these objects.
SHOWING = {"show", "table", "print", "quiz", "display", "new_figure", "HTML", "Markdown", "Image"}
DRAWN_ON = {"axis", "axes", "ax", "figure", "figures", "plt", "widgets", "explore", "trade_offs"}


def code_of(text: str) -> str:
    """The code cells of a source, one below the other; lines of Jupyter's own language left out."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith("# %%"):
            inside = "[markdown]" not in line
        elif inside and not line.startswith(("%", "!")):
            lines.append(line)
    return "\n".join(lines)


def shows(node: ast.AST) -> bool:
    """Whether a statement only serves to show something."""
    if body := getattr(node, "body", None):
        parts = [*body, *getattr(node, "orelse", [])]
        return all(shows(part) for part in parts if not is_docstring(part))
    calls = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
    return any(root(call) in SHOWING | DRAWN_ON for call in calls)


def root(called: ast.expr) -> str:
    """``axis`` of ``axis.plot`` and ``axes[0].plot``; the name of a plain function."""
    while isinstance(called, ast.Attribute | ast.Subscript | ast.Call):
        called = called.func if isinstance(called, ast.Call) else called.value
    return called.id if isinstance(called, ast.Name) else ""


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def lines_of(nodes: list[ast.stmt], wanted: object) -> set[int]:
    """Numbers of the lines of all statements, at any depth, that `wanted` says yes to."""
    found: set[int] = set()
    for node in nodes:
        if wanted(node):  # ty: ignore[call-non-callable]
            found |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        for inner in ("body", "orelse", "handlers", "finalbody"):
            found |= lines_of(getattr(node, inner, []), wanted)
    return found


def counted(code: str) -> tuple[int, int, int]:
    """Lines of code, of presentation, of imports; comments, docstrings, empty lines are none."""
    tree = ast.parse(code)
    described = lines_of(tree.body, is_docstring)
    written = {
        number
        for number, line in enumerate(code.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in described
    }
    shown = lines_of(tree.body, shows) & written
    imported = lines_of(tree.body, lambda node: isinstance(node, ast.Import | ast.ImportFrom))
    return len(written), len(shown), len(imported & written)


def test_the_counting_knows_a_figure_from_the_method():
    method = 'import torch\n\ndef f(x):\n    """Says."""\n    # why\n    return torch.sin(x)\n'
    assert counted(method) == (3, 0, 1)
    drawing = "for axis in axes:\n    axes[0].plot(\n        f(1)\n    )\nprint(f(2))\ny = f(3)\n"
    assert counted(drawing) == (6, 5, 0)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_cells_hold_the_method_and_few_imports(source):
    code, shown, imported = counted(code_of(source.read_text()))
    assert imported <= MOST_IMPORTS, f"{imported} lines of imports"
    assert shown <= MOST_PRESENTATION * code, f"{shown} of {code} lines show something"
