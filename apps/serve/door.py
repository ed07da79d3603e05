"""Every request: does it mean this server, may it enter, what does it ask, and its answer.

    POST /generate   an image: {"class": "cat", "seed": 0, "steps": 8, "guidance": 2.0}
    GET  /health     whether images are made
    GET  /metrics    numbers for Prometheus

What is refused gets one sentence in JSON.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import io
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from apps.serve.asked import Asked, read
from apps.serve.batches import Batches, Job, when_done
from apps.server.answers import Headers, Refusal, refused, security_headers, send_answer
from apps.server.bodies import Bodies, check_length
from apps.server.checks import Hosts
from apps.server.tries import Tries
from apps.server.visitors import visitor_of
from ecar_lab.errors import EcarError

logger = logging.getLogger("uvicorn.error")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, bytes, bytes, Headers]  # status, kind, body, further headers
METHODS = {"/generate": ("POST",), "/health": ("GET", "HEAD"), "/metrics": ("GET", "HEAD")}
RETRY = 1.0
BODIES = 64  # that are read at the same time, beside as many as may wait
TEXT = b"text/plain; version=0.0.4; charset=utf-8"
BODILESS = ("GET", "HEAD", "OPTIONS")


class Gone(Exception):
    """Whoever asked has left."""


class Door:
    """An ASGI app.

    Attributes:
        closing: nothing new is taken on.
        open: requests that are being answered.
    """

    def __init__(
        self, batches: Batches, hosts: Hosts, auth: tuple[str, str] | None, name: str
    ) -> None:
        self.batches, self.hosts, self.auth, self.name = batches, hosts, auth, name
        self.numbers = batches.numbers
        most = BODIES + batches.limits.queue  # programs ask many at once, often from one place
        self.bodies, self.tries = Bodies(most, most), Tries()
        self.closing, self.open = False, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return
        path = scope["path"] if scope["path"] in METHODS else "other"
        self.open += 1
        try:
            answer = await self._answer(scope, receive)
        except Refusal as refusal:
            status, headers, body = refused(refusal, wants_page=False)
            if refusal.status == 401:
                headers.append((b"www-authenticate", b'Basic realm="ecar"'))
            if refusal.status == 405:
                headers.append((b"allow", ", ".join(METHODS[scope["path"]]).encode()))
            answer = (status, b"", body, headers)
        except (Gone, ConnectionError):
            self.numbers.left.inc()
            return
        except Exception as error:
            logger.error("%s %r", scope["method"], scope["path"], exc_info=error)
            sentence = "this image could not be made, and the server's log says why: ask again"
            status, headers, body = refused(Refusal(500, sentence), wants_page=False)
            answer = (status, b"", body, headers)
        finally:
            self.open -= 1
        self.numbers.requests.labels(path, str(answer[0])).inc()
        with suppress(ConnectionError):
            await self._send(answer, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        path, method = scope["path"], scope["method"]
        network = visitor_of(None, scope.get("client"), headers)[0]
        self.hosts.check(headers)
        self.hosts.check_origin(method, headers)
        if path not in METHODS:
            raise Refusal(404, f"there is nothing under this address: use {', '.join(METHODS)}")
        if method not in METHODS[path]:
            raise Refusal(405, f"{path} takes {METHODS[path][0]}, not {method[:20]}")
        if path == "/health":
            return self._health()
        self._let_in(headers, network)
        if path == "/metrics":
            self.numbers.waiting.set(self.batches.waiting)
            return 200, TEXT, self.numbers.text(), []
        check_length(headers, path)
        body = await self.bodies.read(receive, path, network)
        form = "json" if "application/json" in headers.get("accept", "") else "png"
        try:
            asked = read(body, self.batches.pipeline, form)
        except EcarError as error:
            raise Refusal(422, str(error)) from None
        return await self._image(asked, receive)

    def _health(self) -> Answer:
        well = self.batches.alive and not self.closing
        status = "ok" if well else "closing" if self.closing else "the computing thread has ended"
        said = {"status": status, "checkpoint": self.name, "waiting": self.batches.waiting}
        return 200 if well else 503, b"application/json", json.dumps(said).encode(), []

    def _let_in(self, headers: dict[str, str], network: str) -> None:
        """
        Raises:
            Refusal: there is a password, and this request lacks it.
        """
        if self.auth is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if not given or kind.lower() != "basic":
            raise Refusal(401, "this server has a password: send it as HTTP Basic authorization")
        try:
            named = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            named = b""
        self.tries.begin(network)
        if not hmac.compare_digest(named, ":".join(self.auth).encode()):
            raise Refusal(401, "user or password are wrong: send those the server was given")
        self.tries.succeed(network)

    async def _image(self, asked: Asked, receive: Receive) -> Answer:
        if self.closing or not self.batches.alive:
            raise Refusal(503, "this server is closing: ask another one, or later", retry=RETRY)
        job = self.batches.add(asked)
        if job is None:
            waiting = self.batches.limits.queue
            raise Refusal(
                429, f"{waiting} images wait already, the most there may be: ask later", retry=RETRY
            )
        image = await self._wait_for(job, receive)
        picture = io.BytesIO()
        image.save(picture, "PNG")
        if asked.format == "png":
            recipe = json.dumps(asked.recipe()).encode("latin-1")  # JSON as ASCII
            return 200, b"image/png", picture.getvalue(), [(b"x-ecar-recipe", recipe)]
        said = {
            "image": base64.b64encode(picture.getvalue()).decode(),
            "media_type": "image/png",
            "recipe": asked.recipe(),
            "checkpoint": self.name,
        }
        return 200, b"application/json", json.dumps(said).encode(), []

    async def _wait_for(self, job: Job, receive: Receive) -> Any:
        """The image.

        Raises:
            Gone: whoever asked did not wait for it.
            Refusal: it cannot be made.
        """
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        when_done(job, lambda: loop.call_soon_threadsafe(done.set))
        made = asyncio.ensure_future(done.wait())
        left = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((made, left), return_when=asyncio.FIRST_COMPLETED)
            if not made.done():
                raise Gone
            return job.image.result()
        except EcarError as error:
            raise Refusal(422, str(error)) from None
        finally:
            made.cancel()
            left.cancel()
            if not job.image.done():
                self.batches.leave(job)

    async def _send(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        status, kind, body, further = answer
        headers = [*further, *security_headers()]
        if kind:
            size = str(len(body)).encode()
            headers += [(b"content-type", kind), (b"content-length", size)]
        unread = status >= 400 and scope["method"] not in BODILESS
        body = b"" if scope["method"] == "HEAD" else body
        await send_answer(send, receive, (status, headers, body), unread)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
