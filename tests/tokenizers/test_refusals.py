"""What users can get wrong with a tokenizer, each in one sentence."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel

from ecar_lab.errors import EcarError
from ecar_lab.tokenizers.makers import (
    ConvTokenizer,
    IdentityTokenizer,
    load_tokenizer,
)
from tests.tokenizers.examples import (
    WEIGHTS,
    make,
    small,
)


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
        ({"width": 8}, "use 16"),
        ({"depth": 0}, "depth is 0: use 1 to"),
        ({"latent_channels": 0}, "latent_channels is 0: use 1 to"),
        ({"codebook_size": 0}, "codebook_size is 0: use 1 to"),
        ({"scale_terms": 0}, "scale_terms is 0: use 1 to"),
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
    tokenizer.save_config(tmp_path)
    torch.save(tokenizer.state_dict(), (tmp_path / WEIGHTS).with_suffix(".bin"))
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
    for content in ('{"_class_name": "Conv', "[]", '{"width": NaN}', '{"width": 16, "width": 32}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(EcarError, match=r"config\.json' is no JSON .*copy"):
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
