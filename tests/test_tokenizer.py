"""Tokenizers: shapes, statistics, losses, files and the sentences for what goes wrong."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DModel

from ecar_lab.errors import EcarError
from ecar_lab.tokenizers.base import psnr
from ecar_lab.tokenizers.makers import (
    AutoencoderTokenizer,
    ConvTokenizer,
    IdentityTokenizer,
    load_tokenizer,
)
from ecar_lab.tokenizers.networks import VectorQuantiser, nearest_pairs, reconstruction_terms

WEIGHTS = "diffusion_pytorch_model.safetensors"


def smooth_images(count: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Random but smooth images (count, 3, size, size) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator) * 2 - 1
    return F.interpolate(coarse, size=size, mode="bilinear")


def small(**changes) -> ConvTokenizer:
    """A small tokenizer whose zero-initialised blocks have been moved off the identity."""
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(**{"width": 16, "depth": 1, "codebook_size": 32} | changes)
    for parameter in tokenizer.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return tokenizer.eval()


def small_kl() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=5,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).eval()


def small_tiny() -> AutoencoderTiny:
    torch.manual_seed(2)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=6,
    ).eval()


def make(name: str):
    makers = {
        "kl": small,
        "vq": lambda: small(kind="vq"),
        "identity": IdentityTokenizer,
        "AutoencoderKL": lambda: AutoencoderTokenizer.from_autoencoder(small_kl()),
        "AutoencoderTiny": lambda: AutoencoderTokenizer.from_autoencoder(small_tiny()),
    }
    return makers[name]()


every_tokenizer = pytest.mark.parametrize(
    "name", ["kl", "vq", "identity", "AutoencoderKL", "AutoencoderTiny"]
)


# What every tokenizer does


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


# The compact autoencoder


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


# The vector-quantised twin


@torch.no_grad()
def test_vq_latents_are_codes_and_decode_snaps_to_them():
    tokenizer = small(kind="vq")
    images = smooth_images(4)
    latent, std = tokenizer.moments(images)  # statistics are still 0 and 1
    vectors = latent.movedim(1, -1).flatten(0, -2)
    book = tokenizer.quantiser.codebook
    assert (vectors[:, None] == book).all(-1).any(1).all()
    assert std.eq(0).all()
    gap = torch.cdist(book, book).fill_diagonal_(torch.inf).min()
    push = F.normalize(torch.randn_like(latent), dim=1) * gap * 0.4
    assert torch.equal(tokenizer.decode(latent + push), tokenizer.decode(latent))


def test_nearest_pairs_in_chunks_equal_the_full_table():
    rows, book = torch.randn(50, 3), torch.randn(11, 3)
    table = (rows[:, None] - book[None]).square().sum(-1)
    code_of_row, row_of_code = nearest_pairs(rows, book, chunk=7)
    assert torch.equal(code_of_row, table.argmin(1))
    assert torch.equal(row_of_code, table.argmin(0))


def test_gradient_passes_straight_through_the_quantiser():
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    weight = torch.randn(2, 4, 3, 3)
    (VectorQuantiser(8, 4)(z).codes * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)


def test_reach_loss_revives_codes_far_from_every_latent():
    torch.manual_seed(0)
    quantiser = VectorQuantiser(16, 4)
    quantiser.codebook.data[1:] += 50
    z = torch.randn(8, 4, 8, 8)
    assert quantiser(z).used == 1 / 16
    optimizer = torch.optim.Adam(quantiser.parameters(), lr=1.0)
    for _ in range(200):
        out = quantiser(z)
        optimizer.zero_grad()
        (out.codebook_loss + 0.1 * out.reach_loss).backward()
        optimizer.step()
    assert quantiser(z).used > 0.9


# Autoencoders of diffusers


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


# What users can get wrong


@pytest.mark.parametrize(("size", "remedy"), [(30, "use 32"), (4, "use 8"), (33, "use 40")])
def test_indivisible_size_names_the_next_that_fits(size, remedy):
    tokenizer = small(downsample_factor=8)
    with pytest.raises(EcarError, match=f"{size} px is not divisible by 8 .*{remedy}"):
        tokenizer.encode(torch.zeros(1, 3, 32, size))
    with pytest.raises(EcarError, match=remedy):
        tokenizer.encode(torch.zeros(1, 3, size, 32))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 8, 8), "3, height, width"),
        (torch.zeros(3, 8, 8), "3, height, width"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"floats in \[-1, 1\]"),
    ],
)
def test_wrong_images_are_refused(images, message):
    for call in (small().encode, small().training_loss, lambda x: small().fit_statistics([x])):
        with pytest.raises(EcarError, match=message):
            call(images)


def test_wrong_latents_are_refused():
    with pytest.raises(EcarError, match="batch, 4, height, width"):
        small().decode(torch.zeros(1, 5, 8, 8))


def test_images_too_small_to_train_on_are_refused():
    with pytest.raises(EcarError, match=r"8 px are too few .* use 16 or more"):
        small(downsample_factor=8).training_loss(torch.zeros(1, 3, 8, 8))


def test_statistics_need_images_and_finite_latents():
    with pytest.raises(EcarError, match="at least one batch"):
        small().fit_statistics([])
    with pytest.raises(EcarError, match="not finite"):
        IdentityTokenizer().fit_statistics([torch.full((1, 3, 4, 4), torch.nan)])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"downsample_factor": 3}, "use 2, 4 or 8"),
        ({"kind": "gan"}, "use 'kl' or 'vq'"),
        ({"width": 40}, "use 48"),
        ({"width": 0}, "use 16"),
        ({"depth": 0}, "depth 0"),
        ({"latent_channels": 0}, "latent_channels 0"),
        ({"codebook_size": 0}, "codebook_size 0"),
    ],
)
def test_impossible_config_names_value_and_remedy(config, message):
    with pytest.raises(EcarError, match=message):
        ConvTokenizer(**config)


@pytest.mark.parametrize("name", ["kl", "AutoencoderKL"])
def test_truncated_weights_are_one_sentence(name, tmp_path):
    make(name).save_pretrained(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    for length in (len(content) // 2, 4, 0):
        (tmp_path / WEIGHTS).write_bytes(content[:length])
        with pytest.raises(EcarError, match="cut short"):
            load_tokenizer(tmp_path)


def test_pickled_weights_are_never_read(tmp_path):
    tokenizer = small()
    tokenizer.save_pretrained(tmp_path, safe_serialization=False)
    assert not (tmp_path / WEIGHTS).exists()
    with pytest.raises(EcarError, match="not safetensors"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "change", [{"width": 32}, {"depth": 2}, {"latent_channels": 8}, {"kind": "vq"}]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_weights_of_another_shape_are_one_sentence(change, swapped, tmp_path, capfd):
    one, other = small(), small(**change)
    if swapped:
        one, other = other, one
    one.save_pretrained(tmp_path / "one")
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, tmp_path / "one" / WEIGHTS)
    with pytest.raises(EcarError, match="another shape"):
        load_tokenizer(tmp_path / "one")
    assert capfd.readouterr() == ("", "")


def test_impossible_config_in_a_folder_keeps_its_own_sentence(tmp_path):
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"downsample_factor": 3}))
    with pytest.raises(EcarError, match="use 2, 4 or 8"):
        load_tokenizer(tmp_path)


def test_unreadable_config_is_one_sentence(tmp_path):
    small().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "Conv')
    with pytest.raises(EcarError, match=r"config\.json .* cannot be read"):
        load_tokenizer(tmp_path)


def test_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(EcarError, match=r"no tokenizer in .* give a folder"):
        load_tokenizer(tmp_path)


def test_model_that_is_no_tokenizer_is_refused(tmp_path):
    UNet2DModel(
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).save_pretrained(tmp_path)
    with pytest.raises(EcarError, match="UNet2DModel, which is no tokenizer"):
        load_tokenizer(tmp_path)


def test_autoencoder_of_grey_images_is_refused(tmp_path):
    AutoencoderKL(in_channels=1, norm_num_groups=4, block_out_channels=(8,)).save_pretrained(
        tmp_path
    )
    with pytest.raises(EcarError, match="3 channels"):
        load_tokenizer(tmp_path)


def test_unknown_name_lists_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(tmp_path))
    small().save_pretrained(tmp_path / "mine" / "tokenizer")
    assert isinstance(load_tokenizer("mine"), ConvTokenizer)
    with pytest.raises(EcarError, match="mine"):
        load_tokenizer("yours")
    with pytest.raises(EcarError, match="no checkpoint"):
        load_tokenizer("./not/there")


def test_hub_id_that_cannot_be_fetched_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EcarError, match="check the spelling and the network"):
        load_tokenizer("nobody/no-such-tokenizer")


# Numbers


def test_psnr_is_relative_to_the_range_from_minus_one_to_one():
    images = torch.zeros(2, 3, 8, 8)
    assert psnr(images, images + 0.2) == pytest.approx(20)
    assert psnr(images, images + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)) == pytest.approx(30)
    assert psnr(images, images) == pytest.approx(120)
