"""`ecar train` of tokenizers and models: what a run writes, and what it refuses."""

import json
import resource
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ecar_lab.cli import main as cli
from tests.cli.commands import TINY_TRAINING, complaint, files


def test_train_model_makes_a_run_that_its_saved_configuration_repeats(capsys):
    assert cli.main([*TINY_TRAINING, "--output", "first"]) == 0
    assert "run folder: first" in capsys.readouterr().out
    assert json.loads(Path("first/config.json").read_text())["model"]["width"] == 32
    again = ["train", "model", "--config", "first/config.json", "--output", "second"]
    assert cli.main(again) == 0
    first, second = (
        load_file(next(Path(run, "final", "model").glob("*.safetensors")))
        for run in ("first", "second")
    )
    assert all((first[name] == second[name]).all() for name in first)


def test_a_switch_overrides_the_preset(capsys):
    from ecar_lab.cli.train import read_config
    from ecar_lab.training.config import ModelTrainConfig

    assert read_config(ModelTrainConfig, []).preset == ModelTrainConfig.preset
    config = read_config(ModelTrainConfig, ["--preset=cifar10", "--lr", "0.5"])
    assert config.lr == 0.5
    assert config.batch_size == ModelTrainConfig.from_preset("cifar10").batch_size


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--preset", "imagenet8k"], "preset 'imagenet8k' is unknown"),
        (["--preset", "cifar10", "--data", "nowhere"], "the data root 'nowhere'"),
        (["--preset"], "--preset has no value"),
        (["--config", "nowhere.json"], "'nowhere.json'"),
        (["--config", "a.json", "--preset", "digits"], "give one of them"),
        (["--preset", "digits", "--steps", "0"], "steps is 0"),
        (["--preset", "digits", "--lr", "nan"], "lr is nan"),
    ],
)
def test_training_refuses_what_cannot_work(capsys, switches, words):
    status = cli.main(["train", "tokenizer", *switches])
    assert words in complaint(capsys, status)
    assert files(Path()) == set()


def test_training_into_a_place_that_cannot_be_written_is_refused(capsys):
    Path("file.txt").write_text("in the way")
    assert "file.txt" in complaint(capsys, cli.main([*TINY_TRAINING, "--output", "file.txt/run"]))
    assert Path("file.txt").read_text() == "in the way"


def test_a_full_disk_while_training_keeps_the_checkpoints_whole(capsys):
    assert cli.main([*TINY_TRAINING, "--output", "run"]) == 0
    before = files(Path("run/checkpoints"))
    assert before
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        longer = [*TINY_TRAINING, "--output", "run", "--steps", "8"]
        assert "run" in complaint(capsys, cli.main(longer))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(Path("run/checkpoints")) == before
    assert cli.main(longer) == 0
