"""Every switch of every command is given junk: one sentence, or the work is reached; never a crash.

The work itself is left out: where a command would begin with it, it says so and ends.
"""

import functools
import io
import math
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from inspect import isclass, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

from ecar_lab.benchmark.costs import run_benchmark
from ecar_lab.cli import main as cli
from ecar_lab.cli.app import AppSwitches
from ecar_lab.cli.data import DataSwitches
from ecar_lab.cli.doctor import DoctorSwitches
from ecar_lab.cli.experiment import ExperimentSwitches, ReportSwitches
from ecar_lab.cli.grade import GradeSwitches
from ecar_lab.cli.hub import PullSwitches, PushSwitches, SpaceSwitches
from ecar_lab.cli.notebooks import NotebooksSwitches
from ecar_lab.cli.sample import SampleSwitches
from ecar_lab.cli.switches import spelled
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.evaluate import evaluate
from ecar_lab.experiments import load_experiment
from ecar_lab.onnx.export import export
from ecar_lab.schema import check_values, hints_of
from ecar_lab.training.config import ModelTrainConfig, TokenizerTrainConfig, TurboTrainConfig
from ecar_lab.training.features import train_features

REACHED = "reached: this is where the work begins"
# command -> what its switches are read from, and what must be there beside them
COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "train tokenizer": (TokenizerTrainConfig, []),
    "train model": (ModelTrainConfig, []),
    "train turbo": (TurboTrainConfig, []),
    "train features": (train_features, ["--dataset", "digits"]),
    "sample": (SampleSwitches, []),
    "export onnx": (export, ["--checkpoint", "digits", "--out", "export"]),
    "evaluate": (evaluate, ["--checkpoint", "digits"]),
    "benchmark": (run_benchmark, []),
    "experiment two-stage": (ExperimentSwitches, []),
    "experiment report": (ReportSwitches, []),
    "data": (DataSwitches, ["digits"]),
    "doctor": (DoctorSwitches, []),
    "grade": (GradeSwitches, ["anna.ipynb"]),
    "app": (AppSwitches, []),
    "demo": (AppSwitches, []),
    "notebooks": (NotebooksSwitches, ["course"]),
    "push": (PushSwitches, ["digits", "me/digits"]),
    "pull": (PullSwitches, ["me/digits"]),
    "space": (SpaceSwitches, ["space"]),
}
POSITIONAL: dict[Any, tuple[str, ...]] = {
    DataSwitches: ("name",),
    DoctorSwitches: ("run",),
    run_benchmark: ("report",),
    NotebooksSwitches: ("folder",),
    PushSwitches: ("checkpoint", "repository"),
    PullSwitches: ("repository", "folder"),
    SpaceSwitches: ("folder",),
}
# For a number none of these can be right; for text only the last two are wrong everywhere.
NO_NUMBERS = ("nan", "inf", "9" * 400, "1e999", "", "²", "٣", "x" * 300, "--5")
NO_TEXTS = ("x" * 300, "\udcff", "y" * 5000)
NO_CHOICES = ("{", "NaN", "[]", "[1", "x" * 300)
PERHAPS = ("-1", "0", "1e9", "--", "a b")


def leaves(hint: Any) -> set[Any]:
    """The plain types that an annotation is made of."""
    if get_origin(hint) is Annotated:
        return leaves(get_args(hint)[0])
    inner = [one for one in get_args(hint) if one is not type(None)]
    return set().union(*map(leaves, inner)) if inner else {hint}


def sort_of(hint: Any) -> str:
    kinds = leaves(hint)
    if kinds <= {int, float}:
        return "number"
    return "text" if kinds & {str, Path} else "other"


def switches_of(source: Any) -> list[tuple[str, str]]:
    """(switch, sort) of each switch of a command; sort is number, text or other."""
    names = (
        [entry.name for entry in fields(source)]
        if isclass(source)
        else signature(source).parameters
    )
    positional = {
        **{DataSwitches: "name", DoctorSwitches: "run", run_benchmark: "report"},
        GradeSwitches: "notebooks",
    }.get(source)
    positional = POSITIONAL.get(source, ())
    hints = hints_of(source)
    return [(spelled(name), sort_of(hints[name])) for name in names if name not in positional]


@pytest.fixture(autouse=True)
def no_work(monkeypatch) -> None:
    """Where a command would begin with its work, it says so."""

    def reached(*_: Any, **__: Any) -> Any:
        raise EcarError(REACHED)

    for place in (
        "ecar_lab.training.tokenizer.train_tokenizer",
        "ecar_lab.training.model.train_model",
        "ecar_lab.training.turbo.train_turbo",
        "ecar_lab.cli.sample.load_pipeline",
        "ecar_lab.cli.sample.exported",
        "ecar_lab.cli.data.open_dataset",
        "ecar_lab.cli.doctor.examine",
        "ecar_lab.teaching.grading.grader.grade",
        "apps.demo.launch",
        "ecar_lab.cli.notebooks.output_file",
        "ecar_lab.hub.push.token_needed",
        "ecar_lab.hub.push.stage",
        "ecar_lab.hub.pull.Repository",
        "ecar_lab.hub.space.atomic_directory",
    ):
        monkeypatch.setattr(place, reached)
    for place, function in (
        ("ecar_lab.training.features.train_features", train_features),
        ("ecar_lab.cli.evaluate.evaluate", evaluate),
        ("ecar_lab.cli.export.export", export),
        ("ecar_lab.cli.benchmark.run_benchmark", run_benchmark),
    ):
        monkeypatch.setattr(place, functools.wraps(function)(lambda *_, **__: reached()))
    monkeypatch.setattr(load_experiment("two-stage"), "run", reached)


def answer(arguments: list[str]) -> tuple[bool, str]:
    """Whether a command line reached its work, and what it said if not: one sentence."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        status = cli.main(arguments)
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("warning: ")]
    if status == 0 or lines == [f"error: {REACHED}"]:
        return True, ""
    assert status == 2, (arguments, status)
    assert len(lines) == 1, (arguments, lines)
    assert lines[0].startswith("error: "), (arguments, lines)
    assert len(lines[0]) < 1200, "a sentence, not a page"
    return False, lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reaches_its_work_with_nothing_wrong(command):
    if command != "experiment report":  # which has no document here
        went_on, sentence = answer([*command.split(), *COMMANDS[command][1]])
        assert went_on, sentence


@pytest.mark.parametrize("command", COMMANDS)
def test_every_switch_refuses_junk_in_one_sentence(command):
    source, needed = COMMANDS[command]
    for place, (switch, sort) in enumerate(switches_of(source)):
        never = {"number": NO_NUMBERS, "text": NO_TEXTS, "other": NO_CHOICES}[sort]
        count = 3 if sort == "number" else 1
        chosen = [never[(place + 4 * turn) % len(never)] for turn in range(count)]
        for junk in chosen:
            went_on, sentence = answer([*command.split(), *needed, switch, junk])
            assert not went_on, f"ecar {command} {switch} {junk!r} was taken"
            assert switch.removeprefix("--") in sentence.replace("_", "-") or junk[:20] in sentence
        perhaps = PERHAPS[place % len(PERHAPS)]
        answer([*command.split(), *needed, switch, perhaps])


@pytest.mark.parametrize("command", COMMANDS)
def test_no_number_of_any_command_may_be_infinite_or_endless(command):
    hints = hints_of(COMMANDS[command][0])
    for switch, sort in switches_of(COMMANDS[command][0]):
        name = switch[2:].replace("-", "_")
        if sort == "number":
            endless = (2**64, [2**64]) if leaves(hints[name]) == {int} else (10**400,)
            for junk in (math.nan, math.inf, -math.inf, "1", True, [math.nan], *endless):
                with pytest.raises(EcarError, match=f"^{name} is "):
                    check_values(hints, {name: junk})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--checkpoint", ""], "--checkpoint is empty: give it a value, or leave it out"),
        (["train", "model", "--init-from="], "--init-from is empty"),
        (["data", ""], "an argument is empty"),
    ],
)
def test_a_variable_of_the_shell_that_is_not_set_is_no_value(no_work, arguments, words):
    accepted, said = answer(arguments)
    assert not accepted
    assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train model --betas 1.5 0.9", "--betas is (1.5, 0.9): use two numbers from 0 to below 1"),
        ("train model --weight-decay -1", "--weight-decay is -1.0: use a finite number from 0"),
        ("train model --sample-steps 0", "--sample-steps is 0: use 1 or more"),
        ("train model --sample-guidance nan", "--sample-guidance is nan: use a finite number"),
        (f"train model --seed {2**64}", "beyond all whole numbers"),
        (f"sample --seed {2**40}", "--seed is 1099511627776: use a whole number from 0 to"),
        (f"sample --out {'x' * 300}.png", "too long a name: use up to 200 letters"),
        (f"train model --output {'x' * 300}", "too long a name: use up to 200 letters"),
        ("train model --lr ١", "--lr '١' is no number"),
        ("train model --stepz 5", "perhaps you meant --steps"),
        ("train model --steps None", "steps and max_minutes are both empty"),
        ("train model --batch-size 3 --stage-strides 1 2", "use 4"),
        ('train model --model {"a":NaN}', "NaN is no finite number"),
        ('train model --model {"a":1,"a":2}', "'a' is there twice"),
        ("experiment report --document /dev/zero", "no regular file"),
        ("train model --config /dev/zero", "no regular file"),
        ("doctor --images 0", "--images is 0: use 1 or more"),
        ("train features", "--dataset must be given"),
        ("push", "CHECKPOINT and OWNER/NAME must be given"),
    ],
)
def test_a_wrong_switch_is_named_with_what_is_right(arguments, words):
    went_on, sentence = answer(arguments.split())
    assert not went_on
    assert words in sentence
