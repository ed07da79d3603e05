"""The seed's failure signatures, provoked on purpose: does a named diagnostic see each, and is it
silent on what is sound?

Instability (loss oscillating or not falling), quality degradation (at stage boundaries, in fine
details) and efficiency that does not arrive. The diagnostics are those of ``ecar doctor RUN``. Two
of them are left out, ``data_starved`` and ``training_slow``: they depend on what else the machine
does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure

from ecar_lab.baselines import load_pipeline
from ecar_lab.benchmark.timing import open_gates
from ecar_lab.doctor import diagnose, probe
from ecar_lab.doctor.diagnose import Diagnosis, from_log
from ecar_lab.doctor.run import judge_samples, real_or_why
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.evaluate import trained_on
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.failure_figure import cell, distance, make_figure
from ecar_lab.experiments.lab.lab import Lab, quiet_training
from ecar_lab.experiments.lab.records import key_of
from ecar_lab.experiments.lab.scores import frechet
from ecar_lab.files import resolve_checkpoint
from ecar_lab.presets import get_preset
from ecar_lab.training.log import read_metrics

# Every diagnostic that is judged here, and when it fires.
COLUMNS = {
    "diverged": f"> {diagnose.RISE:g}",
    "loss_oscillating": f"> {diagnose.SWING:g}",
    "loss_not_falling": f"< {diagnose.FALL:g}",
    "gradients_clipped_always": f">= {diagnose.CLIPPED_SHARE:g}",
    "stage_lagging": f"< {diagnose.LAG:g}",
    "leak": f"< {diagnose.LEAK_RATIO:g}",
    "flat_samples": f"< {diagnose.FLAT:g}",
    "boundary_artefacts": f"> {diagnose.GRID:g}",
    "efficiency_not_realised": f"< {diagnose.REALISED:g}",
}
HEALTHY = "healthy"


@dataclass(frozen=True)
class Case:
    """Something done to a model, and the diagnostics of which at least one must then fire.

    Attributes:
        expected: empty: the case is sound and nothing may fire. None: nobody knows beforehand; it
            is told as it comes and counts neither way.
        training: arguments of ``Lab.train`` that differ. sampling: of ``trace``.
        short: the training ends early (it tells nothing more), and is allowed to diverge.
        checkpoint: looks at the shipped checkpoint instead of at a training.
    """

    name: str
    expected: tuple[str, ...] | None = ()
    training: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    short: bool = False
    checkpoint: bool = False


CASES = (
    Case(HEALTHY),
    Case("healthy, re-noising off", None, sampling={"renoise": False}),
    Case(
        "lr 1, gradients not clipped",
        ("diverged", "loss_oscillating"),
        {"lr": 1.0, "grad_clip": 1e9},
        short=True,
    ),
    Case(
        "lr 0.3 with AdamW, not clipped",
        ("diverged", "loss_oscillating"),
        {"lr": 0.3, "optimizer": "adamw", "grad_clip": 1e9},
        short=True,
    ),
    Case("lr 1e-7", ("loss_not_falling",), {"lr": 1e-7}, short=True),
    Case(
        "correlated, history seen: leak",
        ("leak",),
        {"model": {"coupling": "correlated"}},
    ),
    Case(
        "correlated, no history",
        training={"model": {"coupling": "correlated", "history": "none"}},
    ),
    Case("shipped checkpoint", checkpoint=True),
    Case(
        "shipped checkpoint, re-noising off",
        ("boundary_artefacts", "flat_samples"),
        sampling={"renoise": False},
        checkpoint=True,
    ),
)
SOUND_PACE, WASTE = "timing: default steps", "timing: 100 steps in the coarsest stage"
WASTED_STEPS = 100
SHORT_STEPS, SHORT_LOGS = 100, 5
QUALITY_STEPS = 8
CHECKPOINT = {"smoke": "digits", "cpu": "cifar10", "gpu": "cifar10"}
IMAGES = {"smoke": 16, "cpu": 64, "gpu": 256}


def run(lab: Lab) -> dict[str, Any]:
    """Every case with every seed: what each diagnostic said."""
    jobs = [(case, seed) for case in CASES for seed in lab.size.seeds]
    records: dict[str, list[dict[str, Any]]] = {case.name: [] for case in CASES}
    for case, seed in lab.each(jobs, "provoking"):
        records[case.name].append({"seed": seed, **look(lab, case, seed)})
    rows = [
        {
            "name": case.name,
            "expected": None if case.expected is None else list(case.expected),
            "seeds": records[case.name],
        }
        for case in CASES
    ]
    rows += time_cases(lab)
    return {
        "columns": COLUMNS,
        "rows": rows,
        "checkpoint": CHECKPOINT[lab.size.name],
        "verdict": verdict(rows),
    }


def look(lab: Lab, case: Case, seed: int) -> dict[str, Any]:
    """The diagnoses of one case, its logged losses, and the trainer's words if it stopped."""
    name = get_preset(lab.size.preset).dataset
    log: dict[str, Any] | None = None
    quality = None
    if case.checkpoint:
        folder = resolve_checkpoint(CHECKPOINT[lab.size.name])
        name = trained_on(folder)
    elif case.short:
        log, folder = provoke(lab, seed, case.training), None
    else:
        trained = lab.train(seed=seed, **case.training)
        folder = trained.folder
        if not case.sampling:  # else the log is that of another case
            log = {"rows": read_metrics(folder.parent), "stopped": None}
        quality = lab.evaluate(trained, num_inference_steps=QUALITY_STEPS, **case.sampling)
    clip = {"grad_clip": case.training.get("grad_clip", 1.0)}
    found = [] if log is None else from_log(log["rows"], clip)
    if folder is not None:
        found += sampled(lab, str(folder), name, seed, case.sampling)
    record: dict[str, Any] = {"diagnoses": {d.name: entry(d) for d in found if d.name in COLUMNS}}
    if quality is not None:
        record["frechet"] = frechet(quality)
    if log is not None:
        losses = [row for row in log["rows"] if "loss" in row]
        record["stopped"] = log["stopped"]
        record["curve"] = {key: [row[key] for row in losses] for key in ("images", "loss")}
        record["curve"]["loss_stage"] = [row["loss_stage"] for row in losses]
    return record


def provoke(lab: Lab, seed: int, training: dict[str, Any]) -> dict[str, Any]:
    """The log of a short training that may diverge, and what the trainer said if it did."""
    from ecar_lab.training.model import train_model

    steps = min(SHORT_STEPS, lab.size.steps)
    every = min(SHORT_LOGS, lab.size.train.get("log_every", SHORT_LOGS))
    config = lab.configuration(seed=seed, steps=steps, log_every=every, **training)

    def attempt() -> dict[str, Any]:
        stopped = None
        try:
            with quiet_training():
                train_model(config)
        except EcarError as error:
            if not str(error).startswith("training diverged"):
                raise
            stopped = str(error)
        return {"rows": read_metrics(config.run_folder), "stopped": stopped}

    return lab.remember("provoked", {"training": key_of(config), "every": every}, attempt)


def sampled(
    lab: Lab, folder: str, dataset: str, seed: int, sampling: dict[str, Any]
) -> list[Diagnosis]:
    """What generated latents tell, against real ones where the data set is here."""
    pipe = load_pipeline(folder, dtype=torch.float32).to(lab.torch_device)
    pipe.set_progress_bar_config(disable=True)
    real, why = real_or_why(pipe, dataset, lab.data_root)
    made = probe.sample_latents(
        pipe, IMAGES[lab.size.name], seed, dtype=lab.torch_dtype, **sampling
    )
    return judge_samples(pipe.model, made, real, why)


def time_cases(lab: Lab) -> list[dict[str, Any]]:
    """One image from the checkpoint's shape: at its default steps, and at a hundred steps in the
    coarsest stage, where hardly a FLOP is and every call costs as much as elsewhere."""
    pipe = load_pipeline(CHECKPOINT[lab.size.name], dtype=torch.float32)
    model: Any = open_gates(pipe.model).to(lab.torch_device)
    usual = model.inference_steps(None)
    cases = (
        (SOUND_PACE, (), usual),
        (WASTE, ("efficiency_not_realised",), [WASTED_STEPS, *usual[1:]]),
    )
    rows = []
    for name, expected, steps in cases:
        seeds = []
        for seed in lab.size.seeds:
            timing = probe.time_sampling(model, 1, steps, lab.size.repeats)
            diagnosis = timing.judge()
            seeds.append(
                {
                    "seed": seed,
                    "diagnoses": {diagnosis.name: entry(diagnosis)},
                    "fewer_flops": timing.baseline_flops / sum(timing.flops),
                    "less_time": timing.baseline_seconds / sum(timing.seconds),
                }
            )
        rows.append({"name": name, "expected": list(expected), "steps": steps, "seeds": seeds})
    return rows


def entry(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis for JSON, which knows no infinity: None stands for it where one fired."""
    value = diagnosis.value
    finite = value is not None and math.isfinite(value)
    return {
        "value": value if finite else None,
        "fired": diagnosis.fired,
        "found": diagnosis.found,
    }


def fired(record: dict[str, Any]) -> list[str]:
    """Names of the diagnostics that fired."""
    return [name for name, found in record["diagnoses"].items() if found["fired"]]


def verdict(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many provoked failures were seen, and how many sound runs raised an alarm."""
    provoked = [(row, record) for row in rows if row["expected"] for record in row["seeds"]]
    sound = [record for row in rows if row["expected"] == [] for record in row["seeds"]]
    return {
        "provoked": len(provoked),
        "detected": sum(
            bool(set(fired(record)) & set(row["expected"])) for row, record in provoked
        ),
        "sound": len(sound),
        "false_alarms": sum(bool(fired(record)) for record in sound),
    }


def draw(result: dict[str, Any]) -> Figure:
    """The matrix of cases and diagnostics; the courses of the loss; the leak's deceptive loss."""
    provoked = [case.name for case in CASES if case.short]
    leaky = next(case.name for case in CASES if "leak" in (case.expected or ()))
    return make_figure(result, HEALTHY, provoked, leaky)


def told(row: dict[str, Any]) -> str:
    """In how many seeds of a case what was meant to fire did, or something fired at all."""
    expected, count = row["expected"], len(row["seeds"])
    if expected:
        return f"{sum(bool(set(fired(r)) & set(expected)) for r in row['seeds'])}/{count} seen"
    alarms = sum(bool(fired(record)) for record in row["seeds"])
    return f"{alarms}/{count} {'fired' if expected is None else 'false alarms'}"


def table(result: dict[str, Any]) -> str:
    """One row per case: what was meant to fire, what fired, and in how many seeds."""
    rows = []
    for row in result["rows"]:
        seen = [name for name in result["columns"] if any(name in fired(r) for r in row["seeds"])]
        values = ", ".join(f"{name} ({cell(row, name)[0]})" for name in seen)
        expected = row["expected"]
        meant = "open" if expected is None else " or ".join(expected) or "nothing"
        rows.append([row["name"], meant, values or "–", told(row), distance(row)])
    total = result["verdict"]
    header = ["case", "meant to fire", "fired (median value)", "seeds", "Frechet distance"]
    return (
        f"{figures.markdown_table(header, rows)}\n\n{total['detected']} of {total['provoked']} "
        f"provoked failures were seen, {total['false_alarms']} of {total['sound']} sound cases "
        "raised an alarm."
    )
