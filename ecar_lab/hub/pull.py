"""A checkpoint from the Hub: its weights and configurations, and nothing that could run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from safetensors import SafetensorError, safe_open

from ecar_lab.baselines.pipeline import BaselinePipeline
from ecar_lab.documents import check_files, read_json
from ecar_lab.download import Repository, check_id
from ecar_lab.errors import EcarError, reason
from ecar_lab.files import (
    as_folder,
    atomic_directory,
    check_folder,
    verify_checksums,
    write_checksums,
    write_json,
)
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schema import short
from ecar_lab.stored import INDEX, StoredNetwork
from ecar_lab.stored_pipeline import CODE, write_import

KINDS = {kind.__name__: kind for kind in (ECARPipeline, BaselinePipeline)}
DIFFUSERS, MODULES = "diffusers", "_modules"
LIBRARIES = ("ecar_lab", DIFFUSERS)  # that the parts of a checkpoint may come from


@dataclass(frozen=True)
class Pulled:
    """Where a checkpoint lies now. ``left_out``: files of the repository that were not fetched."""

    folder: Path
    commit: str
    left_out: list[str]


def pull(repository: str, folder: str | Path | None = None, revision: str | None = None) -> Pulled:
    """Fetches a checkpoint; the folder is there when all of it is, or not at all.

    Args:
        repository: OWNER/NAME on the Hub.
        folder: where to; None means a folder called NAME here. It must be empty or new.
        revision: a branch, a tag or a commit; None means the newest.

    Raises:
        EcarError: no such repository, not a checkpoint of this kit, pickles in place of weights,
            a file that is not the one listed, a folder that holds something.
    """
    name = check_id(repository)
    target = as_folder(folder if folder is not None else name.partition("/")[2])
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise EcarError(f"{str(target)!r} holds something already: give an empty or a new folder")
    check_folder(target)
    source = Repository(name, revision)
    if INDEX not in source.files:
        raise EcarError(
            f"{name!r} is no checkpoint of this kit, for it has no {INDEX}: name a repository that "
            "`ecar push` wrote"
        )
    with atomic_directory(target) as fresh:
        source.fetch([INDEX], fresh)
        index = read_json(fresh / INDEX, "the index", "name another repository")
        kind = check_index(index, name)
        source.check_weights()
        source.fetch([file for file in source.wanted if file != INDEX], fresh)
        check_files(fresh)
        check_contents(fresh, name)
        write_json(fresh / INDEX, from_the_hub(index))
        write_import(fresh / CODE, kind)  # ours; the one on the Hub is not looked at
        write_checksums(fresh)
    return Pulled(target, source.commit, [file for file in source.left_out if file != CODE])


def check_index(index: dict[str, Any], name: str) -> type[ECARPipeline]:
    """The class of pipeline that an index names.

    Raises:
        EcarError: none of this kit's, or one with parts from elsewhere.
    """
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EcarError(
            f"{name!r} holds {short(kind)}, no {' or '.join(KINDS)}: load it with its own library"
        )
    parts = {part: entry for part, entry in index.items() if isinstance(entry, list)}
    for part in sorted(parts.keys() | {"model", "tokenizer"}):
        library, kind_of_part = (*parts.get(part, ()), None, None)[:2]
        ours = getattr(diffusers, str(kind_of_part), None)
        if (
            part not in ("model", "tokenizer")
            or str(library).partition(".")[0] not in LIBRARIES
            or not (isinstance(ours, type) and issubclass(ours, StoredNetwork))
        ):
            raise EcarError(
                f"{name!r} has a part {short(part)} of {short(library)} ({short(kind_of_part)}), "
                "which this version of the kit does not know: name a repository that `ecar push` "
                "wrote"
            )
    return KINDS[kind]


def for_the_hub(index: dict[str, Any]) -> dict[str, Any]:
    """An index whose parts are said to be diffusers' own: it fetches no pipeline that names another
    package, and finds ours there (``StoredNetwork``). Where they live is kept beside."""
    parts = {part: entry for part, entry in index.items() if isinstance(entry, list)}
    ours = {part: entry[0] for part, entry in parts.items() if entry[0] != DIFFUSERS}
    moved = {part: [DIFFUSERS, entry[1]] for part, entry in parts.items()}
    return {**index, **moved, **({MODULES: ours} if ours else {})}


def from_the_hub(index: dict[str, Any]) -> dict[str, Any]:
    """The index as ``save_pretrained`` wrote it. Its parts are those that ``check_index`` knows."""
    said = index.get(MODULES)
    restored = {key: entry for key, entry in index.items() if key != MODULES}
    for part, entry in index.items():
        if isinstance(entry, list):
            kind = getattr(diffusers, entry[1])
            module = said.get(part) if isinstance(said, dict) else None
            known = sys.modules.get(module) if isinstance(module, str) else None
            is_there = getattr(known, entry[1], None) is kind
            restored[part] = [module if is_there else kind.__module__, entry[1]]
    return restored


def check_contents(folder: Path, name: str) -> None:
    """Refuses weights that are no safetensors, or not those that were pushed.

    Raises:
        EcarError: naming the first.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise EcarError(
                f"{file.relative_to(folder).as_posix()!r} of {name!r} is no safetensors file "
                f"({reason(error)}): ask its owner, or name another repository"
            ) from error
    try:
        verify_checksums(folder, ".safetensors")
    except EcarError as error:
        raise EcarError(
            f"the weights of {name!r} are not those that its SHA256SUMS lists: ask its owner to "
            "push them again"
        ) from error
