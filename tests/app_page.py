"""A page with one tab of the app, and the browser that looks at it, for the tabs' own tests."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
import pytest

from apps.shared.parts import styles
from apps.shared.studio import Studio

CHROMIUM_SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 100_000  # milliseconds: a busy machine is no failure


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(studio: Studio, kind: Any) -> Iterator[tuple[str, Any]]:
    """The address of a page that holds one tab, and the tab."""
    port = free_port()
    gr.set_static_paths([studio.folders.root])
    with gr.Blocks(analytics_enabled=False) as page:
        tab = kind(studio)
        tab.wire(page)
    page.queue()
    _, address, _ = page.launch(
        prevent_thread_lock=True,
        server_port=port,
        share=False,
        run_history=False,
        max_file_size="5mb",
        css_paths=styles(),
    )
    yield address, tab
    page.close()


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=CHROMIUM_SWITCHES)
        yield browser
        browser.close()
