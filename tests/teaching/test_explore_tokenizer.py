"""The tokenizer's looking glass: what is computed, and that its controls reach it."""

import pytest
import torch

from ecar_lab import ConvTokenizer, EcarError
from ecar_lab.teaching.check import tokenizer as check
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


def test_a_dearer_bit_is_spent_less_and_codes_have_no_rate(image):
    images = image.repeat(1, 1, 2, 2)
    torch.manual_seed(0)
    kinds = [ConvTokenizer(width=16, depth=1), ConvTokenizer(width=16, depth=1, kind="vq")]
    rate, _ = explore.rate_and_quality(kinds[0], images)
    assert 0 < rate < float("inf")
    assert explore.rate_and_quality(kinds[1], images)[0] == float("inf")
    kinds[0].fit_statistics([images])  # the rate is that of the raw latent
    again, _ = explore.rate_and_quality(kinds[0], images)
    assert again == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([(100.0, 20.0), (300.0, 22.0)], "continuous ahead at all of them"),
        ([(100.0, 30.0), (300.0, 22.0)], "the lead changes"),
        ([(100.0, 25.05), (300.0, 26.0)], "no difference worth the name"),
        ([(900.0, 20.0), (990.0, 22.0)], "share no number of bits"),
    ],
)
def test_the_verdict_at_equal_bits_is_that_of_the_curves(codes, words, capsys):
    curves = {"continuous": [(400.0, 26.5), (100.0, 25.0)], "codes": codes}
    explore.equal_bits(curves, check.quality_at.reference)
    assert words in capsys.readouterr().out


def test_tokenizers_of_several_factors_are_held_against_drawings_of_several_sizes(capsys):
    shown = {}
    made = {factor: ConvTokenizer(factor, width=16, depth=1) for factor in (2, 8)}
    images = {size: torch.zeros(2, 3, size, size) for size in (16, 32)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "table", lambda header, rows: shown.update(rows=rows))
        explore.by_size(made, images)
    assert [row[2] for row in shown["rows"]] == ["8×8", "16×16", "2×2", "4×4"]
    assert shown["rows"][-1][3] == "48"
    assert explore.vae_of_diffusers().downsample_factor == 8
