"""The experiment on failure signatures: what counts as seen, and a diverging run is a result."""

import json

import pytest

from ecar_lab.doctor import diagnose
from ecar_lab.experiments import failure_signatures as experiment
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.sizes import SIZES


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(SIZES["smoke"], tmp_path, device="cpu", dtype="float32")


def told(fired: bool, value: float | None = 1.0) -> dict:
    return {"value": value, "fired": fired, "found": ""}


def made_up(name: str, expected: list[str] | None, *seeds: dict) -> dict:
    curve = {"images": [32, 64], "loss": [1.0, None], "loss_stage": [[1.0, 0.5], [0.9, 0.4]]}
    records = [
        {"seed": number, "diagnoses": found, "curve": curve, "stopped": None}
        for number, found in enumerate(seeds)
    ]
    return {"name": name, "expected": expected, "seeds": records}


def test_a_failure_is_seen_by_any_diagnostic_that_is_meant_for_it_and_by_no_other():
    rows = [
        made_up("sound", [], {"leak": told(False)}, {"leak": told(True)}),
        made_up("open", None, {"leak": told(True)}),
        made_up("a", ["diverged", "loss_oscillating"],
                {"diverged": told(False), "loss_oscillating": told(True)},
                {"diverged": told(False), "leak": told(True)}),
    ]  # fmt: skip
    assert experiment.verdict(rows) == {
        "provoked": 2,
        "detected": 1,
        "sound": 2,
        "false_alarms": 1,
    }


def test_a_cell_shows_the_median_and_in_how_many_seeds_it_fired():
    row = made_up("a", [], *({"leak": told(fired, v)} for fired, v in
                             [(True, 0.1), (False, 0.7), (True, 0.2), (False, 0.9)]))  # fmt: skip
    assert experiment.cell(row, "leak") == ("0.45", 0.5)
    assert experiment.cell(row, "diverged") == ("–", None)
    infinite = made_up("a", [], {"diverged": told(True, None)})
    assert experiment.cell(infinite, "diverged") == ("∞", 1.0)
    unmeasured = made_up("a", [], {"diverged": told(False, None)})
    assert experiment.cell(unmeasured, "diverged") == ("–", None)


def test_an_infinite_value_is_json():
    found = experiment.entry(diagnose.diverged([1.0, None]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["value"], found["fired"]) == (None, True)


def test_every_expected_diagnostic_and_column_exists():
    for case in experiment.CASES:
        assert set(case.expected or ()) <= set(experiment.COLUMNS)
    assert set(experiment.COLUMNS) <= set(diagnose.SIGNS)
    names = [case.name for case in experiment.CASES]
    assert len(set(names)) == len(names)


def test_a_training_that_diverges_is_a_result_and_is_remembered(lab, monkeypatch):
    case = experiment.Case("exploding", ("diverged",), {"lr": 1e30, "grad_clip": 1e9}, short=True)
    record = experiment.look(lab, case, seed=0)
    assert record["stopped"].startswith("training diverged")
    assert experiment.fired(record) == ["diverged"]
    assert record["diagnoses"]["diverged"]["value"] is None
    monkeypatch.setattr("ecar_lab.training.model.train_model", None)
    assert experiment.look(lab, case, seed=0) == record


def test_a_training_that_fails_for_another_reason_is_no_result(lab, monkeypatch):
    from ecar_lab.errors import EcarError

    def full(config):
        raise EcarError("cannot write")

    monkeypatch.setattr("ecar_lab.training.model.train_model", full)
    with pytest.raises(EcarError, match="cannot write"):
        experiment.provoke(lab, 0, {})


def test_table_and_figure_are_made_from_the_result_alone():
    rows = [
        made_up(
            case.name,
            None if case.expected is None else list(case.expected),
            {name: told(True, None) for name in case.expected or ()},
        )
        for case in experiment.CASES
    ]
    result = {"columns": experiment.COLUMNS, "rows": rows, "verdict": experiment.verdict(rows)}
    assert json.loads(json.dumps(result)) == result
    lines = experiment.table(result).splitlines()
    assert len(lines) == 2 + len(rows) + 2
    assert "0/1 false alarms" in lines[2]
    assert "| open | – | 0/1 fired | – |" in lines[3]
    assert "1/1 seen" in lines[4]
    rows[0]["seeds"] = [{**rows[0]["seeds"][0], "frechet": value} for value in (1.0, 2.0)]
    assert experiment.table(result).splitlines()[2].endswith("| 1.50 ± 0.71 |")
    assert lines[-1].startswith("5 of 5 provoked failures were seen, 0 of 3 sound cases")
    figure = experiment.draw(result)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("∞") == sum(len(row["expected"] or ()) for row in rows)
    assert len(texts) == len(rows) * len(experiment.COLUMNS)


def test_a_sound_case_is_looked_at_from_all_sides_and_remembered(lab, monkeypatch):
    case = next(case for case in experiment.CASES if case.name == experiment.HEALTHY)
    record = json.loads(json.dumps(experiment.look(lab, case, 0), allow_nan=False))
    columns = set(experiment.COLUMNS) - {"efficiency_not_realised"}
    assert set(record["diagnoses"]) == columns
    assert record["frechet"] > 0
    assert len(record["curve"]["loss"]) == lab.size.steps
    monkeypatch.setattr("ecar_lab.training.model.train_model", None)
    assert experiment.look(lab, case, 0) == record


def test_steps_in_the_coarsest_stage_cost_time_more_than_flops(lab):
    sound, waste = experiment.time_cases(lab)
    assert (sound["name"], waste["name"]) == (experiment.SOUND_PACE, experiment.WASTE)
    assert waste["steps"] == [experiment.WASTED_STEPS, *sound["steps"][1:]]
    a, b = sound["seeds"][0], waste["seeds"][0]
    assert a["fewer_flops"] > b["fewer_flops"] > 1
    assert a["less_time"] > b["less_time"]
    assert set(a["diagnoses"]) == {"efficiency_not_realised"}
