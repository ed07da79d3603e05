"""A notebook in JupyterLab, in a real browser: it runs, its controls come up and answer."""

from pathlib import Path

import pytest

from notebooks import build
from tests.scripts.reader_run import copy_notebook, jupyterlab, open_notebook, run_all, troubles

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(browser, tmp_path):
    """Notebook 0, just opened, with its kernel."""
    source = build.sources()[0]
    copy_notebook(source, tmp_path)
    with jupyterlab(tmp_path, "fast") as address:
        opened = browser.new_page(viewport={"width": 1280, "height": 1000})
        open_notebook(opened, address, f"{source.stem}.ipynb")
        yield opened
        opened.close()


def test_the_first_notebook_runs_and_its_controls_answer(page):
    run_all(page)
    assert troubles(page) == []
    picture = page.locator(".widget-image")
    before = picture.get_attribute("src")
    page.get_by_label("class").select_option("truck")
    page.wait_for_function(
        "before => document.querySelector('.widget-image').src !== before", arg=before
    )
    box = picture.bounding_box()
    natural = picture.evaluate("x => x.naturalWidth / x.naturalHeight")
    assert box["width"] / box["height"] == pytest.approx(natural, rel=0.02)
    page.get_by_label("To a latent part of the way from noise to data").check()
    page.get_by_text("✔ Right.").wait_for()


def test_make_notebooks_opens_the_first_one():
    assert "notebooks/00_start_here.ipynb" in (ROOT / "Makefile").read_text("utf-8")
    assert build.sources()[0].stem == "00_start_here"
