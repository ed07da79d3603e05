"""Pages hold what they say: links lead somewhere, examples give what stands below them."""

import doctest
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
import yaml

from docs import draw_glossary

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *ROOT.glob("*.md"),
        ROOT / "data" / "README.md",
        ROOT / "notebooks" / "README.md",
    ]
)
WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+(?:\([^()\s]*\))?)\)")

BIB = (DOCS / "references.bib").read_text(encoding="utf-8")
BIBLIOGRAPHY = (DOCS / "bibliography.md").read_text(encoding="utf-8")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchor(title: str) -> str:
    """The address of a heading, as the host of the repository and the site make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return set(map(anchor, re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)))


def broken(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to a heading that is not there."""
    wrong = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        missing = not target.is_relative_to(ROOT) or not target.exists()
        is_page = target.suffix == ".md"
        if missing or (heading and is_page and heading not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_a_file_and_a_heading(page):
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.test_pages.ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A heading (of two)\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-heading-of-two) [c](https://example.org) [d](gone.md)\n"
        "[e](there.md#other) [f](../outside.md) [g](#none)\n```\n[h](code.md)\n```\n"
    )
    assert broken(page) == ["gone.md", "there.md#other", "../outside.md", "#none"]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_examples_give_what_stands_below_them(page):
    with torch.random.fork_rng():
        result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0, "see the captured output"


def test_the_glossary_is_written_from_its_words():
    written = draw_glossary.PAGE.read_text(encoding="utf-8")
    assert written == draw_glossary.page(), "write it anew: python -m docs.draw_glossary"
    for term, text in draw_glossary.terms().items():
        assert text.endswith("."), term


def test_bibliography_and_bibtex_have_the_same_papers():
    titles = re.findall(r"^  title +=\s*\{\{(.+)\}\},$", BIB, re.MULTILINE)
    assert len(titles) == BIB.count("\n@") == len(re.findall("^### ", BIBLIOGRAPHY, re.MULTILINE))
    assert re.findall(r"\*(.+)\.\* ", BIBLIOGRAPHY) == titles
    links = re.findall(r"^  url +=\s*\{(.+)\},$", BIB, re.MULTILINE)
    assert re.findall(r"<(https.+)>", BIBLIOGRAPHY) == links


def test_every_paper_is_cited_where_it_is_used():
    others = "".join(
        page.read_text(encoding="utf-8") for page in PAGES if page.name != "bibliography.md"
    )
    for paper in re.findall("^### (.+)$", BIBLIOGRAPHY, re.MULTILINE):
        assert f"bibliography.md#{anchor(paper)})" in others, paper


def test_the_kit_cites_itself_with_its_own_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_the_readme_fits_on_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
