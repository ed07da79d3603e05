"""How a run takes being told to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Generator
from typing import Any, NoReturn

logger = logging.getLogger(__name__)
# SIGHUP comes when a terminal closes; Windows has none. Under nohup it stays ignored.
SIGNALS = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
IMPATIENT = 3  # the so-many-th Ctrl-C ends a run at once


class StopSignal(contextlib.AbstractContextManager):
    """Answers SIGTERM, SIGINT and SIGHUP.

    While steps are made (``patient``), a signal is noted, so that the run can be saved first; a
    second one changes nothing, a third Ctrl-C ends the run at once. At any other time the first
    one ends it. The end is a KeyboardInterrupt after SIGINT, else SystemExit with 128 + number.

    Attributes:
        number: of the first signal; 0 as long as there was none.
        state: what is said when a signal ends the run at once.
    """

    def __init__(self) -> None:
        self.number = 0
        self.state = "stopped before the first step: there was nothing to save"
        self._patient = False
        self._interrupts = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    @contextlib.contextmanager
    def patient(self) -> Generator[None]:
        """Within the block signals are noted only."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def end(self) -> NoReturn:
        """Ends a run that was told to stop."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.number or signal.SIGTERM))

    def _note(self, number: int, frame: Any) -> None:
        first = not self.number
        self.number = self.number or number
        self._interrupts += number == signal.SIGINT
        if not self._patient:
            logger.warning("%s", self.state)
            self.end()
        if self._interrupts >= IMPATIENT:
            logger.warning("stopped at once: the run goes on from its newest checkpoint")
            self.end()
        if first:
            logger.warning("stopping after this step: the run is saved and can be resumed")
        else:
            logger.warning("already stopping after this step; Ctrl-C three times ends it at once")

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
