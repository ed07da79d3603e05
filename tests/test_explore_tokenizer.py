"""The tokenizer's looking glass: what is computed, and that its controls reach it."""

import pytest
import torch

from ecar_lab import ConvTokenizer, EcarError
from ecar_lab.teaching.explore import tokenizer as explore
from ecar_lab.tokenizers.study import round_latent


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return ConvTokenizer(width=16, depth=1).eval()


@pytest.fixture(scope="module")
def image():
    return 2 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 1


@torch.no_grad()
def test_untouched_it_is_encode_and_decode(tokenizer, image):
    seen = explore.look(tokenizer, image)
    torch.testing.assert_close(seen.latent, tokenizer.encode(image))
    torch.testing.assert_close(seen.rebuilt, tokenizer.decode(seen.latent))
    mean_error = (seen.rebuilt - image).abs().mean() / 2
    torch.testing.assert_close(seen.error.mean(), mean_error)


@torch.no_grad()
def test_each_disturbance_does_what_it_says(tokenizer, image):
    clean = explore.look(tokenizer, image).latent
    without = explore.look(tokenizer, image, without=2).latent
    assert not without[:, 2].any()
    assert torch.equal(without[:, :2], clean[:, :2])
    noisy = explore.look(tokenizer, image, sigma=0.5).latent
    assert 0.3 < (noisy - clean).std() < 0.7
    assert torch.equal(noisy, explore.look(tokenizer, image, sigma=0.5).latent)
    assert not torch.equal(noisy, explore.look(tokenizer, image, sigma=0.5, seed=1).latent)
    rounded = explore.look(tokenizer, image, bits=1).latent
    assert all(len(channel.unique()) <= 2 for channel in rounded[0])


@torch.no_grad()
def test_rounding_comes_last(tokenizer, image):
    noisy = explore.look(tokenizer, image, sigma=0.5).latent
    both = explore.look(tokenizer, image, sigma=0.5, bits=3).latent
    torch.testing.assert_close(both, round_latent(noisy, 3))


def test_bits_out_of_range_are_refused(tokenizer, image):
    with pytest.raises(EcarError, match="use 1 to"):
        explore.look(tokenizer, image, bits=0)


def test_every_control_reaches_the_picture(tokenizer, image, monkeypatch, capsys):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = explore.looking_glass(tokenizer, {"one": image, "other": -image}, side=16)
    *controls, _, view = box.children
    for control, value in zip(controls, ("other", "1", 0.5, "3"), strict=True):
        before = view.value
        control.value = value
        assert view.value != before, control.description
