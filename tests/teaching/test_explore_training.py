"""Notebook 6: curves read from logs, budgets computed from shapes, and what captions say."""

import json
from pathlib import Path

import pytest
import torch

from ecar_lab import ECAR, EcarError
from ecar_lab.machine import count_flops
from ecar_lab.teaching import trainer
from ecar_lab.teaching.explore import training as shown
from ecar_lab.teaching.explore import training_curves as training
from ecar_lab.training.model import ModelTask

RESULTS = Path(__file__).parents[2] / "data" / "results"


def rows(losses, stages=2):
    return [
        {
            "step": 10 * (n + 1),
            "loss": loss,
            "loss_stage": [loss] * stages,
            "loss_bin": [[loss] * 8] * stages,
            "gradient_norm": 1.0,
            "lr": 0.1,
            "images_per_second": 50.0,
            "data_wait": 0.01,
        }
        for n, loss in enumerate(losses)
    ]


def test_every_curve_of_a_log_is_found():
    log = [*rows([3.0, 2.0, 1.0]), {"step": 30, "test_psnr_db": 30.0}]
    assert training.series(log, "loss") == {"loss": ([10, 20, 30], [3.0, 2.0, 1.0])}
    assert list(training.series(log, "loss per stage")) == ["stage 1", "stage 2"]
    assert len(training.series(log, "loss per time bin")) == 3
    for curve in training.CURVES:
        assert training.series(log, curve)


def test_what_is_not_finite_or_not_logged_is_left_out():
    found = training.series(rows([3.0, None, 1.0]), "loss")
    assert found["loss"] == ([10, 30], [3.0, 1.0])
    with pytest.raises(EcarError, match="no gradient norm: choose another curve"):
        training.series([{"step": 1, "loss": 1.0}], "gradient norm")
    with pytest.raises(EcarError, match="no loss per stage"):
        training.series([], "loss per stage")


def test_smoothing_looks_back_only():
    assert training.smoothed([4.0, 2.0, 0.0, 6.0], 2) == [4.0, 3.0, 1.0, 3.0]
    assert training.smoothed([4.0, 2.0], 1) == [4.0, 2.0]


def test_the_committed_curves_can_be_drawn():
    result = json.loads((RESULTS / "failure-signatures-cpu.json").read_text("utf-8"))
    runs = training.committed_runs(result)
    assert "healthy" in runs
    assert runs["healthy"][0]["step"] == 20
    found = training.series(runs["healthy"], "loss per stage", 3)
    figure = training.charts({"healthy": found}, logarithmic=True)
    figure.canvas.draw()
    assert [line.get_label() for line in figure.axes[0].lines] == ["stage 1", "stage 2"]


def test_charts_have_a_title_each_and_a_legend_where_there_are_several_lines():
    one, two = {"a": ([1, 2], [3.0, 1.0])}, {"a": ([1], [1.0]), "b": ([1], [2.0])}
    figure = training.charts({"first": one, "second": two, "third": one}, 2, from_zero=True)
    drawn = figure.axes[:3]
    assert [axis.get_title(loc="left") for axis in drawn] == ["first", "second", "third"]
    assert [axis.get_legend() is None for axis in drawn] == [True, False, True]
    assert {axis.get_ylim()[0] for axis in drawn} == {0.0}


@pytest.mark.parametrize(
    ("preset", "strides", "draws"),
    [("digits", None, None), ("cifar10", None, None), ("cifar10", [1, 1, 2], [2, 2, 1])],
)
def test_the_formula_is_within_two_per_cent_of_the_counter(preset, strides, draws):
    model, batch = ECAR.from_preset(preset), 2
    random = torch.Generator().manual_seed(0)
    draw = model.draw(batch, random, draws)
    labels = torch.zeros(batch, dtype=torch.long)

    def one_pass():
        model.loss(draw.latent_noise, labels, draw, 0.1, strides).loss.backward()

    counted = count_flops(one_pass) / batch
    assert training.training_flops(preset, strides, draws) == pytest.approx(counted, rel=0.02)


def test_hours_are_work_over_speed():
    assert training.budget_hours(2e9, 3600, 1e9, 0.5) == pytest.approx(4.0)
    figure = training.draw_budget(["digits", "cifar10"], 1e6, 1e12, 0.1)
    shown = [bar.get_width() for bar in figure.axes[0].containers[0]]
    expected = [
        training.budget_hours(training.training_flops(name), 1e6, 1e12, 0.1)
        for name in ("digits", "cifar10")
    ]
    assert shown == pytest.approx(expected)


def test_the_explorers_have_controls(monkeypatch, capsys):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = training.losses({"a": rows([2.0, 1.0])}, [("a", "loss"), ("a", "loss per stage")])
    before = box.children[-1].value
    box.children[1].value = "gradient norm"
    assert box.children[-1].value != before
    box = training.budget(["digits", "cifar10"], 600_000, 3e11, 0.1)
    before = box.children[-1].value
    box.children[0].value = 2000
    assert box.children[-1].value != before


def test_a_power_cut_ends_a_training_at_its_step_and_is_over_then(monkeypatch):
    monkeypatch.setattr(ModelTask, "load", lambda task, step: step)
    reached = []
    with trainer.power_cut(step=3):
        for step in (2, 3, 4):
            reached.append(ModelTask.load(None, step))
    assert reached == [2]
    assert ModelTask.load(None, 3) == 3


def test_captions_say_what_was_measured(monkeypatch):
    said = []
    monkeypatch.setattr(shown, "show", lambda picture, *words: said.append(words))
    shown.digits("6.1", torch.zeros(40, 3, 8, 8), 500, "the shipped checkpoint", "97.0% are")
    assert "Forty of 500 digits of the shipped checkpoint, 8×8 pixels" in said[-1][0]
    shown.log_of_the_run(rows([3.0, 1.0]), limit=0.5)
    assert "100% of the logged gradient norms exceed the clip, 0.5" in said[-1][0]
    shown.raw_and_averaged([10, 20], {"raw weights": [0.2, 0.9], "averaged weights": [0.1, 0.95]})
    assert "At step 10 20.0%" in said[-1][0]
    assert "at the end 90.0% and 95.0%" in said[-1][0]


def test_a_folder_of_classes_opens_as_a_data_set(tmp_path):
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    shown.folder_of_classes(images, torch.tensor([0, 1, 1, 0]), ["cat", "dog"], tmp_path)
    found, kinds = trainer.open_dataset(str(tmp_path), image_size=8).arrays()
    assert kinds.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(found[0], images[0])
