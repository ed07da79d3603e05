"""What tests of several files start from: the whole page, a studio, a visitor's runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apps import demo
from apps.shared import shelf
from apps.shared.recipes import Origin, finished
from apps.shared.settings import Settings
from apps.shared.studio import Run, Studio
from tests.browsing import free_port


@pytest.fixture(scope="session", autouse=True)
def bare_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No page besides that of the checkpoint a test asks for: those that ship take seconds."""
    nothing = tmp_path_factory.mktemp("nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "checkpoints_root", lambda: nothing)
        patch.setattr(shelf, "RUNS", nothing)
        yield


@pytest.fixture(scope="session")
def demo_address(tiny_checkpoint: Path) -> Iterator[str]:
    """The whole page, served, on the tiny checkpoint, for all tests of a worker."""
    page, address = demo.launch(tiny_checkpoint, port=free_port(), dtype="float32", block=False)
    yield address
    try:
        page.close()
    except RuntimeError:  # Gradio sets an asyncio event from this thread while its loop waits on it
        page.close()


@pytest.fixture(scope="module")
def studio(tiny_checkpoint: Path) -> Studio:
    return Studio(tiny_checkpoint, "cpu", "float32")


@pytest.fixture(scope="module")
def origin(studio: Studio) -> Origin:
    return Origin.of(studio)


@pytest.fixture
def make(studio: Studio, request) -> Iterator:
    """Makes a run of a visitor, named like the test, who leaves at its end."""
    owner = request.node.name

    def made(settings: Settings) -> Run:
        assert finished(studio.run(settings, owner))
        return studio.folders.runs(owner)[-1]

    yield made
    studio.folders.forget(owner)
