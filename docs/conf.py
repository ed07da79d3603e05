"""The site: `make site` builds it with Sphinx, warnings as errors.

The source folder is the repository itself, so that a link between two files is the same on the
site, on the host of the repository and on a disk. ``include_patterns`` says what becomes a page.
"""

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Nothing is fetched while building: a page that needs the network would differ from day to day.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import ecar_lab  # noqa: E402

project, author = "ecar_lab", "ecar_lab developers"
version = release = ecar_lab.__version__
copyright = "ecar_lab developers, MIT license"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docs.mathml",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "notebooks/*.ipynb",
    "notebooks/solutions/*.ipynb",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "data/README.md",
]
exclude_patterns = [".*", "build", "runs", "shared", "tests", "apps", "ecar_lab", "site", "**/.*"]

# Markdown: formulas between dollars, anchors at headings as the repository's host makes them.
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
# Notebooks are shown with the outputs that they are committed with; nothing runs.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"

# The reference: signatures as they are written, members in the order of the code.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# By their names: what a setting may be is said by `ecar_lab.schema`.
SETTINGS = (
    "Arguments Count Decay Decays Images NotNegative Pairs Positive Seed Share Steps Text Whole"
)
autodoc_type_aliases = {name: name for name in SETTINGS.split()}
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
toc_object_entries_show_parents = "hide"

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "ecar_lab"
# A link to the page on which the model runs, where `make lab` built it; docs/join_lab.py brings it.
templates_path = ["templates"]
html_context = {"lab": (ROOT / "build" / "lab" / "lab.json").is_file()}
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/lab.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_static_path, html_favicon = ["static"], "static/icon.svg"
html_css_files = ["site.css"]
html_extra_path = ["extra"]  # the first page of the site, which leads to the docs
html_show_sphinx = html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app: Any) -> None:
    """Keeps napoleon from taking "Device to train on: auto, cpu" for a type and its meaning."""
    kept: dict[str, list[str]] = {}

    def keep(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        if what in ("attribute", "data", "property"):
            kept[name] = list(lines)

    def bring_back(app: Any, what: str, name: str, obj: Any, opt: Any, lines: list[str]) -> None:
        if name in kept:
            lines[:] = kept.pop(name)

    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", bring_back, priority=600)
