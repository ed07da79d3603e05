"""Who asks, as far as a server can tell, and whose turn it is among those who ask."""

from __future__ import annotations

import ipaddress
import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

# (network, program, session): from the coarse to the fine, as turns are shared out.
Visitor = tuple[str, str, str]
# What Gradio's page and its clients make up for a session.
SESSION = re.compile("[A-Za-z0-9_-]{1,64}")
REMEMBERED = 10_000


def network_of(address: str | None) -> str:
    """An address as one person has it: of IPv6, the half that a provider gives to a house.

    >>> network_of("2001:db8:1:2:aaaa::1")
    '2001:db8:1:2::'
    """
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Address(int(ip) >> 64 << 64))
    return str(ip)


def visitor_of(session: str | None, client: Any, headers: Mapping[str, str]) -> Visitor:
    """Who sent a request; a program that names no session is known by its own name."""
    address = client[0] if client else None
    return network_of(address), headers.get("user-agent", "")[:200], session or ""


class Shares:
    """The fair order: whoever was served longest ago comes next, first among networks, then among
    the programs of one network, then among the sessions of one program."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, ...], int] = OrderedDict()
        self._clock = itertools.count(1)
        self._lock = threading.Lock()

    def rank(self, visitor: Visitor) -> tuple[int, ...]:
        """The smaller, the sooner."""
        with self._lock:
            return tuple(self._last.get(visitor[:depth], 0) for depth in (1, 2, 3))

    def serve(self, visitor: Visitor) -> None:
        """Notes that it is this visitor's turn."""
        with self._lock:
            now = next(self._clock)
            for depth in (1, 2, 3):
                self._last[visitor[:depth]] = now
                self._last.move_to_end(visitor[:depth])
            while len(self._last) > REMEMBERED:
                self._last.popitem(last=False)
