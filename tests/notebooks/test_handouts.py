"""Slides and summaries: whole, on their own, and of a size that a window or a page holds."""

import itertools
import json
import re

import nbformat
import pytest
from nbconvert import SlidesExporter

from ecar_lab.teaching.exercises import of_notebook
from notebooks import build, slides, summary

KINDS = {"slide", "subslide", "fragment", "skip", "-"}
LOADS = re.compile(r"""(?:src|href)=["'](?!data:|#)([^"']+)["']|url\((?!data:)([^)]+)\)|@import""")


def deck_of(number):
    notebook = nbformat.read(build.target(build.sources()[number], False), as_version=4)
    return slides.deck(notebook)


@pytest.fixture(scope="module")
def handouts(tmp_path_factory):
    """What is written for notebook 4."""
    folder = tmp_path_factory.mktemp("handouts")
    return build.write_handouts(build.sources()[4], folder)


@pytest.fixture(scope="module")
def window(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    yield page
    page.close()


@pytest.mark.parametrize("number", range(len(build.sources())))
def test_a_deck_has_a_place_for_every_cell_and_no_check(number):
    cells = deck_of(number).cells
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in cells]
    assert set(kinds) <= KINDS
    assert kinds[0] == "slide"
    assert cells[0].source.startswith(f"# {number}. ")
    for cell, kind in zip(cells, kinds, strict=True):
        if cell.metadata.get("nbgrader", {}).get("locked"):
            assert kind == "skip"
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            assert kind == "slide"
        shown = cell.cell_type == "code" and not cell.metadata.get("transient") and kind != "skip"
        assert not shown or len(cell.source.splitlines()) <= slides.LONGEST_CODE
    assert sum(kind in ("slide", "subslide") for kind in kinds) >= 15


def test_the_answer_of_a_question_is_on_the_next_slide():
    cells = deck_of(4).cells
    for cell, after in itertools.pairwise(cells):
        if cell.cell_type == "markdown" and cell.source.startswith("> **Predict"):
            assert after.metadata["slideshow"]["slide_type"] in ("slide", "subslide", "skip")


def test_a_handout_loads_nothing(handouts):
    for path in (handouts[0], handouts[2]):
        text = re.sub(r"<a [^>]*>", "", path.read_text("utf-8"))
        assert LOADS.findall(text) == []
        assert "$$" not in text, "a formula that is not drawn"


def test_nbconvert_makes_slides_of_the_deck(handouts):
    text, _ = SlidesExporter().from_filename(str(handouts[1]))
    cells = json.loads(handouts[1].read_text("utf-8"))["cells"]
    wanted = [cell for cell in cells if cell["metadata"]["slideshow"]["slide_type"] == "slide"]
    assert "reveal" in text
    assert text.count("<section>") >= 2 * len(wanted)


def test_a_deck_is_turned_by_keys_and_no_slide_is_cut_off(handouts, window):
    window.goto(handouts[0].as_uri())
    count = window.evaluate("sections.length")
    assert window.locator("#where").inner_text() == f"1 / {count}"
    window.keyboard.press("ArrowRight")
    assert window.locator("#where").inner_text() == f"2 / {count}"
    assert window.locator("section.here").count() == 1
    window.keyboard.press("ArrowLeft")
    window.keyboard.press("End")
    assert window.locator("#where").inner_text() == f"{count} / {count}"
    tall = window.evaluate(
        "sections.map((one, n) => (show(n), one.scrollHeight / one.clientHeight))"
    )
    assert max(tall) < 1.1, f"slide {tall.index(max(tall)) + 1} is cut off"
    hidden = "[...document.querySelectorAll('.fragment:not(.shown)')].length"
    before = window.evaluate(hidden)
    first = window.evaluate("sections.findIndex(one => one.querySelector('.fragment'))")
    window.evaluate(f"show({first})")
    window.keyboard.press(" ")
    assert window.evaluate(hidden) == before - 1
    assert window.evaluate("here") == first


def test_every_summary_is_one_page(window):
    for number, source in enumerate(build.sources()):
        notebook = nbformat.read(build.target(source, False), as_version=4)
        text = summary.page(notebook, number)
        for part in ("After it you can", "To keep", "Exercises", "Symbols"):
            assert f"<h2>{part}</h2>" in text, source.stem
        for task in of_notebook(number):
            assert f"{task.number} {task.title}</strong> ({task.points})" in text
        window.set_content(text)
        pages = re.findall(rb"/Type\s*/Page\b", window.pdf(prefer_css_page_size=True))
        assert len(pages) == 1, f"{source.stem}: its summary takes {len(pages)} pages"


def test_formulas_are_the_notebook_s():
    listed = summary.formulas(
        "a $$ e = mc^2 $$ b $x = 3$ c $x_t = (1-t) n$ `y = a * b + c` $D$ `z = 1`\n\n$s^2 = 1$"
    )
    assert listed.splitlines() == ["- $$e = mc^2$$", "- $x_t = (1-t) n$", "- `y = a * b + c`"]
