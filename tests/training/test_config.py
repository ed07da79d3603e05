"""Configurations: presets, files, explained fields, values that are refused."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from ecar_lab.errors import EcarError
from ecar_lab.presets import PRESETS
from ecar_lab.training import config
from ecar_lab.training.config import ModelTrainConfig, TokenizerTrainConfig


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", [TokenizerTrainConfig, ModelTrainConfig])
def test_every_preset_makes_a_sound_configuration(name: str, kind: type):
    cfg = kind.from_preset(name)
    cfg.check()
    assert cfg.preset == name
    assert str(cfg.run_folder) == str(Path("runs") / f"{name}-{cfg.kind}")


def test_configuration_survives_its_file(tmp_path: Path):
    cfg = ModelTrainConfig.from_preset("cifar10", lr=0.5, betas=(0.8, 0.9), model={"width": 64})
    (tmp_path / "config.json").write_text(json.dumps(cfg.to_dict()))
    assert ModelTrainConfig.from_json(tmp_path / "config.json") == cfg
    with pytest.raises(EcarError, match="training of a model, not of a tokenizer"):
        TokenizerTrainConfig.from_json(tmp_path / "config.json")


def test_unreadable_configuration_is_one_sentence(tmp_path: Path):
    with pytest.raises(EcarError, match="cannot read the configuration"):
        ModelTrainConfig.from_json(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(EcarError, match="is no JSON"):
        ModelTrainConfig.from_json(tmp_path / "broken.json")
    (tmp_path / "odd.json").write_text('{"kind": "model", "speed": 1}')
    with pytest.raises(EcarError, match="unknown field 'speed'"):
        ModelTrainConfig.from_json(tmp_path / "odd.json")


def test_every_field_explains_itself():
    """tyro takes the help of a switch from the string below its field."""
    lines = Path(config.__file__).read_text().splitlines()
    for kind in (TokenizerTrainConfig, ModelTrainConfig):
        for entry in dataclasses.fields(kind):
            index = next(i for i, line in enumerate(lines) if line.startswith(f"    {entry.name}:"))
            assert lines[index + 1].lstrip().startswith('"""'), entry.name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(steps=None), "give one of them"),
        (dict(steps=0), "steps is 0: use 1 or more"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(lr=math.nan), "lr is nan: use a finite number"),
        (dict(lr=-1.0), "lr is -1.0"),
        (dict(max_minutes=0.0), "max_minutes is 0.0"),
        (dict(ema_decay=1.5), "ema_decay is 1.5: use a number from 0 to 1"),
        (dict(class_dropout=2.0), "class_dropout is 2.0"),
        (
            dict(stage_strides=[1, 3]),
            "batch_size 256 is not divisible by the stage stride 3: use 258",
        ),
        (dict(optimizer="sgd"), "optimizer is 'sgd': use muon or adamw"),
        (dict(divergence_factor=1.0), "divergence_factor is 1.0"),
    ],
)
def test_bad_values_are_named(wrong: dict, message: str):
    with pytest.raises(EcarError, match=message):
        ModelTrainConfig.from_preset("digits", **{"max_minutes": None, **wrong}).check()
