"""Every request on its way in: does it mean this server, is it its own page's, logged in, of a size
that is taken, one of not too many? What is refused gets one sentence.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from apps.server.answers import (
    SENTENCES,
    Headers,
    Refusal,
    refused,
    reworded,
    security_headers,
    send_answer,
)
from apps.server.bodies import Bodies, Uploads, check_files, check_length
from apps.server.checks import CLOSED, Hosts, is_open, is_page
from apps.server.queue import FairQueue
from apps.server.sessions import COOKIE, Sessions, named_in_body, named_in_query, new_cookie
from apps.server.tries import Tries
from apps.server.visitors import Visitor, visitor_of

logger = logging.getLogger("uvicorn.error")
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
# Requests that are being answered at the same time; an open page holds two or three.
OPEN_EACH, OPEN = 240, 1200
LARGEST_ERROR = 100_000
HEARTBEAT = re.compile("/gradio_api/heartbeat/([^/]+)")
MESSAGES = "/gradio_api/queue/data"
CALL = re.compile("/gradio_api/call/(?:v2/)?[^/]+/([^/]+)")
LONGEST_QUERY = 8000  # a share link has at most 6000
SIGN_IN = ("POST", "/login")
# Gradio writes what the app's functions take into the page that asks for the password, too.
API_INFO = re.compile(rb"window\.gradio_api_info = .*?;</script>", re.DOTALL)
LOGIN = (Path(__file__).parent / "login.js").read_bytes()
SHUT = "this part of Gradio is closed here: begin at /"
# Functions of pieces of the page that its script calls past the queue; of Gradio's own, none.
FUNCTIONS, SERVED = "/gradio_api/component_server", {"picture"}
GONE = "this session is not known here, or no longer: load the page again"


class Guard:
    """ASGI middleware around Gradio's whole app.

    ``server`` is Gradio's app, with logins; ``pages``: the paths of its pages; ``folders``: has a
    context ``page_open(session)`` for as long as a page is.
    """

    def __init__(
        self, app: Any, server: Any, queue: FairQueue, hosts: Hosts, pages: list[str], folders: Any
    ) -> None:
        self.app, self.server, self.queue = app, server, queue
        self.hosts, self.pages, self.folders = hosts, pages, folders
        self.headers = security_headers(sorted(hosts.extra))
        self.tries, self.bodies, self.uploads = Tries(), Bodies(), Uploads()
        self.sessions = Sessions()
        self.open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        visitor = visitor_of(None, scope.get("client"), headers)
        answer = Answer(send, self.headers)
        try:
            await self._let_in(scope, headers, visitor, receive, answer)
        except Refusal as refusal:
            if not answer.started:
                page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
                await self._refuse(refused(refusal, page), receive, send, scope)
        except ConnectionError:
            pass  # whoever asked has gone
        except Exception as error:
            # Gradio's own answer to it has been sent, as a rule.
            logger.warning("%s %r: %r", scope["method"], scope["path"], error)
            logger.debug("in full:", exc_info=error)
            if not answer.started:
                await self._refuse(
                    refused(Refusal(500, SENTENCES[500]), False), receive, send, scope
                )

    @contextmanager
    def _counted(self, network: str):
        """Raises a Refusal where enough requests are being answered."""
        if self.open[network] >= OPEN_EACH or self.open.total() >= OPEN:
            raise Refusal(429, "too many requests at the same time: close some pages", retry=10)
        self.open[network] += 1
        try:
            yield
        finally:
            self.open[network] -= 1
            if not self.open[network]:
                del self.open[network]

    async def _let_in(
        self,
        scope: Scope,
        headers: dict[str, str],
        visitor: Visitor,
        receive: Receive,
        answer: Answer,
    ) -> None:
        path, method, network = scope["path"], scope["method"], visitor[0]
        self.hosts.check(headers)
        self.hosts.check_origin(method, headers)
        if len(scope["query_string"]) > LONGEST_QUERY:
            raise Refusal(414, f"this address is too long: {LONGEST_QUERY} letters after the ?")
        if CLOSED.match(path):
            raise Refusal(404, SHUT)
        cookies = cookies_of(headers)
        user = self._logged_in(cookies)
        if not user:
            if not is_open(path, method, self.pages):
                raise Refusal(401, "you are not logged in: open the page and log in first")
            if is_page(path, self.pages):
                # So that the body can be read; it is small.
                scope["headers"] = [one for one in scope["headers"] if one[0] != b"accept-encoding"]
                answer.change = lambda body: API_INFO.sub(
                    lambda _: b"window.gradio_api_info = {};" + LOGIN + b"</script>", body
                )
        if is_page(path, self.pages) and COOKIE not in cookies:
            secure = headers.get("x-forwarded-proto", scope.get("scheme")) == "https"
            answer.headers = [*answer.headers, (b"set-cookie", new_cookie(secure))]
        named = named_in_query(scope["query_string"])
        sessions: list[object] = [named]
        if match := HEARTBEAT.fullmatch(path):
            sessions.append(match[1])
        if method not in ("GET", "HEAD", "OPTIONS"):
            body = await self._body(path, headers, network, receive)
            receive = replayed(body, receive)
            sessions.append(named_in_body(body))
        for session in sessions:
            self.sessions.check(session, network, cookies)
        signing_in = self.server.auth is not None and (method, path.rstrip("/")) == SIGN_IN
        if signing_in:
            self.tries.begin(network)
        send: Send = answer
        if named is not None and path == MESSAGES:
            send = self.queue.endings.held(answer, named)
        with self._counted(network), self._stream(named, method, path):
            await self.app(scope, receive, send)
        if signing_in and answer.status == 200:
            self.tries.succeed(network)

    def _logged_in(self, cookies: dict[str, str]) -> bool:
        """Whether there is a login, where one is needed: by Gradio's cookie."""
        return self.server.auth is None or any(
            cookies.get(f"{name}{self.server.cookie_id}") in self.server.tokens
            for name in ("access-token-", "access-token-unsecure-")
        )

    async def _body(
        self, path: str, headers: dict[str, str], network: str, receive: Receive
    ) -> bytes:
        """The whole body, once it is there and may be."""
        check_length(headers, path)
        body = await self.bodies.read(receive, path, network)
        if path.startswith("/gradio_api/upload"):
            check_files(headers, body)
            self.uploads.take(network, len(body))
        if path.rstrip("/") == "/gradio_api/cancel":
            self._cancel(body)
        if path.rstrip("/") == FUNCTIONS and named_function(body) not in SERVED:
            raise Refusal(404, SHUT)
        return body

    def _cancel(self, body: bytes) -> None:
        """Stops a job at once, of which Gradio waits for the end; nobody's of another session."""
        try:
            asked = json.loads(body)
            event = self.queue.event_ids_to_events.get(asked["event_id"])
            if event is not None and event.session_hash != asked["session_hash"]:
                raise Refusal(403, "this job belongs to another session: it goes on")
            if event is not None:
                event.alive = False  # it ends between two steps, also while it waits for its turn
        except (ValueError, KeyError, TypeError):
            raise Refusal(400, "this names no job: give session_hash, fn_index, event_id") from None

    def _stream(self, session: str | None, method: str, path: str) -> Any:
        """What lasts as long as a request for messages does."""
        if method != "GET":
            return nullcontext()
        if match := HEARTBEAT.fullmatch(path):
            return self.folders.page_open(match[1])
        if path == MESSAGES:
            if session is None or session not in self.queue.pending_messages_per_session:
                raise Refusal(404, GONE)
            return self.queue.listening(session)
        if match := CALL.fullmatch(path):
            session = self.queue.session_of(match[1])
            if session is None:
                raise Refusal(404, "there is no such job, or no longer: ask again")
            return self.queue.listening(session)
        return nullcontext()

    async def _refuse(
        self, answer: tuple[int, Headers, bytes], receive: Receive, send: Send, scope: Scope
    ) -> None:
        """Sends a refusal, then closes the connection: what else was to come is not kept."""
        status, headers, body = answer
        unread = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        await send_answer(send, receive, (status, [*headers, *self.headers], body), unread)


def named_function(body: bytes) -> object:
    """Which function of a component is called; None if that cannot be read."""
    try:
        return json.loads(body)["fn_name"]
    except (ValueError, KeyError, TypeError):
        return None


def cookies_of(headers: dict[str, str]) -> dict[str, str]:
    """What the browser keeps for this server."""
    return dict(one.strip().partition("=")[::2] for one in headers.get("cookie", "").split(";"))


def replayed(body: bytes, receive: Receive) -> Receive:
    """Gives a body that has been read to Gradio as if it came just now."""
    sent = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class Answer:
    """``send`` with our headers, and with our sentence in what Gradio refuses."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self.send, self.headers = send, headers
        self.change: Callable[[bytes], bytes] | None = None
        self.started, self.status = False, 0
        self._start: MutableMapping[str, Any] = {}
        self._held: bytearray | None = None

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._held is None:
            await self.send(message)
        else:
            self._held += message.get("body", b"")
            if not message.get("more_body") or len(self._held) > LARGEST_ERROR:
                await self._finish(bytes(self._held))
                self._held = None

    async def _begin(self, message: MutableMapping[str, Any]) -> None:
        self.started, self.status = True, message["status"]
        given = {name.lower() for name, _ in message.get("headers", [])}
        message["headers"] = [
            *message.get("headers", []),
            *(one for one in self.headers if one[0] not in given),
        ]
        kinds = [
            value.decode("latin-1")
            for name, value in message["headers"]
            if name.lower() == b"content-type"
        ]
        kind = kinds[0] if kinds else "text/plain"
        plain = kind.startswith(("application/json", "text/plain"))
        if (self.status >= 400 and plain) or self.change is not None:
            self._start, self._held, self._kind = message, bytearray(), kind
            self._packed = b"content-encoding" in given
        else:
            await self.send(message)

    async def _finish(self, body: bytes) -> None:
        headers = [
            one
            for one in self._start["headers"]
            if one[0].lower() not in (b"content-length", b"content-encoding")
        ]
        if self.change is not None:
            body = self.change(body)
        else:
            body = reworded(self.status, self._kind, b"" if self._packed else body)
            headers = [one for one in headers if one[0].lower() != b"content-type"]
            headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", str(len(body)).encode()))
        await self.send({**self._start, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})
