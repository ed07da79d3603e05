"""Settings of every kind: a right value is kept as it is, a wrong one is one sentence."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecar_lab.baselines import build
from ecar_lab.baselines.dit import DiT
from ecar_lab.bounds import check_batch, free_memory, least_activations, require_memory
from ecar_lab.documents import loads
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.feature_net import FeatureNet
from ecar_lab.files import check_folder, check_output, resolve_checkpoint
from ecar_lab.model import ECAR
from ecar_lab.presets import get_preset
from ecar_lab.schema import check_path
from ecar_lab.tokenizers.makers import AutoencoderTokenizer, ConvTokenizer, load_tokenizer
from ecar_lab.training.config import (
    LatentTrainConfig,
    ModelTrainConfig,
    TokenizerTrainConfig,
    TurboTrainConfig,
)

KINDS = (TokenizerTrainConfig, ModelTrainConfig, TurboTrainConfig)
FIELDS = sorted({entry.name for kind in KINDS for entry in dataclasses.fields(kind)})
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from([0, 1, 2, -1, 0.5, 1.5, "", "1e-3", "false", "auto", "adamw", "cat"])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
many = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def one_sentence(error: EcarError) -> str:
    text = str(error)
    assert len(text) < 1500
    assert "\n" not in text
    assert "pydantic" not in text
    assert "Error" not in text
    return text


@many
@given(kind=st.sampled_from(KINDS), name=st.sampled_from(FIELDS), value=JUNK)
def test_a_file_with_any_value_is_a_configuration_that_survives_or_one_sentence(
    tmp_path: Path, kind: type, name: str, value: Any
):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"kind": kind.kind, name: value}), encoding="utf-8")
    try:
        config = kind.from_json(file)
        config.check()
    except EcarError as error:
        one_sentence(error)
        return
    stored = config.to_dict()
    assert stored[name] == value
    assert type(stored[name]) in (type(value), float)  # an int where a float is meant is fine
    file.write_text(json.dumps(stored), encoding="utf-8")
    assert kind.from_json(file) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": "1e-3"}, "lr is '1e-3': use a finite number above 0"),
        ({"steps": "5"}, "steps is '5': use 1 or more"),
        ({"steps": True}, "steps is True: use 1 or more"),
        ({"steps": 5.0}, "steps is 5.0: use 1 or more"),
        ({"flip": "false"}, "flip is 'false': use true or false, without quotes"),
        ({"flip": 0}, "flip is 0: use true or false"),
        ({"betas": None}, "betas is None: use two numbers from 0 to below 1"),
        ({"betas": [0.9]}, "betas is [0.9]: use two numbers"),
        ({"betas": [0.9, 0.99, 0.999]}, "use two numbers"),
        ({"betas": [1.5, 0.9]}, "betas is [1.5, 0.9]: use two numbers"),
        ({"lr": 10**400}, "lr is 1000"),
        ({"seed": 2**64}, "seed is 18446744073709551616: use a whole number from 0 to"),
        ({"output": "x" * 300}, "too long a name"),
        ({"output": "a\0b"}, "holds characters that no name has"),
        ({"leave_out": "cat"}, "leave_out is 'cat': use a list"),
        ({"model": []}, "model is []: use an object"),
        ({"model": {"width": {}.keys}}, "use an object of names and plain values"),
        ({"lrr": 1}, "unknown field 'lrr'"),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_is_right(wrong: dict, message: str):
    with pytest.raises(EcarError) as refusal:
        ModelTrainConfig.from_preset("digits", **wrong)
    assert message in one_sentence(refusal.value)


def test_a_configuration_is_checked_however_it_is_made():
    config = ModelTrainConfig.from_preset("digits", lr=1)
    assert config.lr == 1
    for make in (
        lambda: ModelTrainConfig(lr="fast"),  # ty: ignore[invalid-argument-type]
        lambda: dataclasses.replace(config, lr="fast"),
        lambda: ModelTrainConfig(**{"lr": 1.0, "speed": 1}),
        lambda: ModelTrainConfig(5),  # ty: ignore[invalid-argument-type]
    ):
        with pytest.raises(EcarError):
            make()
    config.lr = math.nan
    with pytest.raises(EcarError, match="lr is nan"):
        config.check()
    assert LatentTrainConfig().betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xe9\xe8", "is not UTF-8 text: save it as UTF-8"),
        ('{"lr": 1}'.encode("utf-16"), "is not UTF-8 text"),
        (b'{"lr": NaN}', "NaN is no finite number"),
        (b'{"lr": -Infinity}', "-Infinity is no finite number"),
        (b'{"lr": 1e999}', "1e999 is no finite number"),
        (b'{"lr": 1, "lr": 2}', "'lr' is there twice"),
        (b'{"lr": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b'{"lr": ' + b"[" * 100_000 + b"}", "is no JSON"),
        (b"[]", "is no JSON object"),
        (b"null", "is no JSON object"),
        (b'"text"', "is no JSON object"),
        (b"", "is no JSON"),
        (b'{"kind": "tokenizer"}', "configures the training of a tokenizer"),
        (b'{"kind": ["model"]}', "configures the training of a"),
        (b"{" + b" " * (16 * 2**20) + b"}", "is larger than 16 MiB"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_sentence(tmp_path: Path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(EcarError) as refusal:
        ModelTrainConfig.from_json(tmp_path / "config.json")
    assert message in one_sentence(refusal.value)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path):
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"lr": 0.5}')
    assert ModelTrainConfig.from_json(tmp_path / "config.json").lr == 0.5


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.json")
    for place in (tmp_path / "pipe.json", tmp_path, "/dev/zero", "/proc/self/mem", "a\0b"):
        with pytest.raises(EcarError, match="the configuration"):
            ModelTrainConfig.from_json(place)
    (tmp_path / "tokenizer").mkdir()
    os.mkfifo(tmp_path / "tokenizer" / "config.json")
    for load in (resolve_checkpoint, load_tokenizer):
        with pytest.raises(EcarError, match="is no regular file"):
            load(tmp_path)
    with pytest.raises(EcarError, match="there is no checkpoint"):
        resolve_checkpoint("/dev/zero")


@given(text=st.text(alphabet='{}[]":,0123456789.eE-+NaInfty tru', max_size=30))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_what_is_read_as_json_is_json(text: str):
    try:
        value = loads(text)
    except ValueError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == json.loads(text)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (ECAR, {"transformer_layers": 10**9}, "transformer_layers is 1000000000: use 0 to 512"),
        (ECAR, {"head_layers": -1}, "head_layers is -1: use 0 to 512"),
        (ECAR, {"width": 20000, "num_heads": 100}, "GiB of memory and"),
        (ECAR, {"width": "256"}, "width is '256': use a whole number"),
        (ECAR, {"width": 256.0}, "width is 256.0: use a whole number"),
        (ECAR, {"num_heads": 0}, "num_heads is 0: use 1 to"),
        (ECAR, {"latent_size": 2**30}, "latent_size is 1073741824: use 1 to"),
        (ECAR, {"num_stages": 10**6}, "num_stages is 1000000: use 1 to 16"),
        (ECAR, {"num_classes": 10**9}, "num_classes is 1000000000: use 1 to"),
        (ECAR, {"window_ends": [0.3, math.nan, 1.0]}, "window_ends is [0.3, nan, 1.0]: use a"),
        (ECAR, {"window_ends": [-0.3, 0.5, 1.0]}, "window_ends is -0.3: use a finite number from"),
        (ECAR, {"guidance_scale": -1.0}, "guidance_scale is -1.0: use a finite number from 0"),
        (ECAR, {"guidance_scale": math.inf}, "guidance_scale is inf: use a finite number"),
        (ECAR, {"local_mixing": "false"}, "local_mixing is 'false': use true or false"),
        (ECAR, {"class_names": "abcdefghij"}, "class_names is 'abcdefghij': use a list"),
        (DiT, {"num_layers": 10**9}, "num_layers is 1000000000: use 0 to 512"),
        (DiT, {"head_dim": 10**6}, "head_dim is 1000000: use 1 to"),
        (FeatureNet, {"width": 10**9}, "width is 1000000000: use 1 to"),
        (ConvTokenizer, {"depth": 10**6}, "depth is 1000000: use 1 to 512"),
        (ConvTokenizer, {"kl_weight": math.nan}, "kl_weight is nan: use a finite number"),
        (ConvTokenizer, {"kl_weight": -1.0}, "kl_weight is -1.0: use a finite number from 0"),
        (
            AutoencoderTokenizer,
            {
                "autoencoder_class": "AutoencoderKL",
                "autoencoder_config": {"layers_per_block": 10**9},
            },
            "layers_per_block is 1000000000: use",
        ),
        (
            AutoencoderTokenizer,
            {"autoencoder_class": "AutoencoderKL", "autoencoder_config": {"block_out_channels": 3}},
            "these are no arguments of AutoencoderKL",
        ),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_it_is_built(kind, wrong, message):
    with pytest.raises(EcarError) as refusal:
        kind(**wrong)
    assert message in one_sentence(refusal.value)


@pytest.mark.parametrize("architecture", ["ecar", "dit", "mar", "code-ar", "stage-epsilon"])
@pytest.mark.parametrize("wrong", [{"bogus": 1}, {"self": 1}, {"shape": 1}, {"_width": 1}, {"": 1}])
def test_an_argument_that_a_model_does_not_have_is_refused(architecture, wrong):
    shape = get_preset("digits").model
    with pytest.raises(EcarError, match=r"has no argument '\w*': use one of"):
        build(architecture, shape, **wrong)
    with pytest.raises(EcarError, match=r"has no argument '\w*': use one of"):
        build(architecture, {**shape, **wrong})
    for width in ("256", 2**20, math.nan):
        with pytest.raises(EcarError, match="width is"):
            build(architecture, {**shape, "width": width})


def test_sizes_are_compared_with_the_free_memory():
    free = free_memory()
    require_memory("this", free // 2, "use less")
    with pytest.raises(EcarError, match=r"this needs [\d,.]+ GiB of memory and .* use less"):
        require_memory("this", 2 * free, "use less")
    shape = {"latent_size": 4, "patch_size": 1, "width": 128, "head_layers": 5}
    assert least_activations(shape) == 16 * 128 * 5
    check_batch(256, least_activations(shape), "cpu")
    with pytest.raises(EcarError, match="batch_size 1,000,000,000 needs"):
        check_batch(10**9, least_activations(shape), "cpu")


def test_a_name_that_no_file_can_have_is_refused_before_the_work(tmp_path: Path):
    assert check_path(tmp_path / ("x" * 200)) == tmp_path / ("x" * 200)
    for name in ("x" * 240, "a\0b", "\ud800", "d/" * 1500):
        for check in (check_path, check_folder, lambda path: check_output(f"{path}.png", [".png"])):
            with pytest.raises(EcarError):
                check(name)
