"""The live app: watch an image come into being, look inside, and interfere.

``launch()`` serves it on this machine. A page on ``ecar_lab.trace`` and nothing more: what
is computed, is computed there.
"""

from __future__ import annotations

import os
import time
import webbrowser
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
import torch
from starlette.middleware import Middleware

from apps.compare.tab import Compare
from apps.generate.tab import Generate
from apps.inspection.tab import Inspect
from apps.intervene.tab import Intervene
from apps.live.tab import Live
from apps.overview.tab import Overview
from apps.paint.tab import Paint
from apps.runs.tab import Runs
from apps.server.checks import Hosts
from apps.server.delivery import Delivery
from apps.server.wiring import attach, names_of_environment, prepare
from apps.shared import programs
from apps.shared.parts import show_banner, styles, visitor
from apps.shared.picker import Pages, add_picker
from apps.shared.studio import Studio
from apps.shell.shell import TITLE, add_head, add_strip
from apps.tokenizer.tab import TokenizerTab
from ecar_lab.errors import EcarError
from ecar_lab.home import APP_CHECKPOINT
from ecar_lab.machine import no_proxies

DEFAULT_PORT = 7860
LARGEST_UPLOAD = "5mb"
NO_CHECKPOINT = (
    "Start the demo again on another one, `ecar app --checkpoint NAME_OR_FOLDER`, or train one: "
    "`ecar train tokenizer`, then `ecar train model`."
)
LATEST_BASE = "(view?.changed ? '#intervene-latest' : '#intervene-base')"
TABS = (
    ("All classes", Overview),
    ("Generate", Generate),
    ("Paint a stage", Paint),
    ("Live", Live),
    ("Compare", Compare),
    ("Inspect", Inspect),
    ("Intervene", Intervene),
    ("Tokenizer", TokenizerTab),
    ("Runs", Runs),
)


def build(
    checkpoint: str | Path = APP_CHECKPOINT, device: str = "auto", dtype: str = "auto"
) -> gr.Blocks:
    """The page for one checkpoint; without a usable one, a page that says what to do.

    Use :func:`launch` to serve it: looks, limits and privacy are settings of the server.

    Raises:
        EcarError: an unknown device or dtype.
    """
    return page_of(Studio(checkpoint, device, dtype))


def page_of(studio: Studio) -> gr.Blocks:
    """The page on a studio, and beside it one for every other checkpoint that there is to choose.

    They are pages of one ``gr.Blocks``: one queue, one set of limits, one login for all.
    """
    gr.set_static_paths([studio.folders.root])
    pages = Pages.of(studio)
    # Gradio's own copies of uploads go after an hour; what visitors make lies in their folders.
    with gr.Blocks(analytics_enabled=False, title=TITLE, delete_cache=(3600, 3600)) as page:
        if studio.problem is None:
            programs.register(pages)  # first: a tab's own event of that name would take it
        fill(page, studio, pages, "")
        page.unload(leaver(studio))
    for path, (entry, other) in pages.others.items():
        with page.route(entry.name, path, show_in_navbar=False):
            fill(page, other, pages, path)
    page.queue()
    return page


def fill(page: gr.Blocks, studio: Studio, pages: Pages, path: str) -> None:
    """What one page shows; ``path`` is its place in the address."""
    top = add_head(studio if studio.problem is None else None)
    if studio.problem is not None:
        with top:
            add_picker(page, pages, path, None)
        show_banner(f"{studio.problem}. {NO_CHECKPOINT}")
        return
    place = gr.Column(elem_id="notices")  # above the tabs: in sight, whichever is open
    add_strip(studio)
    # "wrap": Gradio then hides no tab in a menu; on narrow screens shell.css scrolls them.
    with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
        parts: dict[str, Any] = {}
        opened: dict[str, gr.Tab] = {}
        for name, kind in TABS:
            with gr.Tab(name, id=name.lower()) as opened[name]:
                parts[name] = kind(studio)
                parts[name].wire(page)
    parts["All classes"].open_into(tabs, parts["Generate"])
    with top:
        add_picker(page, pages, path, parts["Generate"].controls)
    with place:
        notice = show_banner(None, "link-banner")
        parts["Generate"].current.run.render()
    share_current(page, tabs, opened, parts, notice, pages)
    studio.open_in_background(at_once=not path)


def share_current(
    page: gr.Blocks, tabs: gr.Tabs, opened: dict[str, gr.Tab], parts: dict[str, Any],
    notice: gr.HTML, pages: Pages,
) -> None:  # fmt: skip
    """Lets all tabs have one current run, which is in the page's address, too."""
    generate, intervene, paint = (
        parts[name] for name in ("Generate", "Intervene", "Paint a stage")
    )
    current = generate.current
    for event in (*intervene.made, paint.made, parts["Runs"].made):
        current.after(event)
    for name in ("Compare", "Inspect"):
        current.after_asking(parts[name].made, parts[name].controls)
    shows: dict[str, tuple[Any, list[Any]]] = {
        "Generate": (generate.show, generate.shown),
        "Paint a stage": (paint.show, [paint.classes, paint.seed]),
        "Live": (parts["Live"].show, parts["Live"].shown),
        **{
            name: (parts[name].controls.show, parts[name].controls.inputs)
            for name in ("Compare", "Inspect", "Intervene")
        },
    }
    for name, (show, shown) in shows.items():
        current.follow(opened[name], show, shown)
    overview = parts["All classes"]
    current.follow(
        opened["All classes"], lambda settings: {overview.seed: settings.seed}, [overview.seed]
    )
    for word, name, press, condition in (
        ("Compare", "Compare", "'#compare'", "true"),
        ("Inspect", "Inspect", "(view?.changed ? '#inspect-latest' : '#inspect-go')", "true"),
        ("Intervene", "Intervene", LATEST_BASE, "true"),
        ("Paint", "Paint a stage", "'#paint-latest'", "view"),
    ):
        current.bring(generate.onward[word], tabs, opened[name], *shows[name], press, condition)
    current.open_link(
        page, tabs, opened["Generate"], *shows["Generate"], "'#generate'", notice, pages.page_of
    )


def leaver(studio: Studio):
    """What happens when a visitor has gone: nothing of theirs stays."""

    def leave(request: gr.Request) -> None:
        studio.folders.leave(visitor(request))

    return leave


def leave_a_core() -> None:
    """Computes with all cores but one, unless ``OMP_NUM_THREADS`` says otherwise: server and
    browser need one, and threads that wait for each other's core are slower than fewer."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = psutil.cpu_count(logical=False) or 1
        torch.set_num_threads(min(torch.get_num_threads(), max(1, cores - 1)))


def launch(
    checkpoint: str | Path = APP_CHECKPOINT,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    *,
    auth: tuple[str, str] | None = None,
    hosts: Iterable[str] = (),
    mcp: bool = False,
    browser: bool = False,
    block: bool = True,
) -> tuple[gr.Blocks, str]:
    """Serves the page and returns it with its address, by default once it has been stopped.

    Args:
        host: this machine only, unless you say otherwise.
        port: None means ``$GRADIO_SERVER_PORT``, else 7860.
        auth: user and password that visitors have to give.
        hosts: names under which the server is reached besides its address and localhost, e.g. that
            of a proxy before it; ``$ECAR_APP_HOSTS`` adds to them.
        mcp: offers the programs' interface to language models, too (Model Context Protocol).
        browser: opens the page in the machine's browser.
        block: False returns at once, with the server running.

    Raises:
        EcarError: a port that is no number or is taken, an unknown device or dtype, a host that is
            no name.
    """
    named = Hosts(host, (*hosts, *names_of_environment()))
    port = port_of_environment() if port is None else port
    leave_a_core()
    studio = Studio(checkpoint, device, dtype)
    page = page_of(studio)
    queue = prepare(page)
    try:
        with no_proxies():
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                auth=auth,
                mcp_server=mcp,
                prevent_thread_lock=True,
                share=False,
                _frontend=False,  # or a machine whose first answer takes three seconds is given up
                run_history=False,
                max_file_size=LARGEST_UPLOAD,
                footer_links=["api", "settings"],
                theme=theme(),
                css_paths=styles(),
                app_kwargs={"middleware": [Middleware(Delivery)]},
            )
        attach(page, queue, named, studio.folders)
        if browser:
            webbrowser.open(address)
        if block:
            wait_for_the_end(page)
    except OSError as error:
        if "port" not in str(error):
            raise
        raise EcarError(
            f"port {port} of {host} cannot be used: give another with --port or GRADIO_SERVER_PORT"
        ) from error
    finally:
        if block:  # a run that still works must not keep what visitors made
            queue.close()
            studio.folders.close()
            page.close(verbose=False)
    return page, address


def wait_for_the_end(page: gr.Blocks) -> None:
    """Until the page is closed, or Ctrl-C."""
    with suppress(KeyboardInterrupt):
        while page.is_running:
            time.sleep(0.1)


def port_of_environment() -> int:
    """``$GRADIO_SERVER_PORT``, else 7860.

    Raises:
        EcarError: the variable holds no port.
    """
    named = os.environ.get("GRADIO_SERVER_PORT") or str(DEFAULT_PORT)
    if not (named.isascii() and named.isdecimal()) or not 0 < int(named) < 65536:
        raise EcarError(f"GRADIO_SERVER_PORT is {named!r}: give a port, e.g. {DEFAULT_PORT}")
    return int(named)


def theme() -> gr.themes.Base:
    """Fonts that every system has, so that nothing is fetched; small print that can be read."""
    quiet, quiet_dark = "*neutral_600", "*neutral_300"
    return gr.themes.Default(
        font=["system-ui", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
        primary_hue="blue",
    ).set(
        body_text_color_subdued=quiet,
        body_text_color_subdued_dark=quiet_dark,
        block_info_text_color=quiet,
        block_info_text_color_dark=quiet_dark,
        block_label_text_color=quiet,
        block_label_text_color_dark=quiet_dark,
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
    )
