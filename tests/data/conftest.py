"""What tests of data share: no data root of the machine, a numbered set, a folder of classes."""

from pathlib import Path

import datasets
import pytest

from tests.data.pictures import encoded, picture, write_parquet

datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A data root of the machine must not decide what these tests see, save those that ask."""
    if "data_root" in request.fixturenames:
        request.getfixturevalue("data_root")
    monkeypatch.delenv("ECAR_DATA", raising=False)


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """60 pictures, number n in all pixels of the n-th, in 4 row groups."""
    return write_parquet(tmp_path / "train.parquet", [encoded(n) for n in range(60)], row_group=15)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of 6 cats and 4 dogs, with what else lies about in such folders."""
    root = tmp_path / "pets"
    for name, first, count in (("dog", 6, 4), ("cat", 0, 6)):
        (root / name).mkdir(parents=True)
        for n in range(first, first + count):
            picture(n).save(root / name / f"{n}.png")
    (root / "cat" / ".hidden.png").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("not an image")
    return root
