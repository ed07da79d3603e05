"""Every experiment at smoke size, from the command to the figure, and the lab's memory."""

import json
import os
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ecar_lab import EcarError
from ecar_lab.cli.main import main
from ecar_lab.experiments import EXPERIMENTS, load_experiment, shipped
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.records import key_of
from ecar_lab.experiments.lab.scores import spread
from ecar_lab.experiments.lab.sizes import SIZES
from ecar_lab.experiments.stage_ablation import steps_of_equal_flops
from ecar_lab.experiments.stage_errors import with_real_stages
from ecar_lab.experiments.steps_and_guidance import front, mark_front
from ecar_lab.experiments.windows_and_couplings import windows
from ecar_lab.training.config import ModelTrainConfig


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Trainings that several experiments share."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_an_experiment_runs_and_leaves_result_figure_and_table(name, runs, tmp_path, capsys):
    if name == "shipped" and not os.environ.get("ECAR_DATA"):
        pytest.skip("the variable ECAR_DATA names no folder of data sets")
    arguments = ["--size", "smoke", "--runs", str(runs), "--out", str(tmp_path)]
    assert main(["experiment", name, *arguments]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / f"{name}-smoke.json").read_text("utf-8"))
    assert result["command"] == f"ecar experiment {name} --size smoke"
    assert result["size"]["name"] == "smoke"
    assert result["machine"]
    assert str(tmp_path) not in json.dumps(result)
    assert load_experiment(name).table(result) in printed
    with Image.open(tmp_path / f"{name}-smoke.png") as picture:
        assert min(picture.size) > 150


def test_the_same_training_is_made_once(runs):
    lab = Lab(SIZES["smoke"], runs)
    first = lab.train(seed=7)
    written = (first.folder / "model_index.json").stat().st_mtime_ns
    assert lab.train(seed=7) == first
    assert (first.folder / "model_index.json").stat().st_mtime_ns == written
    assert lab.train(seed=8).folder != first.folder
    assert first.images == 3 * 32
    assert first.train_flops > 0


def test_a_measurement_is_remembered_under_all_its_settings(tmp_path):
    lab, calls = Lab(SIZES["smoke"], tmp_path), []

    def measure():
        calls.append(1)
        return {"value": len(calls)}

    assert lab.remember("number", {"a": 1}, measure) == {"value": 1}
    assert lab.remember("number", {"a": 1}, measure) == {"value": 1}
    assert lab.remember("number", {"a": 2}, measure) == {"value": 2}


def test_the_key_of_a_training_ignores_where_it_is_kept_and_nothing_that_matters():
    here, there = ModelTrainConfig(output="here"), ModelTrainConfig(output="there", data="x")
    assert key_of(here) == key_of(there)
    for change in ({"seed": 1}, {"lr": 1e-4}, {"model": {"width": 8}}, {"architecture": "dit"}):
        assert key_of(ModelTrainConfig(**change)) != key_of(here)


def test_spread_is_mean_and_sample_deviation():
    assert spread([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert spread([4.0])["std"] is None


def test_windows_are_the_default_ones_stretched():
    assert windows(0.5, 3) == {"window_ends": [0.5, 0.75, 1.0]}
    assert windows(0.7, 3) == {"window_ends": [0.7, 0.85, 1.0]}
    assert windows(0.3, 2) == {"window_ends": [0.3, 1.0]}


def test_equal_flops_means_fewer_steps_for_the_dearer():
    class Run:
        def __init__(self, flops):
            self.train_flops, self.images = flops * 100, 100

    runs = {"cheap": Run(1.0), "dear": Run(4.0)}
    assert steps_of_equal_flops(runs, 400) == {"cheap": 400, "dear": 100}


def test_the_front_holds_what_nothing_beats():
    rows = [
        {"gflop": 1, "frechet": 5.0},
        {"gflop": 2, "frechet": 6.0},
        {"gflop": 3, "frechet": 2.0},
        {"gflop": 3, "frechet": 2.5},
    ]
    mark_front(rows)
    assert front(rows) == [rows[0], rows[2]]


def test_an_unknown_experiment_is_named_with_those_there_are(capsys):
    assert main(["experiment", "magic"]) == 2
    message = capsys.readouterr().err
    assert "experiment 'magic' is unknown" in message
    assert "stage-ablation" in message


def test_the_list_of_experiments_says_what_each_asks(capsys):
    assert main(["experiment"]) == 0
    printed = capsys.readouterr().out
    for name, entry in EXPERIMENTS.items():
        assert name in printed
        assert entry.question in printed


@pytest.mark.parametrize(
    ("switches", "sentence"),
    [
        (["--steps", "0"], "steps is 0: use 1 or more"),
        (["--preset", "mnist"], "preset 'mnist' is unknown"),
        (["--device", "cuda:9"], "not available|unknown"),
    ],
)
def test_a_switch_that_cannot_be_is_refused(switches, sentence, tmp_path, capsys):
    arguments = ["--size", "smoke", "--out", str(tmp_path), *switches]
    assert main(["experiment", "single-stage", *arguments]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_a_document_s_tables_are_those_of_its_results(tmp_path):
    from ecar_lab.experiments.lab.report import fill, results_in

    rows = [{"steps": 2, "frechet": spread([3.0]), "named_right": spread([0.5]), "gflop": 1.0}]
    result = {
        "experiment": "single-stage", "command": "ecar experiment single-stage", "threads": 2,
        "machine": "2 cores", "dtype": "float32", "size": {"preset": "digits", "seeds": [0]},
        "rows": rows,
    }  # fmt: skip
    (tmp_path / "single-stage-cpu.json").write_text(json.dumps(result), encoding="utf-8")
    text = "before\n<!-- result single-stage-cpu -->\nold\n<!-- end -->\nafter\n"
    filled = fill(text, tmp_path)
    assert results_in(text) == ["single-stage-cpu"]
    assert "old" not in filled
    assert "| 2 | 3.00 | 50.0% | 1.000 |" in filled
    assert filled.startswith("before\n")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert fill(filled, tmp_path) == filled
    with pytest.raises(EcarError, match=r"quotes 'gone', which .* run that experiment first"):
        fill("<!-- result gone -->\n<!-- end -->", tmp_path)


def test_a_training_that_was_stopped_is_not_taken_for_finished(tmp_path, monkeypatch):
    import ecar_lab.training.model

    real = ecar_lab.training.model.train_model

    def stopped_early(config):
        folder = real(replace(config, steps=1))
        return folder

    lab = Lab(SIZES["smoke"], tmp_path)
    monkeypatch.setattr(ecar_lab.training.model, "train_model", stopped_early)
    with pytest.raises(EcarError, match="was stopped before its end: run the experiment again"):
        lab.train()
    monkeypatch.setattr(ecar_lab.training.model, "train_model", real)
    assert lab.train().images == 3 * 32


def test_the_shipped_checkpoints_are_compared_at_the_guidance_that_suits_each(
    runs, tmp_path, monkeypatch
):
    lab = Lab(SIZES["smoke"], runs, data_root=str(tmp_path))
    folders = {
        name: str(lab.train(architecture=architecture).folder)
        for name, architecture in (("E-CAR", "ecar"), ("DiT", "dit"))
    }
    monkeypatch.setattr(shipped, "GUIDANCE", {"E-CAR": (1.0, [1.0, 2.0]), "DiT": (1.0,)})
    monkeypatch.setattr(shipped, "TRIAL_STEPS", {"E-CAR": [1, 1], "DiT": 2})
    monkeypatch.setattr(shipped, "FINAL_STEPS", {"E-CAR": [[2, 1]], "DiT": [6, 3]})
    ours, theirs = (shipped.measure(lab, name, folders[name]) for name in ("E-CAR", "DiT"))
    best = min(ours["trials"], key=lambda trial: trial["frechet"])
    assert len(ours["trials"]) == 2
    assert ours["points"][0]["guidance_scale"] == best["guidance_scale"]
    assert [point["num_inference_steps"] for point in theirs["points"]] == [6, 3]
    assert theirs["points"][0]["gflop"] == pytest.approx(2 * theirs["points"][1]["gflop"])
    result = {"E-CAR": ours, "DiT": theirs, "flops_ratio": 2.0}
    assert "1: " in shipped.table(result)
    assert "1 / 2: " in shipped.table(result)
    assert shipped.draw(result).axes


def test_real_stages_take_the_place_of_the_model_s(tiny_pipeline):
    pipe = tiny_pipeline
    latent = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    def made(kept):
        arguments = ([1.0, 2.0], torch.Generator().manual_seed(0), torch.float32)
        return with_real_stages(pipe, latent, torch.tensor([0, 1]), kept, *arguments)

    generator = torch.Generator().manual_seed(0)
    pipe.model.draw(2, generator)
    *_, own = pipe.trace([0, 1], None, [1.0, 2.0], generator)
    assert torch.equal(made(0), own.latent)
    assert torch.equal(made(2), latent)  # the last stage ends at the data
    assert not torch.allclose(made(1), own.latent, atol=0.1)


def test_the_shipped_checkpoints_need_the_data(tmp_path, monkeypatch):
    monkeypatch.delenv("ECAR_DATA", raising=False)
    with pytest.raises(EcarError, match="name their folder with --data"):
        shipped.run(Lab(SIZES["smoke"], tmp_path))


def test_one_model_has_one_training_however_it_is_asked_for(tmp_path):
    lab = Lab(SIZES["smoke"], tmp_path)

    def key(**model):
        return lab.configuration(model=model).output

    assert key() == key(num_stages=2, window_ends=None, stage_ratio=2, width=32)
    assert len({key(), key(num_stages=1), key(window_ends=[0.7, 1.0]), key(width=64)}) == 4
    assert key(coupling="correlated") != key()
