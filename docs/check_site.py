"""Looks at a built site without a network: inner links lead somewhere, no other server is asked.

python -m docs.check_site build/site
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
EMPTY_LINKS = {"canonical", "index", "search", "next", "prev"}  # of <link>: they load nothing


class Page(HTMLParser):
    """Where the links of a page lead, what it loads, and which addresses it has itself."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.addresses = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.addresses |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        attribute = LOADED.get(tag)
        if attribute and attribute in found and found.get("rel") not in EMPTY_LINKS:
            self.loaded.append(found[attribute])


def complaints(site: Path) -> Iterator[str]:
    """One line for every link that leads nowhere, and for whatever another server has to send."""
    pages = {
        file.resolve(): Page(file.read_text(encoding="utf-8"))
        for file in sorted(site.rglob("*.html"))
        if "_static" not in file.parts
    }
    for file, page in pages.items():
        name = file.relative_to(site.resolve())
        for url in page.loaded:
            if re.match(r"(?:https?:)?//", url):
                yield f"{name} loads {url}"
        for url in page.links + page.loaded:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                yield f"{name} leads to {url}, which is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].addresses:
                yield f"{name} leads to {url}, where there is no such heading"


def main() -> int:
    found = list(complaints(Path(sys.argv[1])))
    print("\n".join(found) or "inner links lead somewhere, nothing is loaded from another server")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
