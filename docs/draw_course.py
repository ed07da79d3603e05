"""Writes the table of times and points into docs/teaching/plan.md.

    python -m docs.draw_course

Times to read and to run are those in the notebooks' headers, points those of ``ecar grade``.
"""

import re
from pathlib import Path

import jupytext

from ecar_lab.teaching.exercises import of_notebook
from notebooks import build

PAGE = Path(__file__).resolve().parent / "teaching" / "plan.md"
MARKED = re.compile(r"(<!-- times: .+? -->\n).*?(<!-- end -->)", re.DOTALL)
SAID = re.compile(r"about (\d+) minutes to read.*?, (.+?) to run")


def table() -> str:
    """One row per notebook."""
    rows = ["| notebook | to read | to run | exercises | points |", "|---|---|---|---|---|"]
    for source in build.sources():
        said = build.reading_and_running(source.stem, jupytext.read(source, fmt="py:percent"))
        found = SAID.search(said)
        minutes, run = found.groups() if found else ("?", "?")
        tasks = of_notebook(int(source.stem[:2]))
        name = f"[{build.title(source)}](../../notebooks/{source.stem}.ipynb)"
        points = sum(task.points for task in tasks)
        took = run.split(" on ")[0]
        rows.append(f"| {name} | {minutes} min | {took} | {len(tasks)} | {points} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with a fresh table."""
    return MARKED.sub(lambda found: f"{found[1]}\n{table()}\n\n{found[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
