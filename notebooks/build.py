"""Makes the notebooks: from each ``source/NN_name.py`` one for learners and one with the solutions.

    python notebooks/build.py                  all, keeping outputs whose code has not changed
    python notebooks/build.py --execute 03 05  runs those from top to bottom, keeps what comes out
    python notebooks/build.py --handouts DIR   writes slides and summaries of what is there

A source is a Python file in cells (jupytext's percent format). In a cell tagged ``exercise`` the
lines from ``# SOLUTION 3.1`` to ``# END`` are the solution; learners get ``raise
NotImplementedError`` in their place; an exercise in steps has a letter for each, ``# SOLUTION
2.5a``. ``{{time}}`` in the first cell becomes the measured times of
``times.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # where this file itself is run

from ecar_lab.teaching.exercises import every  # noqa: E402
from notebooks import elsewhere  # noqa: E402

SOURCES = HERE / "source"
TIMES = HERE / "times.json"
SOLUTION = re.compile(
    r"^(?P<indent>[ ]*)# SOLUTION (?P<number>\d+\.\d[a-z]?)\n.*?^[ ]*# END\n?", re.M | re.S
)
MARKER = re.compile(r"^[ ]*# (?:SOLUTION \d+\.\d[a-z]?|END)\n?", re.M)
CHECK = re.compile(r"^(\w+) = check\.\w+\(\1\b", re.M)
WORDS_PER_MINUTE = 180
SECONDS_PER_CODE_LINE = 4
WIDGET = "application/vnd.jupyter.widget-view+json"


def sources() -> list[Path]:
    """The source of every notebook, in order."""
    return sorted(SOURCES.glob("[0-9][0-9]_*.py"))


def target(source: Path, solutions: bool) -> Path:
    """Where a notebook lies."""
    return HERE / ("solutions" if solutions else "") / f"{source.stem}.ipynb"


def make(source: Path, solutions: bool, repository: str | None = None) -> NotebookNode:
    """The notebook of a source, without outputs.

    Args:
        repository: where it is published; by default where pyproject.toml says, if it does.
    """
    read = jupytext.read(source, fmt="py:percent")
    cells = []
    for cell in read.cells:
        text, tags = cell.source, cell.metadata.get("tags", [])
        if "exercise" in tags and not SOLUTION.search(text + "\n"):
            raise ValueError(f"{source.name}: an exercise without solution: {text[:60]!r}")
        if cell.cell_type == "code":
            text = with_solution(text) if solutions else without_solution(text)
        else:
            text = text.replace("{{time}}", reading_and_running(source.stem, read))
        cells.append(new_cell(cell.cell_type, text, tags))
    mark_exercises(cells, read)
    cells.append(new_cell("markdown", links(source, solutions), []))
    repository = repository or elsewhere.published_at()
    if repository:
        path = target(source, solutions).relative_to(HERE.parent).as_posix()
        cells[0].source += f"\n\n{elsewhere.links(repository, path)}"
        cells.insert(1, new_cell("code", elsewhere.set_up(repository), [elsewhere.TAG]))
    for index, cell in enumerate(filter(is_of_the_source, cells)):
        cell["id"] = f"{source.stem[:2]}-{index:03d}"
    if repository:
        cells[1]["id"] = f"{source.stem[:2]}-set-up"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata, nbformat_minor=5)


def new_cell(kind: str, text: str, tags: list[str]) -> NotebookNode:
    make_cell = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
    return make_cell(text, metadata={"tags": tags} if tags else {})


def mark_exercises(cells: list[NotebookNode], read: NotebookNode) -> None:
    """nbgrader's marks on the cells of exercises, and on the ones that check them.

    An exercise is a solution with points, which nbgrader leaves to be graded by hand: `ecar grade`
    gives them. A check is locked and has no points: run by itself it would accept an empty answer.
    """
    tasks, number = every(), ""
    for cell, before in zip(cells, read.cells, strict=True):
        found = SOLUTION.search(before.source + "\n")
        if found and "exercise" in cell.metadata.get("tags", []):
            number = found["number"].rstrip("abcd")
            mark = {"grade": True, "solution": True, "locked": False}
            named = {"grade_id": tasks[number].grade_id, "points": tasks[number].points}
        elif number and cell.cell_type == "code" and CHECK.search(cell.source):
            mark = {"grade": False, "solution": False, "locked": True}
            named, number = {"grade_id": f"check-{number.replace('.', '-')}"}, ""
        else:
            continue
        cell.metadata["nbgrader"] = {"schema_version": 3, "task": False, **mark, **named}


def without_solution(text: str) -> str:
    """The cell as learners get it."""
    stub = r'\g<indent>raise NotImplementedError("exercise \g<number>")\n'
    return SOLUTION.sub(stub, text + "\n").rstrip("\n")


def with_solution(text: str) -> str:
    """The cell as the solutions have it."""
    return MARKER.sub("", text + "\n").rstrip("\n")


def reading_and_running(name: str, read: NotebookNode) -> str:
    """How long a notebook takes: reading estimated from its length, running as it was measured."""
    words = sum(len(c.source.split()) for c in read.cells if c.cell_type == "markdown")
    lines = sum(len(c.source.splitlines()) for c in read.cells if c.cell_type == "code")
    minutes = words / WORDS_PER_MINUTE + lines * SECONDS_PER_CODE_LINE / 60
    times = json.loads(TIMES.read_text("utf-8"))
    seconds = times["seconds"].get(name)
    machine = times.get("elsewhere", {}).get(name, times["machine"])
    how = times.get("how", {}).get(name, "measured in JupyterLab")
    run = "not measured" if seconds is None else f"{duration(seconds)} on {machine}"
    return (
        f"**Time**: about {5 * max(1, round(minutes / 5))} minutes to read (estimated from its "
        f"length), {run} to run ({how}). GPU: not measured."
    )


def duration(seconds: float) -> str:
    """In words: 38 s, 2 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def title(source: Path) -> str:
    """The first heading of a source."""
    found = re.search(r"^# # (.+)$", source.read_text("utf-8"), re.M)
    if not found:
        raise ValueError(f"{source.name} has no title: begin its first cell with '# # 3. Title'")
    return found[1]


def links(source: Path, solutions: bool) -> str:
    """The last cell: where to go from here."""
    every = sources()
    index = every.index(source)
    other = f"../{source.stem}.ipynb" if solutions else f"solutions/{source.stem}.ipynb"
    parts = [f"[{'Without' if solutions else 'With'} the solutions]({other})"]
    if index:
        parts.insert(0, f"← [{title(every[index - 1])}]({every[index - 1].stem}.ipynb)")
    if index + 1 < len(every):
        parts.append(f"[{title(every[index + 1])}]({every[index + 1].stem}.ipynb) →")
    return " · ".join(parts)


def is_of_the_source(cell: NotebookNode) -> bool:
    """Whether a cell is not the set-up, which only runs where the kit is missing."""
    return elsewhere.TAG not in cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that run everywhere."""
    return [c for c in notebook.cells if c.cell_type == "code" and is_of_the_source(c)]


def code_of(notebook: NotebookNode) -> list[str]:
    """Their text."""
    return [cell.source for cell in code_cells(notebook)]


def keep_outputs(fresh: NotebookNode, old: NotebookNode) -> bool:
    """Takes the outputs of an older version over if it was run and its code is the same."""
    done = code_cells(old)
    if code_of(fresh) != code_of(old) or not all(cell.execution_count for cell in done):
        return False
    for cell, before in zip(code_cells(fresh), done, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    return True


def execute(notebook: NotebookNode, environment: dict[str, str], folder: Path) -> float:
    """Runs a notebook in a folder from top to bottom, in place; returns the seconds it took.

    Both variants have a folder, and so a ``my_ecar.py``, of their own, as for who opens them.
    """
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as apart:  # what is solved here is nobody's progress
        record = str(Path(apart) / "my_progress.json")
        client.execute(env={**environment, "ECAR_LAB_PROGRESS": record})
    clean(notebook)
    return time.perf_counter() - started


def clean(notebook: NotebookNode) -> None:
    """Removes what must not be committed: state of widgets, and outputs that need it."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]


def kernel_environment(profile: str, *, static: bool, strict: bool) -> dict[str, str]:
    """The variables that a notebook runs under: offline, and never with somebody's data sets."""
    hidden = ("ECAR_DATA", "MPLBACKEND")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    wanted = {
        **{"ECAR_LAB_PROFILE": profile, "ECAR_LAB_STATIC": str(int(static))},
        **{"ECAR_LAB_STRICT": str(int(strict)), "HF_HUB_OFFLINE": "1"},
    }
    return {**kept, **wanted}


def write(notebook: NotebookNode, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", "utf-8")


def write_handouts(source: Path, folder: Path) -> list[Path]:
    """Slides and summary of a notebook as it is committed, and the notebook that the slides are."""
    from notebooks import slides, summary

    folder.mkdir(parents=True, exist_ok=True)
    there = nbformat.read(target(source, False), as_version=4)
    deck = slides.deck(there)
    names = [f"{source.stem}{end}" for end in (".slides.html", ".slides.ipynb", ".summary.html")]
    made = [folder / name for name in names]
    made[0].write_text(slides.page(deck, title(source)), "utf-8")
    write(deck, made[1])
    made[2].write_text(summary.page(there, int(source.stem[:2])), "utf-8")
    return made


def main(arguments: list[str] | None = None) -> None:
    parser: Any = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="which notebooks, e.g. 03; all by default")
    parser.add_argument("--execute", action="store_true", help="run them and keep the outputs")
    parser.add_argument("--only", choices=("learner", "solutions"), help="one of the two variants")
    parser.add_argument("--profile", default="full", choices=("full", "fast"))
    parser.add_argument("--dry", action="store_true", help="write nothing: run in memory")
    parser.add_argument("--handouts", type=Path, metavar="DIR", help="slides and summaries alone")
    parser.add_argument(
        "--repository", type=elsewhere.address, metavar="URL",
        help="where they are published: adds links to Colab and Binder, and a set-up cell",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    for source in sources():
        if chosen.numbers and source.stem[:2] not in chosen.numbers:
            continue
        if chosen.handouts:
            print(*write_handouts(source, chosen.handouts), sep="\n")
            continue
        for solutions in (False, True):
            if chosen.only and solutions != (chosen.only == "solutions"):
                continue
            fresh, path = make(source, solutions, chosen.repository), target(source, solutions)
            name = f"{path.parent.name}/{path.name}"
            said = "no outputs: run it with --execute"
            if chosen.execute:
                environment = kernel_environment(chosen.profile, static=True, strict=True)
                said = f"executed in {execute(fresh, environment, path.parent):.0f} s"
            elif path.exists() and keep_outputs(fresh, nbformat.read(path, as_version=4)):
                said = "outputs kept"
            if not chosen.dry:
                write(fresh, path)
            print(f"{name}: {said}, {len(nbformat.writes(fresh)) // 1024} KiB", flush=True)


if __name__ == "__main__":
    main()
