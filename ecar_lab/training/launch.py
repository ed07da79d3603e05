"""What a training run stands on: device, processes, run folder, signals."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import nn

from ecar_lab.data import ImageDataset, open_dataset
from ecar_lab.data.feeds import Share, generator
from ecar_lab.device import keep_freed_memory, pick_device
from ecar_lab.errors import EcarError
from ecar_lab.files import write_error
from ecar_lab.layers import Block
from ecar_lab.training.config import TrainConfig

logger = logging.getLogger(__name__)
# Any of these says that a launcher has given this process its place among others.
PLACED = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def make_accelerator(cfg: TrainConfig) -> Accelerator:
    """The Accelerator of a run, on the device that the configuration names.

    Raises:
        EcarError: the device is unknown or not there.
    """
    device = pick_device(cfg.device)
    start_missing_processes()
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # device.autocast does it, in training and sampling alike
        gradient_accumulation_steps=cfg.grad_accum,
    )
    if "OMP_NUM_THREADS" not in os.environ and accelerator.num_processes == 1:
        torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    keep_freed_memory(device)
    return accelerator


def share_of(cfg: TrainConfig, accelerator: Accelerator) -> Share:
    """Which part of every global batch this process trains on."""
    return Share(
        cfg.batch_size, cfg.grad_accum, accelerator.num_processes, accelerator.process_index
    )


def start_missing_processes() -> None:
    """Makes ``accelerate launch --cpu --num_processes N`` mean N processes.

    Without MPI, Accelerate starts one process and says nothing (huggingface/accelerate#2741): the
    run would train on a part of its batch. Such a process is replaced by PyTorch's own launcher,
    which starts all N.

    Raises:
        EcarError: the number of processes cannot be read off the launcher.
    """
    alone = not any(name in os.environ for name in PLACED)
    # Accelerate sets the port only where it was asked for more than one process.
    asked = (
        os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_PORT" in os.environ
    )
    if not (alone and asked):
        return
    count = processes_asked(psutil.Process(os.getppid()).cmdline())
    if count is None:
        raise EcarError(
            "accelerate launch --cpu has started one process only: give it --num_processes, or use "
            "`torchrun --standalone --nproc-per-node N` in its place"
        )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    logger.info("accelerate launch --cpu has started one process: starting %d with torchrun", count)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *launcher, *sys.orig_argv[1:]])


def processes_asked(command: list[str]) -> int | None:
    """The N of ``--num_processes N`` in the command line of a launcher, if it stands there."""
    for index, word in enumerate(command):
        name, _, value = word.partition("=")
        if name.replace("-", "_").endswith("num_processes"):
            value = value or (command[index + 1] if index + 1 < len(command) else "")
            return int(value) if value.isdigit() else None
    return None


def prepare_run_folder(cfg: TrainConfig, accelerator: Accelerator) -> None:
    """Makes the run folder, before any work is done for it; ``resume="none"`` moves an old one.

    Raises:
        EcarError: it cannot be written.
    """
    folder = cfg.run_folder
    if accelerator.is_main_process:
        try:
            if cfg.resume == "none" and folder.is_dir() and any(folder.iterdir()):
                set_aside(folder)
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise write_error(folder, error) from error
    accelerator.wait_for_everyone()


def set_aside(folder: Path) -> Path:
    """Moves an old run to the first free ``<folder>.1``, ``.2``, ... and returns that path."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(target)
    logger.warning("the old run was moved to %s", target)
    return target


def training_images(cfg: TrainConfig, image_size: int) -> ImageDataset:
    """The training split that a run asks for.

    Raises:
        EcarError: no such data set, or images that cannot be read.
    """
    return open_dataset(
        cfg.dataset_name,
        split="train",
        image_size=image_size,
        data_root=cfg.data,
        streaming=cfg.streaming,
        limit=cfg.limit,
    )


def initial_seed(cfg: TrainConfig) -> None:
    """Seeds torch's global generator, which the layers' initial weights come from."""
    torch.manual_seed(generator(cfg.seed, "weights", 0).initial_seed())


def compile_objective(objective: nn.Module, device: torch.device) -> None:
    """torch.compile in place, or a warning that says what is missing.

    Of an objective with transformer blocks, each block is compiled by itself: one graph per shape
    serves all of them. On one AMX core that takes a minute and a half instead of nearly four, and
    trains as fast: 1.4 times the images of eager mode (CIFAR-10, batch 128).
    """
    compiler = os.environ.get("CXX", "c++" if shutil.which("c++") else "g++")
    if device.type == "cpu" and not shutil.which(compiler):
        logger.warning("no C++ compiler (%s): training goes on without torch.compile", compiler)
        return
    blocks = [module for module in objective.modules() if isinstance(module, Block)]
    for module in blocks or [objective]:
        module.compile(dynamic=False)


def without_compiling() -> contextlib.AbstractContextManager:
    """Within the block compiled parts run as written: for a few calls of other shapes."""
    return torch.compiler.set_stance("force_eager")


class StopSignal(contextlib.AbstractContextManager):
    """Notes SIGTERM and SIGINT instead of dying; a second SIGINT interrupts as usual."""

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True
        logger.warning("stopping after this step: the run is saved and can be resumed")

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
