"""Notebook 8: what is said of the shipped checkpoints follows their file; its figures are shown."""

import copy
import json

import pytest
import torch

from ecar_lab.experiments.lab.scores import spread
from ecar_lab.teaching.explore import experiments as explore
from ecar_lab.teaching.explore import shipped
from ecar_lab.teaching.session import RESULTS


@pytest.fixture
def result():
    return json.loads((RESULTS / "shipped-cpu.json").read_text("utf-8"))


def as_if(result, ours, dit):
    """The file, as if E-CAR and DiT had one point each, of these (distance, GFLOP, interval)."""
    result = {key: copy.deepcopy(result[key]) for key in ("E-CAR", "DiT")}
    for name, (frechet, gflop, interval) in {"E-CAR": ours, "DiT": dit}.items():
        point = {**result[name]["points"][0], "frechet": frechet, "gflop": gflop}
        result[name]["points"] = [{**point, "interval": interval}]
    return result


@pytest.mark.parametrize(
    ("ours", "dit", "quality", "equal", "no_worse"),
    [
        ((2.0, 10.0, 0.1), (1.0, 80.0, 0.1), "No:", "behind", ": none"),
        ((1.0, 10.0, 0.1), (2.0, 80.0, 0.1), "Better:", "ahead of", "8.0× fewer"),
        ((1.1, 10.0, 0.1), (1.0, 40.0, 0.1), "Yes:", "level with", ": none"),
    ],
)
def test_the_headline_is_judged_by_the_numbers(result, ours, dit, quality, equal, no_worse):
    cheaper, good, at_equal, as_dit = shipped.verdict_lines(as_if(result, ours, dit))
    assert f"{dit[1] / ours[1]:.1f}×" in cheaper
    assert f"**As good?** {quality}" in good
    assert f"E-CAR is {equal} DiT" in at_equal
    assert no_worse in as_dit


def test_without_intervals_the_smaller_distance_is_lower():
    assert shipped.standing({"frechet": 1.0}, {"frechet": 1.01}) == "lower"
    assert shipped.standing({"frechet": 1.02}, {"frechet": 1.01}) == "higher"


def test_the_nearest_cost_is_nearest_by_its_ratio(result):
    costs = [point["gflop"] for point in result["DiT"]["points"]]
    assert shipped.nearest(result, "DiT", 1e-3)["gflop"] == min(costs)
    assert shipped.nearest(result, "DiT", 1e6)["gflop"] == max(costs)


def test_the_figure_names_all_points(result, monkeypatch):
    said = []
    monkeypatch.setattr(shipped, "show", lambda figure, *words: said.extend(words))
    shipped.figure(result, "8.1")
    caption, alt = said
    lowest = min(p["frechet"] for _, p in shipped.points(result))
    assert f"{lowest:.2f}" in caption.split("Lowest: ")[1]
    assert all(f"{point['frechet']:.2f}" in alt for _, point in shipped.points(result))


def test_figures_are_shown_with_the_numbers_that_were_computed(monkeypatch, capsys):
    said = []
    monkeypatch.setattr(explore, "show", lambda figure, *words: said.append(words))
    entries = [spread([3.0, 4.0]), spread([1.0, 2.0])]
    explore.few_images([50, 100], {"real digits": entries}, 2)
    assert "50 images 3.5 ± 0.7" in capsys.readouterr().out
    dots, names = torch.rand(5, 2), ("a", "b", "a cloud")
    measured = dict.fromkeys(names, (0.25, 0.5, 1.0))
    explore.three_clouds(dots, dict.fromkeys(names, dots), measured)
    assert "distance is 0.25; only precision (0.50)" in said[-1][0]


def test_a_workbench_is_of_the_smallest_size(tmp_path):
    lab = explore.workbench(tmp_path, num_samples=5)
    assert (lab.size.name, lab.size.num_samples, lab.folder) == ("smoke", 5, tmp_path)


def test_a_file_with_a_few_step_head_intervals_and_times_is_read_as_well(result, monkeypatch):
    result["few-step E-CAR"] = copy.deepcopy(result["E-CAR"])
    cheapest = result["few-step E-CAR"]["points"][1]
    cheapest.update(gflop=1.0, frechet=0.1, num_inference_steps=[4, 2, 2])
    for _, point in shipped.points(result):
        point.update(interval=0.05, seconds_per_image={"1": 0.1, "16": 0.05})
    said = []
    monkeypatch.setattr(shipped, "show", lambda figure, *words: said.append((figure, *words)))
    shipped.figure(result, "8.1")
    figure, caption, alt = said[0]
    assert len(figure.axes) == 2
    assert "few-step E-CAR, 4 + 2 + 2 steps: 0.10 ± 0.05 at 1 GFLOP" in caption
    assert "milliseconds" in alt
    dit = result["DiT"]["points"][0]
    words = f"DiT at 50 steps ({dit['frechet']:.2f} ± 0.05): few-step E-CAR at 4 + 2 + 2 steps"
    assert words in "".join(shipped.verdict_lines(result))
