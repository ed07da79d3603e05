"""TensorBoard's curves and pictures of a run: a convenience, which never ends the run.

TensorBoard's own writer writes on a thread, where a full disk is a traceback that nobody can catch.
This one writes the same records where it is called.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


class Board:
    """One event file; after the first record that cannot be written there are no more.

    Args:
        step: what an earlier part of the run showed after it is hidden.
    """

    def __init__(self, folder: Path, step: int):
        self.file: io.FileIO | None = None
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = io.FileIO(folder / name, "wb")
        except OSError as error:
            self._end(error)
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log={"status": "START"})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of every curve."""
        from torch.utils.tensorboard.summary import scalar

        for tag, value in values.items():
            self._write(step=step, summary=scalar(tag, value))

    def picture(self, tag: str, image: Any, step: int) -> None:
        """A PIL image."""
        from torch.utils.tensorboard.summary import image as summary

        pixels = np.asarray(image.convert("RGB"))
        self._write(step=step, summary=summary(tag, pixels, dataformats="HWC"))

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()
        self.file = None

    def _write(self, **fields: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self.file is None:
            return
        record = io.BytesIO()
        event = _events().Event(wall_time=time.time(), **fields)
        RecordWriter(record).write(event.SerializeToString())
        try:
            self.file.write(record.getvalue())
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        logger.warning(
            "TensorBoard gets no more curves (%s); metrics.jsonl holds the same numbers",
            error.strerror,
        )
        self.close()


def _events() -> Any:
    """TensorBoard's records; their names are made at import, so no type checker knows them."""
    return importlib.import_module("tensorboard.compat.proto.event_pb2")
