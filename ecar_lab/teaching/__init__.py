"""What notebooks are made of beside the model: a first cell, figures, questions, checks, controls.

``setup`` opens a notebook, ``show`` sets a figure with caption and alternative text, ``quiz`` asks;
``check`` judges exercises and ``explore`` holds the controls, one module per notebook. Nothing
here trains or samples by itself: it calls the kit.

May import everything of the kit but ``cli``; only notebooks and ``ecar grade`` import it.
Begin with ``session.py``, then one topic of ``check/`` beside its notebook.
"""

from ecar_lab.teaching import progress
from ecar_lab.teaching.check import beside_the_kit
from ecar_lab.teaching.figures import hue, new_figure, show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.teaching.session import Session, setup

__all__ = [
    "Session",
    "beside_the_kit",
    "hue",
    "new_figure",
    "progress",
    "quiz",
    "setup",
    "show",
    "table",
]
