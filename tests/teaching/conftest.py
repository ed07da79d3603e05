"""No test of the notebooks' helpers leaves a notebook open, whose checks would write a record."""

from collections.abc import Iterator

import pytest

from ecar_lab.teaching import record


@pytest.fixture(autouse=True)
def no_notebook_stays_open() -> Iterator[None]:
    yield
    record._open = False
