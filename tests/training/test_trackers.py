"""Trackers get curves and pictures of a run, and cannot end it."""

import json
import logging
from pathlib import Path

import pytest

from ecar_lab.errors import EcarError
from ecar_lab.training import trackers
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import train_model
from tests.training.runs import config


class Tracker:
    """What Accelerate's trackers can do; keeps what it is told."""

    told: list["Tracker"]

    def __init__(self, project: str, **options) -> None:
        self.project, self.options, self.ended = project, options, False
        self.config, self.values, self.images = {}, {}, {}
        type(self).told.append(self)

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict) -> None:
        self.config = values

    def log(self, values: dict, step: int) -> None:
        self.values[step] = self.values.get(step, {}) | values

    def log_images(self, values: dict, step: int) -> None:
        self.images[step] = {tag: [image.size for image in of] for tag, of in values.items()}

    def finish(self) -> None:
        self.ended = True


class Broken(Tracker):
    def log(self, values: dict, step: int) -> None:
        raise ConnectionError("no way to the tracker")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch):
    """Puts a class in the place of W&B's tracker; gives the list of those that were made."""
    monkeypatch.setattr(trackers, "PACKAGES", {"wandb": "json"})
    for name in ("WANDB_MODE", "WANDB_SILENT"):  # set first, so that they are restored
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def used(kind: type[Tracker]) -> list[Tracker]:
        kind.told = []
        monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, "wandb", kind)
        return kind.told

    return used


def test_tracker_gets_curves_per_stage_and_pictures(tmp_path: Path, use, monkeypatch):
    told = use(Tracker)
    run = train_model(
        config(
            tmp_path / "run",
            steps=4,
            log_every=2,
            sample_every=4,
            log_with=["tensorboard", "wandb"],
        )
    )
    (tracker,) = told
    assert (tracker.project, tracker.options["name"]) == ("ecar-lab", "run")
    assert tracker.ended
    assert json.loads(tracker.config["model"])["num_stages"] == 2
    rows = [row for row in read_metrics(run) if "loss" in row]
    assert list(tracker.values) == [row["step"] for row in rows] == [2, 4]
    for row in rows:
        curves = tracker.values[row["step"]]
        assert curves["loss"] == row["loss"]
        assert [curves[f"loss_stage/{stage}"] for stage in (0, 1)] == row["loss_stage"]
    assert list(tracker.images) == [4]
    assert tracker.images[4]["samples"][0][0] > 8
    assert list((run / "tensorboard").iterdir())


def test_wandb_stays_offline_unless_it_is_told_otherwise(tmp_path: Path, use, monkeypatch):
    use(Tracker)
    trackers.open_boards(["wandb"], tmp_path, 0, {})
    assert trackers.os.environ["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    trackers.open_boards(["wandb"], tmp_path, 0, {})
    assert trackers.os.environ["WANDB_MODE"] == "online"


def test_tracker_that_fails_costs_one_warning(tmp_path: Path, use, caplog):
    use(Broken)
    with caplog.at_level(logging.WARNING):
        run = train_model(config(tmp_path / "run", steps=4, log_every=1, log_with=["wandb"]))
    warnings = [one.message for one in caplog.records if "wandb" in one.message]
    assert warnings == [
        "wandb gets no more of this run (no way to the tracker); metrics.jsonl holds the same "
        "numbers"
    ]
    assert (run / "final").is_dir()
    assert not (run / "tensorboard").exists()


def test_package_that_is_missing_is_named_before_any_work(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(trackers, "PACKAGES", {"trackio": "no_such_package"})
    with pytest.raises(EcarError, match=r"pip install 'ecar-lab\[trackio\]'"):
        train_model(config(tmp_path / "run", log_with=["trackio"]))
    assert not (tmp_path / "run").exists()


def test_unknown_tracker_is_refused(tmp_path: Path):
    with pytest.raises(EcarError, match="tensorboard or trackio or wandb"):
        config(tmp_path / "run", log_with=["visdom"])
