"""The numbers of a run: means between logs, JSON lines, the divergence guard."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.files import write_error
from ecar_lab.training.trackers import open_boards

logger = logging.getLogger(__name__)
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

    def add(self, step: int, values: dict[str, Tensor], share: float = 1.0) -> None:
        """Adds values of a step, or of the micro-batch of a process, which is a share of it: so a
        mean is the same however many parts a step has, and may go on with another number."""
        for name, value in values.items():
            value = value.detach().to(self.dtype)
            there = share * (~value.isnan()).to(self.dtype)
            value = share * value.nan_to_num(0.0, math.inf, -math.inf)
            if name in self.total:
                self.total[name] += value
                self.count[name] += there
            else:
                self.total[name], self.count[name] = value, there
        if "loss" in values:
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
    """``metrics.jsonl`` of one run folder, and the boards that were asked for.

    The file of metrics is appended to. Where rows of steps after ``step`` stand in it, which a
    killed run made after its last checkpoint, a row ``{"step": ..., "resumed": true}`` says so, and
    ``read_metrics`` leaves them out. Lines that are no rows go to ``metrics.damaged``.

    A disk too full for a row costs a warning: the row is written with the next one for which there
    is room.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        log_with: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ):
        self.file = folder / "metrics.jsonl"
        self.waiting: list[dict[str, Any]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            set_damaged_aside(self.file)
        except OSError as error:
            raise write_error(folder, error) from error
        if any(row["step"] > step for row in read_metrics(folder)):
            self._append({"step": step, "resumed": True})
        self.boards = open_boards(log_with, folder, step, config or {})

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row; lists become one curve per entry."""
        self._append(row)
        flat = [leaf for name, value in row.items() for leaf in _flatten(name, value)]
        finite = {tag: number for tag, number in flat if math.isfinite(number)}
        for board in self.boards:
            board.scalars(finite, row["step"])

    def picture(self, tag: str, image: Any, step: int) -> None:
        """Shows a PIL image on every board."""
        for board in self.boards:
            board.picture(tag, image, step)

    def _append(self, row: dict[str, Any]) -> None:
        self.waiting.append(row)
        try:
            with open(self.file, "ab", buffering=0) as handle:
                end = handle.tell()
                text = "".join(map(_line, self.waiting)).encode()
                try:
                    complete = handle.write(text) == len(text)
                except OSError:
                    handle.truncate(end)
                    raise
                if not complete:  # a disk takes what fits, and says no more
                    handle.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if len(self.waiting) == 1:
                logger.warning(
                    "%s cannot be written (%s): training goes on, the rows wait for room",
                    self.file,
                    error.strerror,
                )
            return
        self.waiting.clear()

    def close(self) -> None:
        """Closes the boards; says how many rows found no room."""
        if self.waiting:
            logger.warning("%d rows of %s are lost", len(self.waiting), self.file)
        for board in self.boards:
            board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, less what is damaged and what a resume did anew."""
    rows: list[dict[str, Any]] = []
    for row in map(_row, _lines(folder / "metrics.jsonl")):
        if row is None:
            continue
        if row.get("resumed") is True:
            rows = [earlier for earlier in rows if earlier["step"] <= row["step"]]
        else:
            rows.append(row)
    return rows


def set_damaged_aside(file: Path) -> None:
    """Moves the lines of metrics.jsonl that are no rows to metrics.damaged; no other is touched.

    Raises:
        OSError: the disk is full or the place cannot be written.
    """
    lines = _lines(file)
    damaged = [line for line in lines if _row(line) is None]
    if not damaged:
        if lines and not lines[-1].endswith(b"\n"):  # a kill between a row and its end
            with open(file, "ab") as handle:
                handle.write(b"\n")
        return
    aside = file.with_suffix(".damaged")
    with open(aside, "ab") as handle:
        handle.writelines(line.rstrip(b"\n") + b"\n" for line in damaged)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(fresh, "wb") as handle:
            whole = (line for line in lines if _row(line) is not None)
            handle.writelines(line.rstrip(b"\n") + b"\n" for line in whole)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)
    logger.warning("%s: %d damaged lines were moved to %s", file, len(damaged), aside.name)


def _lines(file: Path) -> list[bytes]:
    content = file.read_bytes() if file.is_file() else b""
    return [line for line in content.splitlines(keepends=True) if line.strip()]


def _row(line: bytes) -> dict[str, Any] | None:
    """The row that a line holds: an object with a step; None if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(row, dict) and type(row.get("step")) is int
    return row if sound else None


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
