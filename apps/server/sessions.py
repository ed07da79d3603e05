"""Whose session it is: what one browser began, no other one goes on with, cancels or ends.

A browser is known again by a cookie that its first page sets; a program, and a browser that takes
no cookie, by its network.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import parse_qs

from apps.server.answers import Refusal
from apps.server.visitors import SESSION

COOKIE = "ecar-visitor"
REMEMBERED = 10_000
BAD_NAME = "session_hash: use 1 to 64 letters, digits, - and _"
NOT_YOURS = "this session is somebody else's: load the page again"


class Sessions:
    """The sessions that are known, and whose each of them is."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, str] = OrderedDict()

    def check(self, session: object, network: str, cookies: Mapping[str, str]) -> None:
        """Whoever names a session first has it.

        Raises:
            Refusal: no name of a session, or somebody else's session.
        """
        if session is None:
            return
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise Refusal(400, BAD_NAME)
        asks = cookies.get(COOKIE) or network
        if self._owners.setdefault(session, asks) != asks:
            raise Refusal(403, NOT_YOURS)
        self._owners.move_to_end(session)
        while len(self._owners) > REMEMBERED:
            self._owners.popitem(last=False)


def named_in_query(query: bytes) -> str | None:
    """The session that an address names.

    Raises:
        Refusal: it names several.
    """
    named = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("session_hash", [None])
    if len(named) > 1:
        raise Refusal(400, BAD_NAME)
    return named[0]


def named_in_body(body: bytes) -> object:
    """The session that a request in JSON names, if it does; Gradio itself refuses what is none."""
    if not body.lstrip().startswith(b"{"):
        return None
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return values.get("session_hash") if isinstance(values, dict) else None


def new_cookie(secure: bool) -> bytes:
    """For a browser that has none. Over HTTPS also in the frame of another page, e.g. a Space's."""
    frame = "SameSite=None; Secure; Partitioned" if secure else "SameSite=Lax"
    return f"{COOKIE}={secrets.token_urlsafe(16)}; Path=/; HttpOnly; {frame}".encode()
