"""Bodies of requests, read whole before anything is done with them: sizes, time, totals.

A body that is too large is refused before it is read, one without a length where it gets too large;
one that is broken off has left nothing on the disk, because Gradio gets it when it is complete.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

from apps.server.answers import Refusal

MIB = 2**20
LARGEST = 1_500_000  # of JSON; a recipe has at most 1 MB
LARGEST_FORM = 64 * 1024  # of a login
LARGEST_FILE = 5 * MIB
FILES = 4  # in one upload
FRAME = 64 * 1024  # what a form adds to its files
SECONDS = 30.0  # for a whole body
READING, READING_EACH = 40, 20  # bodies at the same time: of all, of one network
# Bytes of uploads that lie on the disk, in an hour: of one network, of all.
HOUR, UPLOADS_EACH, UPLOADS = 3600.0, 60 * MIB, 600 * MIB
LEAST = 64 * 1024  # what an upload counts for, however small
BOUNDARY = re.compile('boundary="?([^";,]+)"?', re.IGNORECASE)


def limit_of(path: str) -> int:
    """The most bytes that a body may have."""
    if path.startswith("/gradio_api/upload"):
        return LARGEST_FILE + FRAME
    return LARGEST_FORM if path.startswith("/login") else LARGEST


def too_large(size: str, path: str) -> Refusal:
    """The sentence for a body that is over the limit."""
    if path.startswith("/gradio_api/upload"):
        limit = f"all files together may have {LARGEST_FILE // MIB} MB"
    else:
        limit = f"it may have {limit_of(path) / 1e6:.2g} MB"
    return Refusal(413, f"this request has {size}: {limit}")


def check_length(headers: Mapping[str, str], path: str) -> None:
    """
    Raises:
        Refusal: the body says that it is larger than it may be, or has no size at all.
    """
    length = headers.get("content-length")
    if length is not None:
        if not (length.isascii() and length.isdecimal()):
            raise Refusal(400, f"the content-length {length[:40]!r} is no number of bytes")
        if int(length[:20]) > limit_of(path):
            raise too_large(f"{int(length[:20]) / MIB:.1f} MB", path)
    if path.startswith("/gradio_api/upload"):
        kind = headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data") or not BOUNDARY.search(kind):
            raise Refusal(400, "an upload is a form: send it as multipart/form-data")


def check_files(headers: Mapping[str, str], body: bytes) -> None:
    """
    Raises:
        Refusal: an upload of too many files.
    """
    match = BOUNDARY.search(headers.get("content-type", ""))
    if match is None:
        raise Refusal(400, "an upload is a form: send it as multipart/form-data")
    parts = body.count(b"--" + match[1].encode("latin-1")) - 1
    if parts > FILES:
        raise Refusal(413, f"this upload has {parts} files: send at most {FILES} at once")


class Bodies:
    """Reads bodies, so many at a time, of one network and of all; the one that has been read
    longest makes room."""

    def __init__(self, each: int = READING_EACH, most: int = READING) -> None:
        self.each, self.most = each, most
        self._reading: OrderedDict[asyncio.Task, str] = OrderedDict()

    async def read(self, receive: Callable[[], Any], path: str, network: str) -> bytes:
        """The whole body.

        Raises:
            Refusal: too large, too slow, or too many at a time.
            ConnectionError: broken off.
        """
        task = asyncio.ensure_future(self._whole(receive, path))
        self._make_room(network)
        self._reading[task] = network
        try:
            return await asyncio.wait_for(task, SECONDS)
        except TimeoutError as error:
            raise Refusal(
                408, f"this request was not complete after {SECONDS:g} seconds"
            ) from error
        except asyncio.CancelledError as error:
            if not task.cancelled() or asyncio.current_task().cancelling():  # ty: ignore
                raise
            raise Refusal(503, "too many requests are half sent: send this one again") from error
        finally:
            self._reading.pop(task, None)

    def _make_room(self, network: str) -> None:
        own = [task for task, other in self._reading.items() if other == network]
        if len(own) >= self.each:
            own[0].cancel()
        elif len(self._reading) >= self.most:
            next(iter(self._reading)).cancel()

    @staticmethod
    async def _whole(receive: Callable[[], Any], path: str) -> bytes:
        body, limit = bytearray(), limit_of(path)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the request was broken off")
            body += message.get("body", b"")
            if len(body) > limit:
                raise too_large(f"more than {limit / 1e6:.2g} MB", path)
            if not message.get("more_body"):
                return bytes(body)


class Uploads:
    """How much has been uploaded in the last hour, after which Gradio deletes it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all: deque[tuple[float, str, int]] = deque()

    def take(self, network: str, size: int) -> None:
        """Notes an upload.

        Raises:
            Refusal: it would be more than is kept.
        """
        now = self._clock()
        while self._all and now - self._all[0][0] > 2 * HOUR:  # looked at once an hour
            self._all.popleft()
        own = sum(bytes for _, other, bytes in self._all if other == network)
        for used, limit, whose in (
            (own, UPLOADS_EACH, "you have"),
            (sum(bytes for _, _, bytes in self._all), UPLOADS, "all visitors have"),
        ):
            if used + size > limit:
                raise Refusal(
                    429,
                    f"{whose} uploaded {used / MIB:.0f} MB, and {limit // MIB} MB are kept: "
                    "try again in two hours",
                    retry=2 * HOUR,
                )
        self._all.append((now, network, max(size, LEAST)))
