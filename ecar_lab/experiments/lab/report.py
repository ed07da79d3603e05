"""Keeps a document's tables equal to the result JSONs they come from.

A document says ``<!-- result stage-ablation-cpu -->`` where the table of that result belongs, and
``<!-- end -->`` after it. What lies between is written here, never by hand; nothing, as long as the
result was not measured.
"""

from __future__ import annotations

import re
from pathlib import Path

from ecar_lab.errors import EcarError
from ecar_lab.experiments import EXPERIMENTS, load_experiment
from ecar_lab.experiments.lab.records import read_record

BLOCK = re.compile(r"(<!-- result (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, folder: Path) -> str:
    """The document with every block rewritten from ``folder``'s JSON of that name; a block without
    one stays empty, a place kept free.

    Raises:
        EcarError: there are no results at all, or one of them cannot be read.
    """
    remedy = "measure it again, or take it from the repository"
    if not any(folder.glob("*.json")):
        raise EcarError(f"{str(folder)!r} holds no results: name their folder with --results")

    def block(match: re.Match[str]) -> str:
        file = folder / f"{match[2]}.json"
        if not file.is_file():
            return f"{match[1]}{match[3]}"
        result = read_record(file, "the result", remedy)
        try:
            table = load_experiment(result["experiment"]).table(result)
            return f"{match[1]}{machine_line(result)}\n\n{table}\n{match[3]}"
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise EcarError(
                f"the result {str(file)!r} is none of an experiment of this version: {remedy}"
            ) from error

    return BLOCK.sub(block, text)


def machine_line(result: dict) -> str:
    """Command and machine, in one line above a table; what was trained, if anything was."""
    size = result["size"]
    line = (
        f"`{result['command']}` · {result['machine']}, {result['threads']} thread"
        f"{'s' if result['threads'] > 1 else ''}, {result['dtype']}"
    )
    if not EXPERIMENTS[result["experiment"]].trains:
        return line
    return f"{line} · preset `{size['preset']}`, seeds {', '.join(map(str, size['seeds']))}"


def results_in(text: str) -> list[str]:
    """Names of the results that a document quotes, those that it keeps a place for included."""
    return [match[2] for match in BLOCK.finditer(text)]


def empty_in(text: str) -> list[str]:
    """Names of the results that a document keeps a place for, and has none of."""
    return [match[2] for match in BLOCK.finditer(text) if match[0] == match[1] + match[3]]
