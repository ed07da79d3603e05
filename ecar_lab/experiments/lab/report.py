"""Keeps a document's tables equal to the result JSONs they come from.

A document says ``<!-- result stage-ablation-cpu -->`` where the table of that result belongs, and
``<!-- end -->`` after it. What lies between is written here, never by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ecar_lab.errors import EcarError
from ecar_lab.experiments import load_experiment

BLOCK = re.compile(r"(<!-- result (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, folder: Path) -> str:
    """The document with every block rewritten from ``folder``'s JSON of that name.

    Raises:
        EcarError: a result is not there.
    """

    def block(match: re.Match[str]) -> str:
        file = folder / f"{match[2]}.json"
        try:
            result = json.loads(file.read_text("utf-8"))
        except OSError as error:
            raise EcarError(
                f"the document quotes {match[2]!r}, which {folder.name!r} does not hold: "
                "run that experiment first"
            ) from error
        table = load_experiment(result["experiment"]).table(result)
        return f"{match[1]}{machine_line(result)}\n\n{table}\n{match[3]}"

    return BLOCK.sub(block, text)


def machine_line(result: dict) -> str:
    """Command, size and machine, in one line above a table."""
    size = result["size"]
    return (
        f"`{result['command']}` · {result['machine']}, {result['threads']} thread"
        f"{'s' if result['threads'] > 1 else ''}, {result['dtype']} · preset `{size['preset']}`, "
        f"seeds {', '.join(map(str, size['seeds']))}"
    )


def results_in(text: str) -> list[str]:
    """Names of the results that a document quotes."""
    return [match[2] for match in BLOCK.finditer(text)]
