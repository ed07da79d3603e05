"""The benchmark measures what it says, at a size that takes a second."""

import json
from dataclasses import replace

import pytest
import torch

from ecar_lab import EcarError, load_tokenizer
from ecar_lab.benchmark import costs, peers
from ecar_lab.benchmark.costs import benchmark_memory, run_benchmark, table
from ecar_lab.benchmark.timing import sample
from ecar_lab.cli.main import main
from ecar_lab.cost import total_flops
from ecar_lab.machine import count_flops
from ecar_lab.presets import get_preset
from tests.thrift import made_once


@pytest.fixture(scope="module")
def result(tiny_checkpoint, tmp_path_factory):
    def make(place):
        (place / "result.json").write_text(json.dumps(small(tiny_checkpoint)))

    return json.loads((made_once(tmp_path_factory, "benchmark", make) / "result.json").read_text())


def small(checkpoint):
    with pytest.MonkeyPatch.context() as patch:  # the usual numbers take half a minute
        patch.setattr(peers, "SCALE_STEPS", 3)
        patch.setattr(peers, "MAR_HEAD_STEPS", 2)
        patch.setattr(costs, "TRAINING_TOKENS", 256)
        return measure(checkpoint)


def measure(checkpoint):
    return run_benchmark(
        ["checkpoint", "peers", "training"],
        checkpoint=str(checkpoint),
        preset="digits",
        dit_steps=[2, 10],
        batch_sizes=[1, 2],
        repeats=1,
        device="cpu",
        dtype="float32",
    )


def test_flops_in_closed_form_are_those_counted(result):
    ours = result["peers"]["models"][0]
    assert result["peers"]["gflop_counted"] == pytest.approx(ours["gflop_per_image"], rel=0.02)
    by_stage = result["peers"]["gflop_per_stage"].values()
    assert sum(map(sum, by_stage)) == pytest.approx(ours["gflop_per_image"])


def test_ratios_are_quotients_of_what_was_measured(result):
    ours, *others = result["peers"]["models"]
    assert ours["flops_ratio"] == 1
    for other in others:
        assert other["flops_ratio"] == other["gflop_per_image"] / ours["gflop_per_image"]
        for batch, our_batch in zip(other["batches"], ours["batches"], strict=True):
            ratio = batch["seconds_per_image"] / our_batch["seconds_per_image"]
            assert batch["time_ratio"] == pytest.approx(ratio)
            flops = other["gflop_per_image"] * 1e9 / batch["seconds_per_image"]
            share = flops / other["matmul_flops_per_second"]
            assert batch["matmul_share"] == pytest.approx(share)
    training = result["training"]
    assert training["mfu"] == training["flops_per_second"] / training["matmul_flops_per_second"]
    assert 0 <= training["data_wait"] < 1


def test_peers_are_as_large_as_we_are_and_take_their_own_steps(result):
    ours, *others = result["peers"]["models"]
    for other in others:
        assert other["parameters"] == pytest.approx(ours["parameters"], rel=0.03)
    assert [(model["name"], model["steps"]) for model in others] == [
        ("DiT", [2]),
        ("DiT", [10]),
        ("FlowAR-like", [3, 3]),
        ("MAR-like", [2]),
    ]
    assert others[3]["iterations"] == 64


def test_more_steps_of_dit_follow_from_those_that_were_timed(result):
    few, many = result["peers"]["models"][1:3]
    assert many["timed_steps"] == few["timed_steps"] == 2
    assert many["gflop_per_image"] == pytest.approx(5 * few["gflop_per_image"])
    for batch, batch_of_few in zip(many["batches"], few["batches"], strict=True):
        assert batch["seconds_per_image"] == pytest.approx(5 * batch_of_few["seconds_per_image"])


def test_the_first_stage_and_the_images_are_timed(result):
    measured = result["checkpoint"]
    assert measured["seconds_first_stage"] > 0
    assert measured["seconds_batch_16"] > 0


def test_decoding_is_counted_apart_from_generating(monkeypatch):
    monkeypatch.setattr(costs, "median_seconds", lambda call, device, repeats: 1.0)
    result = run_benchmark(["checkpoint"], checkpoint="cifar10", device="cpu", dtype="float32")
    tokenizer = load_tokenizer("cifar10")
    latent = torch.zeros(1, tokenizer.latent_channels, 16, 16)
    counted = count_flops(lambda: tokenizer.decode(latent)) / 1e9
    assert counted > 0.01
    assert result["checkpoint"]["gflop_decode_one"] == pytest.approx(counted)
    assert f"{counted:.2f} more for decoding" in table(result)


def test_the_table_shows_every_section(result):
    text = table(result)
    words = ("first stage on screen", "**Training** digits", "guidance 2.0 in all of every stage")
    words += ("E-CAR, 8 + 8 steps", "DiT, 10 steps (timed on 2)", "64 iterations of 2 steps")
    for word in words:
        assert word in text


def test_memory_counts_the_tokens_of_all_stages():
    measured = benchmark_memory("digits", torch.device("cpu"), torch.float32, latent_size=8)
    assert measured["tokens"] == 16 + 64
    assert measured["peak_bytes_backward"] >= 0


@pytest.mark.parametrize("preset", ["imagenette64", "imagenette128"])
def test_memory_is_measured_at_the_preset_s_own_channels(preset):
    measured = benchmark_memory(preset, torch.device("cpu"), torch.float32, latent_size=16)
    assert measured["tokens"] == 4 + 16 + 64


def test_ours_and_the_others_are_guided_all_the_way(monkeypatch):
    digits = get_preset("digits")
    partly = replace(digits, model={**digits.model, "guidance_interval": [None, [0.0, 0.3]]})
    monkeypatch.setattr(peers, "get_preset", lambda name: partly)
    monkeypatch.setattr(peers, "SCALE_STEPS", 3)
    ours, *others = peers.peers("digits", [2])
    for peer in (ours, *others):
        whole = peer.model.flops(peer.steps, 2.0, guidance_interval=(0.0, 1.0))
        assert peer.model.flops(peer.steps, 2.0) == whole
    counted = count_flops(lambda: sample(ours.model, ours.steps, 2.0))
    assert counted == pytest.approx(total_flops(ours.model.flops(ours.steps, 2.0)), rel=0.02)


def test_the_command_prints_the_table_and_saves_the_numbers(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "benchmark.json"
    arguments = ["--sections", "checkpoint", "--checkpoint", str(tiny_checkpoint), "--repeats", "1"]
    assert main(["benchmark", *arguments, "--out", str(out)]) == 0
    assert "batch of 16" in capsys.readouterr().out
    assert json.loads(out.read_text())["checkpoint"]["seconds_one_image"] > 0


def test_an_unknown_section_is_named():
    with pytest.raises(EcarError, match="section 'speed' is unknown: use checkpoint, peers"):
        run_benchmark(["speed"])


def test_bad_sizes_are_refused(capsys):
    assert main(["benchmark", "--batch-sizes", "0"]) == 2
    assert "use a list, each 1 or more" in capsys.readouterr().err
