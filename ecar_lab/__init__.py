"""E-CAR (arXiv 2412.14170), built to be understood: multistage continuous autoregressive images.

The method is the modules at this level, to be read in this order: schedule, attention, layers,
flow, transformer, generator, cost, model, events, interventions, trace, pipeline. Below them lie
errors, files, device, machine and presets; every folder is a wing that says what it is for. Imports
run one way, which `make lint` holds.

The names below are imported on first use: `ecar --help` need not wait for torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecar_lab.errors import EcarError
    from ecar_lab.evaluation.feature_net import FeatureNet
    from ecar_lab.events import TraceEvent
    from ecar_lab.interventions import LatentEdit
    from ecar_lab.model import ECAR
    from ecar_lab.pipeline import ECARPipeline
    from ecar_lab.schedule import StageSchedule
    from ecar_lab.tokenizers.base import Tokenizer
    from ecar_lab.tokenizers.makers import (
        AutoencoderTokenizer,
        ConvTokenizer,
        IdentityTokenizer,
        load_tokenizer,
    )
    from ecar_lab.trace import trace

try:
    __version__ = version("ecar_lab")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.0.0"

__all__ = [
    "ECAR",
    "AutoencoderTokenizer",
    "ConvTokenizer",
    "ECARPipeline",
    "EcarError",
    "FeatureNet",
    "IdentityTokenizer",
    "LatentEdit",
    "StageSchedule",
    "Tokenizer",
    "TraceEvent",
    "load_tokenizer",
    "trace",
]

# Where a name lives, if not among the makers of tokenizers.
HOMES = {
    "ECAR": "model",
    "ECARPipeline": "pipeline",
    "EcarError": "errors",
    "FeatureNet": "evaluation.feature_net",
    "LatentEdit": "interventions",
    "StageSchedule": "schedule",
    "Tokenizer": "tokenizers.base",
    "TraceEvent": "events",
    "trace": "trace",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES.get(name, 'tokenizers.makers')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`ecar_lab.trace` is the function, whoever imports the module of that name first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "trace" and isinstance(value, ModuleType):
            value = value.trace
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
