"""Where the kit is not installed: links to Colab and Binder, and the cell that installs it."""

import argparse
import importlib.util
import subprocess

import nbformat
import pytest

from notebooks import build, elsewhere, slides

URL = "https://github.com/someone/e-car"
SOURCE = build.sources()[3]


def test_without_an_address_a_notebook_has_neither_links_nor_set_up():
    if elsewhere.published_at() is None:
        made = build.make(SOURCE, False)
        assert "Colab" not in made.cells[0].source
        assert all(map(build.is_of_the_source, made.cells))


@pytest.mark.parametrize("solutions", [False, True])
def test_with_one_it_has_both_and_keeps_its_outputs(solutions):
    made = build.make(SOURCE, solutions, URL)
    version, folder = (
        elsewhere.project()["version"],
        "notebooks/solutions" if solutions else "notebooks",
    )
    place = f"someone/e-car/blob/v{version}/{folder}/{SOURCE.stem}.ipynb"
    assert f"(https://colab.research.google.com/github/{place})" in made.cells[0].source
    assert f"/gh/someone/e-car/v{version}?urlpath=lab/tree/{folder}/" in made.cells[0].source
    assert made.cells[1].metadata["tags"] == ["skip-execution"]
    assert build.keep_outputs(made, nbformat.read(build.target(SOURCE, solutions), as_version=4))
    assert made.cells[1].execution_count is None
    assert made.cells[2].execution_count == 1
    nbformat.validate(made)
    assert len({cell["id"] for cell in made.cells}) == len(made.cells)
    assert "git clone" not in slides.page(slides.deck(made), "3")


def test_the_set_up_does_nothing_where_the_kit_is_and_installs_it_where_it_is_missing(monkeypatch):
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    code = compile(elsewhere.set_up(URL), "set-up", "exec")
    exec(code, {})
    assert ran == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.path", [])
    exec(code, {})
    fetch, install = ran
    assert fetch[-2:] == [URL, "ecar-lab"]
    assert f"v{elsewhere.project()['version']}" in fetch
    assert install[1:4] == ["-m", "pip", "install"]


@pytest.mark.parametrize("text", [URL, f"{URL}/", f"{URL}.git"])
def test_an_address_is_read_however_it_ends(text):
    assert elsewhere.address(text) == URL


@pytest.mark.parametrize(
    "text", ["", "someone/e-car", "http://github.com/a/b", "https://example.org/a/b", f"{URL}; rm"]
)
def test_what_is_no_address_is_refused_in_a_sentence(text, capsys):
    with pytest.raises(
        argparse.ArgumentTypeError, match="use https://github.com/OWNER/NAME".replace(".", r"\.")
    ):
        elsewhere.address(text)
    with pytest.raises(SystemExit):
        build.main(["--dry", "--repository", text])
    assert "use https://github.com/OWNER/NAME" in capsys.readouterr().err


def test_the_address_is_the_project_s(monkeypatch):
    urls = {"Homepage": "https://example.org", "Repository": f"{URL}.git"}
    monkeypatch.setattr(elsewhere, "project", lambda: {"version": "9.9", "urls": urls})
    assert elsewhere.published_at() == URL
    assert "/blob/v9.9/" in build.make(SOURCE, False).cells[0].source
