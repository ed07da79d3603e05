"""Logs: averages, the guard against divergence, rows after a resume."""

import io
import json
import math
from pathlib import Path

import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.training.log import DivergenceGuard, Meter, RunLog, read_metrics


def test_meter_averages_and_leaves_gaps_out():
    meter = Meter(torch.device("cpu"))
    meter.add(0, {"loss": torch.tensor(1.0), "bins": torch.tensor([1.0, math.nan, math.nan])})
    meter.add(1, {"loss": torch.tensor(3.0), "bins": torch.tensor([2.0, 5.0, math.nan])})
    means = meter.means()
    assert means["loss"] == 2.0
    assert means["bins"][:2] == [1.5, 5.0]
    assert math.isnan(means["bins"][2])
    assert math.isinf(float(meter.first_bad))


def test_meter_state_survives_json():
    meter, again = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    for step in range(3):
        meter.add(step, {"loss": torch.rand(()), "stage": torch.rand(2)})
    again.restore(json.loads(json.dumps(meter.state())))
    assert again.means() == meter.means()


def test_meter_finds_the_first_step_that_is_not_finite():
    meter = Meter(torch.device("cpu"))
    for step, loss in enumerate([1.0, math.inf, math.nan, 1.0]):
        meter.add(step, {"loss": torch.tensor(loss)})
    assert float(meter.first_bad) == 1


def test_guard_stops_a_loss_that_leaves_its_range():
    guard = DivergenceGuard(factor=4.0)
    for step in range(10):
        guard.check(step, 1.0, math.inf, 0.1, 1e-3)
    for step in range(2):
        guard.check(step, 5.0, math.inf, 0.1, 1e-3)
    guard.check(12, 1.1, math.inf, 0.1, 1e-3)  # two high values in a row are a spike
    for step in (13, 14):
        guard.check(step, 9.0, math.inf, 0.1, 1e-3)
    with pytest.raises(EcarError, match=r"loss 9 at step 15 is more than 4 times .* lower lr"):
        guard.check(15, 9.0, math.inf, 0.1, 1e-3)


def test_guard_lets_a_falling_loss_pass():
    guard = DivergenceGuard(factor=1.5)
    for step in range(100):
        guard.check(step, 1.0 / (1 + step), math.inf, 0.1, 1e-3)


def test_log_drops_rows_after_the_step_it_resumes_from(tmp_path: Path):
    log = RunLog(tmp_path, step=0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 1.0 / step, "loss_bin": [[0.5, math.nan]]})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    RunLog(tmp_path, step=2).close()
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["loss_bin"] == [[0.5, None]]  # NaN is no JSON


def rows_of(folder: Path, *steps: int) -> None:
    log = RunLog(folder, step=0)
    for step in steps:
        log.write({"step": step, "loss": 1.0 / step})
    log.close()


@pytest.mark.parametrize(
    "damage",
    [
        b'{"step": 2, "lo',
        b"[1]",
        b"\xff\x00\xfe",
        b"\x00" * 64,
        b"{}",
        b'{"step": "2"}',
        b"[" * 9999,
    ],
    ids=range(7),
)
def test_a_damaged_line_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
):
    rows_of(tmp_path, 1, 2, 3)
    file = tmp_path / "metrics.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], damage, lines[2]]) + b"\n")
    RunLog(tmp_path, step=3).close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 3]
    assert file.read_bytes().splitlines() == [lines[0], lines[2]]
    assert (tmp_path / "metrics.damaged").read_bytes() == damage + b"\n"
    assert "1 damaged lines were moved to metrics.damaged" in caplog.text


def test_rows_after_the_resumed_step_stay_in_the_file(tmp_path: Path):
    rows_of(tmp_path, 1, 2, 3)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    log = RunLog(tmp_path, step=1)
    log.write({"step": 2, "loss": 7.0})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(before)
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 1.0), (2, 7.0)]


def test_a_row_without_its_end_of_line_stays_a_row(tmp_path: Path):
    rows_of(tmp_path, 1)
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes().rstrip())
    log = RunLog(tmp_path, step=1)
    log.write({"step": 2})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_full_disk_holds_rows_back_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Of a disk that fills up, the system takes a part of a row, or refuses it."""
    log = RunLog(tmp_path, step=0)
    log.write({"step": 1, "loss": 1.0})
    room = {"left": 5}

    class Full(io.FileIO):
        def write(self, data):
            taken = min(len(data), room["left"])
            if not taken:
                raise OSError(28, "No space left on device")
            room["left"] -= taken
            return super().write(data[:taken])

    monkeypatch.setattr("builtins.open", lambda file, mode="r", **more: Full(file, mode.strip("b")))
    log.write({"step": 2, "loss": 1.0})
    log.write({"step": 3, "loss": 1.0})
    monkeypatch.undo()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    assert caplog.text.count("training goes on, the rows wait for room") == 1
    log.write({"step": 4, "loss": 1.0})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_full_disk_ends_the_curves_of_tensorboard_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    log = RunLog(tmp_path, step=0)
    assert log.boards[0].file is not None
    log.boards[0].file.close()
    log.boards[0].file = io.FileIO("/dev/full", "w")
    for step in (1, 2):
        log.write({"step": step, "loss": 1.0})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    assert caplog.text.count("TensorBoard gets no more curves (No space left on device)") == 1


def test_tensorboard_reads_the_curves_and_pictures(tmp_path: Path):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, step=0)
    log.write({"step": 1, "loss": 0.5, "loss_bin": [[0.25, math.nan]]})
    log.picture("samples", Image.new("RGB", (4, 4)), 1)
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5)]
    assert "loss_bin/0/0" in board.Tags()["scalars"]
    assert "loss_bin/0/1" not in board.Tags()["scalars"]
    assert [(picture.width, picture.step) for picture in board.Images("samples")] == [(4, 1)]
