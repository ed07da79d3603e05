"""A finished run, made once for all tests of training."""

from collections.abc import Generator
from pathlib import Path

import pytest

from ecar_lab.training import loop
from ecar_lab.training.model import train_model
from tests.training.runs import config


@pytest.fixture(scope="session", autouse=True)
def known_speed() -> Generator[None]:
    """No run measures the machine, which takes longer than its steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "matmul_rate", lambda dtype, device: 1e12)
        yield


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they touch it."""
    return train_model(config(tmp_path_factory.mktemp("runs") / "run", sample_every=4))
