"""Connections that do not say what they want: closed after a while, and when there are too many.

uvicorn waits for ever for a request that is half sent. Here the first line and the headers must be
complete in time, and of many that wait the oldest makes room for a new one.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from apps.server.answers import Refusal, refused, security_headers

HEAD_SECONDS = 10.0
MOST_WAITING = 256  # connections of which no request is being answered
MOST = 2000  # connections in all, where the system allows as many
SLOW = Refusal(408, f"the headers of this request were not complete after {HEAD_SECONDS:g} seconds")
UNREADABLE = Refusal(400, "this is no request of HTTP: open the address in a browser")


class PatientProtocol(H11Protocol):
    """uvicorn's connection with an end to its patience."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        # Of this server, the longest wait first.
        self.waiting: OrderedDict[PatientProtocol, None]
        self.waiting = vars(self.server_state).setdefault("waiting", OrderedDict())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > most_connections():
            self._give_up()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._no_more_waiting()
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """The app has no use for WebSockets; the request is answered as if it asked for none."""

    def send_400_response(self, msg: str) -> None:
        """Instead of uvicorn's three words."""
        self._say(UNREADABLE)

    def _look(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._wait()
        else:
            self._no_more_waiting()

    def _wait(self) -> None:
        if self in self.waiting:
            return
        self.waiting[self] = None
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)
        if len(self.waiting) > MOST_WAITING:
            next(iter(self.waiting))._give_up()

    def _no_more_waiting(self) -> None:
        self.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._no_more_waiting()
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._say(SLOW)
        else:
            self.transport.abort()

    def _say(self, refusal: Refusal) -> None:
        status, headers, body = refused(refusal, wants_page=False)
        reason = b"Bad Request" if status == 400 else b"Request Timeout"
        headers = [*headers, *security_headers(), (b"connection", b"close")]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def most_connections() -> int:
    """As many as leave some of the process's files for other things."""
    if sys.platform == "win32":
        return MOST
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, max(32, soft * 3 // 4))
