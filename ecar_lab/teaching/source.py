"""Source text of what stands in a notebook: a piece, and all that it needs around it."""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import linecache
import sys
import types
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

from ecar_lab.teaching.check import Answer

MODULE = "my_ecar"  # the learner's file
Pieces = dict[str, str]  # the name that a statement defines -> its source, in order


class Unsaved(Exception):
    """Why a piece cannot be written into the file, in words that follow "because"."""


def split(text: str) -> Pieces:
    """The statements of a file by the name that each defines, comments above it included."""
    tree, lines, end, found = ast.parse(text), text.splitlines(), 0, {}
    for number, node in enumerate(tree.body):
        source = "\n".join(lines[end : node.end_lineno]).strip("\n")
        end = node.end_lineno or 0
        if number == 0 and isinstance(node, ast.Expr):
            continue  # the docstring
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                one = ast.Import([alias])
                if isinstance(node, ast.ImportFrom):
                    one = ast.ImportFrom(node.module, [alias], node.level)
                found[alias.asname or alias.name] = ast.unparse(one)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = source
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = source
        else:
            found[f"statement {number}"] = source
    return found


def is_import(text: str) -> bool:
    return text.startswith(("import ", "from "))


def with_needs(piece: Any, name: str, above: tuple[str, ...] = ()) -> Pieces:
    """The source of a piece, after what of the notebook it uses: imports, constants, helpers.

    Raises:
        Unsaved: it is not defined by ``def`` or ``class``, or uses what no file can hold.
    """
    source, space = _source(piece, name)
    found: Pieces = {}
    for used in _globals_used(source):
        if used in (name, *above) or (used not in space and hasattr(builtins, used)):
            continue
        if used not in space:
            raise Unsaved(f"it uses {used}, which is not defined")
        found = {**found, **_need(used, space[used], (*above, name))}
    return {**found, name: source}


def _need(used: str, value: Any, by: tuple[str, ...]) -> Pieces:
    """What the file needs so that ``used`` means this value in it."""
    kit_s = value.exercise.reference if isinstance(value, Answer) else None
    value = value.attempt if isinstance(value, Answer) and value.in_use else kit_s or value
    if isinstance(value, ModuleType):
        package, _, last = value.__name__.rpartition(".")
        if package and last == used:
            return {used: f"from {package} import {last}"}
        plain = value.__name__ == used
        return {used: f"import {value.__name__}" + ("" if plain else f" as {used}")}
    if isinstance(value, int | float | str | bool) or value is None:
        return {used: f"{used} = {value!r}"}
    place, called = origin(value), getattr(value, "__name__", "")
    if place == MODULE:
        return {}
    if place != "__main__" and getattr(sys.modules.get(place), called, None) is value:
        return {used: f"from {place} import {called}" + (f" as {used}" if called != used else "")}
    if isinstance(value, type) or inspect.isfunction(value):
        return with_needs(value, used, by)
    raise Unsaved(f"{by[-1]} uses {used} of the notebook, which is a {type(value).__name__}")


def _source(piece: Any, name: str) -> tuple[str, dict[str, Any]]:
    """The text of a function or class, and the names that are known where it stands."""
    inside = inspect.unwrap(piece)
    if isinstance(piece, type):
        methods = [one for one in map(inspect.unwrap, vars(piece).values()) if _is_code(one)]
        if not methods:
            raise Unsaved("it has no method")
        inside = methods[0]
    if not _is_code(inside):
        raise Unsaved("it is neither a function nor a class")
    code: CodeType = inside.__code__
    text = "".join(linecache.getlines(code.co_filename))
    try:
        nodes = ast.parse(text).body
    except SyntaxError:
        nodes = []
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        if node.name == name and first <= code.co_firstlineno <= (node.end_lineno or 0):
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno]), inside.__globals__
    raise Unsaved(f"there is no cell with `def {name}` or `class {name}`")


def _is_code(value: Any) -> bool:
    return isinstance(value, types.FunctionType)


def _globals_used(source: str) -> list[str]:
    """The names that a definition takes from around it, in order."""
    used: dict[str, None] = {}
    for code in _codes(compile(source, MODULE, "exec")):
        stored = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
        for instruction in dis.get_instructions(code):
            loads = instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
            if loads and instruction.argval not in {*stored, "__name__"}:
                used[instruction.argval] = None
    return list(used)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def origin(piece: Any) -> str:
    """The module that a piece comes from."""
    return getattr(piece, "__module__", None) or ""
