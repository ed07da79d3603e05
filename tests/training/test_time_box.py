"""The time box: it ends a run, and leaves the curve of the steps inside it alone."""

import itertools
from pathlib import Path

import pytest

from ecar_lab.training import launch, loop
from ecar_lab.training.checkpoints import list_checkpoints, load_checkpoint
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import train_model
from tests.training.runs import assert_same, config, weights


def test_time_box_ends_a_run_without_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    moments = itertools.count()
    monkeypatch.setattr(launch, "clock", lambda: 0.1 * next(moments))  # whatever the machine does
    settings = dict(steps=None, max_minutes=0.5, save_every=50)
    run = train_model(config(tmp_path / "run", **settings))
    _, state = load_checkpoint(list_checkpoints(run)[-1])
    assert state["plan"]["settled"]
    assert state["plan"]["total"] >= state["step"] > loop.SETTLE_STEPS
    assert read_metrics(run)[0]["seconds_left"] <= 30.0
    before = state["step"]
    train_model(config(run, **settings))
    _, state = load_checkpoint(list_checkpoints(run)[-1])
    assert state["step"] == before  # the box is spent: resuming adds nothing


def test_steps_inside_the_time_box_follow_the_plain_curve(undisturbed: Path, tmp_path: Path):
    run = train_model(config(tmp_path / "run", max_minutes=60.0))
    assert_same(weights(run), weights(undisturbed))
