"""Several micro-batches equal one big batch; several processes: test_many_processes.py."""

from pathlib import Path

import pytest

from ecar_lab.training.model import train_model
from tests.training.runs import assert_same, config, weights


# Muon orthogonalises in bfloat16: a gradient that differs in its last float32 bit may come out one
# bfloat16 bit apart.
@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 1e-6), ("muon", 1e-4)])
def test_accumulation_equals_the_big_batch(tmp_path: Path, optimizer: str, tolerance: float):
    settings = dict(steps=4, lr=1e-3, optimizer=optimizer)
    whole = train_model(config(tmp_path / "whole", batch_size=8, **settings))
    parts = train_model(config(tmp_path / "parts", batch_size=2, grad_accum=4, **settings))
    assert_same(weights(parts), weights(whole), rtol=0, atol=tolerance)
