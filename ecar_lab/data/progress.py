"""A progress bar, which is no reason to end what it shows."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


class Bar(tqdm):  # ty: ignore[unsupported-base]
    """A bar that vanishes when nobody reads it any more: a closed pipe, a terminal that is gone."""

    def display(self, *arguments: Any, **settings: Any) -> Any:
        try:
            return super().display(*arguments, **settings)
        except OSError:
            self.disable = True
            return False

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            self.disable = True
