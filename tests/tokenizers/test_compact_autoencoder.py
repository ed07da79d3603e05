"""The compact autoencoder: its cost, its loss term by term, its training."""

import pytest
import torch
import torch.nn.functional as F

from ecar_lab.errors import EcarError
from ecar_lab.tokenizers.base import psnr
from ecar_lab.tokenizers.makers import (
    ConvTokenizer,
)
from ecar_lab.tokenizers.networks import Grow, Shrink, reconstruction_terms
from tests.tokenizers.examples import small, smooth_images


def test_default_tokenizer_is_cheap_on_cifar_images():
    from torch.utils.flop_counter import FlopCounterMode

    tokenizer = ConvTokenizer()
    with torch.no_grad(), FlopCounterMode(display=False) as encoding:
        latent = tokenizer.encode(torch.zeros(1, 3, 32, 32))
    with torch.no_grad(), FlopCounterMode(display=False) as decoding:
        tokenizer.decode(latent)
    assert encoding.get_total_flops() < decoding.get_total_flops() < 0.15e9
    assert 0.3e6 < sum(p.numel() for p in tokenizer.parameters()) < 1e6


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_training_improves_the_reconstruction(kind):
    tokenizer = small(kind=kind).train()
    images = smooth_images(16)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    history = []
    for _ in range(60):
        losses = tokenizer.training_loss(images, generator)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(losses["psnr"].item())
    assert history[-1] > history[0] + 5
    tokenizer.eval()
    with torch.no_grad():
        tokenizer.fit_statistics([images])
        restored = tokenizer.decode(tokenizer.encode(images))
        assert psnr(restored, images) > history[0] + 5
        coarse = tokenizer.decode(F.avg_pool2d(tokenizer.encode(images), 2))
        assert psnr(coarse, F.avg_pool2d(images, 2)) > history[0] + 3


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("size", [16, 12, 20])
def test_every_weight_learns(kind, size):
    tokenizer = small(kind=kind, downsample_factor=4)
    losses = tokenizer.training_loss(smooth_images(4, size=size))
    losses["loss"].backward()
    dead = [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    assert [name for name, value in losses.items() if value.requires_grad] == ["loss"]


def test_loss_is_the_documented_sum():
    tokenizer = small(kl_weight=0.3, sharpness_weight=0.7, coarse_weight=0.2)
    loss = tokenizer.training_loss(smooth_images(4), torch.Generator().manual_seed(0))
    expected = (
        loss["l1"] + loss["l2"] + 0.7 * loss["sharpness"] + 0.2 * loss["coarse"] + 0.3 * loss["kl"]
    )
    torch.testing.assert_close(loss["loss"].detach(), expected)


def test_shortcuts_carry_the_image_through_with_no_weights_of_their_own():
    plain, short = (small(downsample_factor=8, shortcuts=on) for on in (False, True))
    count = [sum(p.numel() for p in net.parameters()) for net in (plain, short)]
    assert count[0] == count[1]
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    shrink, grow = Shrink(8, 16), Grow(16, 8)
    for layer in (shrink, grow):
        torch.nn.init.zeros_(layer.conv.weight)
        torch.nn.init.zeros_(layer.conv.bias)
    # By hand: of a 2x2 square stacked into channels, 32 in all, neighbours are averaged to 16.
    by_hand = torch.stack(
        [x[:, c, i::2, j::2] for c in range(8) for i in (0, 1) for j in (0, 1)], dim=1
    )
    torch.testing.assert_close(shrink(x), by_hand.unflatten(1, (16, 2)).mean(2))
    assert grow(shrink(x)).shape == x.shape
    # What is the same in a square comes back unchanged.
    flat = torch.randn(2, 8, 3, 3).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(grow(shrink(flat)), flat)


def test_the_perceptual_term_joins_the_loss_with_its_weight():
    tokenizer = small(perceptual_weight=0.3)
    images, noise = smooth_images(4), torch.zeros(4, 4, 8, 8)
    plain = tokenizer.training_loss(images, noise=noise)
    seen = []

    def far(made, real):
        seen.append((made.requires_grad, torch.equal(real, images)))
        return (made - real).square().mean() * 5

    loss = tokenizer.training_loss(images, noise=noise, perceptual=far)
    assert seen == [(True, True)]
    torch.testing.assert_close(loss["loss"], plain["loss"] + 0.3 * loss["perceptual"])
    assert not loss["perceptual"].requires_grad
    assert "perceptual" not in plain


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_second_scale_term_asks_for_the_quarter_size(kind):
    tokenizer = small(kind=kind, coarse_weight=0.2, scale_terms=2)
    images = smooth_images(4)
    one = small(kind=kind, coarse_weight=0.2)
    one.load_state_dict(tokenizer.state_dict())
    loss, plain = (
        net.training_loss(images, torch.Generator().manual_seed(0)) for net in (tokenizer, one)
    )
    assert set(loss) - set(plain) == {"coarse_4"}
    assert torch.equal(loss["coarse"], plain["coarse"])
    torch.testing.assert_close(loss["loss"], plain["loss"] + 0.2 * loss["coarse_4"])
    noise = torch.zeros(4, 4, 8, 8)
    exact = tokenizer.training_loss(images, noise=noise)["coarse_4"]
    decoded = tokenizer._run_decoder(F.avg_pool2d(tokenizer.encode(images), 4))
    if kind == "kl":  # statistics are still 0 and 1
        terms = reconstruction_terms(decoded, F.avg_pool2d(images, 4))
        torch.testing.assert_close(exact, tokenizer._weigh(terms).detach())
    with pytest.raises(EcarError, match="4 px are too few to train this tokenizer: use 8"):
        tokenizer.training_loss(torch.zeros(1, 3, 4, 4))


def test_kl_matches_the_distribution_library():
    tokenizer = small()
    images = smooth_images(4)
    mean, std = tokenizer.moments(images)  # statistics are still 0 and 1
    posterior, prior = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).mean()
    torch.testing.assert_close(tokenizer.training_loss(images)["kl"], expected.detach())


def test_training_noise_comes_from_the_generator_or_the_caller():
    tokenizer = small()
    images = smooth_images(4)

    def loss(*args, **kwargs) -> torch.Tensor:
        return tokenizer.training_loss(images, *args, **kwargs)["loss"].detach()

    first, again, other = (loss(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loss(noise=noise), first)
    halves = [
        tokenizer.training_loss(images[i : i + 2], noise=noise[i : i + 2])["loss"].detach()
        for i in (0, 2)
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), first)


@pytest.mark.parametrize("extreme", [-1e6, 1e6])
def test_log_variance_is_clamped(extreme):
    tokenizer = small()
    tokenizer.encoder[-1].bias.data[4:] = extreme
    losses = tokenizer.training_loss(smooth_images(2))
    assert losses["loss"].isfinite()
    assert 1e-5 < losses["posterior_std"] < 10


def test_blur_costs_more_than_the_same_error_spread_evenly():
    edge = torch.ones(1, 3, 8, 8)
    edge[..., 4:] = -1
    blurred = F.avg_pool2d(F.pad(edge, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    even = edge + (blurred - edge).abs().mean()
    at_edge, spread = reconstruction_terms(blurred, edge), reconstruction_terms(even, edge)
    torch.testing.assert_close(at_edge["l1"], spread["l1"])
    assert at_edge["sharpness"] > 0.1
    assert spread["sharpness"] == 0
