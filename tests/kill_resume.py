"""Kills a training run with SIGKILL at random moments, resumes it, and compares the final weights.

    python tests/kill_resume.py --kills 10

trains once undisturbed and once killed, and exits with 0 only if weights, averaged weights,
optimizer state and the logged loss curve of both are equal bit for bit. The moments are drawn
over the whole life of the process: first steps, checkpoints, rotation, pictures, export.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ecar_lab.training.checkpoints import list_checkpoints  # noqa: E402
from ecar_lab.training.config import ModelTrainConfig  # noqa: E402
from ecar_lab.training.log import read_metrics  # noqa: E402
from ecar_lab.training.model import train_model  # noqa: E402

CURVE = ("step", "images", "loss", "loss_stage", "loss_bin", "gradient_norm", "lr")
# A forked child has everything imported, so its life is training from the first moment on.
METHOD = "fork" if sys.platform == "linux" else "spawn"


def configure(folder: Path, name: str, tiny: bool) -> Path:
    """Writes the configuration of one run on digits and returns its file."""
    size = dict(steps=60, limit=64, batch_size=8) if tiny else dict(steps=400, batch_size=32)
    cfg = ModelTrainConfig.from_preset(
        "digits", output=str(folder / name), tokenizer="identity", flip=False, max_minutes=None,
        save_every=5 if tiny else 20, log_every=7, sample_every=20 if tiny else 100, keep=2,
        warmup_steps=10, device="cpu",
        model=dict(width=32, num_heads=2, transformer_layers=1, head_layers=1, patch_size=2),
        **size,
    )  # fmt: skip
    file = folder / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(cfg.to_dict()))
    return file


def work(config: Path) -> None:
    """The life of the process that is killed."""
    log = os.open(config.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    train_model(ModelTrainConfig.from_json(config))


def start(config: Path) -> multiprocessing.Process:
    """Starts (or resumes) the run in a process of its own."""
    process = multiprocessing.get_context(METHOD).Process(target=work, args=(config,))
    process.start()
    return process


def finish(process: multiprocessing.Process, config: Path) -> None:
    """Waits for the run to end well."""
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the run failed:\n{config.with_suffix('.log').read_text()[-3000:]}")


def differences(a: Path, b: Path) -> list[str]:
    """Names of everything in which two finished runs differ."""
    last = list_checkpoints(a)[-1], list_checkpoints(b)[-1]
    found = [] if last[0].name == last[1].name else ["last step"]
    for stem in ("model", "ema", "optimizer"):
        one, two = (load_file(folder / f"{stem}.safetensors") for folder in last)
        same = {n for n in one.keys() & two.keys() if torch.equal(one[n], two[n])}
        found += [f"{stem}: {name}" for name in sorted((one.keys() | two.keys()) - same)]
    curves = [[tuple(str(row[n]) for n in CURVE) for row in read_metrics(r)] for r in (a, b)]
    return found + ([] if curves[0] == curves[1] else ["loss curve"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where to run; a temporary folder by default")
    parser.add_argument("--seed", type=int, help="of the moments; random by default")
    parser.add_argument("--tiny", action="store_true", help="the few seconds that the tests use")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        alone = configure(folder, "alone", options.tiny)
        began = time.monotonic()
        finish(start(alone), alone)
        life = time.monotonic() - began
        print(f"the undisturbed run took {life:.1f} s", flush=True)

        killed = configure(folder, "killed", options.tiny)
        run, kills = folder / "killed", 0
        while kills < options.kills:
            process = start(killed)
            # On average the last kill falls three quarters through the life of the run.
            process.join(chance.uniform(0.0, 1.5 * life / options.kills))
            if not process.is_alive():
                finish(process, killed)  # the run is at its end: further kills meet the export
                continue
            process.kill()
            process.join()
            kills += 1
            rows, found = read_metrics(run), list_checkpoints(run)
            logged = rows[-1]["step"] if rows else 0
            print(f"kill {kills}: logged up to step {logged}, saved {[f.name for f in found]}")
        finish(start(killed), killed)
        wrong = differences(folder / "alone", run)
        if wrong:
            raise SystemExit(f"after {kills} kills these differ: {', '.join(wrong)}")
        steps = list_checkpoints(run)[-1].name
        print(
            f"after {kills} kills weights, EMA, optimizer and curve are equal bit for bit ({steps})"
        )


if __name__ == "__main__":
    main()
