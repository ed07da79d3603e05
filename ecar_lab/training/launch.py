"""What a training run stands on: processes, run folder, signals, clock, images, first weights."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from ecar_lab.data import ImageDataset, open_dataset
from ecar_lab.data.feeds import generator
from ecar_lab.data.splits import pick_split
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.layers import Block
from ecar_lab.training.agreement import agree_on_settings, together
from ecar_lab.training.config import TrainConfig
from ecar_lab.training.processes import make_accelerator, told_when_a_process_is_lost
from ecar_lab.training.run_folder import RunFolder
from ecar_lab.training.signals import StopSignal
from ecar_lab.training.trackers import check_installed

logger = logging.getLogger(__name__)
clock = time.monotonic


@dataclass
class Launch:
    """What a run stands on.

    Attributes:
        started: what ``clock()`` said when the time box opened, in seconds.
    """

    accelerator: Accelerator
    folder: RunFolder
    stop: StopSignal
    started: float
    clock: Callable[[], float]


class Window:
    """A stretch of steps and the time it takes."""

    def __init__(self, first: int, clock: Callable[[], float]):
        self.first = first
        self.waited = 0.0
        self._clock = clock
        self._start = clock()

    @property
    def seconds(self) -> float:
        """Time since the stretch began."""
        return max(self._clock() - self._start, 1e-9)


@contextlib.contextmanager
def launched(cfg: TrainConfig) -> Generator[Launch]:
    """A run from its first moment to its last: within the block the run folder is this run's alone,
    and what ends the run from outside is one sentence.

    Raises:
        EcarError: another process trains in the folder, it cannot be written, the surroundings ask
            for something else than the configuration, memory ran out, a process is lost, or was
            given other settings than the first.
        KeyboardInterrupt: SIGINT ended it. SystemExit: SIGTERM or SIGHUP did; 143 or 129.
    """
    cfg.check()
    check_installed(cfg.log_with)
    started = clock()
    memory = f"use a --batch-size below {cfg.batch_size} (and as much more --grad-accum)"
    with (
        StopSignal() as stop,
        told_when_memory_is_full(f"{memory}, a smaller preset, or --limit"),
        told_when_a_process_is_lost(),
        RunFolder(cfg.run_folder) as folder,
    ):
        accelerator = make_accelerator(cfg)
        agree_on_settings(accelerator, cfg)
        main = accelerator.is_main_process
        together(accelerator, lambda: folder.open(cfg.resume == "none") if main else None)
        yield Launch(accelerator, folder, stop, started, clock)


def training_images(cfg: TrainConfig, image_size: int, accelerator: Accelerator) -> ImageDataset:
    """The training split that a run asks for, once all processes have it.

    Raises:
        EcarError: no such data set, or images that cannot be read.
    """

    def opened() -> ImageDataset:
        return open_dataset(
            cfg.dataset_name,
            split="train",
            image_size=image_size,
            data_root=cfg.data,
            streaming=cfg.streaming,
            limit=cfg.limit,
        )

    return together(accelerator, opened)


def held_out_split(data: ImageDataset) -> str:
    """``test``, or ``train`` where a set has no other split: known before the work, and said."""
    try:
        pick_split(data.info.name, "test", data.layout.splits)
    except EcarError:
        logger.warning(
            "%r has no split test: what is measured at the end is measured on training images",
            data.info.name,
        )
        return "train"
    return "test"


def initial_seed(cfg: TrainConfig) -> None:
    """Seeds torch's global generator, which the layers' initial weights come from."""
    torch.manual_seed(generator(cfg.seed, "weights", 0).initial_seed())


def compile_networks(networks: Iterable[nn.Module], device: torch.device) -> None:
    """torch.compile in place, or a warning that says what is missing.

    Of a network with transformer blocks, each block is compiled by itself: one graph per shape
    serves all of them. On one AMX core that takes a minute and a half instead of nearly four, and
    trains as fast: 1.4 times the images of eager mode (CIFAR-10, batch 128).
    """
    compiler = os.environ.get("CXX", "c++" if shutil.which("c++") else "g++")
    if device.type == "cpu" and not shutil.which(compiler):
        logger.warning("no C++ compiler (%s): training goes on without torch.compile", compiler)
        return
    for network in networks:
        blocks = [module for module in network.modules() if isinstance(module, Block)]
        for module in blocks or [network]:
            module.compile(dynamic=False)


def without_compiling() -> contextlib.AbstractContextManager:
    """Within the block compiled parts run as written: for a few calls of other shapes."""
    return torch.compiler.set_stance("force_eager")
