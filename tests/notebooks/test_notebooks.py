"""The notebooks: in step with their sources, fit to be committed, and each runs to its end."""

import ast
import json
import re
import statistics
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch

from ecar_lab import ECAR
from ecar_lab.schedule import StageSchedule
from ecar_lab.teaching import own
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


code_cells = build.code_cells


@variants
def test_a_notebook_is_in_step_with_its_source(source, solutions):
    fresh, there = build.make(source, solutions), committed(source, solutions)
    remedy = "run python notebooks/build.py"
    for fact in ("source", "metadata"):
        assert [cell[fact] for cell in fresh.cells] == [cell[fact] for cell in there.cells], remedy


# nbgrader's marks, version 3: field -> its kind, and whether every marked cell has it.
NBGRADER = {
    **{"schema_version": (int, True), "grade": (bool, True), "solution": (bool, True)},
    **{"locked": (bool, True), "task": (bool, False), "grade_id": (str, True)},
    **{"points": (int, False), "checksum": (str, False), "cell_type": (str, False)},
}


@variants
def test_marks_of_exercises_are_what_nbgrader_reads(source, solutions):
    marked = [cell for cell in committed(source, solutions).cells if "nbgrader" in cell.metadata]
    marks = [cell.metadata["nbgrader"] for cell in marked]
    for cell, mark in zip(marked, marks, strict=True):
        assert cell.cell_type == "code", "a solution in words would need points by hand"
        assert set(mark) <= set(NBGRADER), "it allows no further fields"
        for name, (kind, is_needed) in NBGRADER.items():
            assert type(mark[name]) is kind if name in mark else not is_needed
        assert mark["schema_version"] == 3
        assert re.fullmatch(r"[a-zA-Z0-9_\-]+", mark["grade_id"])
        assert mark["grade"] == ("points" in mark) == mark["solution"] != mark["locked"]
        assert mark.get("points", 1) > 0
    assert len({mark["grade_id"] for mark in marks}) == len(marks)


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
    for name, step in re.findall(r'NotImplementedError\("exercise (\d+\.\d)([a-z]?)"\)', text):
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
    assert [int(source.stem[:2]) for source in SOURCES] == list(range(12))
    readme = (build.HERE.parent / "README.md").read_text("utf-8")
    for source in SOURCES:
        assert f"[{build.title(source)}](notebooks/{source.stem}.ipynb)" in readme
    times = json.loads(build.TIMES.read_text("utf-8"))["seconds"]
    assert set(times) == {source.stem for source in SOURCES}, (
        "measure it: tests/scripts/reader_run.py"
    )


def run_with_solutions(source: Path, folder: Path) -> str:
    """What it says: the fast profile, with its controls; every check has to say yes."""
    cells = build.code_of(committed(source, True))
    environment = build.kernel_environment("fast", static=False, strict=True)
    said = outputs_of(cells, {**environment, "TMPDIR": str(folder)}, folder)
    assert said.count("✔ exercise") == said.count(" exercise ") > 0
    return said


OWN = [source for source in SOURCES if source.stem[:2] in ("02", "05", "06", "07")]


@pytest.mark.parametrize("source", [s for s in SOURCES if s not in OWN], ids=lambda s: s.stem)
def test_with_all_solutions_a_notebook_runs_to_its_end(source, tmp_path):
    run_with_solutions(source, tmp_path)


def test_with_all_solutions_a_learner_s_path_ends_in_a_model_of_their_own(tmp_path, monkeypatch):
    """The four notebooks that build it, in one folder: it needs no model class of the kit's."""
    said = [run_with_solutions(source, tmp_path) for source in OWN]
    assert "the kit's, because" not in "".join(said)
    assert "your own weights" in said[-1]
    monkeypatch.chdir(tmp_path)
    text = own.file().read_text("utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ecar_lab"):
            found = [getattr(import_module(node.module), alias.name) for alias in node.names]
            assert found in ([StageSchedule], [*filter(isfunction, found)]), ast.unparse(node)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("ecar_lab") for alias in node.names)
    module: dict[str, Any] = {"__name__": "my_ecar"}
    exec(compile(text, "my_ecar.py", "exec"), module)
    kinds = {type(part).__module__.split(".")[0] for part in module["MyECAR"](TINY).modules()}
    assert kinds == {"my_ecar", "torch"}
    losses, images = train_and_generate(module)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert images.shape == (2, 2, 4, 4)
    assert images.isfinite().all()


TINY = SimpleNamespace(
    latent_size=4, num_stages=2, window_ends=None, coupling="independent", patch_size=1,
    latent_channels=2, num_classes=2, width=32, num_heads=2, transformer_layers=1, head_layers=2,
)  # fmt: skip
STEPS = SimpleNamespace(
    steps=40, lr=1e-2, warmup_steps=4, lr_floor=0.1, grad_clip=1.0, ema_decay=0.9
)


def train_and_generate(mine: dict[str, Any]) -> tuple[list[float], torch.Tensor]:
    """Losses of a short training on two latents with nothing but ``my_ecar.py``, and samples."""
    torch.manual_seed(0)
    model, kit = mine["MyECAR"](TINY), ECAR(**vars(TINY))
    optimizers = [torch.optim.AdamW(model.parameters(), lr=STEPS.lr)]
    average = [weight.detach().clone() for weight in model.parameters()]
    labels, random, losses = torch.arange(32) % 2, torch.Generator().manual_seed(0), []
    latent = torch.randn(2, 2, 4, 4, generator=random)[labels]
    for step in range(STEPS.steps):
        errors = mine["flow_errors"](model, latent, labels, kit.draw(32, random), 0.1)
        loss = mine["multistage_loss"](errors)
        losses.append(loss.item())
        mine["train_step"](model, loss, optimizers, average, step, STEPS)
    return losses, mine["generate"](model, labels[:2], [2, 2], [1, 2], random)[-1][2]


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
