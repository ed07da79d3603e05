"""Questions to a request's headers: does it mean this server, and is it from its own page?"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from apps.server.answers import Refusal
from ecar_lab.errors import EcarError

LOCAL = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?")
PORTS = {"http": 80, "https": 443}
# Without a login: the page that asks for it, and what that page is made of.
OPEN_FILES = ("/assets/", "/static/", "/svelte/", "/front-end/")
OPEN = {"/login", "/logout", "/favicon.ico", "/theme.css", "/gradio_api/theme.css", "/robots.txt",
        "/manifest.json", "/pwa_icon"}  # fmt: skip
# Parts of Gradio that this app has no use for: files on request, programs started, other servers.
CLOSED = re.compile(
    r"/gradio_api/(deep_link|process_recording|custom_component|dev/|proxy=|"
    r"run-history|runs|stream/|vibe|file[=/][a-zA-Z][a-zA-Z0-9+.-]*://)|/monitoring"
)


def split_host(text: str) -> tuple[str, int | None] | None:
    """Name, in small letters and without brackets or a last dot, and port; None if it is none.

    >>> split_host("[::1]:7860"), split_host("Demo.Example.org.")
    (('::1', 7860), ('demo.example.org', None))
    """
    match = HOST.fullmatch(text.strip().lower())
    if match is None:
        return None
    name = match["name"].strip("[]").removesuffix(".")
    return (name, int(match["port"]) if match["port"] else None) if name else None


def host_name(text: str) -> str:
    """A name that ``--allow-host`` was given.

    Raises:
        EcarError: it is none.
    """
    found = split_host(text if text.count(":") < 2 or text.startswith("[") else f"[{text}]")
    if found is None or found[1] is not None:
        raise EcarError(f"--allow-host is {text[:60]!r}: give a name alone, e.g. demo.example.org")
    return found[0]


class Hosts:
    """The names that this server goes by. ``extra``: those that its owner gave it.

    A page of somebody else's can have a name that leads to this machine (DNS rebinding), so a name
    that nobody gave is refused. A bare number is no name: it is good where the server listens to
    the network.
    """

    def __init__(self, bound: str, extra: Iterable[str] = ()) -> None:
        self.extra = {host_name(name) for name in extra}
        self.names = {*LOCAL, *self.extra}
        self.any_number = bound in EVERYWHERE
        if self.any_number:
            own = socket.gethostname().lower()
            self.names |= {own, f"{own}.local"}
        else:
            self.names.add(bound.strip("[]").lower())

    def check(self, headers: Mapping[str, str]) -> None:
        """
        Raises:
            Refusal: the request means another server.
        """
        given = [headers.get("host", "")]
        given += filter(None, headers.get("x-forwarded-host", "").split(","))
        for text in given:
            found = split_host(text)
            if found is None:
                raise Refusal(
                    400,
                    f"the host {text[:60]!r} of this request is no name: open http://{LOCAL[0]}",
                )
            if not self._goes_by(found[0]):
                raise Refusal(
                    403,
                    f"this server does not go by the name {found[0][:60]!r}: open it under its own "
                    f"address, or start it with --allow-host {found[0][:60]}",
                )

    def _goes_by(self, name: str) -> bool:
        if name in self.names:
            return True
        try:
            ip = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_number or ip.is_loopback

    def check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """What a browser sends from another page is refused; programs say nothing of the kind.

        Raises:
            Refusal: it comes from another page.
        """
        origin = headers.get("origin")
        reading = method in ("GET", "HEAD")
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if origin is None and not reading and site is None:
            origin = headers.get("referer")
        if origin is not None:
            foreign = not self._is_own(origin, headers)
        else:
            foreign = site in ("cross-site", "same-site") and not (reading and mode == "navigate")
        if foreign:
            raise Refusal(
                403, "this request comes from another page than this server's own: open its page"
            )

    def _is_own(self, origin: str, headers: Mapping[str, str]) -> bool:
        try:
            url = urlsplit(origin)
            name, port = (url.hostname or "").removesuffix("."), url.port
        except ValueError:
            return False
        if url.scheme not in PORTS or not name:
            return False
        if name in self.extra:
            return True
        default = PORTS[url.scheme]
        for text in (headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")):
            found = split_host(text)
            if found is not None and (found[0], found[1] or default) == (name, port or default):
                return True
        return False


def is_open(path: str, method: str, pages: Iterable[str]) -> bool:
    """Whether a path answers those who have not logged in."""
    if method == "POST":
        return path.rstrip("/") == "/login"
    if method not in ("GET", "HEAD", "OPTIONS"):
        return False
    return path in OPEN or path.startswith(OPEN_FILES) or is_page(path, pages)


def is_page(path: str, pages: Iterable[str]) -> bool:
    """Whether a path is one of the app's pages, which ask for the login themselves."""
    return path.strip("/") in {"", *pages}
