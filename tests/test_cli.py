"""The command line: every command does its work, every mistake gets one sentence and status 2."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_model
from PIL import Image
from safetensors.torch import load_file, save_file

from ecar_lab.cli import main as cli

TINY_TRAINING = [
    *("train", "model", "--preset", "digits", "--dtype", "float32", "--device", "cpu"),
    *("--limit", "64", "--batch-size", "16", "--steps", "4", "--save-every", "2"),
    *("--sample-every", "0", "--warmup-steps", "1", "--tokenizer", "identity", "--model"),
    json.dumps({"width": 32, "num_heads": 2, "transformer_layers": 1, "head_layers": 1}),
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch) -> None:
    """Commands write where they are run: here, that is nobody's repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def no_room() -> Iterator[None]:
    """As if the disk were full: the system refuses to let any file grow beyond two kilobytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sample(checkpoint: Path, *switches: str) -> int:
    return cli.main(
        ["sample", "--checkpoint", str(checkpoint), "--device=cpu", "--dtype=float32", *switches]
    )


def complaint(capsys, status: int) -> str:
    """What a failed command said, once it is sure that it failed as a user's mistake should."""
    err = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert ":" in lines[0].removeprefix("error: "), "the remedy follows a colon"
    return lines[0]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------- the command itself


def test_help_lists_every_command_and_imports_nothing_heavy():
    program = (
        "import sys; from ecar_lab.cli.main import main; main(['--help']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    listed, modules = done.stdout.rsplit("\n", 2)[:2]
    for name in cli.VERBS:
        assert f"  {name} " in listed
    assert not {"torch", "diffusers", "gradio", "datasets"} & set(modules.split())


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_command_explains_its_switches(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: ecar {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["paint"], ["train", "everything"], ["train", "--fast", "x"]]
)
def test_an_unknown_command_is_answered_with_those_there_are(arguments, capsys):
    assert "use one of" in complaint(capsys, cli.main(arguments))


def test_a_wrong_switch_exits_with_2(checkpoint, capsys):
    for switches in (["--stepz", "4"], ["--steps", "many"], ["--solver", "magic"]):
        with pytest.raises(SystemExit) as stop:
            sample(checkpoint, *switches)
        assert stop.value.code == 2
        assert switches[0] in capsys.readouterr().err


def test_a_fault_of_the_kit_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(cli.VERBS, "break", cli.Verb("", "data.no_such_function"))
    with pytest.raises(AttributeError):
        cli.main(["break"])


def test_a_mistake_ends_the_process_with_status_2_and_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ecar_lab.cli", "data", "--data", "nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: the data root 'nowhere'")
    assert done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------- sample


def test_sample_writes_a_grid_with_every_class(checkpoint, capsys):
    assert sample(checkpoint, "--classes", "all", "--seed", "0", "--out", "grid.png") == 0
    assert "3 images of 8 px" in capsys.readouterr().out
    grid = np.asarray(Image.open("grid.png"))
    assert grid.shape[0] > 128
    assert files(Path()) - files(checkpoint.parent) == set()


def test_sample_makes_the_same_cat_alone_and_in_a_crowd(checkpoint):
    sample(checkpoint, "--classes", "cat", "--per-class", "2", "--out", "cats.png")
    sample(checkpoint, "--classes", "cat", "2", "dog", "--per-class", "2", "--out", "all.png")
    sample(checkpoint, "--classes", "cat", "--seed", "1", "--out", "other.png")
    cats, crowd, other = (
        np.asarray(Image.open(name)).astype(int) for name in ("cats.png", "all.png", "other.png")
    )
    tile = slice(4, 132)
    np.testing.assert_allclose(crowd[tile, tile], cats[tile, tile], atol=1)
    assert np.abs(other[tile, tile] - cats[tile, tile]).max() > 1
    second = slice(136, 264)
    np.testing.assert_allclose(other[tile, tile], cats[tile, second], atol=1)


def test_sample_takes_steps_and_guidance_per_stage(checkpoint):
    assert (
        sample(checkpoint, "--steps", "3", "1", "--guidance", "2.0", "1.0", "--solver", "heun") == 0
    )
    assert sample(checkpoint, "--num-inference-steps", "3", "--guidance-scale", "2") == 0


def test_sample_draws_the_stages(checkpoint):
    assert sample(checkpoint, "--classes", "dog", "--strip", "strip.png", "--gif", "run.gif") == 0
    assert Image.open("strip.png").width > Image.open("grid.png").width
    assert Image.open("run.gif").n_frames == 6  # two stages: a start and two steps each


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--classes", "unicorn"], "'unicorn' is unknown: use one of cat, dog, frog"),
        (["--classes", "3"], "3 is out of range: use 0 to 2"),
        (["--classes", "cat", "-1"], "-1 is out of range"),
        (["--steps", "0"], "0 flow steps"),
        (["--steps", "4", "4", "4"], "3"),
        (["--guidance", "nan"], "guidance nan"),
        (["--guidance", "-1"], "guidance -1"),
        (["--per-class", "0"], "--per-class is 0"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--device", "abacus"], "'abacus' is unknown"),
        (["--dtype", "int3"], "'int3' is unknown"),
        (["--out", "grid.bmpx"], "use .png or .jpg"),
        (["--gif", "run.png"], "use .gif"),
    ],
)
def test_sample_refuses_what_the_model_cannot_do(checkpoint, capsys, switches, words):
    assert words in complaint(capsys, sample(checkpoint, *switches))
    assert not Path("grid.png").exists()


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(
    tiny_checkpoint, capsys, monkeypatch
):
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(tiny_checkpoint.parent))
    line = complaint(capsys, sample(Path("nothing")))
    assert "'nothing'" in line
    assert "tiny" in line
    assert sample(Path("tiny")) == 0


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_a_truncated_weight_file_is_refused(checkpoint, capsys, part):
    file = next((checkpoint / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    assert str(checkpoint) in complaint(capsys, sample(checkpoint))


def test_weights_of_another_shape_are_refused(checkpoint, capsys):
    config = checkpoint / "model" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "width": 64}))
    assert str(checkpoint) in complaint(capsys, sample(checkpoint))


def test_missing_weights_are_refused_rather_than_made_up(checkpoint, capsys):
    file = next((checkpoint / "model").glob("*.safetensors"))
    weights = load_file(file)
    del weights[max(weights)]
    save_file(weights, file, metadata={"format": "pt"})
    assert str(checkpoint) in complaint(capsys, sample(checkpoint))


@pytest.mark.parametrize("out", ["file.txt/grid.png", "folder.png"])
def test_an_unwritable_output_is_refused_before_the_checkpoint_is_even_opened(capsys, out):
    Path("file.txt").write_text("in the way")
    Path("folder.png").mkdir()
    for switch in ("--out", "--strip"):
        assert out in complaint(capsys, sample(Path("no-checkpoint"), switch, out))


def test_a_full_disk_leaves_the_old_picture_and_no_half_of_a_new_one(checkpoint, capsys, no_room):
    Path("grid.png").write_bytes(b"the old picture")
    before = files(Path())
    assert "grid.png" in complaint(capsys, sample(checkpoint, "--per-class", "4"))
    assert Path("grid.png").read_bytes() == b"the old picture"
    assert files(Path()) == before


# -------------------------------------------------------------------------------------------- train


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


# --------------------------------------------------------------------- train features, evaluate


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
        (["--checkpoint", "nothing", "--num-samples", "0"], "num_samples 0"),
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


# --------------------------------------------------------------------------------------------- data


def test_data_lists_what_is_there(data_root, capsys):
    assert cli.main(["data", "--data", str(data_root)]) == 0
    out = capsys.readouterr().out
    assert "train 50,000" in next(line for line in out.splitlines() if line.startswith("cifar10"))
    assert str(data_root) in out


def test_data_without_a_root_says_how_to_name_one(monkeypatch, capsys):
    monkeypatch.delenv("ECAR_DATA", raising=False)
    assert cli.main(["data"]) == 0
    out = capsys.readouterr().out
    assert "needs no file" in out
    assert "ECAR_DATA" in out


def test_data_looks_into_a_set(capsys):
    assert (
        cli.main(["data", "digits", "--look", "200", "--columns", "3", "--out", "sheet.png"]) == 0
    )
    out = capsys.readouterr().out
    assert "digits, split train: 1,437 images, 8 px" in out
    assert "10 classes; of 200 images looked at" in out
    width, height = Image.open("sheet.png").size
    assert height > width, "ten rows of three"


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["cifar11"], "'cifar11'"),
        (["digits", "--split", "dream"], "'dream'"),
        (["digits", "--look", "0"], "--look is 0"),
        (["digits", "--image-size", "-8"], "-8"),
        (["--data", "nowhere"], "'nowhere'"),
        (["digits", "--out", "file.txt/sheet.png"], "file.txt"),
    ],
)
def test_data_refuses_what_is_not_there(capsys, tmp_path, switches, words):
    Path("file.txt").write_text("in the way")
    (tmp_path / "sets").mkdir()
    root = [] if "--data" in switches else ["--data", str(tmp_path / "sets")]
    assert words in complaint(capsys, cli.main(["data", *switches, *root]))


# ---------------------------------------------------------------------------------- benchmark, app


def test_the_benchmark_prints_a_table_and_saves_its_numbers(checkpoint, capsys):
    switches = ["--sections", "checkpoint", "--checkpoint", str(checkpoint), "--repeats", "1"]
    assert cli.main(["benchmark", *switches, "--out", "bench/numbers.json"]) == 0
    assert "|" in capsys.readouterr().out
    result = json.loads(Path("bench/numbers.json").read_text())
    assert set(result) >= {"machine", "checkpoint"}
    assert "peers" not in result


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--sections", "weather"], "'weather' is unknown"),
        (["--sections", "weather", "--out", "file.txt/numbers.json"], "file.txt"),
    ],
)
def test_the_benchmark_refuses_what_cannot_work(capsys, switches, words):
    Path("file.txt").write_text("in the way")
    assert words in complaint(capsys, cli.main(["benchmark", *switches]))


def test_the_app_is_served_with_the_switches_given(monkeypatch):
    import apps.demo

    served = {}
    monkeypatch.setattr(apps.demo, "launch", lambda **switches: served.update(switches))
    assert cli.main(["app", "--checkpoint", "tiny", "--port", "7999"]) == 0
    assert served["checkpoint"] == "tiny"
    assert served["port"] == 7999
    assert served["host"] == "127.0.0.1"


def test_an_app_without_its_repository_is_explained(monkeypatch, tmp_path, capsys):
    from ecar_lab.cli import app

    monkeypatch.setattr(app, "__file__", str(tmp_path / "ecar_lab" / "cli" / "app.py"))
    assert "install from a clone" in complaint(capsys, cli.main(["app"]))


@pytest.mark.parametrize("port", ["many", "99999"])
def test_a_port_variable_that_is_no_port_is_named(monkeypatch, capsys, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    assert port in complaint(capsys, cli.main(["app"]))
