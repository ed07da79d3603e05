"""The kit's commands from within a notebook: one that ends, and the app, which goes on."""

from __future__ import annotations

import atexit
import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path

from IPython.utils.capture import CapturedIO, capture_output

from ecar_lab.errors import EcarError
from ecar_lab.teaching.session import is_static

STARTING = 600  # seconds that the app may take


@contextlib.contextmanager
def terminal() -> Generator[CapturedIO]:
    """Around a command: keeps what it prints; a live notebook shows its progress meanwhile, as
    plain lines and not in the red of errors."""
    live = sys.stdout
    with (
        capture_output(stdout=True, stderr=is_static(), display=False) as captured,
        contextlib.nullcontext() if is_static() else contextlib.redirect_stderr(live),
    ):
        yield captured


def open_app(checkpoint: Path) -> str:
    """Starts ``ecar app`` on a checkpoint and waits until it answers; returns what to say.

    In a live notebook it goes on until the kernel ends. Without controls it is stopped at once.

    Raises:
        EcarError: it ended, or did not answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        command(checkpoint, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    atexit.register(process.terminate)
    address, started = f"http://127.0.0.1:{port}/", time.monotonic()
    while not _answers(address):
        if process.poll() is not None:
            raise EcarError(f"the app ended: run `ecar app --checkpoint {checkpoint}` to see why")
        if time.monotonic() - started > STARTING:
            process.terminate()
            raise EcarError(f"the app did not answer within {STARTING} s: try it in a terminal")
        time.sleep(0.5)
    if is_static():
        process.terminate()
        process.wait()
        return "the app answered with its page, and was stopped again"
    return f"the app runs until this kernel ends: {address}"


def command(checkpoint: Path, port: int) -> list[str]:
    """The app's command line."""
    ecar = [sys.executable, "-m", "ecar_lab.cli", "app"]
    return [*ecar, "--checkpoint", str(checkpoint), "--port", str(port)]


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False
