"""A folder that ``ecar export onnx`` wrote: graphs, weights, and the numbers that a run needs.

Nothing here knows torch. The fields of ``manifest.json`` are those of :class:`Manifest`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ecar_lab.documents import read_json
from ecar_lab.errors import EcarError
from ecar_lab.onnx.packages import needed
from ecar_lab.schema import check_path, settings, short

MANIFEST, WEIGHTS = "manifest.json", "weights.bin"
FORMAT = 1  # of the folder; another number is another layout
AGAIN = "export it again with ecar export onnx"
Array = NDArray[np.float32]


@settings
class StageNumbers:
    """One stage: what ``ecar_lab.schedule.StageSchedule`` says of it, its defaults, its graphs.

    ``window``: [a_s, b_s]. ``scale``, ``sigma``: of the transition into it; stage 0 has none, so 0
    and 1.
    """

    resolution: int
    window: list[float]
    scale: float
    sigma: float
    num_inference_steps: int
    guidance_scale: float
    guidance_interval: list[float]
    time_power: float
    transformer: str
    head: str


@settings
class Manifest:
    """What ``manifest.json`` says.

    ``config`` is the model's own. ``graphs``: name -> inputs and outputs, each a type and a shape,
    in which a name stands for a size that is free. ``files``: name -> sha256 and bytes.
    ``encoder``: only where it was asked for.
    """

    format: int
    kit: str
    checkpoint: str
    fingerprint: str
    weights: str
    mode: str
    solver: str
    coupling: str
    ratio: int
    latent_channels: int
    downsample_factor: int
    class_names: list[str]
    null_class: int
    decoder: str
    stages: list[StageNumbers]
    graphs: dict[str, Any]
    files: dict[str, Any]
    config: dict[str, Any]
    encoder: str | None = None

    @property
    def few_step(self) -> bool:
        return self.mode == "few-step"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder.

        Raises:
            EcarError: there is none, or one of another kit, or not as it was written.
        """
        content = read_json(folder / MANIFEST, "the manifest", AGAIN)
        if content.get("format") != FORMAT:
            raise EcarError(
                f"the export {str(folder)!r} has format {short(content.get('format'))}, this kit "
                f"reads {FORMAT}: {AGAIN}"
            )
        try:
            absent = ({field.name for field in fields(cls)} ^ set(content)) - {"encoder"}
            if absent:
                raise EcarError(f"{min(absent)} is absent or unknown")
            content["stages"] = [StageNumbers(**stage) for stage in content["stages"]]
            return cls(**content)
        except (EcarError, TypeError) as error:
            raise EcarError(
                f"the manifest in {str(folder)!r} is not as it was written ({error}): {AGAIN}"
            ) from error


@dataclass(frozen=True)
class Graph:
    """One network, loaded: arrays in by name, arrays out by name."""

    session: Any

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(arrays)), strict=True))


class Exported:
    """An exported folder, opened: :class:`Manifest` and all graphs, ready to run.

    Args:
        threads: of a graph; None: as many as onnxruntime takes.

    Raises:
        EcarError: no such folder, or no export; a file that is missing or not the one that was
            written; the package onnxruntime is missing.
    """

    def __init__(self, folder: str | Path, threads: int | None = None):
        self.folder = Path(check_path(folder)).expanduser()
        if not (self.folder / MANIFEST).is_file():
            raise EcarError(
                f"there is no export in {str(folder)!r}: make one with ecar export onnx --out "
                f"{str(folder)!r}"
            )
        self.manifest = Manifest.read(self.folder)
        self._check_files()
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Eight bits become float32 once, when a graph is loaded, and not in every call.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.graphs: dict[str, Graph] = {}
        for name in self.manifest.graphs:
            try:
                session = runtime.InferenceSession(
                    str(self.folder / name), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime has exceptions of its own
                raise EcarError(f"onnxruntime does not load {name!r}: {AGAIN}") from error
            self.graphs[name] = Graph(session)

    def _check_files(self) -> None:
        for name, said in self.manifest.files.items():
            file = self.folder / name
            if Path(name).name != name or not file.is_file():
                raise EcarError(f"{str(file)!r} is missing, {MANIFEST} lists it: {AGAIN}")
            with open(file, "rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if not isinstance(said, dict) or said.get("sha256") != found:
                raise EcarError(f"{str(file)!r} is not the file that was exported: {AGAIN}")
        if not {MANIFEST, *self.manifest.graphs} <= {MANIFEST, *self.manifest.files}:
            raise EcarError(f"{MANIFEST} lists no sha256 of its graphs: {AGAIN}")
        stages = self.manifest.stages
        used = {self.manifest.decoder, *(name for s in stages for name in (s.transformer, s.head))}
        if self.manifest.encoder is not None:
            used.add(self.manifest.encoder)
        if missing := sorted(used - set(self.manifest.graphs) | set(self.manifest.graphs) - used):
            raise EcarError(f"{MANIFEST} disagrees with itself about {missing[0]}: {AGAIN}")
