"""`ecar sample`: pictures as asked for, and a sentence for what cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.cli.commands import complaint, files, sample


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


def test_sample_takes_an_interval_and_a_grid_for_all_stages_or_one_each(checkpoint):
    def picture(*switches):
        assert sample(checkpoint, "--steps", "2", "--guidance", "3", *switches) == 0
        return np.asarray(Image.open("grid.png")).astype(int)

    whole = picture()
    assert np.array_equal(whole, picture("--interval", "0", "1"))
    half = picture("--guidance-interval", "0", "0.5")
    assert np.array_equal(half, picture("--interval", "0", "0.5", "0", "0.5"))
    assert not np.array_equal(half, whole)
    assert not np.array_equal(half, picture("--interval", "0", "0.5", "0", "1"))
    assert np.array_equal(whole, picture("--power", "1"))
    uneven = picture("--time-power", "1.5", "1.5")
    assert np.array_equal(uneven, picture("--power", "1.5"))
    assert not np.array_equal(uneven, whole)


@pytest.mark.parametrize(("interval", "warned"), [((0.9, 1.0), True), ((0.0, 0.1), False)])
def test_guidance_that_acts_in_no_step_is_said(checkpoint, caplog, interval, warned):
    switches = ["--guidance", "3", "--steps", "2", "--power", "1", "--interval"]
    sample(checkpoint, *switches, *map(str, interval))
    words = "guidance 3 acts in no step of stage 0: none of its 2 begins in 0.9 to 1; widen"
    assert (words in caplog.text) == warned


def test_sample_follows_flows_by_adams_bashforth_unless_told_otherwise(checkpoint):
    pictures = {}
    for name, switches in {"usual": [], **{s: ["--solver", s] for s in ("ab2", "euler")}}.items():
        assert sample(checkpoint, "--steps", "3", *switches) == 0
        pictures[name] = np.asarray(Image.open("grid.png"))
    assert np.array_equal(pictures["usual"], pictures["ab2"])
    assert not np.array_equal(pictures["usual"], pictures["euler"])


def test_sample_draws_the_stages(checkpoint):
    assert sample(checkpoint, "--classes", "dog", "--strip", "strip.png", "--gif", "run.gif") == 0
    assert Image.open("strip.png").width > Image.open("grid.png").width
    assert Image.open("run.gif").n_frames == 6  # two stages: a start and two steps each


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--classes", "unicorn"], "'unicorn' is unknown: use one of cat, dog, frog"),
        (["--classes", "3"], "3 is out of range: use 0 to 2"),
        (["--classes", "--5"], "class '--5' is unknown: use one of"),
        (["--classes", "²"], "class '²' is unknown: use one of"),
        (["--classes", "cat", "-1"], "-1 is out of range"),
        (["--steps", "0"], "--steps is [0]: use a list, each 1 or more"),
        (["--steps", "4", "4", "4"], "3"),
        (["--guidance", "nan"], "guidance is [nan]"),
        (["--guidance", "-1"], "guidance -1"),
        (["--guidance", "1e30"], "guidance 1e+30 leaves nothing of the image"),
        (["--seed", str(2**64)], f"--seed '{2**64}' is beyond all whole numbers"),
        (["--classes", "²"], "'²' is unknown"),
        (["--interval", "0.8", "0.2"], "0.8 to 0.2 ends before it begins: give the lower number"),
        (["--interval", "0", "1", "0", "1", "0", "1"], "has 3 values for 2 stages"),
        (["--power", "0"], "time_power 0: use 1 for even steps"),
        (["--interval", "0.5", "1.5"], "0.5 to 1.5 leaves the stage"),
        (["--per-class", "0"], "--per-class is 0"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--device", "abacus"], "'abacus' is unknown"),
        (["--dtype", "int3"], "'int3' is unknown"),
        (["--out", "grid.bmpx"], "use .png or .jpg"),
        (["--gif", "run.png"], "use .gif"),
        (["--strip", "./grid.png"], "--out and --strip are both 'grid.png': name two files"),
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
