"""The processes of a run: what Accelerate is told, and what is said when one of them is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Generator

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend, GradientAccumulationPlugin

from ecar_lab.data.feeds import Share
from ecar_lab.device import keep_freed_memory, pick_device
from ecar_lab.errors import EcarError
from ecar_lab.training.config import TrainConfig

logger = logging.getLogger(__name__)
# Any of these says that a launcher has given this process its place among others.
PLACED = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# Ways to train that this trainer does not know; a launcher's configuration may ask for them.
FOREIGN = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG", "SAGEMAKER", "XLA")
KNOWN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
# What the backends say when the process at the other end is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")
LAUNCHED = (
    "a process of this run has ended: the reason stands above, if it was not killed; the same "
    "command goes on from the newest checkpoint"
)


def make_accelerator(cfg: TrainConfig) -> Accelerator:
    """The Accelerator of a run. What it does is what the configuration says, whatever the
    environment or a configuration file of Accelerate asks for.

    Raises:
        EcarError: the device is unknown or not there; Accelerate was told to do something else
            than the configuration says, and that cannot be overruled.
    """
    device = pick_device(cfg.device)
    for name in FOREIGN:
        variable = f"ACCELERATE_USE_{name}"
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on", "y", "t"):
            instead = "spread the weights with --fsdp (ecar train model)" if name == "FSDP" else ""
            raise EcarError(
                f"{variable} is set, and this trainer does not work that way: unset it, or choose "
                "no or multi-GPU in `accelerate config`" + (f", and {instead}" if instead else "")
            )
    start_missing_processes()
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no",  # device.autocast does it, in training and sampling alike
            dynamo_backend=DynamoBackend.NO,  # cfg.compile compiles
            # A plugin, since a plain number gives way to the environment.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=cfg.grad_accum),
        )
    except (ValueError, ImportError, RuntimeError, NotImplementedError) as error:
        raise EcarError(
            f"Accelerate cannot start ({' '.join(str(error).split())}): unset the variables that "
            "begin with ACCELERATE_ and WORLD_SIZE, RANK, LOCAL_RANK, or begin in a fresh process"
        ) from error
    check_effective(accelerator, cfg, device)
    if "OMP_NUM_THREADS" not in os.environ and accelerator.num_processes == 1:
        torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    keep_freed_memory(device)
    return accelerator


def check_effective(accelerator: Accelerator, cfg: TrainConfig, device: torch.device) -> None:
    """Compares what an Accelerator will do with what the configuration says.

    With ``device="auto"`` a launcher may choose among the devices that are there.

    Raises:
        EcarError: naming the first difference.
    """
    placed = accelerator.device
    if cfg.device == "auto" and placed.type in ("cuda", "mps", "cpu"):
        if placed.type != device.type:
            logger.warning("training on %s, as the launcher asks, not on %s", placed, device)
        device = placed
    same = placed.type == device.type and device.index in (None, placed.index)
    wanted = {
        "the device": (str(device), str(device) if same else str(placed)),
        "the precision": ("no", str(accelerator.mixed_precision)),
        "the compiler": (
            "NO",
            getattr(accelerator.state.dynamo_plugin, "backend", DynamoBackend.NO).value,
        ),
        "the micro-batches of a step": (cfg.grad_accum, accelerator.gradient_accumulation_steps),
        "the kind of parallel training": (
            "NO, MULTI_CPU or MULTI_GPU",
            "NO, MULTI_CPU or MULTI_GPU"
            if accelerator.distributed_type in KNOWN
            else accelerator.distributed_type.value,
        ),
    }
    for what, (asked, effective) in wanted.items():
        if asked != effective:
            raise EcarError(
                f"Accelerate would train with another value for {what}, {effective} instead of "
                f"{asked}: unset the variables that begin with ACCELERATE_, choose a GPU with "
                "CUDA_VISIBLE_DEVICES, or begin in a fresh process"
            )


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
    launcher = ["-m", "ecar_lab.training.processes", "--standalone", "--nproc-per-node", str(count)]
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


@contextlib.contextmanager
def told_when_a_process_is_lost() -> Generator[None]:
    """One sentence in place of what the backends say when a process of the run is gone.

    Raises:
        EcarError: one is.
    """
    try:
        yield
    except RuntimeError as error:  # DistError, and gloo's errors of no type of their own
        lost = isinstance(error, torch.distributed.DistError) or any(
            words in str(error) for words in LOST
        )
        if not lost or not torch.distributed.is_initialized():
            raise
        raise EcarError(
            "another process of this run has ended, so this one ends, too: the same command goes "
            "on from the newest checkpoint"
        ) from error


def main() -> int:
    """torchrun, less its traceback when a process fails; the exit status, 1 in that case."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(sys.argv[1:]))
    except ChildFailedError:
        print(f"error: {LAUNCHED}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
