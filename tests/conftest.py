"""What many tests share: an offline, single-threaded setting, the real data, a tiny model."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

# Before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch

torch.set_num_threads(1)

TINY_CLASSES = ["cat", "dog", "frog"]


# What takes longest comes first, or one worker would be left with it at the end.
LONGEST = (
    "notebooks/test_notebooks.py",
    "app/",
    "notebooks/",
    "onnx/",
    "experiments/",
    "training/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders and files in the order of ``LONGEST``, the rest after them as it was."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).as_posix()
        starts = [n for n, start in enumerate(LONGEST) if name.startswith(start)]
        return starts[0] if starts else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def quick_rate() -> Iterator[None]:
    """The yardstick of utilisation figures is measured on small matrices, whoever measures it."""
    from ecar_lab.machine import matmul_rate
    from tests.thrift import QUICK_RATE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul_rate, "__defaults__", QUICK_RATE)
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; tests that need it are skipped without it."""
    root = os.environ.get("ECAR_DATA")
    if not root:
        pytest.skip("the variable ECAR_DATA names no folder of data sets")
    return Path(root)


def tiny_model(**overrides):
    """An ECAR of some ten thousand weights, all random, so that no branch of it is silent.

    A fresh model is zero in its output layers (adaLN-zero): its velocity would be zero, and a test
    on it could not tell one class, step or stage from another.
    """
    from ecar_lab.model import ECAR

    settings = dict(
        latent_size=8,
        latent_channels=3,
        patch_size=2,
        num_stages=2,
        num_classes=len(TINY_CLASSES),
        class_names=TINY_CLASSES,
        width=32,
        num_heads=2,
        transformer_layers=1,
        head_layers=1,
        num_inference_steps=2,
    )
    if "num_classes" in overrides:
        settings["class_names"] = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ECAR(**{**settings, **overrides})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with random weights: 8x8 pixels, 2 stages, classes cat, dog and frog.

    Shared by all tests of a worker: copy it before you damage it.
    """
    from ecar_lab.pipeline import ECARPipeline
    from ecar_lab.tokenizers.makers import IdentityTokenizer

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    ECARPipeline(model=tiny_model(), tokenizer=IdentityTokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_pipeline(tiny_checkpoint: Path):
    """The pipeline of ``tiny_checkpoint``, freshly loaded."""
    from ecar_lab.pipeline import ECARPipeline

    return ECARPipeline.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Chromium, for a whole worker; tests are skipped where there is none."""
    from tests import browsing

    with browsing.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Any]:
    """Chromium, for one module, which leaves no page behind."""
    OPEN.append(chromium)
    yield chromium
    OPEN.clear()
    for context in chromium.contexts:
        context.close()


OPEN: list[Any] = []  # the browser, while a module has it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed says what its pages show."""
    report = yield
    if report.failed and OPEN:
        from tests.browsing import seen

        report.sections.append(("Pages in the browser", seen(*OPEN)))
    return report
