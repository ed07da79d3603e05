"""`ecar notebooks`: the notebooks in a folder of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ecar_lab.cli.switches import parse
from ecar_lab.errors import EcarError
from ecar_lab.files import as_folder, check_folder, output_file, write_error
from ecar_lab.home import fetched_root, home, left_behind
from ecar_lab.schema import Text


@dataclass
class NotebooksSwitches:
    """Copy the notebooks into a folder, to work in them there."""

    folder: Annotated[Text, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Where to; it is made if it is not there."""
    solutions: bool = False
    """With the solutions filled in, in a folder solutions/ beside them."""


def run(arguments: list[str]) -> None:
    switches = parse(NotebooksSwitches, "notebooks", arguments)
    folder = as_folder(switches.folder)
    copied, there = copy_notebooks(folder, switches.solutions)
    kept = f", {there} were there already" if there else ""
    print(f"{copied} notebooks copied into {folder}{kept}")
    for name in left_behind():
        asking = [file for file in wanting(name) if not (fetched_root() / name).is_dir()]
        if asking:
            print(
                f"{', '.join(asking)} asks in a cell for {name}, which the package does not carry: "
                "ECAR_HUB=OWNER says who keeps it on the Hub"
            )
    print(f"jupyter lab {folder / '00_start_here.ipynb'}")


def wanting(checkpoint: str) -> list[str]:
    """The notebooks with a cell that opens a checkpoint by its name."""
    quoted = f'\\"{checkpoint}\\"'.encode()
    files = sorted((home() / "notebooks").glob("[0-9]*.ipynb"))
    return [file.name for file in files if quoted in file.read_bytes()]


def copy_notebooks(folder: Path, solutions: bool = False) -> tuple[int, int]:
    """Copies what is not there yet; nothing is written if one of them is there with other content.

    Returns:
        How many were copied, and how many were there already, unchanged.

    Raises:
        EcarError: a notebook of that name differs, the folder cannot be written.
    """
    source = home() / "notebooks"
    patterns = ["[0-9]*.ipynb", *(["solutions/[0-9]*.ipynb"] if solutions else [])]
    files = sorted(file for pattern in patterns for file in source.glob(pattern))
    if not files:
        raise EcarError(f"there are no notebooks in {str(source)!r}: install the package again")
    wanted = {folder / file.relative_to(source): file.read_bytes() for file in files}
    try:
        there = [target for target in wanted if target.is_symlink() or target.exists()]
        changed = [target for target in there if not same(target, wanted[target])]
    except OSError as error:
        raise write_error(folder, error) from error
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise EcarError(
            f"{str(changed[0])!r}{more} is not as the kit has it, and your work is not "
            "overwritten: rename it, or give another folder"
        )
    check_folder(folder)
    for target, content in wanted.items():
        if target not in there:
            with output_file(target) as fresh:
                fresh.write_bytes(content)
    return len(wanted) - len(there), len(there)


def same(file: Path, content: bytes) -> bool:
    return file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content
