"""A run folder belongs to one process; nothing half-written stays; it must stay where it is."""

import os
import signal
from pathlib import Path

import pytest

from ecar_lab.errors import EcarError
from ecar_lab.training import loop
from ecar_lab.training.model import train_model
from ecar_lab.training.run_folder import RunFolder, clear
from tests.training.runs import assert_same, config, cut_back, weights


@pytest.mark.parametrize("resume", ["auto", "none"])
def test_a_second_training_in_the_folder_is_refused(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: str
):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    refusals = []
    step_once = loop.Trainer._optimizer_step

    def with_another(self, batches, rate):
        if self.step == 5:
            with pytest.raises(EcarError) as refused:
                train_model(config(run, resume=resume))
            refusals.append(str(refused.value))
        step_once(self, batches, rate)

    monkeypatch.setattr(loop.Trainer, "_optimizer_step", with_another)
    train_model(config(run))
    (refusal,) = refusals
    assert f"another process trains in {str(run)!r} (process {os.getpid()}, started 20" in refusal
    assert not (tmp_path / "run.1").exists()
    assert_same(weights(run), weights(undisturbed))


def test_a_folder_set_aside_is_locked_before_and_after(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").touch()
    with RunFolder(run) as first:
        first.open(anew=True)
        assert (tmp_path / "run.1" / "metrics.jsonl").is_file()
        with pytest.raises(EcarError, match="another process trains"), RunFolder(run) as second:
            second.open(anew=True)
        with (
            pytest.raises(EcarError, match="another process"),
            RunFolder(run.with_name("run.1")) as old,
        ):
            old.open(anew=False)
    with RunFolder(run) as third:
        third.open(anew=False)
    assert not (tmp_path / "run.2").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_lock_of_a_killed_process_is_gone_with_it(tmp_path: Path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with RunFolder(tmp_path / "run") as folder:
            folder.open(anew=False)
            os.write(writer, b"x")
            signal.pause()
    os.read(reader, 1)
    with (
        pytest.raises(EcarError, match=f"process {child}, "),
        RunFolder(tmp_path / "run") as folder,
    ):
        folder.open(anew=False)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with RunFolder(tmp_path / "run") as folder:
        folder.open(anew=False)


def test_what_a_killed_run_left_half_written_is_cleared(tmp_path: Path):
    half = [".config.json.4711", ".metrics.jsonl.4711", ".latents-ab-4711.safetensors"]
    folders = [".final-x1", "checkpoints/.step-00000002-x2", "checkpoints/step-00000004.old"]
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    for name in half:
        (tmp_path / name).touch()
    (tmp_path / "checkpoints/step-00000004").mkdir()
    (tmp_path / "final.old").mkdir()  # killed between the two renames of an export
    clear(tmp_path)
    left = sorted(str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*"))
    assert left == ["checkpoints", "checkpoints/step-00000004", "final"]


@pytest.mark.parametrize("gone", ["moved", "replaced"])
def test_a_run_folder_that_is_moved_ends_the_run_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
):
    run = tmp_path / "run"
    step_once = loop.Trainer._optimizer_step

    def moving(self, batches, rate):
        step_once(self, batches, rate)
        if self.step == 3:
            run.rename(tmp_path / "elsewhere")
            if gone == "replaced":
                run.mkdir()

    monkeypatch.setattr(loop.Trainer, "_optimizer_step", moving)
    with pytest.raises(EcarError, match=r"run folder .* was moved or deleted .* put it back"):
        train_model(config(run))
    assert gone == "replaced" or not run.exists()  # nothing was made under the old name
