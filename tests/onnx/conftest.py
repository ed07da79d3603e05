"""Exports that the tests share."""

from pathlib import Path

import pytest

from tests import exports
from tests.exports import Pair


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tiny pipeline whose head gives velocities, and its exports."""
    return exports.velocity(tmp_path_factory)


@pytest.fixture(scope="session")
def few_step(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tiny pipeline with a few-step head, and its exports, which hold the encoder."""
    return exports.few_step(tmp_path_factory)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the cache of the person who runs it."""
    monkeypatch.setenv("ECAR_CACHE", str(tmp_path / "cache"))
