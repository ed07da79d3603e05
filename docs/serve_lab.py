"""Shows the built page, or the built site, on this machine, as a plain web server would.

    make lab-serve     (python -m docs.serve_lab --folder build/lab --port 8080)
    make site-serve    (python -m docs.serve_lab --folder build/site --port 8000)

It sends what ``docs.build_lab`` packed to browsers that can unpack it. With ``--isolate`` it also
sends the two headers for which browsers give WebAssembly threads.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
PACKINGS = (("br", ".br"), ("gzip", ".gz"))


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder.

    Args:
        isolate: whether to send the headers of a page that keeps to itself.
    """

    protocol_version = "HTTP/1.1"
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def __init__(self, *args: Any, isolate: bool = False, **named: Any) -> None:
        self.isolate, self.packing = isolate, ""
        super().__init__(*args, **named)

    def send_head(self) -> Any:
        """A packed neighbour in place of the file, if the browser takes it."""
        self.packing = ""
        whole = Path(self.translate_path(self.path))
        if whole.is_dir() and urlsplit(self.path).path.endswith("/"):  # else it is sent on to that
            whole = whole / "index.html"
        for name, suffix in self.taken():
            packed = whole.with_name(whole.name + suffix)
            if packed.is_file():
                asked, self.packing = self.path, name
                self.path = asked.split("?")[0].split("#")[0]
                self.path += ("index.html" if self.path.endswith("/") else "") + suffix
                try:
                    return super().send_head()
                finally:
                    self.path = asked
        return super().send_head()

    def taken(self) -> Iterator[tuple[str, str]]:
        words = self.headers.get("Accept-Encoding", "").replace(",", " ").split()
        return (packing for packing in PACKINGS if packing[0] in words)

    def guess_type(self, path: Any) -> str:
        """Of a packed file that of the file that is in it."""
        return super().guess_type(str(path).removesuffix(".br").removesuffix(".gz"))

    def end_headers(self) -> None:
        if self.packing:
            self.send_header("Content-Encoding", self.packing)
        self.send_header("Vary", "Accept-Encoding")
        self.send_header("Cache-Control", "no-cache")  # asks again, and is told what has changed
        for name, value in ISOLATION.items() if self.isolate else ():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who leaves in the midst of a download is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def server(
    folder: Path, port: int, isolate: bool = False, kind: type[Handler] = Handler
) -> ThreadingHTTPServer:
    """A server of the folder, which only this machine reaches; ``serve_forever`` starts it."""
    handler = functools.partial(kind, directory=str(folder), isolate=isolate)
    return Server(("127.0.0.1", port), handler)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.serve_lab", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/lab"))
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--isolate", action="store_true", help="threads from the first visit on")
    asked = parser.parse_args()
    if not (asked.folder / "index.html").is_file():
        sys.exit(f"error: no page is in {str(asked.folder)!r}: build it with make lab or make site")
    try:
        serving = server(asked.folder, asked.port, asked.isolate)
    except OSError as error:
        sys.exit(f"error: port {asked.port} cannot be used ({error.strerror}): name another")
    print(f"http://localhost:{asked.port}/  (Ctrl+C ends it)")
    try:
        serving.serve_forever()
    except KeyboardInterrupt:
        serving.server_close()


if __name__ == "__main__":
    main()
