"""The FLOP calculator of notebook 9 says what the benchmark measured."""

import json

import pytest

from ecar_lab.teaching.explore import efficiency, flops
from ecar_lab.teaching.session import RESULTS


def test_the_usual_plans_cost_what_the_benchmark_says():
    models = json.loads((RESULTS / "benchmark-cpu.json").read_text("utf-8"))["peers"]["models"]
    first = {entry["name"]: entry["gflop_per_image"] for entry in reversed(models)}
    for name in flops.NAMES:
        assert flops.gflop(name, 256) == pytest.approx(first[name])


def test_a_larger_image_has_more_stages_and_the_same_network():
    assert flops.shape_at(256)["num_stages"] == 4
    large = flops.shape_at(1024)
    assert (large["num_stages"], large["latent_size"]) == (5, 128)
    assert large["num_inference_steps"] == [4, 4, 3, 3, 2]
    for name in ("DiT", "MAR-like"):
        sizes = {flops.model(name, pixels).num_parameters() for pixels in (256, 512)}
        assert len(sizes) == 1


def test_costs_rise_with_steps_guidance_and_pixels():
    base = flops.compared(256, 3, 2, 20, 2.0)
    assert flops.compared(256, 3, 4, 20, 2.0)["E-CAR"] > base["E-CAR"]
    assert flops.compared(256, 5, 2, 20, 2.0)["E-CAR"] > base["E-CAR"]
    assert flops.compared(256, 3, 2, 40, 2.0)["DiT"] > 1.9 * base["DiT"]
    assert flops.compared(256, 3, 2, 20, 1.0)["E-CAR"] == pytest.approx(base["E-CAR"] / 2)
    assert flops.compared(512, 3, 2, 20, 2.0)["E-CAR"] > 4 * base["E-CAR"]


def test_the_picture_names_every_model_with_its_ratio():
    axis = efficiency.draw(256, 3, 2, 50, 2.0).axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names[0] == "E-CAR (1×)"
    assert names[1].startswith("DiT (17.")


def test_what_is_shown_is_what_was_computed(monkeypatch):
    said = []
    monkeypatch.setattr(efficiency, "show", lambda figure, *words: said.append(words))
    efficiency.shares_of_stages([1e9, 3e9], [1.0, 1.0])
    assert "1, 3 GFLOP per second" in said[-1][0]
    assert "25% of the FLOPs and 50% of the time" in said[-1][1]
    gflop = {"DiT, 12 steps": 8.0, "the head": 3.0, "E-CAR": 2.0}
    efficiency.from_dit_to_ecar(gflop, 12, 30.0)
    assert "is 4.0×; the rest of the 15.0×" in said[-1][0]
