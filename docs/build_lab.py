"""Builds the page on which a model runs in the visitor's browser: a folder for any web server.

    make lab     (python -m docs.build_lab --checkpoint cifar10-turbo --out build/lab)

It holds the page (``site/lab``), the model as ``ecar export onnx`` writes it, the few files of
onnxruntime-web that a browser needs, and ``lab.json``: what the page is told, each number counted
or computed here.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import torch
from diffusers.utils import logging
from filelock import FileLock
from PIL import Image

from apps.overview.runs import DIT_STEPS
from apps.paint.runs import BEGINNINGS, beginning
from ecar_lab.baselines import build as build_baseline
from ecar_lab.cost import total_flops
from ecar_lab.errors import EcarError
from ecar_lab.files import atomic_directory, hash_file, resolve_checkpoint, write_json
from ecar_lab.home import APP_CHECKPOINT
from ecar_lab.onnx.export import export
from ecar_lab.onnx.exported import FORMAT, MANIFEST, Exported, Manifest
from ecar_lab.onnx.pipeline import OnnxPipeline
from ecar_lab.onnx.weights import PRECISIONS, Precision
from ecar_lab.stored import fingerprint
from ecar_lab.viz.colours import STAGE_HUES, LatentColours

ROOT = Path(__file__).parents[1]
PAGE, NODE_MODULES = ROOT / "site" / "lab", ROOT / "site" / "node_modules"
LAB = "lab.json"
# What a browser needs of onnxruntime-web: the way over WebAssembly alone, and that over WebGPU.
SCRIPTS = ("ort.wasm.bundle.min.mjs", "ort.webgpu.bundle.min.mjs")
BINARIES = ("ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.asyncify.wasm")
PACKAGES = shutil.ignore_patterns("*.gz", "*.br")
PACKED = {".html", ".css", ".js", ".mjs", ".json", ".svg", ".wasm", ".onnx"}
# What a visitor sees first, and what a painting becomes, where the model knows these classes.
FIRST, PAINTED = ("automobile", 0), ("automobile", "ship", "airplane")
RECORDED_SEED, KEPT_NUMBERS = 0, 64


def build(
    checkpoint: str, output: Path, weights: Precision = "float16", packed: bool = True
) -> Path:
    """Writes the page with a checkpoint's model.

    Args:
        output: the folder to write; an earlier page there is replaced, nothing else is. A model in
            it that is still the checkpoint's is kept: to trace one takes a minute.
        packed: also each file as gzip and brotli, for servers that look for such.

    Raises:
        EcarError: no such checkpoint, onnxruntime-web cannot be had, a folder with something else.
    """
    if output.exists() and not (output / LAB).is_file() and any(output.iterdir()):
        raise EcarError(f"the folder {str(output)!r} holds something else: name a new one")
    runtime = runtime_files()
    with atomic_directory(output) as fresh:
        shutil.copytree(PAGE, fresh, dirs_exist_ok=True)
        (fresh / "ort").mkdir()
        for file in runtime:
            shutil.copy(file, fresh / "ort" / file.name)
        if is_of(output / "model", checkpoint, weights):
            shutil.copytree(
                output / "model", fresh / "model", ignore=shutil.ignore_patterns("*.*z")
            )
            for leftover in (fresh / "model").glob("*.br"):
                leftover.unlink()
        else:
            export(checkpoint, fresh / "model", weights, encoder=True)
        pipeline = OnnxPipeline(Exported(fresh / "model"))
        said = {**told(pipeline), **record(pipeline, fresh), **listed(fresh)}
        write_json(fresh / LAB, {**said, "build": number(fresh, said)})
        if packed:
            pack(fresh)
    return output


def runtime_files() -> list[Path]:
    """The files of onnxruntime-web, which npm installs in the version that the lock file names.

    Raises:
        EcarError: npm is missing or does not reach a registry.
    """
    files = [NODE_MODULES / "onnxruntime-web" / "dist" / name for name in (*SCRIPTS, *BINARIES)]
    with FileLock(NODE_MODULES.with_name(".installing.lock")):
        if not installed():
            install()
    if missing := [file.name for file in files if not file.is_file()]:
        raise EcarError(f"onnxruntime-web has no file {missing[0]!r}: use the version of site/")
    return files


def installed() -> bool:
    wanted = json.loads((ROOT / "site" / "package.json").read_text())["dependencies"]
    try:
        found = json.loads((NODE_MODULES / "onnxruntime-web" / "package.json").read_text())
    except (OSError, ValueError):
        return False
    return found.get("version") == wanted["onnxruntime-web"]


def install() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise EcarError("npm is missing, which fetches onnxruntime-web: install Node.js")
    patience = ("--fetch-retries=1", "--fetch-timeout=60000")  # milliseconds
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", *patience]
    done = subprocess.run(command, cwd=ROOT / "site", capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "no word").splitlines()[0]
        raise EcarError(f"npm does not install onnxruntime-web ({said}): is there a network?")


def is_of(folder: Path, checkpoint: str, weights: Precision) -> bool:
    """Whether a folder holds the export that would be made now."""
    try:
        said = Manifest.read(folder)
        Exported(folder)
    except EcarError:
        return False
    wanted = (FORMAT, fingerprint(resolve_checkpoint(checkpoint)), weights)
    return (said.format, said.fingerprint, said.weights) == wanted and said.encoder is not None


# -- what the page is told -------------------------------------------------------------------------


def told(pipeline: OnnxPipeline) -> dict[str, Any]:
    """All that is no part of the manifest: sizes, colours, costs, beginnings."""
    manifest, model, tokenizer = pipeline.exported.manifest, pipeline.model, pipeline.tokenizer
    colours = LatentColours.of(tokenizer)
    names = list(manifest.class_names)
    painted = [names.index(name) for name in PAINTED if name in names]
    name, seed = FIRST
    sides = [stage.resolution for stage in manifest.stages[:-1]]
    return {
        "image_size": manifest.stages[-1].resolution * manifest.downsample_factor,
        "hues": [STAGE_HUES[stage % len(STAGE_HUES)] for stage in range(len(manifest.stages))],
        "colours": {"weight": colours.weight.tolist(), "bias": colours.bias.tolist()},
        "first": {
            "label": names.index(name) if name in names else 0,
            "seed": seed,
            "painted": painted or [0],
        },
        "cost": costs(model),
        "beginnings": {
            name: {side: list(beginning(name, side).colours) for side in sides}
            for name in BEGINNINGS
        },
    }


def costs(model: Any) -> dict[str, Any]:
    """FLOPs of an image with the defaults, by stage and part, and those of a DiT of that size."""
    flops = model.flops()
    shape = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    try:
        with torch.device("meta"):  # counted from the shapes, so no weight is needed
            dit = {
                "steps": DIT_STEPS,
                "flops": total_flops(build_baseline("dit", shape).flops(DIT_STEPS)),
            }
    except EcarError:  # none is as large as the model
        dit = None
    stages = zip(flops["transformer"], flops["head"], strict=True)
    return {
        "parameters": model.num_parameters(),
        "stages": [{"transformer": transformer, "head": head} for transformer, head in stages],
        "dit": dit,
    }


def record(pipeline: OnnxPipeline, folder: Path) -> dict[str, Any]:
    """Draws one run with an image of every class, for browsers in which the model cannot run: a
    column per moment, two rows per class, the picture and the latent. And some numbers of the first
    image's latent, by which a browser knows that its graphics driver computes the same."""
    manifest = pipeline.exported.manifest
    labels, colours = list(range(len(manifest.class_names))), LatentColours.of(pipeline.tokenizer)
    cell = manifest.stages[-1].resolution * manifest.downsample_factor
    columns, frames = [], []
    for event in pipeline.trace(labels, seeds=[RECORDED_SEED] * len(labels)):
        shown = event.latent if event.is_final else event.clean_estimate
        rows = zip(pipeline.tokenizer.decode(shown), colours(event.latent), strict=True)
        columns.append(np.concatenate([enlarged(one, cell) for row in rows for one in row]))
        frame = {name: getattr(event, name) for name in ("stage", "step", "t")}
        frames.append({**frame, "numSteps": event.num_steps, "final": event.is_final})
    name = "recorded.png"
    Image.fromarray(np.concatenate(columns, axis=1)).save(folder / name, optimize=True)
    first = event.latent[0].flatten()
    stride = max(1, len(first) // KEPT_NUMBERS)
    latent = [round(one, 4) for one in first[::stride].tolist()]
    said = {"file": name, "seed": RECORDED_SEED, "cell": cell, "frames": frames}
    return {"recorded": {**said, "latent": latent, "stride": stride}}


def enlarged(picture: torch.Tensor, size: int) -> np.ndarray:
    """(3, r, r) in [-1, 1] as bytes (size, size, 3), each pixel a square."""
    levels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    scale = size // levels.shape[0]
    return levels.repeat(scale, axis=0).repeat(scale, axis=1)


def listed(folder: Path) -> dict[str, Any]:
    """The small files, which the page keeps whole, and the runtimes with size and SHA-256. The
    model's own files are in its manifest."""
    small = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file()
        and file.suffix not in (".wasm", ".onnx", ".bin")
        and file.name not in ("sw.js", "index.html")
    )
    runtime = {
        f"ort/{name}": {
            "bytes": (folder / "ort" / name).stat().st_size,
            "sha256": hash_file(folder / "ort" / name),
        }
        for name in BINARIES
    }
    return {"small": [LAB, *small], "runtime": runtime}


def number(folder: Path, said: dict[str, Any]) -> str:
    """Of this build, of all that it holds: another build has another one."""
    names = {*said["small"], "index.html", "sw.js"} - {LAB}
    content = [said, [hash_file(folder / name) for name in sorted(names)]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def pack(folder: Path, files: Iterable[Path] | None = None) -> None:
    """Each file that gains by it also as ``.gz`` and ``.br``; all of the folder, or these."""
    for file in files or sorted(folder.rglob("*")):
        if file.suffix in PACKED and file.is_file():
            content = file.read_bytes()
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
            file.with_name(f"{file.name}.br").write_bytes(brotli.compress(content, quality=9))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.build_lab", description=__doc__)
    parser.add_argument("--checkpoint", default=APP_CHECKPOINT, help="a folder, or one that ships")
    parser.add_argument("--out", type=Path, default=Path("build/lab"))
    parser.add_argument("--weights", choices=PRECISIONS, default="float16")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    try:
        folder = build(asked.checkpoint, asked.out, asked.weights)
    except EcarError as error:
        sys.exit(f"error: {error}")
    manifest = json.loads((folder / "model" / MANIFEST).read_text())
    model = sum(about["bytes"] for about in manifest["files"].values()) / 1e6
    print(f"{folder}: the page with a model of {model:.1f} MB; python -m docs.serve_lab shows it")


if __name__ == "__main__":
    main()
