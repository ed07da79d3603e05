"""The numbers of a run: means between logs, JSON lines, TensorBoard, the divergence guard."""

from __future__ import annotations

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.files import write_error

GUARD_WINDOW = 20  # logged losses that the running median looks back on
GUARD_PATIENCE = 3  # logged losses in a row that have to be too high
REMEDY = "the last good checkpoint is kept: train again with a lower lr"


class Meter:
    """Sums named tensors over steps without waiting for them; NaN entries count as absent.

    ``loss`` is also watched: ``first_bad`` is the first step at which it was not finite.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.total: dict[str, Tensor] = {}
        self.count: dict[str, Tensor] = {}
        self.first_bad = torch.tensor(math.inf, dtype=self.dtype, device=self.device)

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Adds one step's (or micro-batch's) values."""
        for name, value in values.items():
            value = value.detach().to(self.dtype)
            there = ~value.isnan()
            value = torch.where(there, value, 0.0)
            if name in self.total:
                self.total[name] += value
                self.count[name] += there
            else:
                self.total[name], self.count[name] = value.clone(), there.to(self.dtype)
        bad = torch.where(values["loss"].detach().isfinite(), math.inf, float(step))
        self.first_bad = torch.minimum(self.first_bad, bad.to(self.dtype))

    def share(self, accelerator: Accelerator) -> None:
        """Replaces the sums of this process by the sums over all processes."""
        for store in (self.total, self.count):
            for name in sorted(store):
                store[name] = cast(Tensor, accelerator.reduce(store[name], "sum"))
        self.first_bad = cast(Tensor, accelerator.gather(self.first_bad[None])).min()

    def means(self) -> dict[str, Any]:
        """Means as numbers or nested lists; NaN where nothing was added."""
        return {name: (self.total[name] / self.count[name]).tolist() for name in self.total}

    def state(self) -> dict[str, Any]:
        """The sums, as JSON holds them without loss."""
        return {name: [self.total[name].tolist(), self.count[name].tolist()] for name in self.total}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back what ``state`` gave."""
        self.reset()
        for name, (total, count) in state.items():
            self.total[name] = torch.tensor(total, dtype=self.dtype, device=self.device)
            self.count[name] = torch.tensor(count, dtype=self.dtype, device=self.device)


class DivergenceGuard:
    """Stops a run whose loss is no number any more or has left the range it was in.

    Args:
        factor: a logged loss is too high above ``factor`` times the median of those before it.
    """

    def __init__(self, factor: float):
        self.factor = factor
        self.recent: list[float] = []
        self.strikes = 0

    def is_high(self, loss: float) -> bool:
        """Whether ``loss`` has left the range of the recent ones."""
        enough = len(self.recent) >= GUARD_PATIENCE
        return enough and loss > self.factor * statistics.median(self.recent)

    def check(self, step: int, loss: float, first_bad: float, gradient: float, lr: float) -> None:
        """Looks at the mean loss since the last log.

        Raises:
            EcarError: naming the cause and what to change.
        """
        if not math.isfinite(loss) or math.isfinite(first_bad):
            self.fail(first_bad if math.isfinite(first_bad) else step, lr, gradient)
        if not self.is_high(loss):
            self.strikes = 0
            self.recent = [*self.recent, loss][-GUARD_WINDOW:]
            return
        self.strikes += 1  # and a value under suspicion does not drag the median along
        if self.strikes >= GUARD_PATIENCE:
            raise EcarError(
                f"training diverged: the loss {loss:.4g} at step {step} is more than "
                f"{self.factor:g} times its running median {statistics.median(self.recent):.4g} "
                f"(lr {lr:.2g}, gradient norm {gradient:.2g}); {REMEDY}"
            )

    def fail(self, step: float, lr: float, gradient: float | None = None) -> NoReturn:
        """Ends a run whose loss or weights are not finite."""
        norm = "" if gradient is None else f", gradient norm {gradient:.2g}"
        raise EcarError(
            f"training diverged: loss or weights are not finite since step {step:.0f} "
            f"(lr {lr:.2g}{norm}); {REMEDY}"
        )

    def state(self) -> dict[str, Any]:
        """What has to survive a restart."""
        return {"recent": self.recent, "strikes": self.strikes}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back what ``state`` gave."""
        self.recent, self.strikes = state["recent"], state["strikes"]


class RunLog:
    """``metrics.jsonl`` and TensorBoard events of one run folder; rows after ``step`` are dropped.

    Dropping them keeps the curve free of the steps that a killed run did after its last checkpoint.
    """

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.file = folder / "metrics.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            rows = [row for row in read_metrics(folder) if row["step"] <= step]
            fresh = self.file.with_name(f".{self.file.name}.partial")
            fresh.write_text("".join(_line(row) for row in rows), encoding="utf-8")
            os.replace(fresh, self.file)
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        except OSError as error:
            raise write_error(folder, error) from error

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row; lists become one TensorBoard curve per entry."""
        try:
            with open(self.file, "a", encoding="utf-8") as handle:
                handle.write(_line(row))
        except OSError as error:
            raise write_error(self.file, error) from error
        for name, value in row.items():
            for tag, number in _flatten(name, value):
                if math.isfinite(number):
                    self.board.add_scalar(tag, number, row["step"])

    def picture(self, name: str, image: Any, step: int) -> None:
        """Shows a PIL image in TensorBoard."""
        import numpy as np

        self.board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes TensorBoard's file."""
        self.board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line that a kill cut short is left out."""
    file = folder / "metrics.jsonl"
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(_without_nan(row)) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flatten(name: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, list | tuple):
        return [leaf for i, entry in enumerate(value) for leaf in _flatten(f"{name}/{i}", entry)]
    return [(name, float(value))] if isinstance(value, int | float) else []
