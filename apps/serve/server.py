"""Starts the server, and ends it so that nobody who waits goes without an answer."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from apps.serve.asked import Limits
from apps.serve.batches import Batches
from apps.serve.door import Door
from apps.serve.numbers import Numbers
from apps.server.checks import Hosts
from apps.server.connections import PatientProtocol
from ecar_lab.baselines import load_pipeline
from ecar_lab.device import pick_device, pick_dtype
from ecar_lab.errors import EcarError

logger = logging.getLogger("uvicorn.error")
DEFAULT_PORT = 7861
HOSTS_VARIABLE = "ECAR_APP_HOSTS"
LOOK = 0.05  # seconds between two looks at what is left to do
GRACE = 2  # seconds for connections that stay open after their answer


class Server(uvicorn.Server):
    """uvicorn, which first finishes what waits: the first signal closes the door, a second one ends
    at once."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self.door = door

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.door.closing:
            self.should_exit = self.force_exit = True
            return
        self.door.closing = True
        waiting = self.door.batches.waiting
        logger.warning("closing: %d images wait and are made, new requests are refused", waiting)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watch = asyncio.ensure_future(self._end_when_done())

    async def _end_when_done(self) -> None:
        while not (self.door.closing and self.door.batches.idle and not self.door.open):
            await asyncio.sleep(LOOK)
        self.should_exit = True


def make_door(
    checkpoint: str | Path,
    device: str,
    dtype: str,
    limits: Limits,
    hosts: Hosts,
    auth: tuple[str, str] | None = None,
) -> Door:
    """The server's app on a checkpoint.

    Raises:
        EcarError: no such checkpoint, device or dtype.
    """
    place = pick_device(device)
    pipeline = load_pipeline(checkpoint).to(place)
    batches = Batches(pipeline, pick_dtype(place, dtype), limits, Numbers())
    return Door(batches, hosts, auth, str(checkpoint))


def launch(
    checkpoint: str | Path = "cifar10",
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    *,
    limits: Limits | None = None,
    auth: tuple[str, str] | None = None,
    hosts: Iterable[str] = (),
) -> None:
    """Serves until it is told to end.

    Raises:
        EcarError: a port that is taken, no such checkpoint, device or dtype, a host that is no
            name.
    """
    named = os.environ.get(HOSTS_VARIABLE, "").replace(",", " ").split()
    allowed = Hosts(host, (*hosts, *named))
    port = DEFAULT_PORT if port is None else port
    listening = bound(host, port)
    door = make_door(checkpoint, device, dtype, limits or Limits(), allowed, auth)
    number = listening.getsockname()[1]
    print(f"serving {checkpoint} on http://{host}:{number}: POST /generate", flush=True)
    try:
        Server(config_of(door), door).run(sockets=[listening])
    finally:
        door.batches.close()


def config_of(door: Door) -> uvicorn.Config:
    """How uvicorn serves it."""
    settings: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "ws": "none"}
    return uvicorn.Config(
        door, http=PatientProtocol, timeout_graceful_shutdown=GRACE, server_header=False,
        **settings,
    )  # fmt: skip


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there, taken before the model is loaded.

    Raises:
        EcarError: it cannot be had.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        raise EcarError(
            f"port {port} of {host} cannot be used ({error.strerror}): give another with --port"
        ) from error
    return taken
