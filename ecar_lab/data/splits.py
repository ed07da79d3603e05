"""Names of splits: which words mean one, which files belong to which, which split is meant.

The words are those of Hugging Face `datasets`, whole words of a file's or folder's name.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from ecar_lab.errors import EcarError

LARGEST_CARD = 1 << 20  # bytes of a README.md that is read for configurations
# What file managers and browsers name a second copy.
COPY = re.compile(
    r"(?P<stem>.+?)(?: ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?)(?P<ending>\.\w+)"
)
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


@functools.cache
def _keywords() -> dict[str, str]:
    """word -> split: ``training`` -> ``train``."""
    from datasets.data_files import SPLIT_KEYWORDS

    return {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}


def splits_named(name: str) -> set[str]:
    """The splits that a name speaks of: ``my_train.parquet`` of ``train``, ``trained`` of none."""
    from datasets.data_files import NON_WORDS_CHARS

    words = re.split(f"[{NON_WORDS_CHARS}]", name.lower())
    return {_keywords()[word] for word in words if word in _keywords()}


def keyword_of(name: str) -> str | None:
    """The split that a name is; ``val``, ``valid`` and ``dev`` keep their own word."""
    word = name.lower()
    split = _keywords().get(word)
    return word if split == "validation" else split


def pick_split(name: str, wanted: str, available: Iterable[str]) -> str:
    """``wanted``, or what the set calls it; test and validation stand for each other.

    Raises:
        EcarError: there is none.
    """
    available = list(available)
    meaning = _keywords().get(wanted.lower(), wanted)
    meanings = [meaning, *({"test", "validation"} - {meaning} if meaning != "train" else ())]
    if meaning not in ("train", "test", "validation"):
        meanings = [wanted]
    found = [split for split in available if split == wanted]
    for candidate in meanings:
        found += [split for split in available if _keywords().get(split, split) == candidate]
    if not found:
        raise EcarError(f"{name!r} has no split {wanted!r}: use one of {', '.join(available)}")
    return found[0]


def table_splits(place: Path, files: list[str]) -> dict[str, list[str]]:
    """split -> its parquet files, by the rules of `datasets`: the card's, `data/NAME-00000-of-...`,
    folders' names, files' names, else all are ``train``.

    Raises:
        EcarError: a file belongs to no split or to two; several configurations; a missing shard.
    """
    where = repr(str(place))
    if place.is_dir():
        _refuse_missing_shards(where, files)
        if by_card := _by_card(place, files):
            return by_card
    for rule in (_by_shard(files), _by_folder(files), _by_name(files)):
        if not any(rule.values()):
            continue
        for file, splits in rule.items():
            if len(splits) != 1:
                what = f"speaks of {' and '.join(sorted(splits))}" if splits else "names no split"
                raise EcarError(
                    f"the file {file} of {where} {what}, beside others that name one: "
                    "name it train-..., validation-... or test-..., or take it away"
                )
        chosen = {file: splits.pop() for file, splits in rule.items()}
        break
    else:
        chosen = dict.fromkeys(files, "train")
    result: dict[str, list[str]] = {}
    for split in sorted(set(chosen.values()), key=lambda word: (word != "train", word)):
        result[split] = [file for file in files if chosen[file] == split]
        folders = sorted({_configuration(file) for file in result[split]})
        if len(folders) > 1:
            raise EcarError(
                f"{where} holds several configurations ({', '.join(f or '.' for f in folders)}): "
                f"name the folder of one of them, such as {str(place / folders[-1])!r}"
            )
    return result


def _by_card(place: Path, files: list[str]) -> dict[str, list[str]]:
    """split -> files by the configuration in the data set's README.md; empty if it says nothing."""
    card = place / "README.md"
    if not card.is_file() or card.stat().st_size > LARGEST_CARD:
        return {}
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from fsspec.utils import glob_translate
    from huggingface_hub import DatasetCard

    try:
        configs: Any = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    except Exception as error:  # YAML, encodings, fields: whatever a text file can hold
        raise EcarError(
            f"the card {str(card)!r} cannot be read ({type(error).__name__}): mend or remove it"
        ) from error
    with_files = {name: config for name, config in configs.items() if "data_files" in config}
    if not with_files:
        return {}
    name = next(iter(with_files)) if len(with_files) == 1 else configs.get_default_config_name()
    if name not in with_files:
        raise EcarError(
            f"{str(place)!r} has several configurations ({', '.join(with_files)}): "
            "copy the files of one of them into a folder of their own"
        )
    chosen: dict[str, list[str]] = {}
    for split, patterns in sanitize_patterns(with_files[name]["data_files"]).items():
        words = [re.compile(glob_translate(one.removeprefix("./"))) for one in patterns]
        chosen[split] = [file for file in files if any(word.match(file) for word in words)]
        if not chosen[split]:
            raise EcarError(
                f"the card {str(card)!r} names {', '.join(patterns)} for the split {split!r}, and "
                "no .parquet file is there: fetch it, or mend the card"
            )
    return chosen


def _by_shard(files: list[str]) -> dict[str, set[str]]:
    found = {file: re.fullmatch(rf"data/{SHARD.pattern}.*", file) for file in files}
    return {file: {match["stem"]} if match else set() for file, match in found.items()}


def _by_folder(files: list[str]) -> dict[str, set[str]]:
    parents = {file: PurePosixPath(file).parent.parts for file in files}
    return {file: set().union(*map(splits_named, parts)) for file, parts in parents.items()}


def _by_name(files: list[str]) -> dict[str, set[str]]:
    return {file: splits_named(file.rpartition("/")[2]) for file in files}


def _configuration(file: str) -> str:
    """The folder above a file and above the folder that names its split."""
    parts = PurePosixPath(file).parent.parts
    depth = next((n for n, part in enumerate(parts) if splits_named(part)), len(parts))
    return "/".join(parts[:depth])


def _refuse_missing_shards(where: str, files: list[str]) -> None:
    """Of NAME-00000-of-00002 there must be every number once, and no other count beside it; nor
    may there be what a system calls a copy of a file beside it."""
    for file in files:
        copied = COPY.fullmatch(file)
        if copied and f"{copied['stem']}{copied['ending']}" in files:
            raise EcarError(
                f"{where} holds {file!r} beside the file that it is a copy of by its name: "
                "keep one of them, or rename it"
            )
    shards = [match for file in files if (match := SHARD.match(file))]
    counts: dict[str, set[str]] = {}
    for match in shards:
        counts.setdefault(match["stem"], set()).add(match["count"])
    for stem, several in counts.items():
        if len(several) > 1:
            both = " and ".join(f"{stem}-...-of-{count}" for count in sorted(several))
            raise EcarError(f"{where} holds {both}, two writings of one split: keep one of them")
        (count,) = several
        numbers = Counter(int(match["number"]) for match in shards if match["stem"] == stem)
        twice = [number for number, times in numbers.items() if times > 1]
        if twice:
            raise EcarError(
                f"{where} holds {stem}-{twice[0]:05}-of-{count} {numbers[twice[0]]} times: keep one"
            )
        if len(numbers) != int(count):
            raise EcarError(
                f"{where} holds {len(numbers)} of the {int(count)} files {stem}-...-of-{count}: "
                "fetch the others"
            )
