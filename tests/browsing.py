"""Chromium and a free port, for tests and scripts that look at a page."""

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM_SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds: a guard against hanging, far above what a slow machine takes
GLANCE = 3_000  # milliseconds: for a look at a page that may hang
# Of a node that is in sight; elements without a box, as the title, have only a text.
WORDS = "node => (node.innerText || node.textContent).replace(/\\s*\\n\\s*/g, ' | ').slice(0, 3000)"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
        browser.new_context = listening(browser.new_context)
        browser.new_page = listening(browser.new_page)
        yield browser
        browser.close()


def listening(make: Callable[..., Any]) -> Callable[..., Any]:
    """Makes contexts, or pages, that keep what their pages complain of, in ``complained``."""

    def made(**options: Any) -> Any:
        new = make(**options)
        context = getattr(new, "context", new)
        context.complained = []
        context.on(
            "console", lambda said: said.type == "error" and context.complained.append(said.text)
        )
        context.on("weberror", lambda error: context.complained.append(str(error.error)))
        return new

    return made


def seen(browser: Any) -> str:
    """What all open pages show and complain of, for whoever reads of a test that failed."""
    from playwright.sync_api import Error

    lines = []
    for context in browser.contexts:
        for page in context.pages:
            lines.append(page.url)
            for what in ("title", "body"):
                try:
                    text = page.locator(what).first.evaluate(WORDS, timeout=GLANCE)
                except Error as error:
                    text = f"({what}: {str(error).splitlines()[0]})"
                lines.append(text)
        lines += [f"complaint: {said}" for said in context.complained]
    return "\n".join(lines)


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    """Waits for a condition, however slow the machine is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this never came about"
        time.sleep(0.01)
