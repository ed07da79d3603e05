"""A checkpoint to the Hub: safetensors, card, ``pipeline.py``; no path of this machine in it."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ecar_lab.documents import read_json
from ecar_lab.download import WANTED, Repository, check_id, unreachable
from ecar_lab.errors import EcarError
from ecar_lab.files import (
    CHECKSUMS,
    as_folder,
    atomic_directory,
    check_folder,
    resolve_checkpoint,
    verify_checksums,
    write_checksums,
    write_error,
    write_json,
)
from ecar_lab.hub.card import write_hub_card
from ecar_lab.hub.pull import check_contents, check_index, for_the_hub
from ecar_lab.stored import INDEX, find_pipeline
from ecar_lab.stored_pipeline import CODE, write_import

ORIGIN = "_name_or_path"  # where diffusers says that a network was loaded from
# A path from the root of this or another machine, in a text: two parts or more.
PATH = re.compile(
    r"(?<![\w./~-])(?:(?:file:/*|~[\w-]*)?(?:/[\w.+@-]+){2,}/?|[A-Za-z]:(?:[/\\][\w.+@-]+)+)"
)
CARD, KEPT = "README.md", (".gitattributes", "LICENSE")


@dataclass(frozen=True)
class Pushed:
    """``address``: where it is now. ``metrics``: how many the card holds."""

    address: str
    files: list[str]
    metrics: int


def push(
    checkpoint: str | Path,
    repository: str,
    results: str | Path | None = None,
    *,
    private: bool = False,
    into: str | Path | None = None,
) -> Pushed:
    """Sends a checkpoint to a model repository, in one commit, which makes it the only one there.

    Args:
        checkpoint: a folder, a training's, or the name of one that ships.
        repository: OWNER/NAME; made if it is not there.
        results: what ``ecar evaluate --out`` wrote of it, for the card.
        private: a repository that is made is for its owner alone.
        into: a new folder in place of the Hub, which nothing is sent to: to look at it first.

    Raises:
        EcarError: no or a damaged checkpoint, no token, the Hub does not take it, the repository
            holds something else.
    """
    name = check_id(repository)
    folder = find_pipeline(resolve_checkpoint(checkpoint))
    if into is not None:
        target = as_folder(into)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise EcarError(f"{str(target)!r} holds something already: give a new folder")
        check_folder(target)
        with atomic_directory(target) as fresh:
            metrics = stage(folder, fresh, name, results)
        return Pushed(str(target), listing(target), metrics)
    token_needed()
    there = what_is_there(name)
    with tempfile.TemporaryDirectory(prefix="ecar-push-") as place:
        fresh = Path(place)
        try:
            metrics = stage(folder, fresh, name, results)
        except OSError as error:  # of a full disk, as a rule
            raise write_error(fresh, error) from error
        address = send(fresh, name, there, private)
        return Pushed(address, listing(fresh), metrics)


def stage(folder: Path, fresh: Path, repository: str, results: str | Path | None) -> int:
    """Writes what is sent into ``fresh``; the checkpoint itself is not touched.

    Returns:
        How many metrics the card holds.

    Raises:
        EcarError: a damaged checkpoint, results of another one.
    """
    remedy = "copy the folder again, or train it again"
    kind = check_index(read_json(folder / INDEX, "the index", remedy), str(folder))
    verify_checksums(folder, ".safetensors")
    for name in listing(folder):
        if not WANTED.fullmatch(name) or name == CHECKSUMS:  # which are counted anew
            continue
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(".json"):
            shutil.copyfile(folder / name, target)
            continue
        content = read_json(folder / name, "the configuration", remedy)
        clean = for_the_hub(without_paths(content)) if name == INDEX else without_paths(content)
        if clean == content:
            shutil.copyfile(folder / name, target)
        else:
            write_json(target, clean)
    check_contents(fresh, str(folder))
    metrics = write_hub_card(fresh / CARD, folder, repository, results)
    words = (fresh / CARD).read_text(encoding="utf-8")
    (fresh / CARD).write_text(PATH.sub(lambda found: last_part(found[0]), words), encoding="utf-8")
    write_import(fresh / CODE, kind)
    write_checksums(fresh)
    return metrics


def listing(folder: Path) -> list[str]:
    return sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )


def without_paths(content: Any) -> Any:
    """JSON without the places of this machine: of a path the last part, no ``_name_or_path``."""
    if isinstance(content, dict):
        return {key: without_paths(one) for key, one in content.items() if key != ORIGIN}
    if isinstance(content, list):
        return [without_paths(one) for one in content]
    if isinstance(content, str):
        whole = is_path(content)
        return last_part(content) if whole else PATH.sub(lambda found: last_part(found[0]), content)
    return content


def is_path(text: str) -> bool:
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return absolute or text.startswith(("~/", "~\\"))


def last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def token_needed() -> None:
    """Refuses to begin without a token.

    Raises:
        EcarError: there is none.
    """
    from huggingface_hub import get_token

    if not get_token():
        raise EcarError(
            "the Hub has to know who you are: log in with `hf auth login`, or set HF_TOKEN"
        )


def what_is_there(name: str) -> list[str] | None:
    """The files of a repository; None if there is none.

    Raises:
        EcarError: the Hub cannot be reached, or somebody keeps something else there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = HfApi().model_info(name)
    except RepositoryNotFoundError:
        return None
    except Exception as error:
        raise unreachable(name, error) from error
    files = sorted(entry.rfilename for entry in info.siblings or ())
    if set(files) - {CARD, *KEPT} and not holds_ours(name, files):
        raise EcarError(
            f"{name!r} holds something else ({', '.join(files[:3])}), which is not overwritten: "
            "name another repository"
        )
    return files


def holds_ours(name: str, files: list[str]) -> bool:
    """Whether a repository holds a checkpoint of this kit, as its index says."""
    if INDEX not in files:
        return False
    with tempfile.TemporaryDirectory(prefix="ecar-push-") as place:
        Repository(name).fetch([INDEX], Path(place))
        try:
            check_index(read_json(Path(place) / INDEX, "the index", "name another"), name)
        except EcarError:
            return False
    return True


def send(folder: Path, name: str, there: list[str] | None, private: bool) -> str:
    """One commit: the files of a folder, and out of the repository the weights and configurations
    that are not among them. What else is there, pictures say, stays.

    Returns:
        The address of the repository.

    Raises:
        EcarError: the Hub does not take it.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars

    files = listing(folder)
    operations = [CommitOperationAdd(file, str(folder / file)) for file in files]
    old = [file for file in there or () if WANTED.fullmatch(file) and file not in (*files, *KEPT)]
    gone = [CommitOperationDelete(file) for file in old]
    disable_progress_bars()
    hub, made = HfApi(), False
    try:
        if there is None:
            hub.create_repo(name, private=private, exist_ok=True)
            made = True
        hub.create_commit(name, [*operations, *gone], commit_message="A checkpoint of ecar_lab")
    except Exception as error:
        sentence = unreachable(name, error)
        raise EcarError(f"{sentence}; it is there, and empty" if made else str(sentence)) from error
    return f"{hub.endpoint}/{name}"
