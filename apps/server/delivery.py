"""A first visit in a dozen answers instead of ninety, and in a third of the bytes.

Gradio's front end is hundreds of small modules; a page asks for some eighty of them, one after the
other. :class:`Delivery` reads from Gradio's own files which of them the components of a page need
and hands them over in one compressed answer, which ``delivery.js`` turns into an import map. The
page itself is compressed, too, and so is the stream of what its functions answer, piece by piece:
what a function says last, it has mostly said before. Whatever is missing in the bundle is asked for
as before, and a browser without import maps, or a Gradio that is built otherwise, gets the page as
it was.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import brotli
import gradio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FRONT_END = Path(gradio.__file__).parent / "templates" / "frontend"
PLACE = "/front-end/"
BOOTSTRAP = Path(__file__).with_suffix(".js")
# Compressing: of what is kept, and of what is made for one visitor.
THOROUGH, QUICK = 9, 4
WINDOW = 18  # 256 KiB: what a stream remembers of itself, for each visitor
KEPT_PAGES = 8

ENTRY = re.compile(r'<script type="module"[^>]* src="\./assets/([\w.-]+\.js)"></script>')
STYLE = re.compile(r'<link rel="stylesheet"[^>]* href="\./assets/([\w.-]+\.css)">')
COMPONENT = re.compile(r'"type": ?"([a-z_0-9]+)"')
STATIC_IMPORT = re.compile(r"""(?:from|import)\s*["'`]\./([\w.-]+\.js)["'`]""")
DYNAMIC_IMPORT = re.compile(r"import\(`\./([\w.-]+\.js)`\)")
DEPENDENCIES = re.compile(r"m\.f=\[(.*?)\]")
DEPENDENCY = re.compile(r'"\./([\w.-]+)"')
LISTED = re.compile(r"__vite__mapDeps\(\[([\d,]+)\]\)")


class FrontEnd:
    """Which of Gradio's files a page needs, read from the files themselves."""

    def __init__(self, folder: Path = FRONT_END / "assets") -> None:
        self.folder = folder
        self._texts: dict[str, str] = {}

    def needed(self, page: str) -> list[str]:
        """Names of the files for the components of a page, styles in the order of the cascade;
        empty where the front end is not built as expected. The first style stays a link of the
        page's own: Gradio looks for it there, and loads it again, last, if it is missing."""
        entry, style = ENTRY.search(page), STYLE.search(page)
        cores = list(self.folder.glob("core-*.js"))
        if not entry or not style or len(cores) != 1:
            return []
        wanted = [entry[1], cores[0].name]
        for name in self._dependencies(entry[1]):
            # What the entry opens leads to the page proper (or to the login).
            wanted.append(name)
            if name.endswith(".js") and name != cores[0].name:
                wanted += DYNAMIC_IMPORT.findall(self.text(name))
        wanted += self._of_components(cores[0].name, set(COMPONENT.findall(page)))
        found: dict[str, None] = {}
        while wanted:
            name = wanted.pop(0)
            if name not in {*found, style[1]} and (self.folder / name).is_file():
                found[name] = None
                if name.endswith(".js"):
                    wanted += STATIC_IMPORT.findall(self.text(name))
        return list(found)

    def text(self, name: str) -> str:
        """What the file holds."""
        if name not in self._texts:
            self._texts[name] = (self.folder / name).read_text(encoding="utf-8")
        return self._texts[name]

    def _dependencies(self, name: str) -> list[str]:
        table = DEPENDENCIES.search(self.text(name))
        return DEPENDENCY.findall(table[1]) if table else []

    def _of_components(self, core: str, kinds: set[str]) -> list[str]:
        """``core`` holds ``kind:{component:()=>import(file), [numbers of dependencies]}``."""
        text, table = self.text(core), self._dependencies(core)
        files = []
        for kind in sorted(kinds):
            begin = re.search(rf"[,{{(]{kind}:(?=\{{)", text)
            if not begin:
                continue
            entry = _braces(text, begin.end())
            files += DYNAMIC_IMPORT.findall(entry)
            numbers = (int(n) for listed in LISTED.findall(entry) for n in listed.split(","))
            files += [table[number] for number in numbers if number < len(table)]
        return files


def _braces(text: str, begin: int) -> str:
    """From an opening brace to the one that closes it."""
    depth = 0
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[begin:end]
    return ""


@dataclass(frozen=True)
class Answer:
    """A body, as it is and in the encodings that browsers take, the best first."""

    kind: str
    plain: bytes
    encoded: dict[str, bytes]

    @classmethod
    def of(cls, text: str, kind: str, effort: int) -> Answer:
        """``effort``: 0 to 9."""
        plain = text.encode()
        encoded = {
            "br": brotli.compress(plain, quality=effort),
            "gzip": gzip.compress(plain, effort, mtime=0),
        }
        return cls(kind, plain, encoded)

    async def send(self, scope: Scope, send: Send, headers: MutableHeaders) -> None:
        """Sends it as the browser likes it best."""
        taken = Headers(scope=scope).get("accept-encoding", "")
        encoding = next((name for name in self.encoded if name in taken), None)
        body = self.encoded[encoding] if encoding else self.plain
        headers["Content-Type"] = self.kind
        headers["Content-Length"] = str(len(body))
        headers.add_vary_header("Accept-Encoding")
        if encoding:
            headers["Content-Encoding"] = encoding
        await send({"type": "http.response.start", "status": 200, "headers": headers.raw})
        sent = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": sent})


class Delivery:
    """ASGI middleware: pages name one bundle instead of eighty files, and come compressed."""

    def __init__(self, app: ASGIApp, front_end: FrontEnd | None = None) -> None:
        self.app = app
        self.front_end = front_end or FrontEnd()
        self._bundles: dict[str, Answer] = {}
        self._pages: OrderedDict[bytes, Answer] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            return await self.app(scope, receive, send)
        _, place, name = scope["path"].rpartition(PLACE)
        if place and name in self._bundles:
            headers = MutableHeaders({"Cache-Control": "public, max-age=31536000, immutable"})
            return await self._bundles[name].send(scope, send, headers)
        start: Message = {}
        body: list[bytes] = []
        streams: list[brotli.Compressor] = []
        takes_brotli = "br" in Headers(scope=scope).get("accept-encoding", "")

        async def hand_on(message: Message) -> None:
            """Holds a page back until it is whole; all else goes on at once."""
            if message["type"] == "http.response.start" and _is_page(message):
                start.update(message)
            elif message["type"] == "http.response.start" and takes_brotli and _is_stream(message):
                streams.append(brotli.Compressor(quality=QUICK, lgwin=WINDOW))
                MutableHeaders(raw=message["headers"])["Content-Encoding"] = "br"
                await send(message)
            elif streams:
                piece = streams[0].process(message.get("body", b"")) + streams[0].flush()
                if not message.get("more_body", False):
                    piece += streams[0].finish()
                await send({**message, "body": piece})
            elif not start:
                await send(message)
            else:
                body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    headers = MutableHeaders(raw=start["headers"])
                    await self.page(b"".join(body)).send(scope, send, headers)

        await self.app(scope, receive, hand_on)

    def page(self, body: bytes) -> Answer:
        """The page that names its bundle."""
        key = hashlib.sha256(body).digest()
        if key not in self._pages:
            text = self._bundled(body.decode())
            self._pages[key] = Answer.of(text, "text/html; charset=utf-8", QUICK)
        self._pages.move_to_end(key)
        while len(self._pages) > KEPT_PAGES:
            self._pages.popitem(last=False)
        return self._pages[key]

    def _bundled(self, page: str) -> str:
        names = self.front_end.needed(page)
        if not names:
            return page
        name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] + ".json"
        if name not in self._bundles:
            files = {name: self.front_end.text(name) for name in names}
            self._bundles[name] = Answer.of(json.dumps(files), "application/json", THOROUGH)
        scripts = [name for name in names if name.endswith(".js")]
        asked = json.dumps({"bundle": PLACE[1:] + name, "entry": scripts[0]})
        bootstrap = f"<script>({BOOTSTRAP.read_text(encoding='utf-8')})({asked});</script>"
        return STYLE.sub(lambda link: link[0] + bootstrap, ENTRY.sub("", page))


def _is_stream(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    is_stream = headers.get("content-type", "").startswith("text/event-stream")
    return is_stream and not {"content-encoding", "content-length"} & set(headers)


def _is_page(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    is_html = headers.get("content-type", "").startswith("text/html")
    return is_html and start["status"] == 200 and "content-encoding" not in headers
