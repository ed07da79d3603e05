"""The figure of the three trade-offs: its numbers are those of the result files."""

import dataclasses

import pytest

from ecar_lab.teaching import session
from ecar_lab.teaching.explore import trade_offs
from ecar_lab.teaching.session import Session


@pytest.fixture(scope="module")
def lab() -> Session:
    return session.setup(8)


def test_points_are_those_of_the_files(lab):
    measured = trade_offs.Measured.of(lab)
    assert [number for number, _, _ in measured.stages("equal images", 4)] == [1, 2, 3, 4]
    row = lab.result("stage-ablation-cpu")["rows"][2]["equal_flops"]["quality"][-1]
    assert measured.stages("equal training FLOPs", row["steps"][0])[2][1:] == (
        row["gflop"],
        row["frechet"],
    )
    rows = lab.result("complexity-cpu")["rows"]
    dit = next(row for row in rows if (row["name"], row["pixels"]) == ("DiT", 512))
    assert measured.methods(512)[-1] == ("DiT", dit["seconds"], dit["peak_mib"])
    assert len(measured.per_stage(8)) == 4


def test_every_setting_of_the_controls_is_drawn(lab, monkeypatch, capsys):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = trade_offs.trade_offs(lab)
    *controls, trouble, view = box.children
    for control in controls:
        before = view.value
        control.value = control.options[-1]
        assert view.value != before
        assert trouble.value == ""


def test_what_is_said_follows_the_numbers(lab):
    measured = trade_offs.Measured.of(lab)
    said = trade_offs.verdicts_of(measured)
    assert "not as a rule" in said["memory"]
    rows = [
        {**row, "peak_mib": 99.0 if row["name"] == "DiT" else row["peak_mib"]}
        for row in measured.complexity["rows"]
    ]
    other = dataclasses.replace(measured, complexity={**measured.complexity, "rows": rows})
    assert "not as a rule" not in trade_offs.verdicts_of(other)["memory"]
    assert set(trade_offs.numbers(lab)) == set(said)
