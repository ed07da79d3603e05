"""The FLOP calculator of notebook 9 says what the benchmark measured."""

import json

import pytest

from ecar_lab.teaching.explore import efficiency
from ecar_lab.teaching.session import RESULTS


def test_the_usual_plans_cost_what_the_benchmark_says():
    models = json.loads((RESULTS / "benchmark-cpu.json").read_text("utf-8"))["peers"]["models"]
    first = {entry["name"]: entry["gflop_per_image"] for entry in reversed(models)}
    for name in efficiency.COLOURS:
        assert efficiency.gflop(name, 256) == pytest.approx(first[name])


def test_a_larger_image_has_more_stages_and_the_same_network():
    assert efficiency.shape_at(256)["num_stages"] == 4
    large = efficiency.shape_at(1024)
    assert (large["num_stages"], large["latent_size"]) == (5, 128)
    assert large["num_inference_steps"] == [4, 4, 3, 3, 2]
    for name in ("DiT", "MAR-like"):
        sizes = {efficiency.model(name, pixels).num_parameters() for pixels in (256, 512)}
        assert len(sizes) == 1


def test_costs_rise_with_steps_guidance_and_pixels():
    base = efficiency.compared(256, 3, 2, 20, 2.0)
    assert efficiency.compared(256, 3, 4, 20, 2.0)["E-CAR"] > base["E-CAR"]
    assert efficiency.compared(256, 5, 2, 20, 2.0)["E-CAR"] > base["E-CAR"]
    assert efficiency.compared(256, 3, 2, 40, 2.0)["DiT"] > 1.9 * base["DiT"]
    assert efficiency.compared(256, 3, 2, 20, 1.0)["E-CAR"] == pytest.approx(base["E-CAR"] / 2)
    assert efficiency.compared(512, 3, 2, 20, 2.0)["E-CAR"] > 4 * base["E-CAR"]


def test_the_picture_names_every_model_with_its_ratio():
    axis = efficiency.draw(256, 3, 2, 50, 2.0).axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names[0] == "E-CAR (1×)"
    assert names[1].startswith("DiT (17.")
