"""Results that several visitors ask for, computed once without a lock over the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from apps.server.turns import resting

Result = TypeVar("Result")


class Once(Generic[Result]):
    """Whoever asks first computes; the others wait for that, and let it have the model meanwhile.

    What is not wanted any more must be dropped, see :meth:`drop`.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Future[Result]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result for a key; ``make`` computes it. If that fails the next one tries again.

        Raises:
            Whatever ``make`` raises.
        """
        while True:
            with self._lock:
                found = self._made.get(key)
                if found is None:
                    own = self._made[key] = Future()
            if found is None:
                return self._make(key, own, make)
            if not found.done():
                with resting():
                    found.exception()  # waits
            if found.exception() is None:
                return found.result()

    def drop(self, key: Hashable, result: Result) -> None:
        """Forgets a result, unless there is another one by now."""
        with self._lock:
            found = self._made.get(key)
            if found is not None and found.done() and found.result() is result:
                del self._made[key]

    def _make(self, key: Hashable, own: Future[Result], make: Callable[[], Result]) -> Result:
        try:
            result = make()
        except BaseException as error:
            with self._lock:
                del self._made[key]
            own.set_exception(error)
            raise
        own.set_result(result)
        return result
