"""The exploration of notebook 8: what it takes from the results, and what it draws."""

import json

import pytest

from ecar_lab import EcarError
from ecar_lab.teaching.explore import result_lines as explore
from ecar_lab.teaching.session import RESULTS


@pytest.fixture(scope="module")
def results():
    return {
        name: json.loads((RESULTS / f"{name}-cpu.json").read_text("utf-8"))
        for name in explore.RESULTS
    }


@pytest.fixture(scope="module")
def lines(results):
    return explore.collect(results)


def chosen(experiment, lines):
    return [name for name in lines if name.startswith(f"{experiment} ·")]


@pytest.mark.parametrize("experiment", explore.RESULTS)
def test_every_result_has_lines_with_a_cost_and_a_distance(experiment, lines):
    names = chosen(experiment, lines)
    assert names
    for name in names:
        assert lines[name].points
        for point in lines[name].points:
            assert point["gflop"] > 0
            assert point["steps"] >= 1
            assert explore.mean_of(point["frechet"]) > 0


def test_points_are_those_of_the_result(results, lines):
    entry = results["quality"]["rows"][1]["quality"][2]
    point = lines["quality · DiT"].points[2]
    assert point["frechet"] == entry["frechet"]
    assert (point["steps"], point["gflop"]) == (sum(entry["steps"]), entry["gflop"])


def test_steps_count_all_stages(results, lines):
    """The flow-vs-diffusion file counts per stage, the quality file lists every stage."""
    staged, listed = lines["flow-vs-diffusion · E-CAR"], lines["quality · E-CAR"]
    at = {round(point["gflop"], 6): point["steps"] for point in listed.points}
    for point in staged.points[:4]:
        assert at[round(point["gflop"], 6)] == point["steps"]


def test_only_what_was_timed_has_milliseconds(results, lines):
    points = lines["two-stage · two stages"].points
    timed = [point for point in points if point["ms"] is not None]
    assert [point["steps"] for point in timed] == [2 * results["two-stage"]["timed_steps"]]
    seconds = results["two-stage"]["time"]["two stages"]["seconds_per_image"]
    assert timed[0]["ms"] == pytest.approx(1e3 * seconds)


def test_both_budgets_of_the_ablation_are_there(lines):
    names = chosen("stage-ablation", lines)
    assert len(names) == 8
    assert sum(name.endswith("equal training FLOPs") for name in names) == 4


def test_lines_that_do_not_compare_are_refused(lines):
    names = ["shipped · DiT", "steps-and-guidance · steps"]
    with pytest.raises(EcarError, match=r"10,000 images of cifar10 and on 500 images"):
        explore.chart(lines, names)


def test_what_cannot_be_drawn_is_said(lines):
    with pytest.raises(EcarError, match="no line is chosen"):
        explore.chart(lines, [])
    with pytest.raises(EcarError, match="'recall' over 'GFLOP per image'"):
        explore.chart(lines, ["single-stage · one stage"], y="recall")
    with pytest.raises(EcarError, match="over 'ms per image'"):
        explore.chart(lines, ["quality · DiT"], x="ms per image")


def rings(axis):
    (ringed,) = [line for line in axis.lines if line.get_label() == "front"]
    return list(zip(*ringed.get_data(), strict=True))


@pytest.mark.parametrize(("y", "sign"), [("Frechet distance", 1), ("recall", -1)])
def test_rings_are_where_nothing_is_better(y, sign, lines):
    names = chosen("quality", lines)
    (axis,) = explore.chart(lines, names, y=y).axes
    points = [
        (point["gflop"], explore.mean_of(point[explore.UPWARDS[y]]))
        for name in names
        for point in lines[name].points
    ]
    best = [
        (x, v)
        for x, v in points
        if not any(a <= x and sign * b <= sign * v and (a, b) != (x, v) for a, b in points)
    ]
    assert rings(axis) == sorted(best)


def test_axes_and_lines_follow_the_choice(lines):
    names = ["quality · E-CAR", "flow-vs-diffusion · E-CAR"]
    figure = explore.chart(lines, names, "steps, all stages", "classified correctly", False, False)
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("steps, all stages", "classified correctly")
    assert (axis.get_xscale(), axis.get_yscale()) == ("linear", "linear")
    # One name twice: the experiment tells them apart.
    assert axis.get_legend_handles_labels()[1] == names
    (axis,) = explore.chart(lines, names).axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")


def test_settings_that_are_no_series_are_not_joined(lines):
    (axis,) = explore.chart(lines, ["steps-and-guidance · steps"], pareto=False).axes
    assert {line.get_linestyle() for line in axis.lines} == {"None"}
