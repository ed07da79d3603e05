"""Where what comes along with the kit lies: the app, checkpoints, notebooks, results.

In a clone that is the repository. A wheel carries copies, laid out alike, in ``ecar_lab/packed``
(``setup.py`` puts them there), and the checksums of the checkpoints that it leaves behind.
"""

from __future__ import annotations

import os
from pathlib import Path

from ecar_lab.errors import EcarError

PACKED = Path(__file__).resolve().parent / "packed"
# What the app opens, and what a Space and the page in a browser are made of: few steps, so at once.
APP_CHECKPOINT = "cifar10-turbo"
# Who keeps the checkpoints that a wheel leaves behind, as <owner>/<name> on the Hub. Nobody yet.
HUB_OWNER: str | None = None


def is_packed() -> bool:
    """Whether the kit was installed from a wheel, and no repository is around it."""
    return PACKED.is_dir()


def home() -> Path:
    """The folder that holds ``apps/``, ``data/`` and ``notebooks/``."""
    return PACKED if is_packed() else PACKED.parents[1]


def cache_root() -> Path:
    """``$ECAR_CACHE``, else the kit's folder among the user's caches."""
    if named := os.environ.get("ECAR_CACHE"):
        return Path(named).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "ecar_lab"


def checkpoints_root() -> Path:
    """``$ECAR_CHECKPOINTS``, else ``data/checkpoints`` of :func:`home`."""
    named = os.environ.get("ECAR_CHECKPOINTS")
    return Path(named) if named else home() / "data" / "checkpoints"


def fetched_root() -> Path:
    """Where checkpoints lie that a wheel left behind and that were fetched since."""
    return cache_root() / "checkpoints"


def checkpoint_roots() -> list[Path]:
    """All folders whose checkpoints go by their name alone."""
    own = "ECAR_CHECKPOINTS" not in os.environ and is_packed()
    return [checkpoints_root(), *([fetched_root()] if own else [])]


def left_behind() -> dict[str, Path]:
    """Name -> folder of each shipped checkpoint that a wheel does not carry: its index and its
    checksums."""
    if "ECAR_CHECKPOINTS" in os.environ:
        return {}
    return {place.name: place for place in sorted((home() / "data" / "left_behind").glob("[!.]*"))}


def hub_owner(name: str) -> str:
    """Whose repositories on the Hub hold what the wheel leaves behind: ``$ECAR_HUB``, else ours.

    Raises:
        EcarError: there is no such place.
    """
    if owner := os.environ.get("ECAR_HUB") or HUB_OWNER:
        return owner
    raise EcarError(
        f"the checkpoint {name!r} is not part of the installed package: take data/checkpoints/"
        f"{name} from a clone and give its folder, or name in ECAR_HUB who keeps it on the Hub"
    )
