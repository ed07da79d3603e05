"""The benchmark measures what it says, at a size that takes a second."""

import json

import pytest
import torch

from ecar_lab import EcarError
from ecar_lab.benchmark import benchmark_memory, run_benchmark, table
from ecar_lab.cli import main


@pytest.fixture(scope="module")
def result(tiny_checkpoint):
    return run_benchmark(
        ["checkpoint", "dit", "training"],
        checkpoint=str(tiny_checkpoint),
        preset="digits",
        dit_steps=2,
        batch_sizes=[1, 2],
        repeats=1,
        device="cpu",
        dtype="float32",
    )


def test_flops_in_closed_form_are_those_counted(result):
    assert result["dit"]["gflop_counted"] == pytest.approx(
        result["dit"]["gflop_per_image"], rel=0.02
    )


def test_ratios_are_quotients_of_what_was_measured(result):
    dit = result["dit"]
    assert dit["flops_ratio"] == dit["dit_gflop_per_image"] / dit["gflop_per_image"]
    for batch in dit["batches"]:
        assert batch["time_ratio"] == pytest.approx(
            batch["dit_seconds_per_image"] / batch["seconds_per_image"]
        )
    training = result["training"]
    assert training["mfu"] == training["flops_per_second"] / training["matmul_flops_per_second"]
    assert 0 <= training["data_wait"] < 1


def test_the_first_stage_comes_before_the_image(result):
    measured = result["checkpoint"]
    assert 0 < measured["seconds_first_stage"] < measured["seconds_batch_16"]


def test_the_table_shows_every_section(result):
    text = table(result)
    for word in ("first stage on screen", "GFLOP per image", "**Training** digits"):
        assert word in text


def test_memory_counts_the_tokens_of_all_stages():
    measured = benchmark_memory("digits", torch.device("cpu"), torch.float32, latent_size=8)
    assert measured["tokens"] == 16 + 64
    assert measured["peak_bytes_backward"] >= 0


def test_the_command_prints_the_table_and_saves_the_numbers(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "benchmark.json"
    arguments = ["--sections", "checkpoint", "--checkpoint", str(tiny_checkpoint), "--repeats", "1"]
    assert main(["benchmark", *arguments, "--out", str(out)]) == 0
    assert "batch of 16" in capsys.readouterr().out
    assert json.loads(out.read_text())["checkpoint"]["seconds_one_image"] > 0


def test_an_unknown_section_is_named():
    with pytest.raises(EcarError, match="section 'speed' is unknown: use checkpoint, dit"):
        run_benchmark(["speed"])


def test_bad_sizes_are_refused(capsys):
    assert main(["benchmark", "--batch-sizes", "0"]) == 2
    assert "give whole numbers of 1 or more" in capsys.readouterr().err
