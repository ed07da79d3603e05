"""Slides of a notebook: what is shown when it is taught, with the outputs that it has.

``deck`` gives a notebook its slideshow metadata, which ``jupyter nbconvert --to slides`` reads;
``page`` writes the same deck as one HTML file that loads nothing: pictures lie in it, formulas are
MathML, and the arrow keys turn the slides. Text is split at its headings, and a slide that would be
too full goes on in the next one.
"""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers.python import PythonLexer

from docs.mathml import mathml
from notebooks.elsewhere import TAG

LONGEST_CODE = 12  # lines of code that are shown; of longer cells only what comes out
FULL, SHORT = 24, 5  # lines on a slide: more would not fit, so few leave room for more
WORDS_PER_LINE = 13
PIXELS_PER_LINE = 30
TALLEST = 15  # lines that a picture takes at most: it is scaled down
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\s](?:[^$]*[^$\s])?)\$", re.S)
STYLE = Path(__file__).with_name("slides.css")
SCRIPT = Path(__file__).with_name("slides.js")
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")


# -- what stands on which slide --------------------------------------------------------------------


def deck(notebook: NotebookNode) -> NotebookNode:
    """The notebook as slides: its cells split, each with its ``slide_type``."""
    cells, lines, is_first_code = [], 0.0, True
    for cell in _parts(notebook.cells[:-1]):  # the last one leads to other notebooks
        kind = _kind(cell)
        if kind == "subslide" and lines <= SHORT:
            kind = "-"  # a heading with a line or two has room for what is below it
        if cell.cell_type == "code" and is_first_code:
            kind, is_first_code = "slide", False
            cell.outputs = [one for one in cell.outputs if one.output_type != "stream"]
            cell.metadata["transient"] = {"remove_source": True}
        weight = _weight(cell)
        is_folded = cell.cell_type == "markdown" and cell.source.startswith("<details>")
        room = FULL + (SHORT if weight <= SHORT else 0)  # rather a little smaller than alone
        if kind in ("-", "fragment") and lines + weight > room and lines and not is_folded:
            kind = "subslide"
        lines = weight if kind in ("slide", "subslide") else lines + weight * (kind != "skip")
        if cell.cell_type == "markdown" and _is_question(cell.source):
            lines = 2 * FULL  # the answer comes with the next slide
        cell.metadata["slideshow"] = {"slide_type": kind}
        cells.append(cell)
    metadata = {**notebook.metadata, "rise": {"scroll": True}}
    for number, cell in enumerate(cells):
        cell["id"] = f"slide-{number:03d}"
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata, nbformat_minor=5)


def _parts(cells: list[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells, Markdown split at its headings and before its questions."""
    for cell in cells:
        if TAG in cell.metadata.get("tags", []):
            continue
        if cell.cell_type != "markdown":
            yield nbformat.from_dict(dict(cell))
            continue
        text = re.sub(r"<details><summary>Hint.*?</details>", "", cell.source, flags=re.S)
        for part in re.split(r"^(?=#{1,3} |> \*\*Predict)", text, flags=re.M):
            if part.strip():
                yield nbformat.v4.new_markdown_cell(part.strip())


def _is_question(text: str) -> bool:
    return text.startswith("> **Predict")


def _kind(cell: NotebookNode) -> str:
    """Where a cell goes, as long as there is room."""
    if cell.cell_type == "markdown":
        if cell.source.startswith(("# ", "## ")):
            return "slide"
        return "subslide" if cell.source.startswith("### ") or _is_question(cell.source) else "-"
    long = len(cell.source.splitlines()) > LONGEST_CODE
    if cell.metadata.get("nbgrader", {}).get("locked"):
        return "skip"
    if "exercise" in cell.metadata.get("tags", []):
        return "skip" if long else "fragment"
    if long or cell.source.startswith(("show(", "explore.")):  # it only shows something
        cell.metadata["transient"] = {"remove_source": True}
    return "skip" if long and not cell.outputs else "-"


def _weight(cell: NotebookNode) -> float:
    """About how many lines a cell takes."""
    if cell.cell_type == "markdown":
        text = re.sub(r"<summary>(.*?)</summary>.*?</details>", r"\1", cell.source, flags=re.S)
        rows = [1 + len(row.split()) // WORDS_PER_LINE for row in text.splitlines() if row.strip()]
        return min(sum(rows), 1 + len(text.split()) / WORDS_PER_LINE + text.count("\n- ") + 2)
    lines = 0 if cell.metadata.get("transient") else len(cell.source.splitlines()) + 1
    return lines + sum(map(_height, cell.outputs))


def _height(output: NotebookNode) -> float:
    data = output.get("data", {})
    if "image/png" in data:
        _, height = struct.unpack(">II", base64.b64decode(data["image/png"])[16:24])
        return min(height / PIXELS_PER_LINE, TALLEST) + 2
    if "text/html" in data:
        return 1 + "".join(data["text/html"]).count("<tr")
    text = output.get("text", data.get("text/markdown", data.get("text/plain", "")))
    return 1 + "".join(text).count("\n")


# -- one file --------------------------------------------------------------------------------------


def page(notebook: NotebookNode, title: str) -> str:
    """A deck as one HTML file."""
    slides: list[list[str]] = []
    for cell in notebook.cells:
        kind = cell.metadata["slideshow"]["slide_type"]
        if kind == "skip":
            continue
        if kind in ("slide", "subslide") or not slides:
            slides.append([])
        written = markdown(cell.source) if cell.cell_type == "markdown" else _code(cell)
        extra = " fragment" if kind == "fragment" else ""
        slides[-1].append(f'<div class="cell{extra}">{written}</div>')
    body = "\n".join(f"<section><div>{''.join(one)}</div></section>" for one in slides)
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{colours}\n{STYLE.read_text('utf-8')}</style>"
        f'</head>\n<body>\n<main>\n{body}\n</main>\n<nav aria-label="Slides">'
        f'<button id="back" aria-label="Back">←</button> <output id="where"></output> '
        f'<button id="on" aria-label="On">→</button></nav>\n'
        f"<script>{SCRIPT.read_text('utf-8')}</script>\n</body></html>\n"
    )


def markdown(text: str) -> str:
    """Markdown as HTML, its formulas as MathML; one that cannot be read stays as it was typed."""
    drawn: list[str] = []

    def draw(found: re.Match[str]) -> str:
        try:
            drawn.append(mathml(found[1] or found[2], block=bool(found[1])))
        except ValueError:
            drawn.append(f"<code>{html.escape(found[0])}</code>")
        return f"\x02{len(drawn) - 1}\x03"

    pieces = re.split(r"(`[^`\n]+`)", text)  # no formulas in code
    marked = "".join(one if n % 2 else MATH.sub(draw, one) for n, one in enumerate(pieces))
    # Links to other files of the repository lead nowhere from here: their words stay.
    plain = re.sub(r"\[([^\]]+)\]\((?![a-z]+:)[^)]*\)", r"\1", marked)
    written = MARKDOWN.render(plain)
    return re.sub("\x02(\\d+)\x03", lambda found: drawn[int(found[1])], written)


def _code(cell: NotebookNode) -> str:
    shown = "" if cell.metadata.get("transient") else highlight(
        cell.source, PythonLexer(), HtmlFormatter()
    )  # fmt: skip
    return shown + "".join(map(output_html, cell.outputs))


def output_html(output: NotebookNode) -> str:
    """What a cell has shown, as HTML."""
    data = output.get("data", {})
    if "image/png" in data:
        alt = html.escape(output.get("metadata", {}).get("image/png", {}).get("alt", ""), True)
        return f'<img alt="{alt}" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        return "".join(data["text/html"])
    if "text/markdown" in data:
        return markdown("".join(data["text/markdown"]))
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"<pre>{html.escape(text)}</pre>" if text.strip() else ""
