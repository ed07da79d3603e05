"""Trains with the real launchers and compares with one process.

    python tests/scripts/many_processes.py

`torchrun` and `accelerate launch` with two and four processes, AdamW and Muon, accumulation; one
process that goes on for four; a worker killed under `torchrun --max-restarts`. Exits with 0 only if
weights and averages are those of one process (AdamW 1e-6, Muon 1e-4, killed: bit for bit).
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ecar_lab.training import loop  # noqa: E402
from ecar_lab.training.config import ModelTrainConfig  # noqa: E402
from ecar_lab.training.model import train_model  # noqa: E402
from tests.training.runs import config, cut_back, weights  # noqa: E402

GLOBAL_BATCH, ACCUMULATED, KILLED_BEFORE = 16, 2, 3
TOLERANCE = {"adamw": 1e-6, "muon": 1e-4}
BIN = Path(sys.executable).parent


def work() -> None:
    """What every process does: trains by the configuration named, or dies on the way."""
    loop.matmul_rate = lambda dtype, device: 1e12
    file, victim = sys.argv[1:3]
    first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
    if first_life and victim == os.environ.get("RANK"):
        step_on = loop.Trainer._optimizer_step

        def die_before(trainer: loop.Trainer, *others: object) -> None:
            if trainer.step == KILLED_BEFORE:
                os.kill(os.getpid(), signal.SIGKILL)
            step_on(trainer, *others)

        loop.Trainer._optimizer_step = die_before
    train_model(ModelTrainConfig.from_json(file))


def settings(folder: Path, optimizer: str, processes: int, accumulated: int) -> ModelTrainConfig:
    batch = GLOBAL_BATCH // processes // accumulated
    return config(
        folder, optimizer=optimizer, batch_size=batch, grad_accum=accumulated, steps=4,
        save_every=2, lr=1e-3,
    )  # fmt: skip


def launch(cfg: ModelTrainConfig, launcher: str, processes: int, victim: int | str = "-") -> None:
    file = cfg.run_folder.with_suffix(".cfg")
    file.write_text(json.dumps(cfg.to_dict()))
    by = {
        "torchrun": [
            str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(processes),
            "--max-restarts", "2",
        ],
        "accelerate": [
            str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", str(processes),
            "--num_cpu_threads_per_process", "1",
        ],
    }[launcher]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*by, __file__, str(file), str(victim)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{launcher} failed:\n{done.stderr[-4000:]}")


def distance(one: Path, other: Path) -> float:
    """The largest difference between weights, averages or optimizer state of two runs."""
    largest = 0.0
    for stem in ("model", "ema", "optimizer"):
        ours, theirs = weights(one, stem), weights(other, stem)
        largest = max(largest, *(float((ours[k] - theirs[k]).abs().max()) for k in theirs))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    wrong = []

    def compare(what: str, one: Path, other: Path, tolerance: float, started: float) -> None:
        found = distance(one, other)
        wrong.extend([what] * (found > tolerance))
        print(f"{what}: {found:.1e} apart, {time.monotonic() - started:.0f} s", flush=True)

    loop.matmul_rate = lambda dtype, device: 1e12
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for optimizer in ("adamw", "muon"):
            train_model(settings(root / optimizer, optimizer, 1, 1))
        for launcher, processes, optimizer in (
            ("torchrun", 2, "adamw"), ("torchrun", 4, "muon"),
            ("accelerate", 4, "adamw"), ("accelerate", 2, "muon"),
        ):  # fmt: skip
            what, started = f"{launcher} {processes} {optimizer}", time.monotonic()
            cfg = settings(root / what, optimizer, processes, ACCUMULATED)
            launch(cfg, launcher, processes)
            compare(what, root / what, root / optimizer, TOLERANCE[optimizer], started)
        started = time.monotonic()
        cut_back(root / "accelerate 4 adamw", root / "on", 2)
        train_model(settings(root / "on", "adamw", 1, 1))
        compare("one goes on for four", root / "on", root / "adamw", 1e-6, started)
        started = time.monotonic()
        cfg = settings(root / "killed", "adamw", 2, ACCUMULATED)
        launch(cfg, "torchrun", 2, victim=1)
        if '"resumed": true' not in (root / "killed" / "metrics.jsonl").read_text():
            wrong.append("no process was replaced")
        compare("killed under torchrun", root / "killed", root / "torchrun 2 adamw", 0, started)
        shutil.rmtree(root / "killed")
    if wrong:
        raise SystemExit(f"these are too far apart: {', '.join(wrong)}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work()
    else:
        main()
