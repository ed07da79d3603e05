"""Several processes are one: they train the same weights, go on for one another, stop together."""

import json
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.tokenizers.makers import ConvTokenizer
from ecar_lab.training import loop
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.launch import launched
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import model_trainer, train_model
from ecar_lab.training.run_folder import OWNER, RunFolder
from tests.data.pictures import encoded, put, write_tar
from tests.training.runs import assert_same, config, curve, cut_back, weights

ADAMW = dict(steps=4, save_every=2, lr=1e-3, optimizer="adamw")
MUON = {**ADAMW, "optimizer": "muon"}
SHAPE = dict(width=32, num_heads=2, transformer_layers=1, head_layers=1)


@dataclass
class Farm:
    """Where the runs are, and the exit statuses of each: a list per life."""

    root: Path

    def run(self, name: str) -> Path:
        return self.root / name

    def lives(self, name: str) -> list[list[int]]:
        return json.loads((self.root / f"{name}.json").read_text())

    def said(self, name: str, rank: int) -> str:
        return (self.root / f"{name}.{rank}.log").read_text()

    def loss(self, name: str) -> list[float]:
        return [row["loss"] for row in read_metrics(self.run(name)) if "loss" in row]


def large_config(folder: Path, tokenizer: Path, data: Path, **overrides: Any) -> ModelTrainConfig:
    """imagenet256-b with a tiny shape."""
    settings = dict(
        output=str(folder), tokenizer=str(tokenizer), dataset=str(data), model=SHAPE, steps=3,
        log_every=1, save_every=2, sample_every=2, sample_steps=1, warmup_steps=1, dtype="float32",
        device="cpu", grad_accum=2,
    )  # fmt: skip
    return ModelTrainConfig.from_preset("imagenet256-b", **{**settings, **overrides})


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Farm:
    """All runs, those of one process made here, those of two in one program of their own."""
    root = tmp_path_factory.mktemp("farm")
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(downsample_factor=8, latent_channels=4, width=16, depth=1)
    tokenizer.save_pretrained(root / "tokenizer")
    put(root / "pets", *(f"{name}/{n}.png" for name in ("cat", "dog") for n in range(4)))
    put(root / "zoo", *(f"{name}/{n}.png" for name in ("cat", "emu") for n in range(4)))
    (root / "tars").mkdir()
    for number in range(3):
        first = encoded(20 * number)
        write_tar(root / "tars" / f"train-{number}.tar", [first, *map(encoded, range(7 + number))])
    large = root / "tokenizer", root / "pets"
    stream = {**ADAMW, "limit": None, "dataset": str(root / "tars"), "streaming": True}
    own = {"dataset": str(root / "pets"), "batch_size": 4, "limit": None, **ADAMW}
    for cfg in (
        config(root / "adamw", batch_size=8, second_ema_decay=0.9, **ADAMW),
        config(root / "muon", batch_size=8, **MUON),
        config(root / "stream", batch_size=8, **stream),
        large_config(root / "large", *large, batch_size=2),
    ):
        train_model(cfg)
    assert not [one for one in threading.enumerate() if "prefetch" in one.name]
    cut_back(root / "adamw", root / "on by two", 2)
    two = dict(batch_size=4, **ADAMW)
    scenarios = {
        "two": [config(root / "two", batch_size=4, second_ema_decay=0.9, **ADAMW)] * 2,
        "two by muon": [config(root / "two by muon", batch_size=2, grad_accum=2, **MUON)] * 2,
        "on by two": [config(root / "on by two", batch_size=4, second_ema_decay=0.9, **ADAMW)] * 2,
        "two streams": [config(root / "two streams", batch_size=4, **stream)] * 2,
        "spread": [large_config(root / "spread", *large, batch_size=1, fsdp=True)] * 2,
        "killed": [config(root / "killed", second_ema_decay=0.9, resume="none", **two)] * 2,
        "first killed": [config(root / "first killed", second_ema_decay=0.9, **two)] * 2,
        "images": [config(root / "images", limit=limit, **two) for limit in (64, 60)],
        "classes": [
            config(root / "classes", **own),
            config(root / "classes", **{**own, "dataset": str(root / "zoo")}),
        ],
        "missing": [
            config(root / "missing", **own),
            config(root / "missing", **{**own, "dataset": str(root / "nowhere")}),
        ],
        "settings": [config(root / "settings", **two), config(root / "settings", seed=1, **two)],
    }
    (root / "killed").mkdir()
    (root / "killed" / "of an earlier run").touch()
    kills = {"killed": dict(rank=1, step=3), "first killed": dict(rank=0, step=3)}
    listed = []
    for name, configs in scenarios.items():
        given = [cfg.to_dict() for cfg in configs]
        for one in given:
            one.pop("kind")
        listed.append({"name": name, "configs": given, "kill": kills.get(name)})
    (root / "scenarios.json").write_text(json.dumps(listed))
    here = str(Path(loop.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.training.ranks", str(root / "scenarios.json")]
    subprocess.run(command, check=True, env=environment, cwd=here)
    return Farm(root)


# Muon orthogonalises in bfloat16, see test_parallel_runs.py.
@pytest.mark.parametrize(
    ("name", "alone", "tolerance"),
    [
        ("two", "adamw", 1e-6),
        ("two by muon", "muon", 1e-4),
        ("on by two", "adamw", 1e-6),
        ("two streams", "stream", 1e-6),
        ("spread", "large", 1e-5),
    ],
)
def test_two_processes_equal_one(farm: Farm, name: str, alone: str, tolerance: float):
    assert farm.lives(name) == [[0, 0]], farm.said(name, 0) + farm.said(name, 1)
    for stem in ("model", "ema", "optimizer"):
        ours, theirs = (weights(farm.run(run), stem) for run in (name, alone))
        assert_same(ours, theirs, rtol=1e-4, atol=tolerance)
    assert farm.loss(name) == pytest.approx(farm.loss(alone), abs=1e-5)


def test_ddp_has_left_the_group_before_it_is_given_up(tmp_path: Path):
    """As the last to hold the group, DDP's reducer waited for ever, once in some fifty runs."""
    cfg, left = config(tmp_path / "run", **ADAMW), []
    with launched(cfg) as launch:
        trainer = model_trainer(cfg, launch)
        wrapped = torch.nn.Sequential(trainer.objective)  # as DDP wraps it, and accelerate keeps it
        wrapped.itself = [wrapped]  # and such wrappers hold themselves
        trainer.objective = wrapped
        launch.accelerator._models.append(wrapped)
        held = weakref.ref(wrapped)
        del wrapped
        assert held() is not None
        launch.accelerator.end_training = lambda: left.append(held() is None)
        trainer._end_processes()
    assert left == [True]


def test_one_process_goes_on_for_two(farm: Farm, tmp_path: Path):
    part = cut_back(farm.run("two"), tmp_path / "part", 2)
    train_model(config(part, batch_size=8, second_ema_decay=0.9, **ADAMW))
    for stem in ("model", "ema", "second_ema", "optimizer"):
        assert_same(weights(part, stem), weights(farm.run("adamw"), stem), rtol=0, atol=1e-6)


def test_one_process_goes_on_for_spread_weights(farm: Farm, tmp_path: Path):
    part = cut_back(farm.run("spread"), tmp_path / "part", 2)
    large = farm.root / "tokenizer", farm.root / "pets"
    train_model(large_config(part, *large, batch_size=2, fsdp=True))
    assert_same(weights(part), weights(farm.run("large")), rtol=0, atol=1e-5)


def test_spread_weights_make_the_same_pictures_and_result(farm: Farm):
    assert (farm.run("spread") / "samples" / "step-00000002.png").is_file()
    result = Path("final") / "model" / "diffusion_pytorch_model.safetensors"
    sizes = {(farm.run(run) / result).stat().st_size for run in ("spread", "large")}
    assert len(sizes) == 1


def test_card_says_how_many_processes_there_were(farm: Farm):
    cards = {run: (farm.run(run) / "final" / "README.md").read_text() for run in ("two", "adamw")}
    assert "in 2 processes (`torchrun --standalone --nproc-per-node 2 " in cards["two"]
    assert "torchrun" not in cards["adamw"]


@pytest.mark.parametrize(("name", "statuses"), [("killed", [2, -9]), ("first killed", [-9, 2])])
def test_run_goes_on_by_itself_when_a_lost_process_is_replaced(
    farm: Farm, name: str, statuses: list[int]
):
    """Even where it was begun with resume="none": what is to go on is its own work by then."""
    assert farm.lives(name) == [statuses, [0, 0]]
    assert "another process of this run has ended" in farm.said(name, statuses.index(2))
    for stem in ("model", "ema", "second_ema", "optimizer"):
        assert_same(weights(farm.run(name), stem), weights(farm.run("two"), stem))
    assert curve(farm.run(name)) == curve(farm.run("two"))


def test_earlier_run_is_set_aside_once_and_not_again_when_processes_are_replaced(farm: Farm):
    assert (farm.root / "killed.1" / "of an earlier run").is_file()
    assert not (farm.root / "killed.2").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("images", "process 1 sees 60 images, process 0 64: "),
        ("classes", "process 1 has 'emu' as class 1, process 0 'dog': "),
        ("missing", "there is no data set"),
        ("settings", "process 1 was given 1 as seed, process 0 0: "),
    ],
)
def test_processes_that_disagree_stop_together_and_leave_nothing(
    farm: Farm, name: str, sentence: str
):
    assert farm.lives(name) == [[2, 2]]
    for rank in (0, 1):
        errors = [one for one in farm.said(name, rank).splitlines() if one.startswith("error: ")]
        assert len(errors) == 1
        assert sentence in errors[0]
        assert "Traceback" not in farm.said(name, rank)
    assert not farm.run(name).exists()


@pytest.mark.parametrize(
    ("noted", "own", "restarts", "relaunched"),
    [
        (["none", "7"], ("none", 7), "0", True),  # a machine came or went
        (["none", "7"], ("none", 8), "0", False),  # another launch without a name
        (["job", "7"], ("job", 8), "1", True),  # the first process is on another machine now
        (["job", "7"], ("other", 7), "1", False),
        (None, ("job", 7), "1", False),  # killed before it had opened the folder
        ("rubbish", ("job", 7), "1", False),
    ],
)
def test_launch_is_told_from_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted, own, restarts: str, relaunched: bool
):
    run = tmp_path / "run"
    run.mkdir()
    (run / "old").touch()
    (run / OWNER).write_text(json.dumps({"launch": noted, "found": ["step-00000002"]}))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", own[0])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    monkeypatch.setattr("os.getppid", lambda: own[1])
    with RunFolder(run) as folder:
        folder.open(anew=True)
        assert folder.relaunched == relaunched
        assert (run / "old").exists() == relaunched
        assert folder.found == ({"step-00000002"} if relaunched else set())


def test_spread_weights_do_not_go_with_what_trains_more_than_the_model(tmp_path: Path):
    with pytest.raises(EcarError, match=r"fsdp .* align 0\.5"):
        config(tmp_path, fsdp=True, align=0.5).check()
