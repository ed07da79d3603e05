"""A server on the tiny checkpoint, on a thread, and a client that talks to it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from apps.serve.asked import Limits
from apps.serve.door import Door
from apps.serve.server import Server, bound, config_of, make_door
from apps.server.checks import Hosts
from tests.browsing import wait_until


@dataclass
class Served:
    """A server that runs."""

    server: Server
    door: Door
    address: str
    thread: threading.Thread

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **options)

    def post(self, asked, **options) -> httpx.Response:
        with self.client() as client:
            if isinstance(asked, bytes):
                return client.post("/generate", content=asked, **options)
            return client.post("/generate", json=asked, **options)


@pytest.fixture(scope="module")
def start(tiny_checkpoint: Path) -> Iterator[Callable[..., Served]]:
    """Starts a server; all are ended after the tests of a module."""
    running: list[Served] = []

    def started(auth: tuple[str, str] | None = None, **limits) -> Served:
        listening = bound("127.0.0.1", 0)
        hosts = Hosts("127.0.0.1")
        door = make_door(tiny_checkpoint, "cpu", "float32", Limits(**limits), hosts, auth)
        config: uvicorn.Config = config_of(door)
        server = Server(config, door)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running.append(Served(server, door, address, thread))
        return running[-1]

    yield started
    for one in running:
        one.server.should_exit = one.server.force_exit = True
        one.thread.join(30)
        one.door.batches.close()


@pytest.fixture(scope="module")
def served(start) -> Served:
    """One server for all tests that leave it as it was."""
    return start(batch=8, wait=0.05)
