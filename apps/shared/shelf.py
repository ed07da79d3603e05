"""Which checkpoints there are to choose from: those that ship, and one's own trainings.

Looked up anew whenever somebody asks, from small files only; nothing is loaded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecar_lab.errors import EcarError
from ecar_lab.evaluation.evaluate import trained_on
from ecar_lab.files import resolve_checkpoint
from ecar_lab.home import checkpoint_roots, checkpoints_root
from ecar_lab.schedule import plan_text
from ecar_lab.training.cards import images_seen

RUNS = Path("runs")  # where `ecar train` puts its folders
MOST = 24  # that are offered


@dataclass(frozen=True)
class Entry:
    """A checkpoint that can be chosen. ``words``: one line about it, or why it cannot be read."""

    name: str
    folder: Path
    words: str

    @property
    def age(self) -> float:
        """To sort by: what ships has none, of trainings the newest the least."""
        if not self.name.startswith(f"{RUNS.name}/"):
            return -float("inf")
        try:
            return -self.folder.stat().st_mtime
        except OSError:
            return 0.0

    @property
    def path(self) -> str:
        """Its name as a part of an address."""
        return re.sub(r"[^a-zA-Z0-9._-]", "~", self.name)


def shelf(first: Path | None = None) -> list[Entry]:
    """All E-CAR models that there are: those that ship, those below ``./runs``; ``first`` at the
    beginning, wherever it lies."""
    roots = [checkpoints_root(), *checkpoint_roots()[1:]]
    named = [(place.name, place) for root in roots for place in folders_in(root)]
    named += [(f"{RUNS.name}/{place.name}", place) for place in folders_in(RUNS)]
    found: dict[Path, Entry] = {}
    if first is not None:
        names = {place.absolute(): name for name, place in named}
        named.insert(0, (names.get(training_of(first).absolute(), label_of(first)), first))
    for name, place in named:
        problem = ""
        try:
            folder = resolve_checkpoint(place.absolute())
        except EcarError as error:  # a configuration that is none, as a rule
            folder, problem = place / "final" if (place / "final").is_dir() else place, str(error)
        if folder.resolve() not in found and is_ours(folder):
            found[folder.resolve()] = Entry(name, folder, problem or about(folder))
    return list(found.values())[:MOST]


def training_of(folder: Path) -> Path:
    """The folder of a training whose result this is; of others, the folder itself."""
    return folder.parent if folder.name == "final" else folder


def label_of(folder: Path) -> str:
    """What a checkpoint's folder is called: a training's result by the training's name."""
    return training_of(folder.resolve()).name


def folders_in(place: Path) -> list[Path]:
    """The folders right below one, by name; none if it is no folder."""
    try:
        return sorted(one for one in place.iterdir() if one.is_dir() and one.name[0] != ".")
    except OSError:
        return []


def is_ours(folder: Path) -> bool:
    """Whether a folder says that it holds an E-CAR model (or says nothing that can be read)."""
    index = folder / "model_index.json"
    if not index.is_file():
        return False
    kind = read(index).get("_class_name", "ECARPipeline")
    return kind == "ECARPipeline"


def about(folder: Path) -> str:
    """Classes, size, steps, parameters, and what it was trained on; what is not known is left
    out."""
    model, tokenizer = (read(folder / part / "config.json") for part in ("model", "tokenizer"))
    if not model:
        return "its configuration cannot be read"
    words = []
    if isinstance(names := model.get("class_names"), list):
        words.append(f"{len(names)} classes")
    size, factor = model.get("latent_size"), tokenizer.get("downsample_factor", 1)
    if isinstance(size, int) and isinstance(factor, int):
        words.append(f"{size * factor} px")
    steps = model.get("num_inference_steps")
    if isinstance(steps, int) and isinstance(stages := model.get("num_stages"), int):
        steps = [steps] * stages
    if isinstance(steps, list):
        words.append(f"{plan_text(steps)} steps")
    if count := parameters(folder / "model"):
        words.append(f"{count / 1e6:.1f} M parameters")
    try:
        words.append(f"trained on {trained_on(folder)}")
        if seen := images_seen(folder):
            words[-1] += f" ({seen / 1e6:.3g} M images seen)"
    except EcarError:
        pass
    return ", ".join(words)


def parameters(folder: Path) -> int:
    """How many numbers the weights of a folder hold, as their files' headers say."""
    count = 0
    for file in folder.glob("*.safetensors"):
        try:
            with open(file, "rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(min(length, 10**7)))
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    count += (end - begin) // WIDTHS.get(entry["dtype"], 4)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return 0
    return count


WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


def read(file: Path) -> dict[str, Any]:
    """An object of JSON; empty if it cannot be read."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
