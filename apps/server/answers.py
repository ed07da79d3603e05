"""What a refused request gets: one sentence, as JSON or as a page; headers of all answers."""

from __future__ import annotations

import asyncio
import html
import json
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

Headers = list[tuple[bytes, bytes]]
LINGER = 1.0  # seconds in which the rest of a refused body is thrown away
# Who may show the app in a frame: notebooks on this machine or in an editor, and Spaces.
FRAMES = (
    "'self' http://localhost:* http://127.0.0.1:* https://huggingface.co https://*.hf.space "
    "vscode-webview:"
)
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<body style="font: 1.1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 15vh auto">
<p role="alert">{sentence}</p></body></html>
"""
# What the statuses mean that Gradio and its parts give without a word that helps.
SENTENCES = {
    400: "this request cannot be read: compare it with what /gradio_api/info says",
    401: "you are not logged in: open the page and log in first",
    403: "this file is not here, or no longer: load the page again",
    404: "there is nothing under this address: begin at /",
    405: "this address does not take such a request: see /gradio_api/info",
    422: "this request lacks a value, or one is of another kind: see /gradio_api/info",
    500: "this request could not be carried out: compare its values with /gradio_api/info",
    503: "the server is closing or has too much to do: try again in a minute",
}


class Refusal(Exception):
    """A request that is not let in. ``retry``: seconds after which it may be."""

    def __init__(self, status: int, sentence: str, retry: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry = status, sentence, retry


def security_headers(hosts: Iterable[str] = ()) -> Headers:
    """Headers of every answer. ``hosts``: further names under which the app or its frame lies."""
    frames = " ".join([FRAMES, *(f"https://{host} http://{host}" for host in hosts)])
    policy = f"frame-ancestors {frames}; object-src 'none'"
    return [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        (b"content-security-policy", policy.encode("latin-1")),
    ]


def refused(refusal: Refusal, wants_page: bool) -> tuple[int, Headers, bytes]:
    """Status, headers and body for a refusal."""
    if wants_page:
        kind, body = b"text/html; charset=utf-8", page(refusal.sentence)
    else:
        kind, body = b"application/json", in_json(refusal.sentence, None)
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if refusal.retry is not None:
        headers.append((b"retry-after", str(math.ceil(refusal.retry)).encode()))
    return refusal.status, headers, body


def page(sentence: str) -> bytes:
    """The sentence for people."""
    text = html.escape(sentence[0].upper() + sentence[1:]) + "."
    return PAGE.format(title="E-CAR", sentence=text).encode()


def in_json(sentence: str, detail: Any) -> bytes:
    """The sentence for programs: ``error``, and in ``detail``, where FastAPI has it."""
    return json.dumps({"error": sentence, "detail": detail or sentence}).encode()


def reworded(status: int, kind: str, body: bytes) -> bytes:
    """An error of Gradio's or FastAPI's with our sentence; one that has a sentence keeps it."""
    known = SENTENCES.get(status) or SENTENCES[500 if status >= 500 else 400]
    try:
        said = json.loads(body) if kind.startswith("application/json") else None
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    error, detail = said.get("error"), said.get("detail")
    if isinstance(error, str) and error:
        return in_json(error, detail or error)
    if isinstance(detail, str) and status in (400, 429, 503) and ": " in detail:
        return in_json(detail, detail)
    return in_json(known, detail if isinstance(detail, dict | list) else None)


async def send_answer(
    send: Callable[[Any], Awaitable[None]],
    receive: Callable[[], Awaitable[Any]],
    answer: tuple[int, Headers, bytes],
    unread: bool,
) -> None:
    """Sends status, headers and body. ``unread``: of a request whose body was not read, which is
    thrown away, and whose connection is closed then."""
    status, headers, body = answer
    if unread:
        headers = [*headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": unread})
    if unread:  # a moment, so that the answer is not lost in a connection that breaks
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
