"""A part of the site's build: formulas as MathML, which browsers draw by themselves.

So no page loads a script for them, and they are there without a network.
"""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)
# As a pair, bars keep close to what is between them.
BARS = {r"\lvert": r"\left|", r"\rvert": r"\right|"}


def mathml(tex: str, block: bool) -> str:
    """A formula of LaTeX as an element ``math``.

    Raises:
        ValueError: it cannot be read, or has a command that is not known.
    """
    for bar, one_of_a_pair in BARS.items():
        tex = tex.replace(bar, one_of_a_pair)
    try:
        written = convert(tex, display="block" if block else "inline")
    except Exception as error:  # its errors have no name in common
        raise ValueError(f"{tex!r} cannot be read: {error!r}") from error
    unknown = re.search(r"\\[A-Za-z]+", written)
    if unknown:
        raise ValueError(f"{unknown[0]} in {tex!r} is not known")
    return written


def visit(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Writes the formula; one that cannot be read is shown as it is, and warned of."""
    block = isinstance(node, nodes.math_block)
    try:
        written = mathml(node.astext(), block)
    except ValueError as error:
        logger.warning("no MathML for a formula: %s", error, location=node)
        written = f"<code>{html.escape(node.astext())}</code>"
    translator.body.append(f'<div class="formula">{written}</div>' if block else written)
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Makes it known to Sphinx as ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
