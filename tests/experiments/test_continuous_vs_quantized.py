"""The experiment on continuous and quantized tokens, and its measures of information."""

import json
import math

import pytest
import torch

from ecar_lab.experiments import continuous_vs_quantized as experiment
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.sizes import SIZES


def test_the_rate_of_a_posterior_that_is_the_prior_is_zero():
    mean, std = torch.zeros(5, 2, 2, 4), torch.ones(5, 2, 2, 4)
    assert experiment.rate_in_bits(mean, std) == pytest.approx(0)
    half = experiment.rate_in_bits(mean, std / 2)
    assert half == pytest.approx(4 * (0.5 * (0.25 - 1 - 2 * math.log(0.5))) / math.log(2))
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(1.0, 0.3), torch.distributions.Normal(0.0, 1.0)
    )
    assert experiment.rate_in_bits(mean + 1, std * 0.3) == pytest.approx(4 * kl.item() / 0.693147)


def test_the_entropy_of_codes_is_that_of_their_frequencies():
    assert experiment.entropy_in_bits(torch.arange(8)) == pytest.approx(3)
    assert experiment.entropy_in_bits(torch.tensor([5, 5, 5])) == 0
    assert experiment.entropy_in_bits(torch.tensor([0, 0, 7, 9])) == pytest.approx(1.5)


def test_the_experiment_runs_resumes_and_compares_like_with_like(runs, monkeypatch):
    lab = Lab(SIZES["smoke"], runs)
    result = json.loads(json.dumps(experiment.run(lab)))
    continuous, quantized = result["rows"]
    assert (continuous["codebook_size"], quantized["codebook_size"]) == (None, 16)
    assert continuous["tokens"] == quantized["tokens"] == 16
    sizes = [row["trained"][0]["parameters"] for row in result["rows"]]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.03)
    assert continuous["trained"][0]["images"] == quantized["trained"][0]["images"] == 3 * 32
    shapes = [row["tokenizer_parameters"] for row in result["rows"]]
    assert shapes[0] == pytest.approx(shapes[1], rel=0.05)
    assert quantized["bits"]["mean"] == 4
    assert 0 <= quantized["bits_used"]["mean"] <= 4
    assert continuous["bits"]["mean"] > 0
    text = experiment.table(result)
    assert text.splitlines()[2].startswith("| continuous | 16 |")
    assert "Bits per token" in text
    figure = experiment.draw(result)
    assert len(figure.axes) == 3

    for name in ("model.train_model", "tokenizer.train_tokenizer"):  # all is remembered
        monkeypatch.setattr(f"ecar_lab.training.{name}", None)
    assert json.loads(json.dumps(experiment.run(lab)))["rows"] == result["rows"]
