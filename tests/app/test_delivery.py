"""A first visit: what a browser asks for and how much comes, and where a bundle is no use."""

import gzip
import json
import urllib.error
import urllib.request

import brotli
import pytest

from apps.server.delivery import Delivery, FrontEnd
from tests.app.page import GROWN, NO_TOUR, QUIET, run
from tests.browsing import PATIENCE

pytestmark = QUIET

LENGTH = "encodedDataLength"
MOST_REQUESTS, MOST_BYTES = 40, 400_000


def asked(address: str, encoding: str) -> tuple[dict, bytes]:
    request = urllib.request.Request(address, headers={"Accept-Encoding": encoding})
    with urllib.request.urlopen(request) as answer:
        return dict(answer.headers), answer.read()


@pytest.fixture(scope="module")
def bundle(demo_address) -> str:
    """Address of the bundle that the page names."""
    page = asked(demo_address, "identity")[1].decode()
    return demo_address + page.partition('"bundle": "')[2].partition('"')[0]


@pytest.fixture
def visit(browser, demo_address):
    """Opens the page in a browser of its own and returns what came: addresses and bytes."""
    contexts = []

    def opened(script: str = "") -> tuple[list[str], int]:
        context = browser.new_context()
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.add_init_script(NO_TOUR + ";" + script)
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        sizes, addresses, errors = [], [], []
        network.on(
            "Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"])
        )
        page.on("request", lambda request: addresses.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(demo_address)
        page.wait_for_function(GROWN)
        assert errors == []
        return [url for url in addresses if url.startswith("http")], sum(sizes)

    yield opened
    for context in contexts:
        context.close()


def test_a_first_visit_is_few_requests_and_few_bytes(visit):
    addresses, size = visit()
    assert len(addresses) <= MOST_REQUESTS, addresses
    assert size <= MOST_BYTES
    assert not [url for url in addresses if url.endswith(".js") and "/assets/" in url]


def test_a_browser_without_import_maps_loads_file_by_file(visit):
    addresses, _ = visit("HTMLScriptElement.supports = undefined")
    assert len([url for url in addresses if url.endswith(".js") and "/assets/" in url]) > 20


@pytest.mark.parametrize(
    ("encoding", "decode"),
    [("br, gzip", brotli.decompress), ("gzip", gzip.decompress), ("identity", bytes)],
)
def test_page_and_bundle_come_as_the_browser_can_read_them(demo_address, bundle, encoding, decode):
    headers, page = asked(demo_address, encoding)
    assert "<gradio-app" in decode(page).decode()
    assert int(headers["content-length"]) == len(page)
    headers, files = asked(bundle, encoding)
    assert "immutable" in headers["cache-control"]
    texts = json.loads(decode(files))
    folder = FrontEnd().folder
    assert all(text == (folder / name).read_text("utf-8") for name, text in texts.items())


def test_a_bundle_that_is_not_known_is_not_found(demo_address):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        asked(f"{demo_address}front-end/../../secret.json", "br")


def test_what_a_component_needs_is_found_with_what_that_needs(demo_address):
    page = asked(demo_address, "identity")[1].decode()
    front_end = FrontEnd()
    names = [name for name in front_end.needed(plain_page(page)) if name.endswith(".js")]
    texts = {name: front_end.text(name) for name in names}
    for wanted in ("tabitem", "slider"):  # words that only these components' code holds
        assert any(wanted in text for text in texts.values())
    fewer = front_end.needed(plain_page("").replace("<body>", '<body>{"type": "html"}'))
    assert 0 < len(fewer) < len(front_end.needed(plain_page(page)))


def plain_page(components: str) -> str:
    """Gradio's page as it comes without us, with these components."""
    text = (FrontEnd().folder.parent / "index.html").read_text("utf-8")
    return text + components


@pytest.mark.parametrize("page", ["<html></html>", '<link rel="stylesheet" href="./assets/a.css">'])
def test_a_front_end_built_otherwise_is_handed_on_as_it_is(page):
    assert Delivery(None).page(page.encode()).plain.decode() == page  # ty: ignore[invalid-argument-type]


def test_a_stream_is_compressed_piece_by_piece():
    pieces = [b"data: one\n\n", b"data: " + b"two " * 999 + b"\n\n", b""]

    async def app(scope, receive, send):
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": piece != b""})

    def received(encoding: bytes) -> tuple[dict, list[bytes]]:
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/gradio_api/queue/data"}
        scope |= {"headers": [(b"accept-encoding", encoding)]}
        visit = Delivery(app)(scope, None, send)  # ty: ignore[invalid-argument-type]
        run(visit)
        return dict(sent[0]["headers"]), [message["body"] for message in sent[1:]]

    headers, plain = received(b"gzip")
    assert b"content-encoding" not in headers
    assert plain == pieces
    headers, packed = received(b"gzip, br")
    assert headers[b"content-encoding"] == b"br"
    assert len(packed[1]) < 200
    reader = brotli.Decompressor()
    assert [reader.process(piece) for piece in packed] == pieces  # each can be read at once
