"""The built page on a tiny model, served, for tests that open it in a browser."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from docs import build_lab, serve_lab
from ecar_lab.errors import EcarError
from ecar_lab.onnx.export import load_ecar, write_export
from ecar_lab.onnx.graphs import trace_graphs
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import IdentityTokenizer
from tests.browsing import PATIENCE
from tests.conftest import tiny_model


class Labs(NamedTuple):
    """A few-step pipeline, and the pages built on it by the precision of their weights."""

    torch: ECARPipeline
    pages: dict[str, Path]


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Labs:
    """To trace the graphs takes seconds, so both pages share them."""
    if shutil.which("node") is None:
        pytest.skip("Node, whose npm fetches onnxruntime-web, is not here")
    try:
        build_lab.runtime_files()
    except EcarError as error:
        pytest.skip(str(error))
    place = tmp_path_factory.mktemp("lab")
    checkpoint = place / "tiny-turbo"
    model = tiny_model(mode="few-step", num_inference_steps=[4, 2], guidance_scale=[1.0, 2.5])
    ECARPipeline(model=model, tokenizer=IdentityTokenizer()).save_pretrained(checkpoint)
    pipe = load_ecar(checkpoint)
    graphs = trace_graphs(pipe.model, pipe.tokenizer, encoder=True)

    def export(checkpoint: str, output: Path, weights: Any, encoder: bool) -> Path:
        assert encoder
        return write_export(pipe, graphs, output, weights, Path(checkpoint))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_lab, "export", export)
        pages = {
            weights: build_lab.build(str(checkpoint), place / weights, weights, packed=False)
            for weights in ("float32", "float16")
        }
    return Labs(pipe, pages)


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


def arrive(page: Any, state: str = "done") -> None:
    """Until the page has made its run, or has said why it cannot."""
    page.wait_for_selector(f"body[data-state={state}]")
