"""A finished run, made once for all tests of training."""

from pathlib import Path

import pytest

from ecar_lab.training.model import train_model
from tests.training.runs import config


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they touch it."""
    return train_model(config(tmp_path_factory.mktemp("runs") / "run", sample_every=4))
