"""No test of the notebooks' helpers leaves a notebook open, whose checks would write a record; and
what they show in a notebook, to be looked at."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ecar_lab.teaching import figures, record


@pytest.fixture(autouse=True)
def no_notebook_stays_open() -> Iterator[None]:
    yield
    record._open = False


@dataclass
class Shown:
    """All that was shown: pictures (PNG), their texts in words, captions, tables (Markdown)."""

    pictures: list[bytes] = field(default_factory=list)
    alts: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> list[str]:
        """Of the figures, without the notebook's: "8" of "Figure 4.8. ..."."""
        return [caption.split(".")[1] for caption in self.captions]

    def display(self, thing: Any, **options: Any) -> None:
        if isinstance(thing, dict):
            self.pictures.append(thing["image/png"])
            self.alts.append(options["metadata"]["image/png"]["alt"])
        elif thing.data.startswith("|"):
            self.tables.append(thing.data)
        else:
            self.captions.append(thing.data.strip("*"))


@pytest.fixture
def shown(monkeypatch) -> Shown:
    """What a test shows by ``show`` and ``table``."""
    found = Shown()
    monkeypatch.setattr(figures, "display", found.display)
    return found
