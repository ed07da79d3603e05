"""Processes: how many the launcher was asked for, and what is said when one is lost."""

import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.training import processes
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


@pytest.mark.parametrize(
    "words",
    [
        "[gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]",
        "Read error [127.0.0.1]:2: Connection reset by peer",
    ],
)
def test_a_lost_process_is_one_sentence(monkeypatch: pytest.MonkeyPatch, words: str):
    def lose() -> None:
        with processes.told_when_a_process_is_lost():
            raise RuntimeError(words)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(EcarError, match="another process of this run has ended"):
        lose()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="peer"):
        lose()


def test_the_launcher_says_in_one_sentence_that_a_process_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def killed(arguments: object) -> None:
        failure = ProcessFailure(local_rank=1, pid=4711, exitcode=-9, error_file="<NA>")
        raise ChildFailedError("train.py", {1: failure})

    monkeypatch.setattr("torch.distributed.run.run", killed)
    monkeypatch.setattr("sys.argv", ["processes", "--nproc-per-node", "2", "train.py"])
    assert processes.main() == 1
    assert capsys.readouterr().err.startswith("error: a process of this run has ended")
