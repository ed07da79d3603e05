"""Several micro-batches and several processes equal one big batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecar_lab.training import loop
from ecar_lab.training.log import read_metrics
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


@pytest.mark.timeout(1800)  # several processes, each with all its imports, on a busy machine
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path):
    settings = dict(steps=4, save_every=4, lr=1e-3, optimizer="adamw")
    one = train_model(config(tmp_path / "one", batch_size=8, **settings))
    cfg = config(tmp_path / "two", batch_size=4, **settings)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg.to_dict()))
    code = (
        "import sys; from ecar_lab.training.model import *; "
        "train_model(ModelTrainConfig.from_json(sys.argv[1]))"
    )
    (tmp_path / "main.py").write_text(code)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
        "--num_cpu_threads_per_process", "1",
        str(tmp_path / "main.py"), str(tmp_path / "cfg.json"),
    ]  # fmt: skip
    root = str(Path(loop.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    two = tmp_path / "two"
    assert_same(weights(two), weights(one), rtol=0, atol=1e-5)
    assert_same(weights(two, "ema"), weights(one, "ema"), rtol=0, atol=1e-5)
    rows = read_metrics(two), read_metrics(one)
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]])
