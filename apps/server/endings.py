"""The end of a page's stream of messages, known to both sides before anything new begins.

Gradio ends a session's stream with ``close_stream`` as soon as no job of it is left; the page
opens another one with the next job if it knows by then that the first has ended. A job that is sent
while that message is under way would never be heard of. So the answer to a job waits here until the
page has taken note: until it has closed the stream, which is held open for so long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

NOTED = 3.0  # seconds after which a page that closes nothing is taken to know
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Endings:
    """Sessions whose stream is about to end."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Event] = {}

    def jobs_of(self, session: str) -> Jobs:
        """An empty set for the ids of a session's jobs, as Gradio keeps them."""
        return Jobs(lambda: self._under_way.setdefault(session, asyncio.Event()))

    def ended(self, session: str) -> bool:
        """Notes that a stream has closed; whether that was its agreed end."""
        ending = self._under_way.pop(session, None)
        if ending is not None:
            ending.set()
        return ending is not None

    async def noted(self, session: str) -> None:
        """Waits while the end of the session's stream is under way."""
        ending = self._under_way.get(session)
        if ending is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), NOTED)

    def held(self, send: Send, session: str) -> Send:
        """``send`` for a stream, of which the end waits until the page closes it: that cancels."""

        async def hold(message: MutableMapping[str, Any]) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body")
            if last and session in self._under_way:
                await asyncio.sleep(NOTED)
            await send(message)

        return hold


class Jobs(set[str]):
    """Ids of jobs, with word of the moment when the last of them is told to be done: what Gradio
    sends next is the end of the stream."""

    def __init__(self, done: Callable[[], object]) -> None:
        super().__init__()
        self._done = done

    def remove(self, event_id: str) -> None:
        super().remove(event_id)
        if not self:
            self._done()
