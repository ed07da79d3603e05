"""Processes: how many the launcher was asked for."""

import pytest

from ecar_lab.errors import EcarError
from ecar_lab.training.processes import PLACED, processes_asked, start_missing_processes


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (["accelerate", "launch", "--cpu", "--num_processes", "2", "train.py"], 2),
        (["accelerate", "launch", "--num-processes=4", "--cpu", "train.py"], 4),
        (["accelerate", "launch", "--cpu", "train.py"], None),
    ],
)
def test_number_of_processes_is_read_off_the_launcher(command: list[str], count: int | None):
    assert processes_asked(command) == count


def test_launcher_without_a_number_is_no_silent_single_process(monkeypatch: pytest.MonkeyPatch):
    for name in PLACED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr("ecar_lab.training.processes.processes_asked", lambda command: None)
    with pytest.raises(EcarError, match="torchrun --standalone"):
        start_missing_processes()
