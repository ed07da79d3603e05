"""What a run leaves behind: a pipeline, a card, logs, pictures, the newest checkpoints."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ecar_lab.training.checkpoints import list_checkpoints
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import train_model
from tests.training.runs import assert_same, config, weights


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
