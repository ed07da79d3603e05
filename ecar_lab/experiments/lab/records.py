"""What a training leaves behind for an experiment, and the keys under which things are kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecar_lab.documents import read_text
from ecar_lab.errors import EcarError

NOT_IN_KEY = {
    *("data", "output", "resume", "save_every", "keep", "log_every", "sample_every"),
    *("sample_steps", "sample_guidance", "cache_latents", "latents"),
}


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        folder: the pipeline's. parameters: of the model. images: seen in training.
        train_flops: of the whole training. seconds: that it took. loss: last logged.
        loss_stage: the last logged loss of every stage.
    """

    folder: Path
    parameters: int
    images: int
    train_flops: float
    seconds: float
    loss: float
    loss_stage: list[float]

    def record(self) -> dict[str, Any]:
        """The same, for a result JSON; without the folder, which is this machine's business."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def digest(settings: Any) -> str:
    """Sixteen hexadecimal digits that stand for the settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def as_json(content: Any) -> Any:
    """The content as it is once it was written as JSON and read."""
    return json.loads(json.dumps(content))


def read_record(file: Path, what: str, remedy: str) -> dict[str, Any]:
    """The JSON object in a file that an experiment has written; it may hold NaN.

    Args:
        what, remedy: of the sentence, e.g. "the measurement" and "delete it to measure again".

    Raises:
        EcarError: it cannot be read, or is no JSON object.
    """
    text = read_text(file, what, remedy)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise EcarError(f"{what} {str(file)!r} is no whole JSON object: {remedy}")
    return content


def read_measured(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The result in a file that ``Lab.remember`` wrote under these settings.

    Raises:
        EcarError: the file is damaged, or of other settings.
    """
    remedy = "delete it to measure again"
    record = read_record(file, "the measurement", remedy)
    result = record.get("result")
    if record.get("settings") != as_json(settings) or not isinstance(result, dict):
        raise EcarError(
            f"the measurement {str(file)!r} is not of the settings that its name stands for: "
            f"{remedy}"
        )
    return result


def key_of(config: Any) -> str:
    """A key of a training configuration: all that bends the curve, nothing about this machine.

    Fields at their default are left out, so that a field added later makes no old run strange.
    """
    usual = type(config)().to_dict()
    return digest(
        {k: v for k, v in config.to_dict().items() if k not in NOT_IN_KEY and v != usual[k]}
    )


def is_finished(run_folder: Path, steps: int | None) -> bool:
    """Whether a run went through all its steps and left its result; a signal ends it earlier."""
    from ecar_lab.training.log import read_metrics

    rows = read_metrics(run_folder)
    return (run_folder / "final").is_dir() and bool(rows) and rows[-1]["step"] == steps


def read_run(run_folder: Path) -> Trained:
    """What a finished run folder says.

    Raises:
        EcarError: it holds no finished run.
    """
    from ecar_lab.baselines import load_pipeline
    from ecar_lab.training.log import read_metrics

    try:
        last = [row for row in read_metrics(run_folder) if "loss" in row][-1]
        per_image = last["flops_per_second"] / last["images_per_second"]
        logged = {name: last[name] for name in ("images", "seconds", "loss", "loss_stage")}
        train_flops = per_image * last["images"]
    except (OSError, LookupError, TypeError, ZeroDivisionError) as error:
        raise EcarError(
            f"{run_folder.name!r} holds no finished training: delete the folder and run again"
        ) from error
    pipe = load_pipeline(run_folder / "final")
    return Trained(
        folder=run_folder / "final",
        parameters=pipe.model.num_parameters(),
        train_flops=train_flops,
        **logged,
    )
