"""Logs: averages, the guard against divergence, rows after a resume."""

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
