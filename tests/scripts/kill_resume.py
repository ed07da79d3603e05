"""Kills a training run with SIGKILL again and again, resumes it, and compares the final weights.

    python tests/scripts/kill_resume.py --kills 10

trains once undisturbed and once killed, and exits with 0 only if weights, averaged weights,
optimizer state, the result and the logged loss curve of both are equal bit for bit. Where a kill
falls is decided by what the run has written, not by a clock: between steps, while a checkpoint is
half-written, while the result is. A kill counts only if there was a checkpoint to go on from and
the process was still at work; with fewer than --kills of these, or none inside saving or exporting,
the check fails.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ecar_lab.training import loop  # noqa: E402
from ecar_lab.training.checkpoints import list_checkpoints  # noqa: E402
from ecar_lab.training.config import ModelTrainConfig  # noqa: E402
from ecar_lab.training.log import read_metrics  # noqa: E402
from ecar_lab.training.model import train_model  # noqa: E402

CURVE = ("step", "images", "loss", "loss_stage", "loss_bin", "gradient_norm", "lr")
# A forked child has everything imported, so its life is training from the first moment on.
SAVES_PER_LIFE = 3  # at most so many checkpoints lie between two kills
MOMENTS = ("between", "saving", "exporting")
FRESH = {"": ".final-*", "checkpoints": ".step-*"}  # what becomes the result, or a checkpoint
LEFTOVERS = (".config.json.*", ".final-*", "*.old", "checkpoints/.step-*", ".latents-*")
RESULT = Path("model") / "diffusion_pytorch_model.safetensors"
METHOD = "fork" if sys.platform == "linux" else "spawn"


def configure(folder: Path, name: str, kills: int, tiny: bool) -> Path:
    """Writes the configuration of a run on digits, long enough for the kills; returns its file."""
    every = 5 if tiny else 10
    cfg = ModelTrainConfig.from_preset(
        "digits", output=str(folder / name), tokenizer="identity", flip=False, max_minutes=None,
        steps=every * SAVES_PER_LIFE * (kills + 1), save_every=every, log_every=3,
        sample_every=4 * every, sample_steps=1, keep=2, warmup_steps=10, device="cpu",
        limit=64 if tiny else None, batch_size=8 if tiny else 32,
        model=dict(width=32, num_heads=2, transformer_layers=1, head_layers=1, patch_size=2),
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
    loop.matmul_rate = lambda dtype, device: 1e12  # the yardstick of MFU, a second per life
    train_model(ModelTrainConfig.from_json(config))
    config.with_suffix(".modules").write_text("\n".join(list(sys.modules)))


def start(config: Path) -> multiprocessing.Process:
    """Starts (or resumes) the run in a process of its own."""
    process = multiprocessing.get_context(METHOD).Process(target=work, args=(config,))
    process.start()
    return process


def import_all(names: list[str]) -> None:
    """Imports what a run imports on its way, so that the lives to come begin with training."""
    for name in names:
        with contextlib.suppress(Exception):  # some belong to the process that had them
            importlib.import_module(name)


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
    results = [load_file(run / "final" / RESULT) for run in (a, b)]
    if any(not torch.equal(results[0][name], results[1][name]) for name in results[0]):
        found.append("result")
    curves = [[tuple(str(row[n]) for n in CURVE) for row in read_metrics(r)] for r in (a, b)]
    return found + ([] if curves[0] == curves[1] else ["loss curve"])


def files_in(parent: Path, pattern: str) -> int | None:
    """How many files a half-written folder holds; None where there is none."""
    with contextlib.suppress(OSError):  # it got its name while we looked
        for folder in parent.glob(pattern):
            return sum(file.is_file() for file in folder.rglob("*"))
    return None


def half_written(run: Path) -> str:
    """What the run is writing, by the folders that are there for the time being."""
    for parent, pattern in FRESH.items():
        if files_in(run / parent, pattern) is not None:
            return {"": "exporting", "checkpoints": "saving"}[parent]
    return "between"


def kill_at(moment: str, run: Path, process: Any, chance: random.Random) -> bool:
    """Kills a run once it has come to a moment, by what it writes; returns whether it did.

    ``between``: after two to four more lines of the log. ``saving`` and ``exporting``: with up to
    three files of the checkpoint, or of the result, written.
    """
    metrics = run / "metrics.jsonl"
    rows = lines_of(metrics) + chance.randint(2, 4)
    parent = "" if moment == "exporting" else "checkpoints"
    files = chance.randint(0, 3)
    while process.is_alive():
        if moment == "between":
            there = lines_of(metrics) >= rows and bool(list_checkpoints(run))
        else:
            written = files_in(run / parent, FRESH[parent])
            sound = moment == "exporting" or bool(list_checkpoints(run))
            there = sound and written is not None and written >= files
        if there:
            process.kill()
            process.join()
            return process.exitcode == -signal.SIGKILL
        time.sleep(0.001)
    return False


def lines_of(file: Path) -> int:
    """Complete lines of a file that is being written; none where there is no file."""
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def moments_of(kills: int, chance: random.Random) -> list[str]:
    """Where the kills shall fall: half of them between steps, a third in saving, the last in the
    export, which alone goes on after the last step."""
    exporting = max(1, kills // 6)
    saving = max(1, kills // 3)
    early = ["saving"] * saving + ["between"] * (kills - exporting - saving)
    chance.shuffle(early)
    return early + ["exporting"] * exporting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10, help="3 or more")
    parser.add_argument("--folder", type=Path, help="where to run; a temporary folder by default")
    parser.add_argument("--seed", type=int, help="of the moments; random by default")
    parser.add_argument("--tiny", action="store_true", help="the few seconds that the tests use")
    options = parser.parse_args()
    if options.kills < 3:
        parser.error(f"--kills {options.kills}: use 3 or more, one for each kind of moment")
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        alone = configure(folder, "alone", options.kills, options.tiny)
        finish(start(alone), alone)
        import_all(alone.with_suffix(".modules").read_text().split())
        print("the undisturbed run is done", flush=True)

        killed, run = configure(folder, "killed", options.kills, options.tiny), folder / "killed"
        counted: Counter[str] = Counter()
        for moment in moments_of(options.kills, chance):
            fell = ""
            while fell != moment:  # a run that was quicker is tried again
                process = start(killed)
                if not kill_at(moment, run, process, chance):
                    finish(process, killed)
                    if moment != "exporting":
                        raise SystemExit(f"the run ended before a kill while {moment}")
                    continue
                found, fell = list_checkpoints(run), half_written(run)
                if not found:
                    raise SystemExit(
                        "a kill fell before the first checkpoint, which checks nothing"
                    )
                counted[fell] += 1
                kept, rows = [entry.name for entry in found], lines_of(run / "metrics.jsonl")
                print(f"kill {counted.total()}, {fell}: {rows} rows, saved {kept}", flush=True)
        finish(start(killed), killed)
        wrong = differences(folder / "alone", run)
        wrong += [f"left behind: {entry}" for entry in LEFTOVERS if list(run.glob(entry))]
        if wrong:
            raise SystemExit(f"after {counted.total()} kills these differ: {', '.join(wrong)}")
        if counted.total() < options.kills or not all(counted[moment] for moment in MOMENTS):
            raise SystemExit(f"too few kills had an effect: {dict(counted)}")
        print(
            f"after {counted.total()} kills ({', '.join(f'{n} {m}' for m, n in counted.items())}) "
            f"weights, EMA, optimizer, result and curve are equal bit for bit "
            f"({list_checkpoints(run)[-1].name})"
        )


if __name__ == "__main__":
    main()
