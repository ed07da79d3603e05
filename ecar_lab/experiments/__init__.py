"""The paper's claims, put to the test: one file per experiment, and ``lab/`` for what they share.

Each module has ``run(lab) -> dict`` (measures; the dict is the result JSON), ``draw(result) ->
Figure`` and ``table(result) -> str`` (Markdown). ``ecar experiment NAME`` calls them.

May import everything up to ``doctor``, but no other experiment.
Begin with ``two_stage.py``, the shortest, and ``lab/lab.py``.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import NamedTuple

from ecar_lab.errors import EcarError

# The parts of a size that may be changed from outside, for most of those that train models.
USUAL = ("preset", "steps", "seeds", "num_samples")


class Entry(NamedTuple):
    """One experiment.

    Attributes:
        module: in this package. question: what it asks.
        trains: whether it trains models (else the preset of a size says nothing about it).
        takes: switches that change it.
    """

    module: str
    question: str
    trains: bool = True
    takes: tuple[str, ...] = USUAL


EXPERIMENTS = {
    "shipped": Entry(
        "shipped",
        "Is the E-CAR that ships as good as the DiT, at what cost?",
        trains=False,
        takes=("seeds", "num_samples"),
    ),
    "quality": Entry("quality", "Is E-CAR as good as DiT at equal size, data and images seen?"),
    "single-stage": Entry("single_stage", "How good is one stage, plain flow matching?"),
    "two-stage": Entry("two_stage", "Does a second stage gain quality or speed?"),
    "resolution-scaling": Entry(
        "resolution_scaling", "Which numbers of stages and resolutions suit this machine?"
    ),
    "stage-ablation": Entry(
        "stage_ablation", "How many stages, at equal images seen and at equal training FLOPs?"
    ),
    "flow-vs-diffusion": Entry(
        "flow_vs_diffusion", "Flow matching or noise prediction, per stage, all else equal?"
    ),
    "complexity": Entry(
        "complexity",
        "How do FLOPs, time and memory grow from 64 to 1024 px?",
        trains=False,
        takes=(),
    ),
    "windows-and-couplings": Entry(
        "windows_and_couplings",
        "Where should windows end, and how should stages hand over?",
        takes=(*USUAL, "only"),
    ),
    "continuous-vs-quantized": Entry(
        "continuous_vs_quantized", "Continuous or quantized tokens, at equal number and size?"
    ),
    "steps-and-guidance": Entry(
        "steps_and_guidance",
        "Which steps and guidance per stage give quality at what cost?",
        trains=False,
        takes=("num_samples",),
    ),
    "stage-errors": Entry(
        "stage_errors",
        "Which stage does the distance come from?",
        trains=False,
        takes=("num_samples",),
    ),
    "recipe": Entry(
        "recipe",
        "Which change of the recipe learns most in the same time?",
        takes=("preset", "seconds", "seeds", "num_samples", "only"),
    ),
    "few-shot": Entry(
        "few_shot",
        "Can a new class be learned from a few images?",
        takes=("preset", "steps", "seeds"),
    ),
    "failure-signatures": Entry(
        "failure_signatures", "Are the known failures recognised when they are provoked?"
    ),
}


def load_experiment(name: str) -> ModuleType:
    """The module of an experiment.

    Raises:
        EcarError: there is none of that name.
    """
    if name not in EXPERIMENTS:
        raise EcarError(f"experiment {name!r} is unknown: use one of {', '.join(EXPERIMENTS)}")
    return importlib.import_module(f"ecar_lab.experiments.{EXPERIMENTS[name].module}")
