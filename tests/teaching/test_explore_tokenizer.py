"""The tokenizer's looking glass: what is computed, and that its controls reach it."""

import pytest
import torch

from ecar_lab import ConvTokenizer, EcarError
from ecar_lab.teaching.check import tokenizer as check
from ecar_lab.teaching.explore import looking_glass as glass
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
    seen = glass.look(tokenizer, image)
    torch.testing.assert_close(seen.latent, tokenizer.encode(image))
    torch.testing.assert_close(seen.rebuilt, tokenizer.decode(seen.latent))
    mean_error = (seen.rebuilt - image).abs().mean() / 2
    torch.testing.assert_close(seen.error.mean(), mean_error)


@torch.no_grad()
def test_each_disturbance_does_what_it_says(tokenizer, image):
    clean = glass.look(tokenizer, image).latent
    without = glass.look(tokenizer, image, without=2).latent
    assert not without[:, 2].any()
    assert torch.equal(without[:, :2], clean[:, :2])
    noisy = glass.look(tokenizer, image, sigma=0.5).latent
    assert 0.3 < (noisy - clean).std() < 0.7
    assert torch.equal(noisy, glass.look(tokenizer, image, sigma=0.5).latent)
    assert not torch.equal(noisy, glass.look(tokenizer, image, sigma=0.5, seed=1).latent)
    rounded = glass.look(tokenizer, image, bits=1).latent
    assert all(len(channel.unique()) <= 2 for channel in rounded[0])


@torch.no_grad()
def test_rounding_comes_last(tokenizer, image):
    noisy = glass.look(tokenizer, image, sigma=0.5).latent
    both = glass.look(tokenizer, image, sigma=0.5, bits=3).latent
    torch.testing.assert_close(both, round_latent(noisy, 3))


def test_bits_out_of_range_are_refused(tokenizer, image):
    with pytest.raises(EcarError, match="use 1 to"):
        glass.look(tokenizer, image, bits=0)


def test_every_control_reaches_the_picture(tokenizer, image, monkeypatch, capsys):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = explore.looking_glass(tokenizer, {"one": image, "other": -image}, side=16)
    *controls, _, view = box.children
    for control, value in zip(controls, ("other", "1", 0.5, "3"), strict=True):
        before = view.value
        control.value = value
        assert view.value != before, control.description


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([(100.0, 20.0), (300.0, 22.0)], "continuous ahead at all of them"),
        ([(100.0, 30.0), (300.0, 22.0)], "the lead changes"),
        ([(100.0, 25.05), (300.0, 26.0)], "no difference worth the name"),
        ([(100.0, 22.0), (300.0, 26.0)], "continuous ahead at some of them, level"),
        ([(900.0, 20.0), (990.0, 22.0)], "share no number of bits"),
    ],
)
def test_the_verdict_at_equal_bits_is_that_of_the_curves(codes, words, capsys, shown):
    curves = {"continuous": [(400.0, 26.5), (100.0, 25.0)], "codes": codes}
    quality_at = check.quality_at.reference
    compared = [
        (bits, *(quality_at(points, bits) for points in curves.values()))
        for bits in explore.covered(curves)
    ]
    explore.show_equal_bits(curves, compared)
    assert words in capsys.readouterr().out
    assert len(shown.tables) == bool(compared)


def test_tokenizers_of_several_factors_are_held_against_drawings_of_several_sizes(shown):
    drawings = {size: torch.zeros(2, 3, size, size) for size in (16, 32)}
    rebuilt = {(f, size): drawn + 0.2 for f in (2, 8) for size, drawn in drawings.items()}
    explore.show_factors(drawings, rebuilt)
    rows = [row.strip("| ").split(" | ") for row in shown.tables[0].splitlines()[2:]]
    assert [row[2] for row in rows] == ["8×8", "16×16", "2×2", "4×4"]
    assert rows[-1][3:] == ["48", "20.0"]
    assert explore.vae_of_diffusers().downsample_factor == 8


def test_captions_quote_what_they_are_given(shown, tokenizer):
    images = torch.zeros(8, 3, 16, 16)
    off = images + 0.02  # 40 dB
    explore.show_first_result(tokenizer, images[:4], torch.zeros(4, 4, 8, 8), off[:4], list("abcd"))
    explore.show_block_costs([1, 8], [64, 1], [4096.0, 1.0], [64.0, 1.0], 32)
    explore.show_loss([2.0] * 25 + [1.0] * 25)
    explore.show_before_and_after(images, off[:6], off)
    explore.show_blend(images[:5], off[:5], [0, 0.25, 0.5, 0.75, 1])
    explore.show_channels(images[:2], [off[:2]] * 5)
    levels = [torch.zeros(1, 4, 2**k, 2**k) for k in (1, 2, 3)]
    explore.show_pyramid(tokenizer, levels, [off[:1]] * 3, [images[:1]] * 3)
    explore.show_codes(images, off, off, 512)
    explore.show_bits([(4, 10.0), (8, 20.0), (12, 30.0)], (5.5, 25.0), (9.0, 21.0), 4.5, 512)
    assert shown.numbers == ["1", "2", "3", "4", "6", "7", "8", "9", "10"]
    assert "PSNR 40.0, 40.0, 40.0, 40.0 dB" in shown.alts[0]
    assert "Factor 8 saves 4,096× of attention and 64× of the rest" in shown.captions[1]
    assert "over 50 steps of 16 images, from 2.00 to 1.00" in shown.captions[2]
    assert "Mean over 8 held-out images: 40.0 dB" in shown.captions[3]
    assert "agree to 40.0 dB" in shown.captions[4]
    assert "continuous 40.0 dB, 512 codes 40.0 dB" in shown.captions[7]
    assert "21.0 dB with 9 bits (4.5 in use)" in shown.captions[8]
    assert "rounded to 8 bits 20.0 dB, to 12 bits 30.0 dB" in shown.captions[8]


def test_the_scale_of_a_latent_is_told_as_shares_of_data(shown):
    t = torch.linspace(0, 1, 5)
    shares = {spread: torch.full((5,), share) for spread, share in ((5.5, 0.9), (1, 0.5), (2, 0.1))}
    normal = torch.distributions.Normal(0.0, 1.0)
    explore.show_scale(torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), normal, t, shares)
    explore.show_moments(*torch.tensor([[-0.5], [2.0], [-0.25], [1.0]]))
    assert "of 3 images" in shown.captions[0]
    assert "At t = 0.5: 90%, 50% and 10%" in shown.captions[0]
    assert shown.tables[0].endswith("| -0.50 | 2.00 | 0.25 | 1.00 |")
