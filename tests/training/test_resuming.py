"""Resuming: nothing that stops a run bends its curve, and caches and streams go on."""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ecar_lab.training.checkpoints import list_checkpoints
from ecar_lab.training.model import train_model
from tests.training.runs import TINY, assert_same, config, curve, cut_back, weights


@pytest.mark.parametrize("step", [2, 4, 6])
def test_resumed_run_continues_the_very_same_curve(undisturbed: Path, tmp_path: Path, step: int):
    run = cut_back(undisturbed, tmp_path / "run", step)
    train_model(config(run))
    for stem in ("model", "ema", "optimizer"):
        assert_same(weights(run, stem), weights(undisturbed, stem))
    assert curve(run) == curve(undisturbed)


def test_resuming_unpickles_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    run = cut_back(undisturbed, tmp_path / "run", 6)
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, refuse)
    train_model(config(run))
    names = {file.name for file in run.rglob("checkpoints/*/*")}
    stems = ("model", "ema", "optimizer")
    assert names == {"SHA256SUMS", "state.json", *(f"{stem}.safetensors" for stem in stems)}


@pytest.mark.timeout(1800)  # several processes, each with all its imports, on a busy machine
def test_sigkill_while_stepping_saving_and_exporting_changes_nothing(tmp_path: Path):
    script = Path(__file__).parents[1] / "scripts" / "kill_resume.py"
    command = [sys.executable, str(script), "--kills", "3", "--folder", str(tmp_path), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.match(r"after \d+ kills \(.*\) weights, EMA, .* equal bit for bit", last)
    assert all(re.search(rf"[1-9]\d* {name}", last) for name in ("between", "saving", "exporting"))


def test_finished_run_is_not_trained_again(undisturbed: Path, tmp_path: Path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    train_model(config(run))
    assert list_checkpoints(run)[-1].name == "step-00000008"
    assert curve(run) == curve(undisturbed)


def test_more_steps_go_on_where_the_run_ended(undisturbed: Path, tmp_path: Path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    train_model(config(run, steps=10))
    assert list_checkpoints(run)[-1].name == "step-00000010"


def test_resume_none_sets_the_old_run_aside(undisturbed: Path, tmp_path: Path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    train_model(config(run, steps=2, resume="none"))
    assert [folder.name for folder in list_checkpoints(run)] == ["step-00000002"]
    assert_same(weights(tmp_path / "run.1"), weights(undisturbed))


def test_resume_takes_the_path_of_a_checkpoint(undisturbed: Path, tmp_path: Path):
    run = train_model(
        config(tmp_path / "other", resume=str(undisturbed / "checkpoints" / "step-00000006"))
    )
    assert_same(weights(run), weights(undisturbed))


def test_stream_resumes_at_its_place(tmp_path: Path):
    settings = dict(dataset="shapes", streaming=True, limit=40, steps=7, save_every=3)
    settings["model"] = {**TINY, "patch_size": 4}
    whole = train_model(config(tmp_path / "whole", **settings))
    run = cut_back(whole, tmp_path / "cut", 3)
    train_model(config(run, **settings))
    assert_same(weights(run), weights(whole))


def test_cached_latents_are_read_back(undisturbed: Path, tmp_path: Path):
    (file,) = undisturbed.glob("latents-*.safetensors")
    stored = load_file(file)
    assert stored["mean"].shape == (64, 1, 3, 8, 8)  # no mirror images without flip
    assert "std" not in stored  # the identity has none
    run = cut_back(undisturbed, tmp_path / "run", 4)
    (file,) = run.glob("latents-*.safetensors")
    file.write_bytes(file.read_bytes()[:100])  # damaged: made anew
    train_model(config(run))
    assert_same(weights(run), weights(undisturbed))
