"""The time box: it ends a run, and leaves the curve of the steps inside it alone."""

from pathlib import Path

import pytest

from ecar_lab.training import loop
from ecar_lab.training.checkpoints import list_checkpoints, load_checkpoint
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import train_model
from tests.training.runs import assert_same, config, weights


def test_time_box_ends_a_run_without_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "SETTLE_STEPS", 2)
    run = train_model(config(tmp_path / "run", steps=None, max_minutes=0.15, save_every=50))
    _, state = load_checkpoint(list_checkpoints(run)[-1])
    assert state["plan"]["total"] >= state["step"]
    assert read_metrics(run)[0]["seconds_left"] <= 9.0
    before = state["step"]
    train_model(config(run, steps=None, max_minutes=0.15, save_every=50))
    _, state = load_checkpoint(list_checkpoints(run)[-1])
    assert state["step"] == before  # the box is spent: resuming adds nothing


def test_steps_inside_the_time_box_follow_the_plain_curve(undisturbed: Path, tmp_path: Path):
    run = train_model(config(tmp_path / "run", max_minutes=60.0))
    assert_same(weights(run), weights(undisturbed))
