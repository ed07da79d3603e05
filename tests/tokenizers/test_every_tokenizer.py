"""What every tokenizer does: shapes, statistics, files, precision, range."""

import pytest
import torch

from ecar_lab.tokenizers.base import psnr
from ecar_lab.tokenizers.makers import (
    IdentityTokenizer,
    load_tokenizer,
)
from tests.tokenizers.examples import WEIGHTS, every_tokenizer, make, small, smooth_images


@every_tokenizer
@torch.no_grad()
def test_latent_and_image_have_the_promised_shapes(name):
    tokenizer = make(name)
    f, channels = tokenizer.downsample_factor, tokenizer.latent_channels
    mean, std = tokenizer.moments(smooth_images(2, size=16))
    assert mean.shape == std.shape == (2, channels, 16 // f, 16 // f)
    assert tokenizer.decode(mean).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("channels", [4, 16])
@torch.no_grad()
def test_factor_and_channels_are_as_asked(factor, channels):
    tokenizer = small(downsample_factor=factor, latent_channels=channels)
    latent = tokenizer.encode(smooth_images(1, size=32))
    assert latent.shape == (1, channels, 32 // factor, 32 // factor)
    assert tokenizer.decode(latent).shape == (1, 3, 32, 32)


@every_tokenizer
@torch.no_grad()
def test_measured_statistics_give_zero_mean_and_unit_std(name):
    tokenizer = make(name)
    images = smooth_images(48)
    tokenizer.fit_statistics(images.split([7, 20, 21]))
    latent = tokenizer.encode(images).double()
    expected = torch.zeros(tokenizer.latent_channels, dtype=torch.float64)
    torch.testing.assert_close(latent.mean((0, 2, 3)), expected, atol=1e-3, rtol=0)
    std = latent.std((0, 2, 3), correction=0)
    torch.testing.assert_close(std, expected + 1, atol=1e-3, rtol=0)


@every_tokenizer
@torch.no_grad()
def test_statistics_do_not_change_the_reconstruction(name):
    tokenizer = make(name)
    images = smooth_images(8)
    before, (_, std_before) = tokenizer.decode(tokenizer.encode(images)), tokenizer.moments(images)
    scale_before = tokenizer.latent_scale.clone()
    tokenizer.fit_statistics([images])
    assert not torch.equal(tokenizer.latent_scale, scale_before)
    torch.testing.assert_close(
        tokenizer.decode(tokenizer.encode(images)), before, atol=1e-4, rtol=0
    )
    ratio = (tokenizer.latent_scale / scale_before).view(1, -1, 1, 1)
    torch.testing.assert_close(tokenizer.moments(images)[1], std_before * ratio)


@every_tokenizer
@torch.no_grad()
def test_saved_and_loaded_tokenizer_gives_the_same_outputs(name, tmp_path):
    tokenizer = make(name)
    images = smooth_images(4)
    tokenizer.fit_statistics([images])
    tokenizer.save_pretrained(tmp_path / "first")
    loaded = load_tokenizer(tmp_path / "first")
    assert type(loaded) is type(tokenizer)
    assert not loaded.training
    latent = tokenizer.encode(images)
    assert torch.equal(loaded.encode(images), latent)
    assert torch.equal(loaded.decode(latent), tokenizer.decode(latent))
    loaded.save_pretrained(tmp_path / "second")
    first, second = (tmp_path / n / "config.json" for n in ("first", "second"))
    assert first.read_text() == second.read_text(), "no trace of where it was loaded from"
    assert {f.name for f in (tmp_path / "second").iterdir()} == {"config.json", WEIGHTS}


@every_tokenizer
@torch.no_grad()
def test_cast_to_bfloat16_keeps_exact_statistics_and_float32_outputs(name, tmp_path):
    tokenizer = make(name)
    images = smooth_images(8)
    tokenizer.fit_statistics([images])
    shift, scale = tokenizer.latent_shift.clone(), tokenizer.latent_scale.clone()
    latent, decoded = tokenizer.encode(images), tokenizer.decode(tokenizer.encode(images))
    tokenizer.to(torch.bfloat16).save_pretrained(tmp_path)
    for cast in (tokenizer, load_tokenizer(tmp_path, dtype=torch.bfloat16)):
        assert torch.equal(cast.latent_shift, shift)
        assert torch.equal(cast.latent_scale, scale)
        assert cast.encode(images).dtype == cast.decode(latent).dtype == torch.float32
        # The same code may not win in bfloat16, so VQ is compared from the latent on.
        if name != "vq":
            torch.testing.assert_close(cast.encode(images), latent, atol=0.15, rtol=0.05)
        assert psnr(cast.decode(latent), decoded) > 30
    assert load_tokenizer(tmp_path).dtype == torch.float32


@every_tokenizer
@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(name):
    tokenizer = make(name)
    images = smooth_images(5)
    together = tokenizer.decode(tokenizer.encode(images))
    alone = torch.cat([tokenizer.decode(tokenizer.encode(image[None])) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@every_tokenizer
@torch.no_grad()
def test_small_latents_of_coarse_stages_decode(name):
    tokenizer = make(name)
    for size in (1, 2, 4):
        latent = torch.randn(1, tokenizer.latent_channels, size, size)
        pixels = size * tokenizer.downsample_factor
        assert tokenizer.decode(latent).shape == (1, 3, pixels, pixels)


@torch.no_grad()
def test_decoded_images_stay_in_range():
    tokenizer = small()
    images = tokenizer.decode(1e3 * torch.randn(4, 4, 4, 4))
    assert images.min() == -1
    assert images.max() == 1


@torch.no_grad()
def test_a_constant_channel_is_centred_and_not_blown_up():
    tokenizer = IdentityTokenizer()
    images = smooth_images(4)
    images[:, 1] = 0.5
    tokenizer.fit_statistics([images])
    assert tokenizer.encode(images)[:, 1].abs().max() < 1e-3
    assert tokenizer.latent_scale.isfinite().all()


def test_identity_loses_nothing():
    images = smooth_images(2)
    tokenizer = load_tokenizer("identity")
    assert torch.equal(tokenizer.decode(tokenizer.encode(images)), images)
    assert (tokenizer.downsample_factor, tokenizer.latent_channels) == (1, 3)


def test_psnr_is_relative_to_the_range_from_minus_one_to_one():
    images = torch.zeros(2, 3, 8, 8)
    assert psnr(images, images + 0.2) == pytest.approx(20)
    assert psnr(images, images + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)) == pytest.approx(30)
    assert psnr(images, images) == pytest.approx(120)
