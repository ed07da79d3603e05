"""A checkpoint as a folder that runs without PyTorch: what ``ecar export onnx`` writes.

Beside the graphs and their weights lies ``manifest.json`` with all numbers of a run, so that
whoever has the folder needs no code of this kit.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecar_lab.baselines.pipeline import load_pipeline
from ecar_lab.errors import EcarError
from ecar_lab.files import (
    as_folder,
    atomic_directory,
    check_folder,
    hash_file,
    resolve_checkpoint,
    write_json,
)
from ecar_lab.home import cache_root
from ecar_lab.machine import versions
from ecar_lab.model import ECAR
from ecar_lab.onnx.exported import FORMAT, MANIFEST, WEIGHTS, Exported, Manifest
from ecar_lab.onnx.graphs import ENCODER, Traced, trace_graphs
from ecar_lab.onnx.packages import needed
from ecar_lab.onnx.weights import PRECISIONS, Precision, share_weights
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schema import Text, short
from ecar_lab.stored import fingerprint


def export(
    checkpoint: Text, output: Path, weights: Precision = "float16", encoder: bool = False
) -> Path:
    """Writes a checkpoint of E-CAR as ONNX graphs, one file of weights and a manifest.

    Args:
        checkpoint: a checkpoint folder, or the name of one that ships.
        output: the folder to write; an earlier export there is replaced, nothing else is.
        weights: how matrices are stored: float32, float16 or int8. Graphs compute in float32.
        encoder: also the tokenizer's encoder, which turns a picture into a latent.

    Raises:
        EcarError: no such checkpoint, or one without E-CAR; a folder that holds something else; a
            package that is missing.
    """
    if weights not in PRECISIONS:
        raise EcarError(f"weights {short(weights)} are unknown: use {', '.join(PRECISIONS)}")
    output = as_folder(output)
    if output.exists() and not replaceable(output):
        raise EcarError(
            f"the folder {str(output)!r} holds something else than an export: name a new folder"
        )
    check_folder(output)
    folder = resolve_checkpoint(checkpoint)
    pipe = load_ecar(folder)
    graphs = trace_graphs(pipe.model, pipe.tokenizer, encoder)
    return write_export(pipe, graphs, output, weights, folder)


def replaceable(place: Path) -> bool:
    """Whether a folder is empty, or holds an export and nothing else."""
    if not place.is_dir():
        return False
    within = {entry.name for entry in place.iterdir()}
    if not within:
        return True
    try:
        return within <= {MANIFEST, *Manifest.read(place).files}
    except EcarError:
        return False


def load_ecar(folder: Path) -> ECARPipeline:
    """The pipeline of a checkpoint.

    Raises:
        EcarError: it holds a baseline.
    """
    pipe = load_pipeline(folder, dtype="float32")
    if type(pipe.model) is not ECAR:
        raise EcarError(
            f"the checkpoint {folder.name!r} holds a {type(pipe.model).__name__}: only E-CAR runs "
            "on ONNX, use --runtime torch or another checkpoint"
        )
    return pipe


def write_export(
    pipe: ECARPipeline,
    graphs: Mapping[str, Traced],
    output: Path,
    weights: Precision,
    checkpoint: Path,
) -> Path:
    """Writes traced graphs as one export; the graphs themselves stay as they are."""
    protos = {name: copy.deepcopy(graph.proto) for name, graph in graphs.items()}
    with atomic_directory(output) as fresh:
        share_weights(protos.values(), fresh / WEIGHTS, weights)
        for name, proto in protos.items():
            (fresh / name).write_bytes(proto.SerializeToString(deterministic=True))
        files = {
            file.name: {"sha256": hash_file(file), "bytes": file.stat().st_size}
            for file in sorted(fresh.iterdir())
        }
        content = {
            "format": FORMAT,
            "kit": versions()["ecar-lab"],
            "checkpoint": checkpoint.resolve().name,
            "fingerprint": fingerprint(checkpoint),
            "weights": weights,
            **numbers(pipe.model, pipe.tokenizer.downsample_factor),
            **({"encoder": ENCODER} if ENCODER in graphs else {}),
            "graphs": {
                name: {"inputs": graph.inputs, "outputs": graph.outputs}
                for name, graph in graphs.items()
            },
            "files": files,
        }
        write_json(fresh / MANIFEST, content)
    return output


def numbers(model: ECAR, downsample_factor: int) -> dict[str, Any]:
    """What a run needs to know of the model, as the manifest has it."""
    schedule = model.schedule
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    steps, guidance = model.inference_steps(), model.guidance()
    intervals, powers = model.intervals(), model.powers()
    stages = []
    for stage, resolution in enumerate(schedule.resolutions):
        into = schedule.transition(stage) if stage else None
        stages.append(
            {
                "resolution": resolution,
                "window": list(schedule.window(stage)),
                "scale": into.scale if into else 0.0,
                "sigma": into.sigma if into else 1.0,
                "num_inference_steps": steps[stage],
                "guidance_scale": guidance[stage],
                "guidance_interval": list(intervals[stage]),
                "time_power": powers[stage],
                "transformer": f"transformer_{stage}.onnx",
                "head": f"head_{stage}.onnx",
            }
        )
    return {
        "mode": model.config.mode,
        "solver": model.solver(),
        "coupling": schedule.coupling,
        "ratio": schedule.ratio,
        "latent_channels": model.config.latent_channels,
        "downsample_factor": downsample_factor,
        "class_names": model.class_names,
        "null_class": model.null_class,
        "decoder": "decoder.onnx",
        "stages": stages,
        "config": config,
    }


def exported(
    checkpoint: str | Path, weights: Precision = "float32", threads: int | None = None
) -> Exported:
    """An export, opened: the folder itself if it is one, else that of a checkpoint, which is made
    once and kept under :func:`cache_root` by the checkpoint's fingerprint.

    Raises:
        EcarError: as of :func:`export` and :class:`Exported`.
    """
    if Path(checkpoint).expanduser().joinpath(MANIFEST).is_file():
        return Exported(checkpoint, threads)
    needed("onnxruntime")
    folder = resolve_checkpoint(checkpoint)
    name = f"{folder.resolve().name}-{fingerprint(folder)}-{weights}-{FORMAT}"
    place = cache_root() / "onnx" / name
    if (place / MANIFEST).is_file():
        try:
            return Exported(place, threads)
        except EcarError:  # damaged since: it is made anew
            shutil.rmtree(place, ignore_errors=True)
    return Exported(export(str(folder), place, weights), threads)
