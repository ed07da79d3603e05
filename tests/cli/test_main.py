"""The command itself: help, unknown words, exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecar_lab.cli import main as cli
from tests.cli.commands import complaint, sample


def test_help_lists_every_command_and_imports_nothing_heavy():
    program = (
        "import sys; from ecar_lab.cli.main import main; main(['--help']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    listed, modules = done.stdout.rsplit("\n", 2)[:2]
    for name in cli.VERBS:
        assert f"  {name} " in listed
    assert not {"torch", "diffusers", "gradio", "datasets"} & set(modules.split())


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_command_explains_its_switches(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: ecar {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["paint"], ["train", "everything"], ["train", "--fast", "x"]]
)
def test_an_unknown_command_is_answered_with_those_there_are(arguments, capsys):
    assert "use one of" in complaint(capsys, cli.main(arguments))


def test_a_wrong_switch_exits_with_2_and_one_sentence(checkpoint, capsys):
    for switch, value in (("--stepz", "4"), ("--steps", "many"), ("--solver", "magic")):
        line = complaint(capsys, sample(checkpoint, switch, value))
        assert switch in line
        assert "`ecar sample --help`" in line


def test_a_fault_of_the_kit_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(cli.VERBS, "break", cli.Verb("", "data.no_such_function"))
    with pytest.raises(AttributeError):
        cli.main(["break"])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")],
)
def test_memory_that_runs_out_is_one_line(monkeypatch, capsys, error):
    def full(arguments):
        raise error

    monkeypatch.setattr("ecar_lab.cli.data.run", full)
    assert cli.main(["data"]) == 2
    assert capsys.readouterr().err.startswith("error: the memory is full: make fewer or smaller")


def test_a_mistake_ends_the_process_with_status_2_and_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ecar_lab.cli", "data", "--data", "nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: the data root 'nowhere'")
    assert done.stderr.count("\n") == 1
