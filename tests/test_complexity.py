"""What grows how: closed forms, fits, and timing on a part of the work."""

import math
from dataclasses import replace

import pytest
import torch

from ecar_lab.baselines.build import TOLERANCE
from ecar_lab.baselines.token_cost import event_flops
from ecar_lab.benchmark.timing import open_stream, sample
from ecar_lab.experiments import complexity
from ecar_lab.experiments.complexity import ARMS, Setting, measure, shape_at
from ecar_lab.experiments.lab.growth import attention_part, exponents, fits, growth
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.parts import (
    Part,
    filled_cache,
    spread_over,
    time_image,
    time_steps,
    transformer_call,
)
from ecar_lab.experiments.lab.sizes import SIZES
from ecar_lab.machine import count_flops

TINY = Setting(dict(width=32, num_heads=2, transformer_layers=2, head_layers=3), 60, window=4)
BY_NAME = {arm.name: arm for arm in ARMS}


@pytest.fixture(scope="module")
def models():
    """Every arm at 128 px: 64 tokens, 3 stages."""
    return {arm.name: arm.build(128, TINY) for arm in ARMS}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(SIZES["smoke"], tmp_path_factory.mktemp("lab"), device="cpu", dtype="float32")


def test_all_have_as_many_parameters(models):
    ours = models["E-CAR"].num_parameters()
    for model in models.values():
        assert model.num_parameters() == pytest.approx(ours, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("pixels", "latent", "stages"), [(32, 4, 1), (64, 8, 2), (256, 32, 4), (512, 64, 5),
                                     (1024, 128, 5)]
)  # fmt: skip
def test_as_many_stages_as_a_size_allows(pixels, latent, stages):
    shape = shape_at(pixels, {})
    assert (shape["latent_size"], shape["num_stages"]) == (latent, stages)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_attention_is_that_part_of_the_flops_that_is_no_linear_layer(models, name):
    """Counted: everything less what the layers' own matrix products take."""
    arm, model = BY_NAME[name], models[name]
    steps = [1] * len(model.sides)

    def run():
        if arm.kv_cache:
            sample(model, steps)
        else:
            list(model.trace([0], steps, 1.0, kv_cache=False))

    linear = 0

    def count(layer, inputs, output):
        nonlocal linear
        linear += 2 * inputs[0].numel() * output.shape[-1]

    hooks = [
        layer.register_forward_hook(count)
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    run()
    for hook in hooks:
        hook.remove()
    counted = count_flops(run) - linear
    if name == "DiT":  # its patches are cut by a convolution
        counted -= steps[0] * 2 * 64 * model.config.num_heads * model.config.head_dim * 16
    assert attention_part(model, steps, arm.kv_cache) == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "DiT"])
def test_closed_forms_grow_as_the_theory_says(name):
    """From 1024 to 2048 px, attention and the rest apart. (A DiT's steps are all the same.)"""
    arm, attention, rest = BY_NAME[name], [], []
    for pixels in (1024, 2048):
        model = arm.build(pixels, replace(TINY, window=16))
        steps = [1] * len(model.sides)
        attention.append(attention_part(model, steps, arm.kv_cache))
        rest.append(arm.flops(model, steps) - attention[-1])
    exponent = [math.log(large / small) / math.log(4) for small, large in (attention, rest)]
    assert exponent == pytest.approx(arm.theory, abs=0.1)


def test_a_power_law_has_its_exponent():
    tokens = [16, 64, 256, 1024]
    fit = exponents(tokens, [3 * n**1.5 for n in tokens])
    assert fit["all"] == pytest.approx(1.5)
    assert fit["largest_three"] == pytest.approx(1.5)
    bent = exponents(tokens, [1, 1, 4, 16])
    assert bent["largest_three"] == pytest.approx(1)
    assert bent["all"] < 1


def test_what_was_not_measured_is_not_made_up():
    assert exponents([16, 64], [None, None]) == {"all": None, "largest_three": None, "sizes": 0}
    assert exponents([16, 64, 256], [1.0, 4.0, None])["all"] == pytest.approx(1)
    rows = [
        {"name": "a", "pixels": px, "tokens": px, "gflop": px**2, "attention_share": 0.5,
         "seconds": None, "peak_mib": 1.0}
        for px in (64, 256, 1024)
    ]  # fmt: skip
    assert growth(rows, "a") == {"gflop": 1.0, "seconds": None, "peak_mib": 1 / 16}
    assert growth(rows[:2], "a") is None
    assert fits(rows, "a")["seconds"]["all"] is None


def test_too_long_a_timing_is_left_out(lab):
    arm = BY_NAME["E-CAR"]
    row = measure(lab, arm, 64, replace(TINY, seconds=1e-9), speed=1e9)
    assert row["seconds"] is None
    assert row["peak_mib"] is None
    assert row["gflop"] > 0
    assert measure(lab, arm, 64, TINY, speed=1e9)["seconds"] > 0


def test_repeated_steps_are_timed_on_a_part_and_multiplied(models, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    whole = time_steps(models["DiT"], [6], Part(6, 1))
    part = time_steps(models["DiT"], [6], Part(2, 1))
    assert whole.timed_part is None
    assert part.timed_part == "2 of 6 flow steps"
    first = whole.seconds - part.seconds  # the same ticks a step, so only step 0 may differ
    assert abs(first) <= 1


@pytest.mark.parametrize("name", ["token by token", "token by token, no KV cache", "masked AR"])
def test_tokens_are_timed_at_places_spread_over_the_image(models, name):
    timing = time_image(models[name], [10], Part(2, 5), BY_NAME[name].kv_cache)
    assert timing.seconds > 0
    places = "2 of 64 iterations" if name == "masked AR" else "5 of 64 tokens"
    assert timing.timed_part == f"{places}, 2 of 10 flow steps of the head"
    assert spread_over(64, 5) == [0, 16, 32, 47, 63]
    assert spread_over(3, 5) == [0, 1, 2]


@torch.no_grad()
def test_a_timed_token_does_the_work_of_the_sampler(models):
    """The FLOPs of one call at a place are the closed form's for that place."""
    for name in ("token by token", "token by token, no KV cache", "masked AR"):
        model, cache = models[name], BY_NAME[name].kv_cache
        counted = count_flops(transformer_call(model, 40, cache))
        expected = event_flops(model.config, 1, 1.0, cache, "euler")[40].transformer
        assert counted == pytest.approx(expected, rel=0.02)
    assert filled_cache(models["token by token"], 40).num_tokens == 40


def test_a_stream_of_every_arm_ends_in_a_latent(models):
    for name, model in models.items():
        *_, last = open_stream(model, [1] * len(model.sides))
        assert last.latent.shape == (1, 4, 16, 16), name


def test_the_figure_and_table_need_nothing_but_the_result(models):
    rows = [
        {"name": name, "pixels": px, "tokens": px**2 // 256, "gflop": px**2 / 1e3,
         "attention_share": 0.1, "parameters": 10**6, "timed_part": None,
         "seconds": None if name == "DiT" else px / 1e3, "peak_mib": None if name == "DiT" else px}
        for name in ("E-CAR", "DiT")
        for px in (64, 256, 1024)
    ]  # fmt: skip
    names = ("E-CAR", "DiT")
    result = {
        "rows": rows,
        "theory": {name: [2, 1] for name in names},
        "fits": {name: fits(rows, name) for name in names},
        "growth": {name: growth(rows, name) for name in names},
    }
    text = complexity.table(result)
    assert (
        "| DiT | 1.00 M | n^2 | 1.00 / 1.00 | n^1 | 1.00 / 1.00 | – / – | – / – | 1.00 | – |"
        in text
    )
    assert "–, –" in text
    labels = [text.get_text() for axis in complexity.draw(result).axes
              for text in axis.get_legend().get_texts()]  # fmt: skip
    assert labels.count("E-CAR, $n^{1.00}$") == 1
    assert labels.count("E-CAR, $n^{0.50}$") == 2
