"""All exercises of all notebooks in one list: number, title, what the learner defines, points.

>>> every()["2.5"].defines, every()["2.5"].points
('Attention', 6)
"""

from __future__ import annotations

import functools
import pkgutil
from dataclasses import dataclass
from importlib import import_module

from ecar_lab.teaching import check
from ecar_lab.teaching.check import Exercise

USUAL = 2  # points of an exercise that is not named below
# More than a few lines, or several steps: longer ones get more.
POINTS = {
    **{"2.3": 3, "2.5": 6, "2.6": 4, "2.7": 5},
    **{"3.3": 3, "4.4": 4, "5.2": 6, "5.5": 4, "5.7": 5, "6.5": 5},
}


@dataclass(frozen=True)
class Task:
    """An exercise as a course sees it.

    Attributes:
        number: ``2.5``. title: its words. topic: of the notebook, ``autoregression``.
        defines: the function or class that the learner writes. check: what judges it.
    """

    number: str
    title: str
    topic: str
    defines: str
    check: Exercise

    @property
    def notebook(self) -> int:
        return int(self.number.split(".")[0])

    @property
    def points(self) -> int:
        return POINTS.get(self.number, USUAL)

    @property
    def grade_id(self) -> str:
        """Its mark in the metadata of its cell, which stays when cells are moved."""
        return f"exercise-{self.number.replace('.', '-')}"


@functools.cache
def every() -> dict[str, Task]:
    """Number -> exercise, in order."""
    found = []
    for module in pkgutil.iter_modules(check.__path__):
        if module.name.startswith("_"):
            continue
        for name, one in vars(import_module(f"{check.__name__}.{module.name}")).items():
            if isinstance(one, Exercise):
                number, _, title = one.name.partition(" ")
                wanted = one.reference
                defines = wanted.__name__.lstrip("_") if isinstance(wanted, type) else name
                found.append(Task(number, title, module.name, defines, one))
    return {task.number: task for task in sorted(found, key=_place)}


def of_notebook(number: int) -> list[Task]:
    """The exercises of one notebook, in order."""
    return [task for task in every().values() if task.notebook == number]


def _place(task: Task) -> tuple[int, int]:
    notebook, place = task.number.split(".")
    return int(notebook), int(place)
