"""What a learner has solved so far, in all notebooks; notebook 0 shows it.

>>> progress.show()  # doctest: +SKIP
"""

from __future__ import annotations

from itertools import groupby

from ecar_lab.teaching import record
from ecar_lab.teaching.exercises import every
from ecar_lab.teaching.figures import table

__all__ = ["reset", "show"]
reset = record.reset


def show() -> None:
    """One row per notebook: how many of its exercises are solved, and which are not."""
    solved, rows = record.solved(), []
    for number, group in groupby(every().values(), key=lambda task: task.notebook):
        tasks = list(group)
        left = [task.number for task in tasks if task.number not in solved]
        done = len(tasks) - len(left)
        bar = "●" * done + "○" * len(left)
        name = tasks[0].topic.replace("_", " ")
        rows.append((f"{number} {name}", f"{bar} {done} of {len(tasks)}", ", ".join(left) or "✔"))
    table(["notebook", "solved", "still to do"], rows)
    done = sum(number in solved for number in every())
    print(f"{done} of {len(every())} exercises solved. {record.file().name} keeps count beside the "
          "notebooks; progress.reset() begins anew.")  # fmt: skip
