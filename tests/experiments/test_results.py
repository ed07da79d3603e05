"""The committed results: complete, drawn from their JSON alone, quoted truly in the documents."""

import json
import re
import shlex
from pathlib import Path

from ecar_lab.cli.experiment import ExperimentSwitches, check_switches
from ecar_lab.cli.switches import parse
from ecar_lab.experiments import EXPERIMENTS, load_experiment
from ecar_lab.experiments.lab.report import empty_in, fill, machine_line, results_in


def test_the_results_page_is_in_step_with_the_results():
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs" / "results.md").read_text("utf-8")
    assert fill(text, root / "data" / "results") == text
    quoted = {re.sub(r"-(cpu|gpu).*", "", name) for name in results_in(text)}
    assert quoted == set(EXPERIMENTS)


def test_every_result_has_its_figure_and_names_no_folder_of_a_machine():
    root = Path(__file__).resolve().parents[2]
    folder = root / "data" / "results"
    page = (root / "docs" / "results.md").read_text("utf-8")
    awaited = {re.sub(r"-(cpu|gpu).*", "", name) for name in empty_in(page)}
    for name in EXPERIMENTS:
        found = sorted(folder.glob(f"{name}-*.json"))
        assert found or name in awaited, name
        for file in found:
            assert file.with_suffix(".png").is_file()
            text = file.read_text("utf-8")
            assert "/tmp" not in text
            assert "/work" not in text


def test_figures_can_be_drawn_again_from_the_committed_results():
    folder = Path(__file__).resolve().parents[2] / "data" / "results"
    for name in EXPERIMENTS:
        experiment = load_experiment(name)
        for file in folder.glob(f"{name}-*.json"):
            result = json.loads(file.read_text("utf-8"))
            assert experiment.draw(result).axes
            assert "|---" in experiment.table(result)


def test_the_commands_of_the_committed_results_are_taken():
    folder = Path(__file__).resolve().parents[2] / "data" / "results"
    for name in EXPERIMENTS:
        for file in folder.glob(f"{name}-*.json"):
            command = json.loads(file.read_text("utf-8"))["command"]
            *ecar, named, size, of = shlex.split(command)[:5]
            assert (ecar, named, size) == (["ecar", "experiment"], name, "--size")
            switches = parse(ExperimentSwitches, f"experiment {name}", shlex.split(command)[3:])
            assert switches.size == of
            check_switches(name, switches)


def test_a_table_names_preset_and_training_seeds_only_where_something_was_trained():
    ran = {"command": "c", "machine": "m", "threads": 1, "dtype": "float32"}
    size = {"preset": "digits", "seeds": [0, 1]}
    assert "preset" not in machine_line({**ran, "experiment": "shipped", "size": size})
    line = machine_line({**ran, "experiment": "quality", "size": size})
    assert line.endswith("preset `digits`, seeds 0, 1")
