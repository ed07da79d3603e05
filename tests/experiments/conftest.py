"""What the tests of experiments share: trainings and measurements, made once."""

import pytest


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folder of a lab, with all that it remembers of experiments at smoke size."""
    return tmp_path_factory.mktemp("runs")
