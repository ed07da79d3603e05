"""`ecar train tokenizer | model | features`."""

from __future__ import annotations

from typing import TypeVar

from ecar_lab.cli.switches import parse, parse_call, take
from ecar_lab.errors import EcarError
from ecar_lab.files import check_folder
from ecar_lab.training.config import (
    ModelTrainConfig,
    TokenizerTrainConfig,
    TrainConfig,
    TurboTrainConfig,
)

Config = TypeVar("Config", bound=TrainConfig)


def tokenizer(arguments: list[str]) -> None:
    config = read_config(TokenizerTrainConfig, arguments)
    from ecar_lab.training.tokenizer import train_tokenizer

    print(f"run folder: {train_tokenizer(config)}")


def model(arguments: list[str]) -> None:
    config = read_config(ModelTrainConfig, arguments)
    from ecar_lab.training.model import train_model

    print(f"run folder: {train_model(config)}")


def turbo(arguments: list[str]) -> None:
    config = read_config(TurboTrainConfig, arguments)
    from ecar_lab.training.turbo import train_turbo

    print(f"run folder: {train_turbo(config)}")


def features(arguments: list[str]) -> None:
    from ecar_lab.training.features import train_features

    options = parse_call(train_features, "train features", arguments)
    if options["output"] is not None:
        check_folder(options["output"])
    print(f"feature net: {train_features(**options)}")


def read_config(kind: type[Config], arguments: list[str]) -> Config:
    """The configuration of a run: that of a preset or of an earlier run, changed by the switches.

    Raises:
        EcarError: an unknown preset, an unreadable file, both given, or an unwritable run folder.
    """
    saved, arguments = take(arguments, "--config")
    preset, arguments = take(arguments, "--preset")
    if saved and preset:
        raise EcarError("--config and --preset both say where to start from: give one of them")
    default = kind.from_json(saved) if saved else kind.from_preset(preset or kind.preset)
    description = (
        f"Train a {kind.kind}. --preset NAME sets the defaults shown below; --config FILE takes "
        "them from the config.json of an earlier run, and so repeats it."
    )
    command = f"train {kind.kind}"
    config = parse(kind, command, arguments, default=default, description=description)
    config.check()
    check_folder(config.run_folder)
    return config
