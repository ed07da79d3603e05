"""What is dear and not what a test is about: made once in a test run, or measured small."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

# ``ecar_lab.machine.matmul_rate``'s device and shape: the usual matrices, the yardstick of every
# training's utilisation figures, take longer than a small training's own steps.
QUICK_RATE = ("cpu", (64, 64, 64))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` has filled; whoever comes later, in this or another worker, gets it as
    it is. Nobody may change it.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # each has one of its own
    place = root / f"shared-{name}"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            fresh = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
            make(fresh)
            fresh.rename(place)
    return place
