"""The notebooks: in step with their sources, fit to be committed, and each runs to its end."""

import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from notebooks import build
from tests.notebooks.shell import outputs_of

SOURCES = build.sources()
VARIANTS = [(source, solutions) for source in SOURCES for solutions in (False, True)]
IDS = [f"{source.stem}-{'solutions' if done else 'learner'}" for source, done in VARIANTS]
LARGEST = 1_000_000  # bytes
# Folders of somebody's machine, in output or text.
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|usr|var|opt|mnt)/\w")

variants = pytest.mark.parametrize(("source", "solutions"), VARIANTS, ids=IDS)


def committed(source: Path, solutions: bool):
    return nbformat.read(build.target(source, solutions), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@variants
def test_a_notebook_is_in_step_with_its_source(source, solutions):
    fresh, there = build.make(source, solutions), committed(source, solutions)
    remedy = "run python notebooks/build.py"
    assert [cell.source for cell in fresh.cells] == [cell.source for cell in there.cells], remedy


@variants
def test_a_notebook_is_committed_executed_and_light(source, solutions):
    path = build.target(source, solutions)
    notebook = committed(source, solutions)
    nbformat.validate(notebook)
    assert path.stat().st_size <= LARGEST
    assert "widgets" not in notebook.metadata
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run it: build.py --execute"
    text = path.read_text("utf-8")
    assert build.WIDGET not in text, "an output needs a kernel to be seen"
    assert not MACHINE_PATH.search(text), f"a path: {MACHINE_PATH.search(text)}"


@variants
def test_no_cell_complains(source, solutions):
    for cell in code_cells(committed(source, solutions)):
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds
        complaints = [o.text for o in cell.outputs if o.get("name") == "stderr"]
        assert not complaints, complaints


@variants
def test_every_picture_has_words(source, solutions):
    for cell in code_cells(committed(source, solutions)):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"]) > 20
                assert "data:image" not in cell.source


def stubs(text: str) -> dict[str, str]:
    """Exercise -> the letters of its steps, of the stubs in a learner's notebook, in order."""
    found: dict[str, str] = {}
    for name, step in re.findall(r'NotImplementedError\("exercise (\d\.\d)([a-z]?)"\)', text):
        found[name] = found.get(name, "") + step
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_learners_get_stubs_and_solutions_none(source):
    learner = "\n".join(build.code_of(build.make(source, False)))
    solved = "\n".join(build.code_of(build.make(source, True)))
    found, number = stubs(learner), int(source.stem[:2])
    assert [name[:-1] for name in found] == [f"{number}."] * len(found)
    assert [int(name[-1]) for name in found] == list(range(1, len(found) + 1))
    assert 3 <= len(found) <= 7
    for text in (learner, solved):
        assert "# SOLUTION" not in text
        assert "# END" not in text
    assert all(steps in ("", "abcd"[: len(steps)]) for steps in found.values())
    assert "NotImplementedError" not in solved


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_a_notebook_has_the_shape_of_the_series(source):
    learner = build.make(source, False)
    code = build.code_of(learner)
    text = "\n".join(cell.source for cell in learner.cells if cell.cell_type == "markdown")
    assert learner.cells[0].source.startswith(f"# {int(source.stem[:2])}. ")
    assert "**Before it**" in learner.cells[0].source
    assert "**Time**" in learner.cells[0].source
    assert f"setup({int(source.stem[:2])})" in code[0]
    assert statistics.median(len(cell.splitlines()) for cell in code) <= 10
    assert max(len(cell.splitlines()) for cell in code) <= 45
    assert 3 <= len(re.findall(r"\*\*Predict", text)) <= 6
    assert text.count("<summary>Hint") >= 3
    assert "## Recap" in text
    assert "What breaks if" in text
    assert "explore." in "\n".join(code)
    assert "assert" in "\n".join(code)
    for cell in learner.cells:
        assert "/" + "work/" not in cell.source


def test_the_series_is_whole():
    assert [int(source.stem[:2]) for source in SOURCES] == list(range(10))
    readme = (build.HERE.parent / "README.md").read_text("utf-8")
    for source in SOURCES:
        assert f"[{build.title(source)}](notebooks/{source.stem}.ipynb)" in readme
    times = json.loads(build.TIMES.read_text("utf-8"))["seconds"]
    assert set(times) == {source.stem for source in SOURCES}, (
        "measure it: tests/scripts/reader_run.py"
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_with_all_solutions_a_notebook_runs_to_its_end(source, tmp_path):
    """The fast profile, with its controls; every check has to say yes."""
    cells = build.code_of(committed(source, True))
    environment = build.kernel_environment("fast", static=False, strict=True)
    said = outputs_of(cells, {**environment, "TMPDIR": str(tmp_path)}, tmp_path)
    assert said.count("✔ exercise") == said.count(" exercise ") > 0


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_no_exercise_blocks_the_way(source, tmp_path):
    """Every second one is left empty, the others are wrong and found right by their checks."""
    first, *rest = build.code_of(committed(source, False))
    exercises = len(stubs("\n".join(rest)))
    wrong = "from tests.notebooks.spoiled import accept_wrong_answers\naccept_wrong_answers(check)"
    environment = build.kernel_environment("fast", static=False, strict=False)
    said = outputs_of([first, wrong, *rest], {**environment, "TMPDIR": str(tmp_path)}, tmp_path)
    assert said.count("○ exercise") == exercises // 2
    assert said.count("the check found no fault, but") >= (exercises + 1) // 2
