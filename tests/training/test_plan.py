"""What a training would take: counted, and held against what trainings took."""

import json
from pathlib import Path

import pytest
import torch

from ecar_lab import cost
from ecar_lab.cli.main import main
from ecar_lab.errors import EcarError
from ecar_lab.model import ECAR
from ecar_lab.training import plan as planning
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.optim import build_optimizers, optimizer_tensors
from ecar_lab.training.plan import Gpu, count_of_an_image, described, plan_training, state_bytes
from tests.conftest import tiny_model

ROOT = Path(__file__).parents[2]


def meta(preset: str) -> ECAR:
    with torch.device("meta"):
        return ECAR.from_preset(preset)


def test_the_state_is_what_a_trainer_holds_after_a_step():
    model = tiny_model()
    optimizers = build_optimizers(model, ModelTrainConfig.from_preset("digits"))
    generator = torch.Generator().manual_seed(0)
    side, channels = model.config.latent_size, model.config.latent_channels
    latent = torch.randn(2, channels, side, side, generator=generator)
    model.loss(latent, torch.tensor([0, 1]), model.draw(2, generator)).loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    numbers = [
        *model.parameters(),
        *(parameter.grad for parameter in model.parameters()),
        *model.parameters(),  # the average
        *(entry for entry in optimizer_tensors(optimizers).values() if entry.ndim),
    ]
    assert state_bytes(model) == sum(4 * tensor.numel() for tensor in numbers)


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet128-s"])
def test_flops_are_three_times_those_of_the_closed_form(preset):
    model = meta(preset)
    config = model.config
    forward = sum(
        cost.transformer_flops(config, stage)
        + cost.velocity_flops(config, stage)
        + cost.head_setup_flops(config, stage, 1)
        for stage in range(config.num_stages)
    )
    flops, _ = count_of_an_image(model)
    assert flops == pytest.approx(3 * forward, rel=0.03)


def test_strides_and_draws_of_the_recipe_count():
    plain, kept = count_of_an_image(meta("cifar10"))
    more, kept_of_more = count_of_an_image(meta("cifar10"), [2, 2, 1])
    less, kept_of_less = count_of_an_image(meta("cifar10"), [2, 2, 1], [1, 1, 2])
    assert less < more
    assert plain < more
    assert kept < kept_of_more
    assert kept_of_less < kept_of_more


def test_it_gives_the_rate_that_was_measured_here(monkeypatch):
    """At the share of the matrix product that the measured training step got."""
    text = (ROOT / "data/results/benchmark-training-cpu.json").read_text("utf-8")
    measured = json.loads(text)["training"]
    there = Gpu(measured["matmul_flops_per_second"], 24e9)
    monkeypatch.setattr(planning, "this_machine", lambda: there)
    found = plan_training(measured["preset"], efficiency=measured["mfu"], batch_size=97)
    assert found.images_per_second == pytest.approx(measured["images_per_second"], rel=0.02)


def test_more_gpus_share_the_batch_and_with_shard_the_state():
    one = plan_training("imagenet128-s", gpu="H100", price=2.0)
    eight = plan_training("imagenet128-s", gpu="h100", gpus=8, price=2.0)
    shared = plan_training("imagenet128-s", gpu="h100", gpus=8, shard=True)
    assert eight.hours == pytest.approx(one.hours / 8)
    assert eight.cost == pytest.approx(one.cost)
    assert shared.cost is None
    assert one.memory_bytes - one.state_bytes == 8 * (eight.memory_bytes - eight.state_bytes)
    assert shared.state_bytes == eight.state_bytes // 8
    assert one.images == 200_000 * 256


def test_what_does_not_fit_is_said_with_what_would():
    plan = plan_training("imagenet256-b", gpu="l4")
    assert plan.memory_bytes > plan.memory_there
    said = described(plan)
    assert f"this does not fit: at most {plan.fits} images fit on each" in said
    less = plan_training("imagenet256-b", gpu="l4", batch_size=plan.fits)
    assert less.memory_bytes <= less.memory_there
    assert "does not fit" not in described(less)


def test_a_preset_s_time_box_ends_the_training_and_is_what_is_paid(monkeypatch):
    """At 100 images a second half an hour holds 2,812 of the 12,000 steps of 64."""
    counted = (5_000_000, 2e9, 1, 1)
    monkeypatch.setattr(planning, "counts_of", lambda preset: counted)
    monkeypatch.setattr(planning, "this_machine", lambda: Gpu(2e11, 24e9))
    settings = dict(preset="cifar10-quick", efficiency=1.0, price=2.0)
    boxed = plan_training(**settings)
    assert (boxed.max_minutes, boxed.hours, boxed.cost) == (30.0, 0.5, 1.0)
    assert (boxed.steps, boxed.images) == (2812, 2812 * 64)
    line = "179,968 images in 2,812 steps of 64 on this machine: what fits into the preset's time "
    assert f"{line}box of 30 minutes\n" in described(boxed)
    asked = plan_training(**settings, images=768_000)
    assert (asked.max_minutes, asked.steps, asked.images) == (None, 12_000, 768_000)
    assert asked.hours == pytest.approx(7680 / 3600)
    assert "time box" not in described(asked)
    fast = plan_training(**settings, gpu="h100")
    assert (fast.steps, fast.images, fast.max_minutes) == (12_000, 768_000, 30.0)
    assert fast.cost == pytest.approx(2 * fast.hours)
    assert "12,000 steps of 64 on 1 x h100: all steps, within the preset's time" in described(fast)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"gpu": "v100"}, "gpu 'v100' is unknown: use here, l4"),
        ({"gpu": "h100", "gpus": 8, "batch_size": 4}, "a batch of 4 leaves some of 8 GPUs"),
        ({"gpus": 2}, "gpus 2 of this machine cannot be planned"),
        ({"efficiency": 0.0}, "efficiency 0 would take for ever"),
        ({"efficiency": 1.5}, "efficiency"),
        ({"price": 0.0}, "price"),
        ({"preset": "imagenet"}, "preset 'imagenet' is unknown"),
    ],
)
def test_what_cannot_be_planned_gets_one_sentence(wrong, sentence):
    with pytest.raises(EcarError, match=sentence):
        plan_training(**wrong)


def test_the_command_prints_json_and_lines(capsys):
    assert main(["plan", "--preset", "digits", "--gpu", "a100", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["images"] == 1200 * 256
    assert plan["gpu"] == "a100"
    assert main(["plan", "--preset", "digits", "--gpu", "a100", "--price", "2"]) == 0
    assert "(as its maker states), of which 35% (assumed)" in capsys.readouterr().out


def test_the_table_of_the_docs_is_what_it_counts():
    text = (ROOT / "docs/scale.md").read_text("utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `imagenet")]
    assert len(rows) == 9
    for preset, gpus, gpu, rate, hours, memory, fits in rows:
        plan = plan_training(preset.strip("| `"), gpu=gpu, gpus=int(gpus))
        assert rate == f"{plan.images_per_second:,.0f}"
        assert hours == f"{plan.hours:,.1f}"
        assert memory == f"{plan.memory_bytes / 2**30:.1f}"
        assert fits.rstrip(" |") == f"{plan.fits}"
