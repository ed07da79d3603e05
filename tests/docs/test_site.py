"""The site builds without a warning: all of it but the notebooks, which `make site` adds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.check_site import complaints
from docs.mathml import mathml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
THEORY = sorted((ROOT / "docs" / "theory").glob("*.md"))
FORMULA = re.compile(r"(\$\$.+?\$\$|(?<![\\$\w])\$[^\s$](?:[^$\n]*?[^\s$\\])?\$(?!\d))", re.DOTALL)
WITHOUT_NOTEBOOKS = {
    "include_patterns": "docs/**,*.md,data/README.md",
    "exclude_patterns": "docs/solutions.md,docs/notebooks.md,README.md,.*,build,**/.*",
    # What leads to the notebooks; tests/docs/test_pages.py looks at links.
    "suppress_warnings": "myst.xref_missing,toc.excluded,toc.not_readable",
}


def test_pages_and_docstrings_are_read_without_a_warning(tmp_path):
    settings = [word for item in WITHOUT_NOTEBOOKS.items() for word in ("-D", "=".join(item))]
    folders = ["-d", str(tmp_path / "doctrees"), ".", str(tmp_path / "pages")]
    strict = ["-b", "dummy", "-W", "--keep-going", "-q"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-c", "docs", *strict, *settings, *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr


def test_a_built_site_is_looked_at_without_a_network(tmp_path):
    (tmp_path / "there.html").write_text('<h1 id="a">A</h1><a href="#a">up</a><a href="#b">b</a>')
    (tmp_path / "page.html").write_text(
        '<script src="https://example.org/x.js"></script><link rel="stylesheet" href="gone.css">'
        '<a href="there.html#a"></a><a href="there.html#c"></a><a href="https://example.org/"></a>'
    )
    said = "\n".join(complaints(tmp_path))
    assert said.count("\n") == 3
    assert "page.html loads https://example.org/x.js" in said
    assert "page.html leads to gone.css, which is not there" in said
    assert "page.html leads to there.html#c, where there is no such heading" in said
    assert "there.html leads to #b" in said


def test_the_first_page_leads_to_the_docs():
    leads = re.search(r"url=([\w/]+)\.html", (ROOT / "docs/extra/index.html").read_text("utf-8"))
    assert leads
    assert (ROOT / f"{leads[1]}.md").is_file()


@pytest.mark.parametrize("tex", [r"\tfrac12 v", r"\dot x_t", r"\left|u\right|^2", r"\sqrt3/2"])
def test_short_forms_of_a_formula_are_read_as_tex_reads_them(tex):
    parts = {
        r"\tfrac12 v": "<mfrac><mn>1</mn><mn>2</mn></mfrac>",
        r"\dot x_t": "</mover><mi>t</mi></msub>",
        r"\left|u\right|^2": "</mrow><mn>2</mn></msup>",
        r"\sqrt3/2": "<msqrt><mn>3</mn></msqrt>",
    }
    assert parts[tex] in mathml(tex, block=False)


def test_a_formula_that_cannot_be_read_is_refused():
    for tex in (r"\nosuchcommand x", "x^"):
        with pytest.raises(ValueError, match=r"is not known|cannot be read"):
            mathml(tex, block=True)


def formulas(text: str) -> list[str]:
    return FORMULA.findall(re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("page", [*THEORY, *NOTEBOOKS], ids=lambda file: file.stem)
def test_formulas_of_a_page_can_be_drawn(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for formula in formulas(text):
        mathml(formula.strip("$"), block=formula.startswith("$$"))
