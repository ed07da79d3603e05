"""A Hub of one's own, empty, which the library takes for the real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ecar_lab.cli import main as cli
from tests.hub.server import TOKEN, Hub, serving


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    from huggingface_hub import constants, file_download

    with serving() as served:
        template = served.address + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(
            constants.ENDPOINT
        )
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture(scope="module")
def sent(tiny_checkpoint, tmp_path_factory) -> Path:
    """What `ecar push` sends of the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("sent") / "tiny"
    assert cli.main(["push", str(tiny_checkpoint), "me/tiny", "--into", str(folder)]) == 0
    return folder


@pytest.fixture
def kept(hub, sent) -> dict[str, bytes]:
    """The same on the Hub, to be spoiled: the files of me/tiny."""
    hub.repositories["me/tiny"] = {
        file.relative_to(sent).as_posix(): file.read_bytes()
        for file in sorted(sent.rglob("*"))
        if file.is_file()
    }
    return hub.repositories["me/tiny"]
