"""Puts the door around a page: before it is served, and as soon as it is."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from apps.server.checks import Hosts
from apps.server.connections import PatientProtocol
from apps.server.guard import Guard
from apps.server.queue import JOBS, MODEL, FairQueue
from apps.server.turns import in_turns

# Seconds that a server which is told to end leaves to the answers under way.
GRACE = 2
HOSTS_VARIABLE = "ECAR_APP_HOSTS"


def prepare(page: gr.Blocks) -> FairQueue:
    """Gives a page, all of its functions wired, the fair queue; its functions compute in turns."""
    page.queue(max_size=None, api_open=False)
    plain = page._queue
    queue = page._queue = FairQueue(
        live_updates=plain.live_updates,
        concurrency_count=plain.max_thread_count,
        update_intervals=plain.update_intervals,
        max_size=2 * JOBS,  # the queue's own limits come first, with their own sentence
        blocks=page,
        default_concurrency_limit=plain.default_concurrency_limit,
    )
    for function in page.fns.values():
        if function.concurrency_id == MODEL and function.fn is not None:
            function.fn = in_turns(function.fn, queue.turn)
    for block in page.blocks.values():  # those that compute past the queue
        if (take_turns := getattr(block, "take_turns", None)) is not None:
            take_turns(queue.claim)
    return queue


def attach(page: gr.Blocks, queue: FairQueue, hosts: Hosts, folders: Any) -> None:
    """Puts the guard before a page that is being served.

    Gradio starts uvicorn itself and says nothing of its settings; uvicorn reads them anew for every
    connection. Connections from before are closed.
    """
    server, config = page.server, page.server.config
    queue.welcome = folders.return_to
    pages = [route for route, *_ in page.pages]
    guard: Any = Guard(config.app, page.server_app, queue, hosts, pages, folders)
    # A proxy's word for who asks counts only if its address is named, as uvicorn's manual has it.
    trusted = os.environ.get("FORWARDED_ALLOW_IPS", "")
    config.loaded_app = ProxyHeadersMiddleware(guard, trusted)
    config.http_protocol_class = PatientProtocol
    config.timeout_graceful_shutdown = GRACE
    for connection in list(server.server_state.connections):
        connection.loop.call_soon_threadsafe(connection.shutdown)


def names_of_environment() -> tuple[str, ...]:
    """Further names of this server: ``$ECAR_APP_HOSTS``, and that of a Space."""
    given = os.environ.get(HOSTS_VARIABLE, "").replace(",", " ").split()
    return (*given, *filter(None, [os.environ.get("SPACE_HOST")]))
