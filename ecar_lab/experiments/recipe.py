"""Which recipe learns most per hour? Every arm changes one thing and trains for the same time.

First all arms take turns at a few training steps each, in one run, so that a busy moment of the
machine hits all alike; one thread on a CPU is timed by the core's time, which other work on that
core does not stretch. From that an arm's number of steps is what fits into the time box; how fast
the machine is while it trains then makes no difference. Compared are the velocity error on
held-out images, at fixed draws, and the Frechet distance at a fixed plan without guidance.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ecar_lab.baselines import load_pipeline
from ecar_lab.data import open_dataset
from ecar_lab.device import synchronize
from ecar_lab.evaluation.evaluate import held_out_loss, trained_on
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab, fingerprint, quiet_training
from ecar_lab.experiments.lab.records import Trained, key_of, read_record
from ecar_lab.experiments.lab.scores import frechet, named, plus_minus, spread
from ecar_lab.presets import get_preset
from ecar_lab.training.config import ModelTrainConfig

BASELINE, SCALE_TERM = "baseline", "tokenizer trained here, scale term at 1/4"
# The plan of sampling: Heun, so that what differs is the model and not the solver's error.
PLAN: dict[str, Any] = {"guidance_scale": 1.0, "solver": "heun"}
PLAN_STEPS = {"smoke": 1, "cpu": 4, "gpu": 4}
# Without --only; one of each kind, for compiling alone takes minutes.
SMOKE_ARMS = (BASELINE, "local mixing", "no local mixing", "alignment", "two averages", SCALE_TERM)
HELD_OUT_IMAGES = {"smoke": 64, "cpu": 2048, "gpu": 8192}
TURN_STEPS = 5  # an arm's turn walks through a whole run: at 10%, 30%, 50%, 70% and 90% of it
WARM_UP_STEPS = 2
TIMED_IMAGES = 512  # that the data of a timed training is cut to: time a step does not depend on it


@dataclass(frozen=True)
class Arm:
    """One change of the recipe.

    Attributes:
        model, settings: as of ``Lab.train``. tokenizer: arguments of a tokenizer that is trained
            here; None: the one that the preset has.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] | None = None


TOKENIZERS = (
    Arm("tokenizer trained here", tokenizer={}),
    Arm(SCALE_TERM, tokenizer={"scale_terms": 2}),
)


def arms(lab: Lab) -> list[Arm]:
    """The preset as it is, then every change of it; of the tokenizer only where the preset trains
    one."""
    longer = 1 - (1 - configuration(lab, Arm(BASELINE), 0).ema_decay) / 4
    stages = lab.shape()["num_stages"]
    once, every = [2] * (stages - 1) + [1], {"stage_strides": None}
    mixes = lab.shape().get("local_mixing", False)
    preset = get_preset(lab.size.preset)
    compiles = preset.train_model.get("compile", False)
    if as_preset(lab)["stage_strides"]:
        how_often, strides = "every image", every
    else:
        how_often, strides = "every second image", {"stage_strides": [1] * (stages - 1) + [2]}
    return [
        Arm(BASELINE),
        Arm("no local mixing" if mixes else "local mixing", {"local_mixing": not mixes}),
        Arm(f"finest stage on {how_often}", settings={**strides, "head_draws": once}),
        Arm("finest stage twice on every image", settings={**every, "head_draws": [2] * stages}),
        Arm("swiglu", {"mlp": "swiglu"}),
        Arm("rmsnorm", {"norm": "rms"}),
        Arm("long skips", {"long_skips": True}),
        Arm("direction loss", settings={"direction_loss": 1.0}),
        Arm("tilted time", settings={"time_tilt": 0.5}),
        Arm("alignment", settings={"align": 0.5}),
        Arm("two averages", settings={"second_ema_decay": round(longer, 6)}),
        Arm("half the batch", settings={"batch_size": batch_size(lab) // 2}),
        Arm(
            "no torch.compile" if compiles else "torch.compile", settings={"compile": not compiles}
        ),
        *([] if "name" in preset.tokenizer else TOKENIZERS),
    ]


def run(lab: Lab) -> dict[str, Any]:
    """Times all arms, trains those that are wanted, and measures them."""
    known = arms(lab)
    wanted = lab.wanted(known, BASELINE)
    if lab.size.name == "smoke":
        known = wanted = [arm for arm in wanted if lab.only or arm.name in SMOKE_ARMS]
    speed = time_arms(lab, known)
    steps = {
        name: max(1, round(lab.size.seconds / entry["seconds_per_step"]))
        for name, entry in speed.items()
    }
    jobs = [(arm, seed) for arm in wanted for seed in lab.size.seeds]
    runs: dict[str, list[Trained]] = {arm.name: [] for arm in wanted}
    for arm, seed in lab.each(jobs, "training"):
        runs[arm.name].append(train(lab, arm, seed, steps[arm.name]))
    rows = []
    for arm in lab.each(wanted, "measuring"):
        trained = runs[arm.name]
        rows.append(
            {
                "name": arm.name,
                "model": arm.model,
                "settings": arm.settings,
                "tokenizer": arm.tokenizer,
                **speed[arm.name],
                "steps": steps[arm.name],
                "parameters": trained[0].parameters,
                "images": trained[0].images,
                "train_pflop": trained[0].train_flops / 1e15,
                **quality(lab, arm, trained),
            }
        )
    plan = {**PLAN, "num_inference_steps": PLAN_STEPS[lab.size.name]}
    return {"seconds": lab.size.seconds, "plan": plan, "rows": rows}


def configuration(lab: Lab, arm: Arm, seed: int, steps: int | None = None) -> ModelTrainConfig:
    """How an arm is trained, with the preset's tokenizer."""
    return lab.configuration(
        seed=seed, steps=steps, model=arm.model, **{**as_preset(lab), **arm.settings}
    )


def as_preset(lab: Lab) -> dict[str, Any]:
    """The preset's own draws, strides and batch size, which some sizes replace; no limit of
    minutes, for the steps are counted."""
    usual = get_preset(lab.size.preset).train_model
    own = {name: usual.get(name) for name in ("stage_strides", "head_draws")}
    return {**own, "batch_size": batch_size(lab), "max_minutes": None}


def batch_size(lab: Lab) -> int:
    """The preset's; a smoke test has its own."""
    if lab.size.name == "smoke":
        return lab.size.batch_size
    return get_preset(lab.size.preset).train_model.get("batch_size", lab.size.batch_size)


def train(lab: Lab, arm: Arm, seed: int, steps: int) -> Trained:
    """One arm with one seed, made now or remembered."""
    settings: dict[str, Any] = {**as_preset(lab), **arm.settings}
    if arm.tokenizer is not None:
        few = {"steps": lab.size.steps} if lab.size.name == "smoke" else {}
        settings["tokenizer"] = str(lab.train_tokenizer(tokenizer=arm.tokenizer, **few))
    if lab.size.seconds > 600:
        settings["save_every"] = 250  # such a run goes on from its middle
    return lab.train(seed=seed, steps=steps, model=arm.model, **settings)


def time_arms(lab: Lab, known: list[Arm]) -> dict[str, dict[str, float]]:
    """``seconds_per_step`` of every arm, median over rounds in which they take turns, and how long
    its first steps took beyond that by the clock (``first_seconds``): with torch.compile, the
    compilation.

    Remembered as one, so that finalists trained later get the steps of the first comparison.
    """
    keys = {arm.name: key_of(configuration(lab, arm, 0)) for arm in known}
    settings = {"arms": keys, "threads": torch.get_num_threads(), "rounds": lab.size.repeats}
    return lab.remember("recipe-speed", settings, lambda: measure_speed(lab, known, keys))


def measure_speed(lab: Lab, known: list[Arm], keys: dict[str, str]) -> dict[str, dict[str, float]]:
    """See :func:`time_arms`; arms that train alike are timed as one."""
    from ecar_lab.training.launch import launched
    from ecar_lab.training.model import model_trainer

    device = lab.torch_device
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    with tempfile.TemporaryDirectory() as scratch, quiet_training(), ExitStack() as runs:
        trainers, first, taken = {}, {}, {}
        for arm in lab.each(known, "preparing"):
            key = keys[arm.name]
            if key not in trainers:
                config = replace(configuration(lab, arm, 0), limit=TIMED_IMAGES)
                config = replace(config, output=str(Path(scratch) / key))
                trainers[key] = model_trainer(config, runs.enter_context(launched(config)))
                first[key] = practise(trainers[key], device, WARM_UP_STEPS, time.perf_counter)
                taken[key] = []
        for _ in lab.each(range(lab.size.repeats), "timing"):
            for key, trainer in trainers.items():
                seconds = practise(trainer, device, TURN_STEPS, clock)
                taken[key].append(seconds / TURN_STEPS)
    found = {}
    for arm in known:
        per_step = statistics.median(taken[keys[arm.name]])
        beyond = max(0.0, first[keys[arm.name]] - WARM_UP_STEPS * per_step)
        found[arm.name] = {"seconds_per_step": per_step, "first_seconds": beyond}
    return found


def practise(trainer: Any, device: torch.device, steps: int, clock: Callable[[], float]) -> float:
    """Seconds of some training steps, spread evenly over a run."""
    synchronize(device)
    started = clock()
    for step in range(steps):
        trainer.practise(step, (step + 0.5) / steps)
    synchronize(device)
    return clock() - started


def quality(lab: Lab, arm: Arm, runs: list[Trained]) -> dict[str, Any]:
    """Held-out velocity error, mean and per stage, and Frechet distance and recall, over seeds.

    Another tokenizer makes other latents, so the errors do not compare and are left out.
    """
    plan = {**PLAN, "num_inference_steps": PLAN_STEPS[lab.size.name]}
    results = [lab.evaluate(trained, **plan) for trained in runs]
    found: dict[str, Any] = {
        "frechet": spread([frechet(result) for result in results]),
        "recall": spread([named(result["metrics"], ["recall"]) for result in results]),
        "error": None,
        "error_stage": None,
        "averages": averages(runs[0]),
    }
    if arm.tokenizer is None:
        errors = [velocity_error(lab, trained) for trained in runs]
        found["error"] = spread([error["mean"] for error in errors])
        stages = zip(*(error["per_stage"] for error in errors), strict=True)
        found["error_stage"] = [spread(stage) for stage in stages]
    return found


def velocity_error(lab: Lab, trained: Trained) -> dict[str, Any]:
    """The plain velocity error on the test split, the same images and draws for every model."""
    count = HELD_OUT_IMAGES[lab.size.name]

    def measure() -> dict[str, Any]:
        pipe = load_pipeline(trained.folder, dtype=torch.float32).to(lab.torch_device)
        held_out = open_dataset(
            trained_on(trained.folder),
            split="test",
            image_size=pipe.image_size,
            data_root=lab.data_root,
        )
        return held_out_loss(pipe, held_out, 0, lab.torch_dtype, count)

    setting = {
        "checkpoint": fingerprint(trained.folder),
        "images": count,
        "dtype": str(lab.torch_dtype),
    }
    return lab.remember("velocity-error", setting, measure)


def averages(trained: Trained) -> dict[str, float]:
    """What a run with two sets of averaged weights noted of either; empty of one with one set."""
    from ecar_lab.training.log import read_metrics

    file, remedy = trained.folder / "training.json", "delete the folder of the run and run again"
    config = read_record(file, "the record", remedy)
    last = read_metrics(trained.folder.parent)[-1]
    decays = {"ema": config["ema_decay"], "second_ema": config.get("second_ema_decay")}
    return {
        str(decay): last[f"held_out_error_{name}"]
        for name, decay in decays.items()
        if f"held_out_error_{name}" in last
    }


def draw(result: dict[str, Any]) -> Figure:
    """Held-out error and Frechet distance of every arm, a line at the baseline's. Dots, because
    differences are small against the whole."""
    rows = result["rows"]
    figure, (left, right) = figures.new_figure(2, width=5, height=1.2 + 0.28 * len(rows))
    for axis, label, name in (
        (left, "velocity error, held-out images", "error"),
        (right, "Frechet distance, no guidance", "frechet"),
    ):
        for place, row in enumerate(rows):
            if (entry := row[name]) is not None:
                look = figures.style(row["name"])
                axis.errorbar(entry["mean"], place, xerr=entry["std"], capsize=3, **look)
        axis.axvline(rows[0][name]["mean"], color="#59626E", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axis.invert_yaxis()
        axis.set_xlabel(label)
    right.set_yticklabels([])
    preset, seconds = result["size"]["preset"], result["seconds"]
    left.set_title(f"{preset}: {seconds:g} s of training each", fontsize=10, loc="left")
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per arm."""
    rows = [
        [
            row["name"],
            f"{row['seconds_per_step']:.3g}",
            f"{row['steps']:,}",
            f"{row['images']:,}",
            "-" if row["error"] is None else plus_minus(row["error"], 4),
            "-"
            if row["error_stage"] is None
            else ", ".join(f"{stage['mean']:.3f}" for stage in row["error_stage"]),
            plus_minus(row["frechet"]),
            f"{row['recall']['mean']:.2f}",
        ]
        for row in result["rows"]
    ]
    header = [
        *(f"{result['seconds']:g} s each", "seconds a step", "steps", "images"),
        *("held-out velocity error", "per stage", "Frechet distance", "recall"),
    ]
    return "\n\n".join([figures.markdown_table(header, rows), *notes(result)])


def notes(result: dict[str, Any]) -> list[str]:
    """What the table has no column for: the compilation, and what two averages were worth."""
    rows, found = result["rows"], []
    usual = get_preset(result["size"]["preset"]).train_model.get("compile", False)
    compiled = [row["first_seconds"] for row in rows if row["settings"].get("compile", usual)]
    if compiled:
        found.append(
            f"Compiling took up to {max(compiled):.0f} s, less where the compiler had kept its "
            "work, which the time of training leaves out."
        )
    for row in rows:
        if row["averages"]:
            errors = (f"{error:.4f} with {decay}" for decay, error in row["averages"].items())
            found.append(f"Held-out error by decay of the average: {', '.join(errors)}.")
    return found
