"""Writes docs/glossary.md: the terms that the app explains, and other words of this house.

    python -m docs.draw_glossary

The app's terms have their home in ``apps/shell/glossary.json``, the others in ``docs/words.json``.
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "glossary.md"
HEAD = """# Glossary

The app explains its terms in the same words. Letters are on the page of [symbols](symbols.md).
"""


def terms() -> dict[str, str]:
    """Every term and what it means, in the order of the alphabet."""
    of_the_app = json.loads((ROOT / "apps/shell/glossary.json").read_text(encoding="utf-8"))
    others = json.loads((ROOT / "docs/words.json").read_text(encoding="utf-8"))
    both = {**others, **{entry["term"]: entry["text"] for entry in of_the_app}}
    return dict(sorted(both.items(), key=lambda item: item[0].lower()))


def page() -> str:
    """The page as Markdown, one heading per term so that each has an address."""
    return HEAD + "".join(f"\n## {term}\n\n{text}\n" for term, text in terms().items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
