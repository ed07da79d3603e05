"""The studio behind the page: its visitors' folders, and what can go wrong."""

import shutil

import pytest
import torch

from apps.shared import studio
from apps.shared.settings import Settings
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from tests.app.page import QUIET

pytestmark = QUIET


@pytest.fixture
def settings() -> Settings:
    return Settings("cat", 4, (3, 2), (1.5, 1.5))


def test_a_visitor_keeps_so_many_runs_and_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(studio, "KEEP_RUNS", 2)
    folders = studio.Folders()
    runs = [folders.new_run("visitor") for _ in range(3)]
    assert [run.exists() for run in runs] == [False, True, True]
    other = folders.new_run("other")
    folders.forget("visitor")
    assert not runs[-1].exists()
    assert other.exists()
    runs[-1].mkdir(parents=True)  # a run that had not noticed
    folders.close_run(runs[-1])
    assert not runs[-1].parent.exists()
    assert list(folders.root.iterdir()) == [other.parent]


def test_a_visitor_who_never_said_goodbye_is_forgotten_but_not_the_opening(monkeypatch):
    folders = studio.Folders()
    opening, silent = folders.new_run(None), folders.new_run("silent")
    monkeypatch.setattr(studio, "FORGET_AFTER", -1.0)
    folders.new_run("next")
    assert opening.exists()
    assert not silent.exists()


def test_a_run_whose_visitor_left_ends_quietly(tiny_checkpoint, settings):
    house = studio.Studio(tiny_checkpoint)
    run = house.run(settings, "visitor")
    next(run)
    house.folders.forget("visitor")
    assert list(run) == []
    assert list(house.folders.root.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["gpu", "cpu"],
)
def test_a_full_memory_is_one_sentence(tiny_checkpoint, settings, monkeypatch, error):
    def fill(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(ECARPipeline, "trace", fill)
    with pytest.raises(EcarError, match="ran out of memory"):
        list(studio.Studio(tiny_checkpoint).run(settings, "visitor"))


def test_a_damaged_checkpoint_is_a_banner_and_not_a_crash(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    weights = folder / "model" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cannot be loaded" in (studio.Studio(folder).problem or "")
