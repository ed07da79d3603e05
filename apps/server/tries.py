"""Passwords are tried one after the other: whoever gives wrong ones waits, longer every time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from apps.server.answers import Refusal

FREE = 5  # wrong passwords without a wait
LONGEST = 900.0
FORGIVEN = 3600.0  # seconds after which wrong passwords count no more
REMEMBERED = 10_000


@dataclass
class Failures:
    """Wrong passwords from one network, and when the next may be tried."""

    count: int = 0
    last: float = 0.0

    @property
    def until(self) -> float:
        return self.last + (0 if self.count < FREE else min(2.0 ** (self.count - FREE), LONGEST))


class Tries:
    """Wrong passwords per network: after the fifth a wait of 1 s, then 2, 4, ... up to 15 min."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, Failures] = OrderedDict()

    def begin(self, network: str) -> None:
        """Before a password is looked at. It counts as wrong until :meth:`succeed`, so that many
        tries at the same time are not better than one after the other.

        Raises:
            Refusal: too many wrong ones so far.
        """
        now = self._clock()
        failures = self._failures.setdefault(network, Failures())
        self._failures.move_to_end(network)
        if now - failures.last > FORGIVEN:
            failures.count = 0
        wait = failures.until - now
        if wait > 0:
            raise Refusal(
                429,
                f"too many wrong passwords from {network}: try again in {duration(wait)}",
                retry=wait,
            )
        failures.count, failures.last = failures.count + 1, now
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def succeed(self, network: str) -> None:
        """The password was right."""
        self._failures.pop(network, None)


def duration(seconds: float) -> str:
    """1 second, 40 seconds, 15 minutes"""
    whole = max(1, round(seconds + 0.499))
    number, unit = (whole, "second") if whole < 90 else (round(whole / 60), "minute")
    return f"{number} {unit}{'' if number == 1 else 's'}"
