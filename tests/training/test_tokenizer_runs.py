"""Training a tokenizer: it ends normalised, and resumes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ecar_lab.errors import EcarError
from ecar_lab.training.config import TokenizerTrainConfig
from ecar_lab.training.log import read_metrics
from ecar_lab.training.tokenizer import train_tokenizer
from tests.data.pictures import put
from tests.training.runs import assert_same, cut_back, weights


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


def test_tokenizer_of_a_set_with_one_split_is_measured_on_it(tmp_path: Path, caplog):
    put(tmp_path / "set", "cat/1.png", "dog/1.png", "cat/2.png", "dog/2.png")
    run = train_tokenizer(
        TokenizerTrainConfig.from_preset(
            "digits", dataset=str(tmp_path / "set"), output=str(tmp_path / "tok"), steps=1,
            batch_size=4, sample_every=1, test_limit=4, device="cpu", dtype="float32", limit=None,
            max_minutes=None, tokenizer=dict(downsample_factor=2, width=16, depth=1),
        )
    )  # fmt: skip
    assert "has no split test" in caplog.text
    assert read_metrics(run)[-1]["train_images"] == 4
