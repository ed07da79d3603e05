"""Puts the page on which the model runs beside the docs, if it was built; each leads to the other.

    make site     (python -m docs.join_lab build/lab build/site)

``docs/conf.py`` gives every page of the docs a link to it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from docs.build_lab import LAB, number, pack
from ecar_lab.files import write_json

DOCS = "../docs/index.html"  # seen from the page


def join(lab: Path, site: Path) -> Path | None:
    """The page's folder in the site; None where no page was built."""
    place = site / "lab"
    shutil.rmtree(place, ignore_errors=True)
    if not (lab / LAB).is_file():
        return None
    shutil.copytree(lab, place)
    said = json.loads((place / LAB).read_text()) | {"docs": DOCS}
    del said["build"]
    write_json(place / LAB, {**said, "build": number(place, said)})
    if (place / f"{LAB}.gz").is_file():
        pack(place, [place / LAB])
    return place


if __name__ == "__main__":
    join(*map(Path, sys.argv[1:]))
