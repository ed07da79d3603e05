"""Autoencoders of diffusers: their folders, and a tokenizer in a pipeline."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline

from ecar_lab.tokenizers.makers import (
    AutoencoderTokenizer,
    load_tokenizer,
)
from tests.tokenizers.examples import (
    every_tokenizer,
    make,
    small_kl,
    small_tiny,
    smooth_images,
)


@pytest.mark.parametrize("subfolder", ["", "vae", "tokenizer"])
@torch.no_grad()
def test_autoencoder_kl_folder_loads_with_its_own_scale(tmp_path, subfolder):
    inner = small_kl()
    inner.save_pretrained(tmp_path / subfolder)
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, AutoencoderTokenizer)
    assert (tokenizer.downsample_factor, tokenizer.latent_channels) == (2, 5)
    images = smooth_images(2)
    posterior = inner.encode(images).latent_dist
    mean, std = tokenizer.moments(images)
    torch.testing.assert_close(mean, (posterior.mean - 0.25) * 0.5)
    torch.testing.assert_close(std, posterior.std * 0.5)
    torch.testing.assert_close(
        tokenizer.decode(mean), inner.decode(posterior.mean).sample.clamp(-1, 1)
    )


@torch.no_grad()
def test_autoencoder_tiny_folder_loads(tmp_path):
    inner = small_tiny()
    inner.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.downsample_factor, tokenizer.latent_channels) == (4, 6)
    images = smooth_images(2)
    latent, std = tokenizer.moments(images)
    torch.testing.assert_close(latent, inner.encode(images).latents)
    assert std.eq(0).all()
    torch.testing.assert_close(tokenizer.decode(latent), inner.decode(latent).sample.clamp(-1, 1))


def test_autoencoder_config_is_plain_json():
    config = AutoencoderTokenizer.from_autoencoder(small_kl()).config
    assert json.loads(json.dumps(config["autoencoder_config"])) == config["autoencoder_config"]
    assert not [name for name in config["autoencoder_config"] if name.startswith("_")]


class TokenizerPipeline(DiffusionPipeline):
    """A pipeline of nothing but a tokenizer."""

    def __init__(self, tokenizer):
        super().__init__()
        self.register_modules(tokenizer=tokenizer)


@every_tokenizer
@torch.no_grad()
def test_tokenizer_travels_in_a_diffusers_pipeline(name, tmp_path):
    tokenizer = make(name).eval()
    images = smooth_images(2)
    tokenizer.fit_statistics([images])
    TokenizerPipeline(tokenizer).save_pretrained(tmp_path)
    loaded = TokenizerPipeline.from_pretrained(tmp_path, use_safetensors=True).tokenizer
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))
    assert torch.equal(load_tokenizer(tmp_path).encode(images), tokenizer.encode(images))
