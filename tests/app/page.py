"""Pages of the app as tests open them, and what several of them do there."""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from apps.shared.parts import styles
from apps.shared.studio import Studio
from tests.browsing import free_port

# Gradio's own bookkeeping, in pandas' words of yesterday.
QUIET = pytest.mark.filterwarnings(
    "ignore:.*no_silent_downcasting", "ignore:The copy keyword is deprecated"
)
NO_TOUR = "localStorage.setItem('ecar-tour-seen', 'yes')"
# Until nothing on the page has changed for a moment; on a page without motion.
QUIET_PAGE = """() => new Promise(done => {
    let timer = setTimeout(done, 200);
    new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(done, 200); }).observe(
        document, { subtree: true, childList: true, attributes: true, characterData: true });
})"""
# The player says that an image is there; %s: the first words of its settings.
DONE = "document.querySelector('#generate-player .status')?.textContent.startsWith('Done: %s')"


# All classes are there.
GROWN = "document.querySelector('.overview .status')?.textContent.includes(', in ')"


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
        _frontend=False,  # as the app does it
        run_history=False,
        max_file_size="5mb",
        css_paths=styles(),
    )
    yield address, tab
    page.close()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns; Playwright has a loop in this thread."""
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(asyncio.run, work).result()


def open_tab(tab, name: str) -> None:
    """Opens a tab; all are in the bar, which scrolls where it is long."""
    tab.get_by_role("tab", name=name, exact=True).click()
    tab.evaluate(QUIET_PAGE)


def open_generate(tab, address: str) -> None:
    """Loads the page, which opens with all classes, and goes on to the Generate tab's image."""
    tab.goto(address)
    tab.get_by_role("tab", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "")


def wait_for_sizes(tab, pictures: str, widths: list[int]) -> None:
    """Until the pictures of a selector have these widths: what is set is loaded a moment later."""
    tab.wait_for_function(
        "([pictures, widths]) => JSON.stringify(widths) === JSON.stringify("
        "[...document.querySelectorAll(pictures)].map(image => image.naturalWidth))",
        arg=[pictures, widths],
    )


def download(tab, kind: str, ending: str, folder: Path) -> Path:
    tab.click(f"#runs-make-{kind}")
    tab.wait_for_selector(f"#runs-file:has-text('{ending}')")
    with tab.expect_download() as loading:
        tab.click("#runs-file")
    path = folder / loading.value.suggested_filename
    loading.value.save_as(path)
    return path


def load(tab, file: Path) -> None:
    with tab.expect_file_chooser() as choosing:
        tab.get_by_role("button", name="Load a recipe").click()
    choosing.value.set_files(file)
