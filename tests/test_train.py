"""The trainer: what a run leaves behind, and that nothing which stops it bends its curve."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ecar_lab.errors import EcarError
from ecar_lab.training import loop
from ecar_lab.training.checkpoints import list_checkpoints, load_checkpoint
from ecar_lab.training.config import ModelTrainConfig, TokenizerTrainConfig
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import train_model
from ecar_lab.training.tokenizer import train_tokenizer

TINY = dict(width=32, num_heads=2, transformer_layers=1, head_layers=1, num_stages=2, patch_size=2)


def config(folder: Path, **overrides) -> ModelTrainConfig:
    """Eight steps on 64 digits with a model of some ten thousand weights."""
    settings = dict(
        output=str(folder), steps=8, batch_size=8, limit=64, save_every=2, keep=9, log_every=3,
        sample_every=0, warmup_steps=2, dtype="float32", device="cpu", model=TINY, flip=False,
        lr=1e-2, max_minutes=None, tokenizer="identity",
    )  # fmt: skip
    return ModelTrainConfig.from_preset("digits", **{**settings, **overrides})


def weights(run: Path, stem: str = "model") -> dict[str, torch.Tensor]:
    """The weights of a run's newest checkpoint."""
    return load_file(list_checkpoints(run)[-1] / f"{stem}.safetensors")


def curve(run: Path) -> list[tuple]:
    """What the logs say about the optimisation, without the timings."""
    names = ("step", "images", "loss", "loss_stage", "loss_bin", "gradient_norm", "lr")
    return [tuple(str(row[name]) for name in names) for row in read_metrics(run)]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], **tolerance) -> None:
    torch.testing.assert_close(a, b, **(tolerance or dict(rtol=0, atol=0)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they touch it."""
    return train_model(config(tmp_path_factory.mktemp("runs") / "run", sample_every=4))


def cut_back(source: Path, target: Path, step: int) -> Path:
    """The run folder as it stood after the checkpoint of ``step``."""
    shutil.copytree(source, target)
    for folder in list_checkpoints(target):
        if int(folder.name.split("-")[1]) > step:
            shutil.rmtree(folder)
    shutil.rmtree(target / "final")
    return target


# -- what a run leaves behind --


def test_run_ends_in_a_pipeline_that_generates(undisturbed: Path):
    from ecar_lab.pipeline import ECARPipeline

    pipeline = ECARPipeline.from_pretrained(undisturbed / "final")
    images = pipeline(class_labels=[3], num_inference_steps=1, output_type="pt").images
    assert images.shape == (1, 3, 8, 8)
    stored = load_file(undisturbed / "final" / "model" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    averaged = weights(undisturbed, "ema")
    for name, tensor in averaged.items():
        torch.testing.assert_close(stored[name], tensor.bfloat16(), rtol=0, atol=0)


def test_card_and_configuration_say_how_to_repeat_the_run(undisturbed: Path, tmp_path: Path):
    card = (undisturbed / "final" / "README.md").read_text()
    for fact in ("digits, split train, 64 images", "| images seen | 64 |", "8 of 8", "torch 2"):
        assert fact in card
    again = ModelTrainConfig.from_json(undisturbed / "config.json")
    again.output = str(tmp_path / "again")
    assert_same(weights(train_model(again)), weights(undisturbed))


def test_logs_hold_loss_per_stage_and_bin_and_the_rates(undisturbed: Path):
    rows = read_metrics(undisturbed)
    assert [row["step"] for row in rows] == [3, 6, 8]
    for row in rows:
        assert len(row["loss_stage"]) == 2
        assert [len(bins) for bins in row["loss_bin"]] == [8, 8]
        assert sum(row["loss_stage"]) / 2 == pytest.approx(row["loss"], rel=1e-5)
        assert row["gradient_norm"] > 0
        assert row["images_per_second"] > 0
        assert 0 <= row["data_wait"] < 1
        assert row["mfu"] > 0
    assert rows[-1]["seconds_left"] == 0
    assert list((undisturbed / "tensorboard").iterdir())


def test_sample_grids_are_pictures(undisturbed: Path):
    files = sorted((undisturbed / "samples").iterdir())
    assert [file.name for file in files] == ["step-00000004.png", "step-00000008.png"]
    assert Image.open(files[0]).width > 8 * 10


def test_sampling_does_not_change_the_run(undisturbed: Path, tmp_path: Path):
    plain = train_model(config(tmp_path / "run", sample_every=0))
    assert_same(weights(plain), weights(undisturbed))


def test_rotation_keeps_the_newest_checkpoints(tmp_path: Path):
    run = train_model(config(tmp_path / "run", keep=2))
    assert [folder.name for folder in list_checkpoints(run)] == ["step-00000006", "step-00000008"]


def test_logged_learning_rate_follows_warmup_and_cosine(undisturbed: Path):
    rates = [row["lr"] for row in read_metrics(undisturbed)]  # of steps 2, 5 and 7
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < 1e-2
    assert rates[-1] < 0.1 * 1e-2


# -- resuming --


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
    suffixes = {file.suffix for file in run.rglob("checkpoints/*/*")}
    assert suffixes == {".safetensors", ".json"}


def test_sigterm_saves_exports_and_can_be_resumed(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step_once = loop.Trainer._optimizer_step

    def interrupted(self, batches, rate):
        step_once(self, batches, rate)
        if self.step == 4:  # the fifth step is under way
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Trainer, "_optimizer_step", interrupted)
    run = train_model(config(tmp_path / "run"))
    monkeypatch.undo()
    assert list_checkpoints(run)[-1].name == "step-00000005"
    assert "5 of 8" in (run / "final" / "README.md").read_text()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train_model(config(run))
    assert_same(weights(run), weights(undisturbed))
    assert curve(run) == curve(undisturbed)


def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path):
    script = Path(__file__).with_name("kill_resume.py")
    command = [sys.executable, str(script), "--kills", "2", "--folder", str(tmp_path), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "after 2 kills" in done.stdout


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


# -- several micro-batches, several processes --


# Muon orthogonalises in bfloat16: a gradient that differs in its last float32 bit may come out one
# bfloat16 bit apart.
@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 1e-6), ("muon", 1e-4)])
def test_accumulation_equals_the_big_batch(tmp_path: Path, optimizer: str, tolerance: float):
    settings = dict(steps=4, lr=1e-3, optimizer=optimizer)
    whole = train_model(config(tmp_path / "whole", batch_size=8, **settings))
    parts = train_model(config(tmp_path / "parts", batch_size=2, grad_accum=4, **settings))
    assert_same(weights(parts), weights(whole), rtol=0, atol=tolerance)


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path):
    settings = dict(steps=4, save_every=4, lr=1e-3, optimizer="adamw")
    one = train_model(config(tmp_path / "one", batch_size=8, **settings))
    cfg = config(tmp_path / "two", batch_size=4, **settings)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg.to_dict()))
    code = (
        "import sys; from ecar_lab.training.model import *; "
        "train_model(ModelTrainConfig.from_json(sys.argv[1]))"
    )
    (tmp_path / "main.py").write_text(code)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
        "--num_cpu_threads_per_process", "1",
        str(tmp_path / "main.py"), str(tmp_path / "cfg.json"),
    ]  # fmt: skip
    root = str(Path(loop.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    two = tmp_path / "two"
    assert_same(weights(two), weights(one), rtol=0, atol=1e-5)
    assert_same(weights(two, "ema"), weights(one, "ema"), rtol=0, atol=1e-5)
    rows = read_metrics(two), read_metrics(one)
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]])


# -- streams, caches, time box --


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


# -- what a user can get wrong --


def test_changed_setting_on_resume_is_refused(undisturbed: Path, tmp_path: Path):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    with pytest.raises(EcarError, match=r"lr 0\.01, this run has 0\.5.*--output"):
        train_model(config(run, lr=0.5))
    with pytest.raises(EcarError, match="8 images a step, this run has 16"):
        train_model(config(run, batch_size=16))
    assert_same(
        weights(run), load_file(undisturbed / "checkpoints/step-00000004/model.safetensors")
    )


def test_damaged_checkpoint_is_named(undisturbed: Path, tmp_path: Path):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    file = list_checkpoints(run)[-1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(EcarError, match=r"step-00000004.* is damaged .*delete the folder"):
        train_model(config(run))


def test_checkpoint_of_another_shape_is_refused(undisturbed: Path, tmp_path: Path):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    state_file = list_checkpoints(run)[-1] / "state.json"
    state = json.loads(state_file.read_text())
    state["config"]["model"] = {**TINY, "width": 64}
    state_file.write_text(json.dumps(state))
    with pytest.raises(EcarError, match=r"has .* of shape .* this model"):
        train_model(config(run, model={**TINY, "width": 64}))


def test_missing_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(EcarError, match="no checkpoint to resume from at"):
        train_model(config(tmp_path / "run", resume=str(tmp_path / "nowhere")))


def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ecar_lab import files

    save = files.save_file

    def full(named, path):
        if "step-00000004" in str(path) and "optimizer" in str(path):
            raise OSError(28, "No space left on device")
        save(named, path)

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


# -- tokenizers --


def test_tokenizer_run_ends_in_a_normalised_tokenizer(tmp_path: Path):
    from ecar_lab.data import open_dataset
    from ecar_lab.data.feeds import to_float
    from ecar_lab.tokenizers.makers import ConvTokenizer, load_tokenizer

    cfg = TokenizerTrainConfig.from_preset(
        "cifar10", dataset="shapes", output=str(tmp_path / "tok"), steps=6, batch_size=8, limit=64,
        save_every=3, sample_every=6, log_every=3, warmup_steps=1, test_limit=16, device="cpu",
        dtype="float32", max_minutes=None,
        tokenizer=dict(downsample_factor=4, latent_channels=4, width=16, depth=1),
    )  # fmt: skip
    run = train_tokenizer(cfg)
    tokenizer = load_tokenizer(run / "final")
    assert isinstance(tokenizer, ConvTokenizer)
    images = to_float(open_dataset("shapes", image_size=32, limit=64).arrays()[0])
    latent = tokenizer.encode(images)
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-2)
    torch.testing.assert_close(latent.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-2)
    rows = read_metrics(run)
    assert rows[0]["loss_l1"] > 0
    assert rows[-1]["test_psnr_db"] > 0
    assert "| test_psnr_db |" in (run / "final" / "README.md").read_text()

    cut = cut_back(run, tmp_path / "cut", 3)
    cfg.output = str(cut)
    train_tokenizer(cfg)
    assert_same(weights(cut), weights(run))
    assert_same(
        load_file(cut / "final" / "diffusion_pytorch_model.safetensors"),
        load_file(run / "final" / "diffusion_pytorch_model.safetensors"),
    )


def test_tokenizer_that_needs_no_training_says_so(tmp_path: Path):
    with pytest.raises(EcarError, match=r"sd-vae.*needs no training.*ecar train model"):
        train_tokenizer(TokenizerTrainConfig.from_preset("imagenet256", output=str(tmp_path)))
