"""The packages of the extra ``onnx``, which the kit does without until they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from ecar_lab.errors import EcarError


def needed(name: str) -> Any:
    """The module of that name: onnx, onnxscript or onnxruntime.

    Raises:
        EcarError: it is not installed.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise EcarError(
            f"the package {name} is missing: install it with pip install 'ecar-lab[onnx]'"
        ) from error
    if name == "onnxruntime":
        module.disable_telemetry_events()
    return module
