"""What goes wrong with a run is one sentence, and the last good checkpoint stays."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from ecar_lab.errors import EcarError
from ecar_lab.training import loop
from ecar_lab.training.checkpoints import list_checkpoints, load_checkpoint
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.model import train_model
from tests.training.runs import assert_same, config, cut_back, weights


def test_changed_setting_on_resume_is_refused(undisturbed: Path, tmp_path: Path):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    with pytest.raises(EcarError, match=r"lr 0\.01, this run has 0\.5.*--output"):
        train_model(config(run, lr=0.5))
    with pytest.raises(EcarError, match="8 images per step, this run has 16"):
        train_model(config(run, batch_size=16))
    assert_same(
        weights(run), load_file(undisturbed / "checkpoints/step-00000004/model.safetensors")
    )


def test_missing_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(EcarError, match="no checkpoint to resume from at"):
        train_model(config(tmp_path / "run", resume=str(tmp_path / "nowhere")))
    assert not list((tmp_path / "run").glob("final*"))


def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ecar_lab import files

    save = files.save_file

    def full(named, path, metadata=None):
        if "step-00000004" in str(path) and "optimizer" in str(path):
            raise OSError(28, "No space left on device")
        save(named, path, metadata)

    monkeypatch.setattr(files, "save_file", full)
    run = tmp_path / "run"
    with pytest.raises(EcarError, match=r"cannot write .*step-00000004.*No space left"):
        train_model(config(run))
    assert [entry.name for entry in (run / "checkpoints").iterdir()] == ["step-00000002"]
    load_checkpoint(run / "checkpoints" / "step-00000002")


def test_unwritable_output_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EcarError, match="cannot write"):
        train_model(config(tmp_path / "file" / "run"))


def test_divergence_names_its_cause_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step_once = loop.Trainer._optimizer_step

    def poisoned(self, batches, rate):
        if self.step == 4:
            self.parameters[0].data.fill_(float("nan"))
        step_once(self, batches, rate)

    monkeypatch.setattr(loop.Trainer, "_optimizer_step", poisoned)
    run = tmp_path / "run"
    with pytest.raises(EcarError, match=r"diverged: loss or weights are not finite since step 4 "):
        train_model(config(run, save_every=1))
    assert list_checkpoints(run)[-1].name == "step-00000004"
    tensors, _ = load_checkpoint(list_checkpoints(run)[-1])
    for named in tensors.values():
        assert all(tensor.isfinite().all() for tensor in named.values())
    assert not (run / "final").exists()


def test_high_loss_does_not_push_out_the_last_good_checkpoint(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = cut_back(undisturbed, tmp_path / "run", 6)
    step_once = loop.Trainer._optimizer_step

    def blown_up(self, batches, rate):
        self.guard.recent = [1e-6] * 3
        step_once(self, batches, rate)

    monkeypatch.setattr(loop.Trainer, "_optimizer_step", blown_up)
    train_model(config(run))
    assert list_checkpoints(run)[-1].name == "step-00000006"


def test_missing_tokenizer_says_what_to_train_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(tmp_path))
    with pytest.raises(EcarError, match="ecar train tokenizer --preset imagenet64-s"):
        train_model(ModelTrainConfig.from_preset("imagenet64-s", output=str(tmp_path / "run")))


def test_missing_compiler_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    train_model(config(tmp_path / "run", steps=1, compile=True))
    assert "no C++ compiler (no-such-compiler)" in caplog.text
