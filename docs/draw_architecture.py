"""Draws docs/architecture.svg: the floors of the kit, and what stands on what.

    make architecture     (python -m docs.draw_architecture)

The order of the floors is the ``layers`` contract of pyproject.toml, the one that ``make lint``
holds the imports to. Names, purposes, sizes and arrows are read from the code, so the picture
cannot say what is not so; a test draws it anew and compares.
"""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import grimp

from docs.floor_plan import Arrow, Box, Floors, draw, levels

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
PACKAGES = ("ecar_lab", "apps")
# The door: it hands out the public names on first use, and belongs to no floor.
DOOR = "ecar_lab"


def read_floors(pyproject: Path) -> Floors:
    """The floors, highest first, each a list of dotted names.

    Raises:
        ValueError: pyproject.toml holds no ``layers`` contract.
    """
    settings = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    contracts = settings.get("tool", {}).get("importlinter", {}).get("contracts", [])
    layered = [contract for contract in contracts if contract.get("type") == "layers"]
    if not layered:
        raise ValueError(f"{pyproject.name} has no import-linter contract of type layers: add one")
    largest = max(layered, key=lambda contract: len(contract["layers"]))
    prefix = "".join(f"{name}." for name in largest.get("containers", [])[:1])
    # A layer's members stand apart by | (may not import one another) or by : (may).
    return [
        [prefix + name.strip().strip("()") for name in re.split(r"[|:]", layer)]
        for layer in largest["layers"]
    ]


def read_imports() -> grimp.ImportGraph:
    """Who imports whom, imports inside functions too; those for type checkers alone left out."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


def with_guests(floors: Floors, graph: grimp.ImportGraph) -> Floors:
    """The floors, and one more for each package that the contract leaves out, such as the app:
    right below the lowest floor that imports it, on top if none does."""
    floors = list(floors)
    for package in PACKAGES:
        if package == DOOR or home(package, floors) is not None:
            continue
        level = levels(floors)
        inside = {package, *graph.find_descendants(package)}
        users = {
            user for module in inside for user in graph.find_modules_that_directly_import(module)
        }
        boxes = {box for user in users if (box := home(user, floors))}
        floors.insert(max((level[box] + 1 for box in boxes), default=0), [package])
    return floors


def home(module: str, floors: Floors) -> str | None:
    """The box that a module lies in; None: on no floor."""
    for name in itertools.chain.from_iterable(floors):
        if module == name or module.startswith(f"{name}."):
            return name
    return None


def homeless(modules: Iterable[str], floors: Floors) -> list[str]:
    """Modules that no floor holds, the door left out."""
    return sorted(module for module in modules if module != DOOR and home(module, floors) is None)


def read_arrows(graph: grimp.ImportGraph, floors: Floors) -> set[Arrow]:
    """Which box imports which, from the imports of the modules in them."""
    arrows = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            start, end = home(importer, floors), home(imported, floors)
            if start and end and start != end:
                arrows.add((start, end))
    return arrows


def read_box(name: str, modules: Iterable[str]) -> Box:
    """Purpose and size of a box, from its files."""
    files = sorted(source(module) for module in modules)
    own = source(name)
    docstring = ast.get_docstring(ast.parse(own.read_text(encoding="utf-8"))) or ""
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    return Box(name, first_sentence(docstring), len(files), lines)


def source(module: str) -> Path:
    """The file of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def first_sentence(docstring: str) -> str:
    """Up to the full stop that ends a sentence, or to a blank line; without markup."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    sentence = re.split(r"\.(?=\s+[A-Z`]|$)", paragraph)[0]
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", sentence).replace("`", "").rstrip(":")


def picture() -> str:
    """The picture of the code as it is.

    Raises:
        ValueError: a module is on no floor.
    """
    graph = read_imports()
    floors = with_guests(read_floors(ROOT / "pyproject.toml"), graph)
    lost = homeless(graph.modules, floors)
    if lost:
        raise ValueError(f"on no floor: {', '.join(lost)}. Name them in pyproject.toml's layers")
    inside: dict[str, list[str]] = {}
    for module in graph.modules:
        inside.setdefault(home(module, floors) or DOOR, []).append(module)
    boxes = {name: read_box(name, inside[name]) for floor in floors for name in floor}
    return draw(floors, boxes, read_arrows(graph, floors))


def main() -> None:
    PICTURE.write_text(picture(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
