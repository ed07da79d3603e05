"""`ecar train features` and `ecar evaluate`: a checkpoint is measured, or it is said why not."""

import json
from pathlib import Path

import pytest

from ecar_lab.cli import main as cli
from tests.cli.commands import complaint
from tests.conftest import tiny_model


def test_a_checkpoint_is_measured_with_a_net_trained_for_it(capsys):
    from ecar_lab.pipeline import ECARPipeline
    from ecar_lab.tokenizers.makers import IdentityTokenizer

    pipe = ECARPipeline(model=tiny_model(num_classes=10), tokenizer=IdentityTokenizer())
    pipe.save_pretrained("tiny")
    training = ["train", "features", "--dataset", "digits", "--epochs", "1", "--width", "4"]
    assert cli.main([*training, "--output", "nets/digits"]) == 0
    assert "feature net: nets/digits" in capsys.readouterr().out
    measure = ["evaluate", "--checkpoint", "tiny", "--dataset", "digits", "--feature-net"]
    settings = ["nets/digits", "--num-samples", "20", "--steps", "2", "1", "--device", "cpu"]
    assert cli.main([*measure, *settings, "--out", "results/tiny.json"]) == 0
    result = json.loads(Path("results/tiny.json").read_text())
    assert result["sampling"]["num_inference_steps"] == [2, 1]
    assert result["sampling"]["num_samples"] == 20
    assert "results/tiny.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--checkpoint", "nothing"], "'nothing'"),
        (["--checkpoint", "nothing", "--out", "file.txt/result.json"], "file.txt"),
        (["--checkpoint", "nothing", "--out", "result.png"], "use .json"),
        (["--checkpoint", "nothing", "--num-samples", "0"], "--num-samples is 0"),
    ],
)
def test_evaluation_refuses_what_cannot_work(capsys, switches, words):
    Path("file.txt").write_text("in the way")
    assert words in complaint(capsys, cli.main(["evaluate", *switches]))


def test_features_of_a_set_that_is_not_there_are_refused(capsys, tmp_path):
    switches = ["--dataset", "cifar11", "--data", str(tmp_path)]
    assert "'cifar11'" in complaint(capsys, cli.main(["train", "features", *switches]))
    switches = ["--dataset", "digits", "--output", "file.txt/net"]
    Path("file.txt").write_text("in the way")
    assert "file.txt" in complaint(capsys, cli.main(["train", "features", *switches]))
