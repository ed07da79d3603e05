"""`ecar app`: the live app in the browser."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ecar_lab.cli.switches import parse
from ecar_lab.errors import EcarError
from ecar_lab.home import APP_CHECKPOINT, home
from ecar_lab.schema import Port, Text

AUTH_VARIABLE = "ECAR_APP_AUTH"


@dataclass
class AppSwitches:
    """Serve the app on this machine, until you press Ctrl-C."""

    checkpoint: Text = APP_CHECKPOINT
    """A checkpoint folder, or the name of one that ships."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """auto, float32 or bfloat16."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: Port | None = None
    """Port; without it the variable GRADIO_SERVER_PORT, else 7860."""
    mcp: bool = False
    """Offer generate, trace and fork to language models (Model Context Protocol), too."""
    auth: Annotated[str | None, tyro.conf.arg(metavar="USER:PASSWORD")] = None
    """Who may enter. Others on this machine can read a command line: rather set the variable
    ECAR_APP_AUTH."""
    allow_host: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")
    ] = ()
    """A further name that visitors reach the server by, e.g. that of a proxy before it; may be
    given several times. The variable ECAR_APP_HOSTS adds to them."""
    browser: bool = False
    """Open the page in this machine's browser."""


def demo(arguments: list[str]) -> None:
    serve(parse(AppSwitches, "demo", arguments))


def run(arguments: list[str]) -> None:
    serve(parse(AppSwitches, "app", arguments))


def open_door(part: str, what: str, host: str, auth: tuple[str, str] | None) -> None:
    """Makes ``apps`` importable, and warns where ``what`` is open to everybody.

    Raises:
        EcarError: ``part`` of it is not here.
    """
    root = home()
    if not (root / "apps" / part).exists():
        raise EcarError(
            f"there is no app in {str(root)!r}, so this installation is not whole: install "
            "the package again, or from a clone with `pip install -e .`"
        )
    if auth is None and not is_local(host):
        print(
            f"warning: whoever reaches {host} can use this {what}: "
            f"set a password with --auth USER:PASSWORD or the variable {AUTH_VARIABLE}",
            file=sys.stderr,
        )
    sys.path.insert(0, str(root))


def serve(switches: AppSwitches) -> None:
    """Serves the page until it is stopped.

    Raises:
        EcarError: a switch that cannot be, an app or a package that is not here.
    """
    auth = read_auth(switches.auth)
    if switches.mcp and importlib.util.find_spec("mcp") is None:
        raise EcarError("--mcp needs the package mcp: pip install 'mcp>=1.21,<2'")
    open_door("demo.py", "app", switches.host, auth)
    from ecar_lab.machine import no_proxies

    # Being told to end is like Ctrl-C: the server closes, and what visitors made is deleted.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with no_proxies():  # Gradio looks at them as soon as it is imported
            from apps.demo import launch

            served = launch(
                checkpoint=switches.checkpoint,
                host=switches.host,
                port=switches.port,
                device=switches.device,
                dtype=switches.dtype,
                auth=auth,
                hosts=switches.allow_host,
                mcp=switches.mcp,
                browser=switches.browser,
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    if served is not None:
        leave()


def leave() -> None:
    """Ends the process at once, with status 0, while threads still compute.

    Python would end such a thread in the middle of PyTorch's code, which aborts the process. All
    that has to be closed or deleted is by now.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(0)


def read_auth(given: str | None) -> tuple[str, str] | None:
    """User and password from the switch, else from ``$ECAR_APP_AUTH``; None if neither is set.

    Raises:
        EcarError: not of the form USER:PASSWORD. The sentence does not repeat the password.
    """
    source = AUTH_VARIABLE if given is None else "--auth"
    text = os.environ.get(AUTH_VARIABLE) if given is None else given
    if given is None and not text:
        return None
    user, _, password = (text or "").partition(":")
    if not (user and password):
        raise EcarError(f"{source} is not of the form USER:PASSWORD: give both, a colon between")
    return user, password


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host in ("localhost", "::1") or host.startswith("127.")
