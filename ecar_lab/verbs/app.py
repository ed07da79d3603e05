"""`ecar app`: the demo in the browser."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from ecar_lab.errors import EcarError
from ecar_lab.verbs.switches import parse


@dataclass
class AppSwitches:
    """Serve the demo on this machine, until you press Ctrl-C."""

    checkpoint: str = "cifar10"
    """A checkpoint folder, or the name of one that ships."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int | None = None
    """Port; without it the variable GRADIO_SERVER_PORT, else 7860."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """auto, float32 or bfloat16."""


def run(arguments: list[str]) -> None:
    switches = parse(AppSwitches, "app", arguments)
    root = Path(__file__).resolve().parents[2]
    if not (root / "apps" / "demo.py").is_file():
        raise EcarError(
            f"there is no app in {str(root)!r}: it is part of the repository, "
            "so install from a clone with `pip install -e .`"
        )
    sys.path.insert(0, str(root))
    from apps.demo import launch

    launch(**dataclasses.asdict(switches))
