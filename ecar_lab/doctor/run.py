"""`ecar doctor RUN`: what the log of a run and its model tell, as findings.

The log is read as it is; the model generates a few latents, and is timed (``probe.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ecar_lab import files
from ecar_lab.baselines import load_pipeline, make_pipeline
from ecar_lab.data import open_dataset
from ecar_lab.device import pick_device
from ecar_lab.doctor import probe
from ecar_lab.doctor.diagnose import (
    Diagnosis,
    boundary_artefacts,
    flat_samples,
    from_log,
    leak,
    unmeasured,
)
from ecar_lab.doctor.findings import Finding
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.evaluate import trained_on
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.presets import get_preset
from ecar_lab.tokenizers.makers import load_tokenizer
from ecar_lab.training.checkpoints import list_checkpoints, load_checkpoint
from ecar_lab.training.config import ModelTrainConfig, read_config
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import find_tokenizer, new_model

TIMED_BATCH = 8
OFFLINE = ("digits", "shapes")  # data sets that are always here


def examine(
    name: str, data_root: str | None = None, images: int = 64, device: str = "auto"
) -> list[Finding]:
    """All findings on a run folder or on a checkpoint.

    Args:
        name: a folder, or the name of a shipped checkpoint. images: to generate.

    Raises:
        EcarError: it is neither.
    """
    folder = Path(name).expanduser()
    if not (folder / "metrics.jsonl").is_file():
        pipe = load_pipeline(name, dtype=torch.float32).to(pick_device(device))
        dataset = dataset_of(files.resolve_checkpoint(name))
        return list(map(finding, diagnose_model(pipe, dataset, data_root, images)))
    config, rows = read_config(folder), read_metrics(folder)
    findings = [course(rows, config), *map(finding, from_log(rows, config))]
    if config["kind"] != "model":
        return findings
    settings = ModelTrainConfig.from_json(folder / "config.json")
    root = data_root or settings.data
    try:
        pipe = open_result(folder, settings, root)
    except EcarError as error:
        return [*findings, Finding("model", "wrong", "cannot be loaded", str(error))]
    if pipe is None:
        return [*findings, Finding("model", "note", "the run has left none so far")]
    pipe = pipe.to(pick_device(device))
    diagnoses = diagnose_model(pipe, settings.dataset_name, root, images)
    return [*findings, *map(finding, diagnoses)]


def diagnose_model(
    pipe: ECARPipeline,
    dataset: str | None,
    data_root: str | None = None,
    images: int = 64,
    seed: int = 0,
    **options: Any,
) -> list[Diagnosis]:
    """Every diagnostic of ``ecar_lab.doctor.diagnose`` that takes a model.

    Args:
        dataset: what it was trained on; without it generated latents are compared with what holds
            for any data: unit variance, boundary score 1. ``options``: of sampling, e.g.
            ``renoise``.
    """
    pipe.set_progress_bar_config(disable=True)
    real, why = real_or_why(pipe, dataset, data_root)
    made = probe.sample_latents(pipe, images, seed, **options)
    return [*judge_samples(pipe.model, made, real, why), judge_time(pipe.model, images)]


def real_or_why(
    pipe: ECARPipeline, dataset: str | None, data_root: str | None
) -> tuple[probe.RealLatents | None, str]:
    """Latents of real images, or why there are none. Nothing is fetched from the Hub for them."""
    if dataset is None:
        return None, "it is not known what the model was trained on"
    try:
        if dataset not in OFFLINE and files.data_root(data_root) is None:
            return None, f"{dataset} is not here: name its folder with --data"
        return probe.real_latents(pipe, dataset, data_root), ""
    except EcarError as error:
        return None, str(error)


def judge_samples(
    model: Any, made: torch.Tensor, real: probe.RealLatents | None, why: str
) -> list[Diagnosis]:
    """Leak, flat samples, boundary artefacts. ``why`` there are no real latents, if so."""
    scores = probe.boundary_scores(model, made)
    if real is None:
        deviation = made.square().mean().sqrt().item()
        return [
            unmeasured("leak", why),
            flat_samples([deviation], [1.0]),
            boundary_artefacts(scores),
        ]
    return [
        leak(probe.band_errors(model, real)),
        flat_samples(probe.bands(model, made), probe.bands(model, real.latents)),
        boundary_artefacts(scores, probe.boundary_scores(model, real.latents)),
    ]


def judge_time(model: Any, images: int = TIMED_BATCH) -> Diagnosis:
    """Whether E-CAR is as fast as its FLOPs promise, up to eight images at once."""
    if not isinstance(model, ECAR):
        return unmeasured("efficiency_not_realised", "this is a baseline itself")
    try:
        return probe.time_sampling(model, min(images, TIMED_BATCH)).judge()
    except EcarError as error:  # no DiT of this size
        return unmeasured("efficiency_not_realised", str(error))


def finding(diagnosis: Diagnosis) -> Finding:
    """A diagnosis as a line of the doctor's report: what only costs time or care is a note."""
    if diagnosis.value is None:
        return Finding(diagnosis.name, "note", diagnosis.found)
    if not diagnosis.fired:
        return Finding(diagnosis.name, "ok", diagnosis.found)
    status = "wrong" if diagnosis.grave else "note"
    return Finding(diagnosis.name, status, diagnosis.found, diagnosis.remedy)


def course(rows: list[dict[str, Any]], config: dict[str, Any]) -> Finding:
    """How far the run came."""
    logged = [row for row in rows if "loss" in row]
    if not logged:
        return Finding("run", "note", "no loss is logged yet")
    last = logged[-1]
    left = last.get("seconds_left") or 0
    value = f"a {config['kind']}, step {last['step']}, {last['images']} images"
    return Finding("run", "ok", f"{value}, {left / 60:.0f} minutes to go" if left else value)


def dataset_of(checkpoint: Path) -> str | None:
    """What a checkpoint says that it was trained on."""
    try:
        return trained_on(checkpoint)
    except EcarError:
        return None


def open_result(run: Path, cfg: ModelTrainConfig, data_root: str | None) -> ECARPipeline | None:
    """The model that a run has made: the final one, else the averaged weights of its newest
    checkpoint, else None.

    Raises:
        EcarError: a damaged file; no data set to tell the classes of an unfinished run.
    """
    if (run / "final" / "model_index.json").is_file():
        return load_pipeline(run / "final", dtype=torch.float32)
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        return None
    tokenizer = load_tokenizer(find_tokenizer(cfg))
    size = get_preset(cfg.preset).image_size
    data = open_dataset(cfg.dataset_name, split="train", image_size=size, data_root=data_root)
    model = new_model(cfg, tokenizer, data.info)
    tensors, _ = load_checkpoint(checkpoints[-1])
    model.load_state_dict({**tensors["model"], **tensors["ema"]})
    return make_pipeline(model.eval(), tokenizer.eval())
