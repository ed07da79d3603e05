"""What a trainer writes into a checkpoint and how it goes on from one."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ecar_lab.errors import EcarError
from ecar_lab.training.checkpoints import (
    list_checkpoints,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    remove_leftovers,
    save_checkpoint,
)
from ecar_lab.training.config import FREE_ON_RESUME, TrainConfig
from ecar_lab.training.log import DivergenceGuard, Meter
from ecar_lab.training.optim import Plan
from ecar_lab.training.task import Task

logger = logging.getLogger(__name__)
NEW_RUN = "set it back to continue, or give another --output for a new run"


class Training(Protocol):
    """The side of a trainer that a checkpoint is made of; the last four are what a resume sets."""

    cfg: TrainConfig
    task: Task
    accelerator: Accelerator
    run_folder: Path
    device: torch.device
    main: bool
    global_batch: int
    parameter_names: list[str]
    parameters: list[nn.Parameter]
    optimizers: list[torch.optim.Optimizer]
    ema: EMAModel
    meter: Meter
    guard: DivergenceGuard
    step: int
    plan: Plan
    seconds_before: float
    last_row: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Time spent so far, all parts of the run together."""
        ...


def save(trainer: Training) -> None:
    """Writes the checkpoint of the step that the trainer has reached, if the run is in order.

    A run whose loss has just left its range writes none: the last good one must stay.

    Raises:
        EcarError: the disk is full, or loss or weights are not finite any more.
    """
    trainer.meter.share(trainer.accelerator)
    if trainer.main:
        if healthy(trainer):
            save_checkpoint(
                trainer.run_folder, trainer.step, tensors_of(trainer), state_of(trainer),
                trainer.cfg.keep,
            )  # fmt: skip
    else:
        trainer.meter.reset()  # the sums of all processes live on in the main one
    trainer.accelerator.wait_for_everyone()


def healthy(trainer: Training) -> bool:
    """Whether the state is worth keeping: loss in its range; raises if anything is not finite."""
    loss = trainer.meter.means().get("loss", trainer.last_row.get("loss", 0.0))
    finite = torch.nn.utils.get_total_norm(trainer.parameters).isfinite()
    bad = float(trainer.meter.first_bad)
    if math.isfinite(bad) or not finite:
        rate = trainer.last_row.get("lr", trainer.cfg.lr)
        trainer.guard.fail(min(bad, trainer.step), rate)
    suspicious = trainer.guard.is_high(loss)
    if suspicious:
        logger.warning("no checkpoint at step %d: the loss %.4g is high", trainer.step, loss)
    return not suspicious


def tensors_of(trainer: Training) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint, by file."""
    return {
        "model": trainer.task.model.state_dict(),
        "ema": dict(zip(trainer.parameter_names, trainer.ema.shadow_params, strict=True)),
        "optimizer": optimizer_tensors(trainer.optimizers),
    }


def state_of(trainer: Training) -> dict[str, Any]:
    """Everything else of a checkpoint, as JSON.

    There is no state of a random generator in it: all randomness of step n is drawn anew from
    (seed, n).
    """
    return {
        "step": trainer.step,
        "global_batch": trainer.global_batch,
        "plan": vars(trainer.plan),
        "seconds": trainer.seconds,
        "config": trainer.cfg.to_dict(),
        "position": trainer.task.position(trainer.step),
        "ema_steps": trainer.ema.optimization_step,
        "meter": trainer.meter.state(),
        "guard": trainer.guard.state(),
        "last_row": trainer.last_row,
    }


def resume(trainer: Training) -> bool:
    """Goes on from a checkpoint if there is one; returns whether it did.

    Raises:
        EcarError: the checkpoint is damaged or belongs to another run.
    """
    folder = find_checkpoint(trainer.cfg)
    if trainer.main:
        remove_leftovers(trainer.run_folder)
    if folder is None:
        return False
    tensors, state = load_checkpoint(folder)
    check_same_run(trainer, folder, state)
    load_weights(trainer.task.model, tensors["model"], folder)
    load_optimizer_tensors(trainer.optimizers, tensors["optimizer"])
    averaged = [tensors["ema"][name].to(trainer.device) for name in trainer.parameter_names]
    torch._foreach_copy_(trainer.ema.shadow_params, averaged)
    trainer.ema.optimization_step = state["ema_steps"]
    trainer.step, trainer.seconds_before = state["step"], state["seconds"]
    trainer.plan = resumed_plan(trainer.cfg, state)
    trainer.guard.restore(state["guard"])
    if trainer.main:
        trainer.meter.restore(state["meter"])
    trainer.last_row = state["last_row"]
    trainer.task.restore(state["position"])
    if trainer.main:
        logger.info("resumed from %s", folder)
    return True


def find_checkpoint(cfg: TrainConfig) -> Path | None:
    """The checkpoint that ``cfg.resume`` asks for; None to start anew.

    Raises:
        EcarError: a path that holds none.
    """
    if cfg.resume == "none":
        return None
    if cfg.resume == "auto":
        found = list_checkpoints(cfg.run_folder)
        return found[-1] if found else None
    folder = Path(cfg.resume)
    inside = list_checkpoints(folder)
    if inside:  # a run folder was named
        return inside[-1]
    if not (folder / "state.json").is_file():
        raise EcarError(
            f"there is no checkpoint to resume from at {cfg.resume!r}: give auto, none, a run "
            "folder, or one of its checkpoints/step-... folders"
        )
    return folder


def check_same_run(trainer: Training, folder: Path, state: dict[str, Any]) -> None:
    """Refuses to go on under settings that would bend the curve."""
    if state["global_batch"] != trainer.global_batch:
        raise EcarError(
            f"the checkpoint {str(folder)!r} was trained with {state['global_batch']} images "
            f"a step, this run has {trainer.global_batch}: {NEW_RUN}"
        )
    for name, value in trainer.cfg.to_dict().items():
        old = state["config"].get(name, value)
        if name not in FREE_ON_RESUME and old != value:
            raise EcarError(
                f"the checkpoint {str(folder)!r} was trained with {name} {old!r}, this run "
                f"has {value!r}: {NEW_RUN}"
            )


def resumed_plan(cfg: TrainConfig, state: dict[str, Any]) -> Plan:
    """The stored plan; if steps or time box were changed on purpose, it is bent from here on."""
    plan, old, step = Plan(**state["plan"]), state["config"], state["step"]
    if old["steps"] == cfg.steps and old["max_minutes"] == cfg.max_minutes:
        return plan
    if cfg.max_minutes is None:
        return plan.revised(step, cast(int, cfg.steps))
    return Plan(cfg.steps, start=step, progress=plan.at(step))


def load_weights(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Fills the model; `EcarError` names the first tensor that does not fit."""
    own = model.state_dict()
    for name in sorted(set(own) | set(tensors)):
        there, here = (t[name].shape if name in t else None for t in (tensors, own))
        if there != here:
            raise EcarError(
                f"the checkpoint {str(folder)!r} has {name} of shape "
                f"{None if there is None else tuple(there)}, this model "
                f"{None if here is None else tuple(here)}: resume with the model of the old run"
            )
    model.load_state_dict(tensors)
