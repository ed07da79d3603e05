"""A model repository of the Hub, file by file, into a folder: weights and words only.

What is fetched is chosen by name before a byte of it comes: safetensors, JSON, Markdown. Pickles
and code stay where they are. Each file must have the hash that the Hub lists for it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecar_lab.documents import LARGEST
from ecar_lab.errors import EcarError, reason
from ecar_lab.schema import short

# The files of a checkpoint, and of no other kind, so that nothing else of a folder is sent or
# fetched. No dot at the beginning: nothing climbs out of the folder or hides in it.
WANTED = re.compile(
    r"(?:model_index|training|config)\.json|README\.md|LICENSE|SHA256SUMS"
    r"|diffusion_pytorch_model[\w.-]*\.safetensors"
    r"|(?:model|tokenizer)/(?:\w[\w.-]*/){0,2}\w[\w.-]*\.(?:json|safetensors)",
    re.ASCII,
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5")
WEIGHTS = ".safetensors"
ID = re.compile(r"\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)


@dataclass(frozen=True)
class Listed:
    """What the Hub says of a file: bytes, and the SHA-256 of its content or its hash in git."""

    size: int | None
    sha256: str | None
    git: str | None


class Repository:
    """A model repository as it is now; what is fetched later is of the same commit.

    Raises:
        EcarError: the name is none, there is no such repository, the Hub cannot be reached.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        from huggingface_hub import HfApi  # after the switches: it takes its time to import

        self.name = check_id(name)
        try:
            info = HfApi().model_info(self.name, revision=revision, files_metadata=True)
        except Exception as error:
            raise unreachable(self.name, error, revision) from error
        self.commit = str(info.sha)
        self.files = {entry.rfilename: listed(entry) for entry in info.siblings or ()}

    @property
    def wanted(self) -> list[str]:
        """The files that may be fetched."""
        return sorted(name for name in self.files if WANTED.fullmatch(name) and ".." not in name)

    @property
    def left_out(self) -> list[str]:
        """Those that are not, but for what git keeps for itself."""
        return sorted(set(self.files) - set(self.wanted) - {".gitattributes"})

    def check_weights(self) -> None:
        """Refuses a repository without safetensors.

        Raises:
            EcarError: it has none, or pickles in their place.
        """
        if any(name.endswith(WEIGHTS) for name in self.wanted):
            return
        pickles = [name for name in sorted(self.files) if name.endswith(PICKLES)]
        if pickles:
            raise EcarError(
                f"{self.name!r} keeps its weights as a pickle ({short(pickles[0])}), which can run "
                "code and is never fetched: ask its owner for safetensors"
            )
        raise EcarError(f"{self.name!r} holds no weights: name a repository that `ecar push` wrote")

    def fetch(self, names: Iterable[str], folder: Path) -> None:
        """Brings files into a folder, each checked against what the Hub lists.

        Raises:
            EcarError: the Hub cannot be reached, a file is not the one that is listed.
            OSError: the disk is full or the place cannot be written.
        """
        from huggingface_hub import hf_hub_download

        for name in names:
            size = self.files[name].size
            if not name.endswith(WEIGHTS) and (size or 0) > LARGEST:
                raise EcarError(
                    f"{short(name)} of {self.name!r} has more than {LARGEST // 2**20} MiB, which "
                    "no description of a model has: name another repository"
                )
            try:
                hf_hub_download(self.name, name, revision=self.commit, local_dir=folder)
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None and error.filename:
                    raise  # of this machine's disk
                raise unreachable(self.name, error) from error
            self.check(name, folder / name)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's notes

    def check(self, name: str, file: Path) -> None:
        """Compares a file with what the Hub lists for it.

        Raises:
            EcarError: it is another one.
        """
        known, found = self.files[name], file.stat().st_size
        if known.sha256:
            with open(file, "rb") as handle:
                same = hashlib.file_digest(handle, "sha256").hexdigest() == known.sha256
        elif known.git:
            content = file.read_bytes()
            # What git calls a blob; no secret hangs on it.
            mark = hashlib.sha1(b"blob %d\0" % found, usedforsecurity=False)
            mark.update(content)
            same = mark.hexdigest() == known.git
        else:
            same = known.size in (None, found)
        if not same:
            raise EcarError(
                f"{short(name)} of {self.name!r} arrived as another file than the Hub lists (its "
                "hash differs): try again, and if it stays so do not trust that copy"
            )


def listed(entry: Any) -> Listed:
    lfs = getattr(entry, "lfs", None)
    return Listed(entry.size, getattr(lfs, "sha256", None), None if lfs else entry.blob_id)


def check_id(name: str) -> str:
    """The name itself, if a repository may have it.

    Raises:
        EcarError: it is no OWNER/NAME.
    """
    if not ID.fullmatch(name) or "--" in name or ".." in name or len(name) > 96:
        raise EcarError(
            f"{short(name)} is no repository of the Hub: give OWNER/NAME, letters, digits, - _ ."
        )
    return name


def unreachable(name: str, error: Exception, revision: str | None = None) -> EcarError:
    """The sentence for what the Hub, or the way to it, did not give."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "OfflineModeIsEnabled" in kinds:
        return EcarError(
            f"{name!r} cannot be reached, HF_HUB_OFFLINE forbids to ask the Hub: unset it"
        )
    if "GatedRepoError" in kinds:
        return EcarError(
            f"{name!r} is open only to those whom its owner lets in: ask on its page, and log in "
            "with `hf auth login`"
        )
    if "RevisionNotFoundError" in kinds:
        return EcarError(f"{name!r} has no revision {short(revision)}: leave it out, or name one")
    if "RepositoryNotFoundError" in kinds or status == 404:
        return EcarError(
            f"there is no repository {name!r} that you may see: check the spelling, or log in with "
            "`hf auth login` if it is private"
        )
    if status in (401, 403):
        return EcarError(
            f"the Hub refuses {name!r} with this token ({status}): log in with `hf auth login`, "
            "with a token that may do this"
        )
    return EcarError(
        f"the Hub does not give {name!r} ({reason(error)}): check the network and try again"
    )
