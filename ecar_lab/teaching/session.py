"""A notebook's first cell: where it runs, with which profile, and what is here.

These variables of the environment steer all notebooks:

- ``ECAR_LAB_PROFILE``: ``full`` (default) or ``fast``, the same code with smaller numbers;
- ``ECAR_LAB_STATIC=1``: pictures in place of controls, as in the notebooks that are committed;
- ``ECAR_LAB_STRICT=1``: a wrong exercise stops the notebook, as in the tests;
- ``ECAR_LAB_PROGRESS``: the file that keeps count of what is solved, elsewhere than beside it.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import platform
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

import ecar_lab
from ecar_lab.data import find_datasets
from ecar_lab.device import pick_device, pick_dtype
from ecar_lab.errors import EcarError
from ecar_lab.files import data_root
from ecar_lab.home import checkpoint_roots, home
from ecar_lab.teaching import record
from ecar_lab.teaching.figures import show
from ecar_lab.teaching.place import describe, place

if TYPE_CHECKING:
    from ecar_lab.pipeline import ECARPipeline

Value = TypeVar("Value")
PROFILES = ("full", "fast")
RESULTS = home() / "data" / "results"


def profile() -> str:
    """``full`` or ``fast``, from the environment.

    Raises:
        EcarError: the variable says something else.
    """
    name = os.environ.get("ECAR_LAB_PROFILE", "full")
    if name not in PROFILES:
        raise EcarError(f"ECAR_LAB_PROFILE is {name!r}: use {' or '.join(PROFILES)}")
    return name


def is_static() -> bool:
    """Whether controls are left out."""
    return os.environ.get("ECAR_LAB_STATIC") == "1"


def is_strict() -> bool:
    """Whether a wrong exercise stops the notebook."""
    return os.environ.get("ECAR_LAB_STRICT") == "1"


@dataclass(frozen=True)
class Session:
    """What a notebook needs to know of its surroundings.

    Attributes:
        number: of the notebook. seed: of everything random in it.
        device, dtype: where models run and what they compute in. profile: ``full`` or ``fast``.
    """

    number: int
    seed: int
    device: torch.device
    dtype: torch.dtype
    profile: str

    def pick(self, full: Value, fast: Value) -> Value:
        """The first in the full profile, the second in the fast one."""
        return full if self.profile == "full" else fast

    def generator(self, seed: int | None = None) -> torch.Generator:
        """A generator of random numbers, on the CPU, so that every device draws the same."""
        return torch.Generator().manual_seed(self.seed if seed is None else seed)

    def pipeline(self, name: str = "cifar10", *, plain: bool = True) -> ECARPipeline:
        """A checkpoint's pipeline on this device; the same one when asked for again.

        It samples the plain way that the notebooks build: by Euler, in even steps, guided all the
        way. What the checkpoint itself prefers is turned on by name (``solver``, ``time_power``,
        ``guidance_interval``), or all of it by ``plain=False``. The fast profile takes half of
        the plain way's steps.

        Raises:
            EcarError: there is no such checkpoint.
        """
        return _pipeline(name, self.device, plain, self.profile)

    def result(self, name: str) -> dict[str, Any]:
        """A committed result of ``ecar experiment`` or ``ecar benchmark``, e.g. ``quality-cpu``.

        Raises:
            EcarError: there is none of that name.
        """
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in RESULTS.glob("*.json"))) or "none"
            raise EcarError(f"there is no result {name!r} in data/results: use one of {there}")
        return json.loads(path.read_text("utf-8"))

    @functools.cached_property
    def workspace(self) -> Path:
        """A folder for what the notebook trains: ``runs/notebook-N`` beside it, kept, so that a
        training goes on where it was; a throw-away one in the fast profile."""
        if self.profile == "full":
            return Path("runs") / f"notebook-{self.number}"
        folder = tempfile.mkdtemp(prefix="ecar_notebook_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def has_data(self, name: str) -> bool:
        """Whether the real data set ``name`` is here (a folder of that name in $ECAR_DATA)."""
        root = data_root()
        return root is not None and name in find_datasets(root)


@functools.lru_cache(maxsize=4)
def _pipeline(name: str, device: torch.device, plain: bool, profile: str) -> ECARPipeline:
    from diffusers.utils import logging

    from ecar_lab.pipeline import ECARPipeline

    logging.disable_progress_bar()
    pipe = ECARPipeline.from_pretrained(name).to(device)
    pipe.set_progress_bar_config(disable=True)
    if plain:
        pipe.model.default_solver = "euler"
        pipe.model.register_to_config(time_power=1.0, guidance_interval=None)
        if profile == "fast":
            half = [(steps + 1) // 2 for steps in pipe.model.inference_steps()]
            pipe.model.register_to_config(num_inference_steps=half)
    return pipe


def setup(number: int, seed: int = 0) -> Session:
    """Opens a notebook: seeds torch, prints where it runs, shows its place in the pipeline.

    Args:
        number: of the notebook, 0 to 11. seed: of everything random in it.

    Raises:
        EcarError: an unknown profile or notebook.
    """
    device = pick_device()
    session = Session(number, seed, device, pick_dtype(device), profile())
    record.begin()
    torch.manual_seed(seed)
    # A notebook is read: what libraries say to developers does not belong into it.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    chips = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    )
    indices = [file for root in checkpoint_roots() for file in root.glob("*/model_index.json")]
    models = sorted({file.parent.name for file in indices})
    print(
        f"ecar_lab {ecar_lab.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}\n"
        f"device {device.type} ({chips}, {torch.get_num_threads()} threads), "
        f"{str(session.dtype).removeprefix('torch.')}, profile {session.profile}, seed {seed}\n"
        f"checkpoints: {', '.join(models) or 'none'}"
    )
    show(place(number), f"Where we are: notebook {number}.", describe(number))
    return session
