"""What the run folders below a folder say about themselves, and why others do not count."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from safetensors import SafetensorError, safe_open

from ecar_lab.documents import read_json
from ecar_lab.errors import EcarError, reason
from ecar_lab.evaluation.judge import fingerprint
from ecar_lab.training.checkpoints import list_checkpoints
from ecar_lab.training.config import read_config
from ecar_lab.training.log import read_metrics

CONFIG, METRICS = "config.json", "metrics.jsonl"
DEEPEST = 4  # folders below the one that is looked through
DISTANCES = ("fid", "frechet_distance")


@dataclass(frozen=True)
class Distance:
    """A Frechet distance. ``measure``: what has to be the same for two of them to be compared."""

    value: float
    measure: tuple[Any, ...]

    @property
    def described(self) -> str:
        """The measure, in words."""
        net, _, dataset, split, images = self.measure
        return f"{images:,} images against {dataset} ({split}) on {net}"


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: its path below the folder that was looked through. rows: of its log, as far as they
            have a loss. parameters: weights of what it made; None where it has made nothing yet.
        distance: of its result, where that was evaluated.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]] = field(repr=False)
    parameters: int | None = None
    distance: Distance | None = None

    @property
    def preset(self) -> str:
        return self.config["preset"]

    @property
    def kind(self) -> str:
        """Tokenizer or turbo, or the architecture of a model."""
        return self.config.get("architecture") or self.config["kind"]

    @property
    def finished(self) -> bool:
        return (self.folder / "final").is_dir()

    @property
    def images(self) -> float | None:
        return self._last("images")

    @property
    def minutes(self) -> float | None:
        seconds = self._last("seconds")
        return None if seconds is None else seconds / 60

    @property
    def loss(self) -> float | None:
        return self._last("loss")

    def _last(self, name: str) -> float | None:
        """What the last line of the log says, if it is a number."""
        value = self.rows[-1].get(name) if self.rows else None
        return value if is_number(value) else None

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Name -> (images, value): the loss, and that of each stage."""
        found: dict[str, list[tuple[float, float]]] = {}
        for row in self.rows:
            stages = row.get("loss_stage")
            stages = stages if isinstance(stages, list) else []
            named = {"loss": row["loss"]}
            named |= {f"stage {number}": value for number, value in enumerate(stages, 1)}
            for name, value in named.items():
                images = row.get("images")
                if is_number(value) and is_number(images):
                    found.setdefault(name, []).append((images, value))
        return found


def find_runs(root: str | Path = "runs") -> tuple[list[Run], list[str]]:
    """All runs at or below a folder, by name; and a sentence for each folder that is none.

    Raises:
        EcarError: there is no such folder, or it cannot be looked through.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise EcarError(
            f"there is no folder {str(root)!r}: name the one that `ecar train` writes its runs to"
        )
    places, problems = ([base], []) if is_run(base) else _places(base, base, 0)
    measured = [] if is_run(base) else list(evaluations(base))
    runs = []
    for place in places:
        name = base.resolve().name if place == base else place.relative_to(base).as_posix()
        try:
            runs.append(read_run(place, name, measured))
        except EcarError as error:
            problems.append(f"{name}: {error}; skipped")
        except OSError as error:
            problems.append(f"{name}: it cannot be read ({reason(error)}), skipped")
    return sorted(runs, key=lambda run: run.name), problems


def is_run(folder: Path) -> bool:
    """Whether a folder looks as if a training had written it."""
    return os.path.isfile(folder / CONFIG) or os.path.isfile(folder / METRICS)


def _places(base: Path, folder: Path, depth: int) -> tuple[list[Path], list[str]]:
    """Run folders below ``folder``; one sentence for a folder in which there are none."""
    found, problems = [], []
    try:
        inside = sorted(one for one in folder.iterdir() if one.is_dir())
    except OSError as error:
        if folder == base:
            raise EcarError(
                f"{str(folder)!r} cannot be looked through ({error.strerror}): name another folder"
            ) from error
        return [], [f"{folder.relative_to(base)}: it cannot be read ({error.strerror}), skipped"]
    for one in inside:
        name = one.relative_to(base).as_posix()
        if one.name.startswith(".") or one.is_symlink():
            continue
        if is_run(one):
            found.append(one)
            continue
        deeper, said = _places(base, one, depth + 1) if depth < DEEPEST else ([], [])
        found += deeper
        problems += said if deeper else [f"{name}: no run, it has no {CONFIG}; skipped"]
    return found, problems


def read_run(folder: Path, name: str, measured: list[dict[str, Any]]) -> Run:
    """What a run folder says.

    Args:
        measured: evaluations that lie elsewhere and may be of this run.

    Raises:
        EcarError: its configuration is missing, damaged, or of something else.
    """
    config = read_config(folder)
    try:
        rows = [row for row in read_metrics(folder) if is_number(row.get("loss"))]
    except OSError as error:
        raise EcarError(
            f"{METRICS} cannot be read ({error.strerror}): allow it to be read"
        ) from error
    distance = distance_of(folder, [*evaluations(folder), *measured])
    return Run(name, folder, config, rows, parameters_of(folder), distance)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number; a log may have been written by anything."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number larger than any float
        return False


def parameters_of(folder: Path) -> int | None:
    """Weights of the result, else of the newest checkpoint: from the headers, nothing is loaded."""
    checkpoints = list_checkpoints(folder)
    files = sorted((folder / "final" / "model").glob("*.safetensors"))
    files = files or sorted((folder / "final").glob("*.safetensors"))
    if not files and checkpoints:
        files = [checkpoints[-1] / "ema.safetensors"]
    total = 0
    try:
        for file in files:
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118, it is no dictionary
                    size = 1
                    for side in tensors.get_slice(key).get_shape():
                        size *= side
                    total += size
    except (OSError, SafetensorError):
        return None
    return total or None


def evaluations(folder: Path) -> Iterator[dict[str, Any]]:
    """What `ecar evaluate --output` has written into a folder; other JSON files are passed over."""
    for file in sorted(folder.glob("*.json")):
        if file.name == CONFIG or not _is_small_file(file):
            continue
        try:
            content = read_json(file, "the evaluation", "write it again")
        except EcarError:
            continue
        if is_evaluation(content):
            yield content


def is_evaluation(content: dict[str, Any]) -> bool:
    """Whether a JSON object is an evaluation, as far as it is read here."""
    objects = (content.get(name, {}) for name in ("metrics", "feature_net", "reference"))
    named = {"metrics", "checkpoint_hash"} <= set(content)
    return named and all(isinstance(one, dict) for one in objects)


def _is_small_file(file: Path) -> bool:
    try:
        found = os.stat(file)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size < 2**20


def distance_of(folder: Path, measured: list[dict[str, Any]]) -> Distance | None:
    """The distance of the run's result, of the evaluation with the most images."""
    result = folder / "final"
    if not measured or not result.is_dir():
        return None
    try:
        own = fingerprint(result)
    except OSError as error:
        raise EcarError(f"its result cannot be read ({reason(error)}): copy it again") from error
    found = []
    for one in measured:
        metrics, net = one["metrics"], one.get("feature_net", {})
        values = [
            value
            for name, value in metrics.items()
            if name.startswith(DISTANCES) and is_number(value)
        ]
        if one["checkpoint_hash"] != own or not values:
            continue
        reference = one.get("reference", {})
        images = metrics.get("images")
        measure = (
            str(net.get("name")), str(net.get("hash")), str(one.get("dataset")),
            str(reference.get("split")), images if type(images) is int else 0,
        )  # fmt: skip
        found.append(Distance(float(values[0]), measure))
    return max(found, key=lambda one: one.measure[-1], default=None)
