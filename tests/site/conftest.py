"""The built page on a tiny model, served, for tests that open it in a browser."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from docs import build_lab, serve_lab
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from tests.browsing import PATIENCE
from tests.exports import few_step
from tests.thrift import made_once

WEIGHTS: tuple[Literal["float32", "float16"], ...] = ("float32", "float16")


class Labs(NamedTuple):
    """A few-step pipeline, its checkpoint, and the pages built on it by the precision of their
    weights; only to be read."""

    torch: ECARPipeline
    checkpoint: Path
    pages: dict[str, Path]


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Labs:
    """The exports are those that the tests of the runtime have."""
    if shutil.which("node") is None:
        pytest.skip("Node, whose npm fetches onnxruntime-web, is not here")
    try:
        build_lab.runtime_files()
    except EcarError as error:
        pytest.skip(str(error))
    exports = few_step(tmp_path_factory)

    def export(checkpoint: str, output: Path, weights: str, encoder: bool) -> Path:
        assert encoder
        return Path(shutil.copytree(exports.folder(weights), output))

    def make(place: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build_lab, "export", export)
            for weights in WEIGHTS:
                build_lab.build(str(exports.checkpoint), place / weights, weights, packed=False)

    place = made_once(tmp_path_factory, "lab", make)
    return Labs(
        exports.torch, exports.checkpoint, {weights: place / weights for weights in WEIGHTS}
    )


@contextmanager
def serving(folder: Path, isolate: bool = False, **options: Any) -> Iterator[str]:
    """The address of a folder while it is served."""
    server = serve_lab.server(folder, 0, isolate, **options)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def visit(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A visitor's first page: nothing is kept yet. What it complains of is in ``page.complaints``,
    the hosts that it asked in ``page.hosts``."""
    context = browser.new_context(reduced_motion="reduce", **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.complaints, page.hosts = [], set()
    page.on("console", lambda said: page.complaints.append(said.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.hosts.add(request.url.split("/")[2]))
    page.goto(address)
    yield page
    context.close()


def replace(file: Path, change: Callable[[str], str]) -> None:
    """Changes a file that may be a hard link; the other name of it keeps its content."""
    text = change(file.read_text("utf-8"))
    file.unlink()
    file.write_text(text, "utf-8")


def arrive(page: Any, state: str = "done") -> None:
    """Until the page has made its run, or has said why it cannot."""
    page.wait_for_selector(f"body[data-state={state}]")
