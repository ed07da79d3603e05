"""The built page as files, and the server that shows it."""

import gzip
import json
import shutil
import socket
import struct
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from docs import build_lab, join_lab
from ecar_lab.errors import EcarError
from ecar_lab.files import hash_file
from tests.site.conftest import Labs, serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A page of few files, packed."""
    place = tmp_path / "page"
    (place / "ort").mkdir(parents=True)
    for name in ("index.html", "engine.js", "ort/some.wasm", "ort/some.mjs"):
        (place / name).write_text("many words " * 300)
    (place / "weights.bin").write_bytes(bytes(1000))
    build_lab.pack(place)
    return place


def ask(address: str, packing: str = "identity"):
    asked = urllib.request.Request(address, headers={"Accept-Encoding": packing})
    with urllib.request.urlopen(asked) as answer:
        return answer.headers, answer.read()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html"),
        ("index.html?a=b", "text/html"),
        ("engine.js", "text/javascript"),
        ("ort/some.mjs", "text/javascript"),
        ("ort/some.wasm", "application/wasm"),
    ],
)
def test_what_is_packed_is_sent_to_whom_can_unpack_it(folder, name, kind):
    with serving(folder) as address:
        whole, content = ask(address + name)
        assert (whole["Content-Type"], whole["Content-Encoding"]) == (kind, None)
        assert content == (folder / (name.split("?")[0] or "index.html")).read_bytes()
        for packing, name_of in (("gzip", "gzip"), ("gzip, deflate, br", "br"), ("br", "br")):
            headers, packed = ask(address + name, packing)
            assert (headers["Content-Type"], headers["Content-Encoding"]) == (kind, name_of)
            assert len(packed) < len(content)


def test_a_folder_is_found_with_and_without_its_slash(folder):
    """As the page is, in the site."""
    with serving(folder.parent) as address:
        for name in ("page", "page/", "page?x=/", "page/?x"):
            headers, packed = ask(address + name, "gzip")
            assert headers["Content-Encoding"] == "gzip", name
            assert gzip.decompress(packed) == (folder / "index.html").read_bytes()


def test_what_is_not_packed_is_sent_as_it_is_and_nothing_else_at_all(folder):
    (folder.parent / "secret.txt").write_text("mine")
    with serving(folder) as address:
        headers, content = ask(address + "weights.bin", "gzip, br")
        assert (headers["Content-Encoding"], content) == (None, bytes(1000))
        for name in ("nothing.js", "../secret.txt", "%2e%2e/secret.txt", "ort/../../secret.txt"):
            with pytest.raises(urllib.error.HTTPError):
                ask(address + name)


@pytest.mark.parametrize("isolate", [True, False])
def test_the_headers_for_threads_are_sent_on_request(folder, isolate):
    with serving(folder, isolate) as address:
        headers, _ = ask(address)
    assert headers["Cross-Origin-Opener-Policy"] == ("same-origin" if isolate else None)
    assert headers["Cross-Origin-Embedder-Policy"] == ("require-corp" if isolate else None)


def test_a_visitor_who_leaves_in_the_midst_of_a_file_is_no_error(folder, capfd):
    (folder / "weights.bin").write_bytes(bytes(30_000_000))
    with serving(folder) as address:
        host, port = address.split("/")[2].split(":")
        with socket.create_connection((host, int(port))) as visitor:
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            visitor.sendall(b"GET /weights.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            visitor.recv(1000)
        ask(address)
    assert capfd.readouterr().err == ""


def test_page_and_docs_lead_to_each_other(folder, tmp_path):
    said = {"small": ["lab.json", "engine.js"], "build": "first"}
    (folder / "sw.js").write_text("")
    (folder / "lab.json").write_text(json.dumps(said))
    site = tmp_path / "site"
    site.mkdir()
    place = join_lab.join(folder, site)
    assert place == site / "lab"
    joined = json.loads((place / "lab.json").read_text())
    assert (place / joined["docs"]).resolve() == site / "docs" / "index.html"
    assert joined["build"] != "first", "what a browser kept of the page alone is another build"
    (folder / "lab.json").unlink()
    assert join_lab.join(folder, site) is None
    assert list(site.iterdir()) == [], "an earlier one does not stay"


def test_the_page_lists_all_that_it_needs(labs: Labs):
    place = labs.pages["float16"]
    said = json.loads((place / "lab.json").read_text())
    for name, about in said["runtime"].items():
        assert about["sha256"] == hash_file(place / name)
        assert about["bytes"] == (place / name).stat().st_size
    for name in said["small"]:
        assert (place / name).is_file(), name
    found = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
    manifest = json.loads((place / "model" / "manifest.json").read_text())
    model = {f"model/{name}" for name in manifest["files"]}
    assert found == {"index.html", "sw.js", *said["small"], *said["runtime"], *model}
    assert all(stage["transformer"] > 0 for stage in said["cost"]["stages"])


def test_a_model_that_is_still_right_is_not_traced_again(labs: Labs, tmp_path, monkeypatch):
    place = Path(shutil.copytree(labs.pages["float16"], tmp_path / "page"))
    checkpoint = str(labs.checkpoint)
    monkeypatch.setattr(build_lab, "export", lambda *_, **__: pytest.fail("it was"))
    before = hash_file(place / "model" / "weights.bin")
    assert build_lab.build(checkpoint, place, packed=False) == place
    assert hash_file(place / "model" / "weights.bin") == before


def test_a_folder_with_something_else_is_not_replaced(labs: Labs, tmp_path):
    (tmp_path / "thesis.md").write_text("mine")
    with pytest.raises(EcarError, match="holds something else"):
        build_lab.build("cifar10-turbo", tmp_path)
    assert (tmp_path / "thesis.md").read_text() == "mine"


def test_without_npm_and_without_a_network_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(build_lab, "NODE_MODULES", tmp_path / "node_modules")
    monkeypatch.setattr(build_lab.shutil, "which", lambda _: None)
    with pytest.raises(EcarError, match="npm is missing"):
        build_lab.runtime_files()
    monkeypatch.setattr(build_lab.shutil, "which", lambda _: "false")
    with pytest.raises(EcarError, match=r"does not install .* is there a network\?"):
        build_lab.runtime_files()
