"""What a trainer writes into a checkpoint and how it goes on from one."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ecar_lab.data.identity import difference
from ecar_lab.errors import EcarError
from ecar_lab.presets import SAMPLING_DEFAULTS
from ecar_lab.training.agreement import everyone, of_the_first, together
from ecar_lab.training.checkpoints import (
    UnsoundCheckpoint,
    list_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
    set_unsound_aside,
    unsound,
)
from ecar_lab.training.config import FREE_ON_RESUME, TrainConfig
from ecar_lab.training.launch import Launch
from ecar_lab.training.log import DivergenceGuard, Meter
from ecar_lab.training.optim import Plan, load_optimizer_tensors, optimizer_tensors
from ecar_lab.training.run_folder import RunFolder
from ecar_lab.training.sharding import collected, like, whole
from ecar_lab.training.task import Task

logger = logging.getLogger(__name__)
NEW_RUN = "set it back to continue, or give another --output for a new run"


class Training(Protocol):
    """The side of a trainer that a checkpoint is made of; the last four are what a resume sets."""

    cfg: TrainConfig
    task: Task
    accelerator: Accelerator
    folder: RunFolder
    run_folder: Path
    device: torch.device
    main: bool
    global_batch: int
    all_weights_used: bool
    parameter_names: list[str]
    parameters: list[nn.Parameter]
    optimizers: list[torch.optim.Optimizer]
    averages: dict[str, EMAModel]
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

    @property
    def spread(self) -> bool:
        """Whether every process has only its part of the weights."""
        ...


def save(trainer: Training) -> None:
    """Writes the checkpoint of the step that the trainer has reached, if the run is in order.

    A run whose loss has just left its range writes none: the last good one must stay.

    Raises:
        EcarError: the disk is full, the run folder is gone, or loss or weights are not finite any
            more.
    """
    trainer.meter.share(trainer.accelerator)
    tensors: dict[str, dict[str, Tensor]] = {}
    finite = True
    if trainer.main or trainer.spread:
        finite = bool(whole(torch.nn.utils.get_total_norm(trainer.parameters)).isfinite())
        tensors = tensors_of(trainer)
    if trainer.main:
        trainer.folder.check()
        if healthy(trainer, finite):
            save_checkpoint(
                trainer.run_folder, trainer.step, tensors, state_of(trainer), trainer.cfg.keep
            )
    else:
        trainer.meter.reset()  # the sums of all processes live on in the main one
    trainer.accelerator.wait_for_everyone()


def healthy(trainer: Training, finite: bool) -> bool:
    """Whether the state is worth keeping: loss in its range; raises if anything is not finite."""
    loss = trainer.meter.means().get("loss", trainer.last_row.get("loss", 0.0))
    bad = float(trainer.meter.first_bad)
    if math.isfinite(bad) or not finite:
        rate = trainer.last_row.get("lr", trainer.cfg.lr)
        trainer.guard.fail(min(bad, trainer.step), rate)
    suspicious = trainer.guard.is_high(loss)
    if suspicious:
        logger.warning("no checkpoint at step %d: the loss %.4g is high", trainer.step, loss)
    return not suspicious


def tensors_of(trainer: Training) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint, by file: whole ones, in the main process."""
    named = {
        "model": trainer.task.trained.state_dict(),
        **{
            name: dict(zip(trainer.parameter_names, average.shadow_params, strict=True))
            for name, average in trainer.averages.items()
        },
        "optimizer": optimizer_tensors(trainer.optimizers),
    }
    return {file: collected(tensors, trainer.main) for file, tensors in named.items()}


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
        "ema_steps": trainer.averages["ema"].optimization_step,  # the same for a second one
        "meter": trainer.meter.state(),
        "guard": trainer.guard.state(),
        "last_row": trainer.last_row,
        "identity": trainer.task.identity,
    }


def resume(trainer: Training) -> bool:
    """Goes on from a checkpoint if there is one; returns whether it did.

    Where a run goes on by itself, the newest sound checkpoint counts, and damaged ones after it are
    set aside. Where none is sound all stay, so that no run begins anew in silence.

    Raises:
        EcarError: no checkpoint is sound, the one that was named is damaged, or it belongs to
            another run.
    """
    accelerator = trainer.accelerator
    named, folders = of_the_first(
        accelerator,
        together(accelerator, lambda: find_checkpoints(trainer.cfg, trainer.folder)),
    )
    reasons: dict[Path, str] = {}
    for folder in reversed(folders):
        state, unsound_one = together(accelerator, lambda f=folder: try_to_restore(trainer, f))
        said = everyone(accelerator, str(unsound_one or ""))  # all have looked at it
        if state is None or any(said):
            if not all(said):
                process, sentence = next((n, one) for n, one in enumerate(said) if one)
                raise EcarError(
                    f"process {process} cannot go on from {str(folder)!r}, which others can "
                    f"({sentence.partition(': delete')[0]}): give all processes the same run folder"
                )
            if named and unsound_one:
                raise unsound_one
            reasons[folder] = str(unsound_one).partition(": delete")[0]
            continue
        if trainer.main:
            for damaged, reason in reasons.items():
                logger.warning("%s; %s", reason, set_unsound_aside(trainer.run_folder, damaged))
            logger.info("resumed from %s", folder)
            if state["identity"] is None:
                logger.warning(
                    "this checkpoint does not say which images it was trained on: they are taken "
                    "to be the same as now"
                )
        return True
    if reasons:
        raise EcarError(
            f"none of the {len(reasons)} checkpoints is sound (the newest: "
            f"{next(iter(reasons.values()))}): train anew with --resume none, or bring one back "
            "from a copy"
        )
    return False


def try_to_restore(
    trainer: Training, folder: Path
) -> tuple[dict[str, Any] | None, UnsoundCheckpoint | None]:
    """What ``restore`` gives, or why the checkpoint is unsound."""
    try:
        return restore(trainer, folder), None
    except UnsoundCheckpoint as error:
        return None, error


def restore(trainer: Training, folder: Path) -> dict[str, Any]:
    """Sets a trainer back to a checkpoint, whose state is returned.

    Raises:
        UnsoundCheckpoint: it is damaged, or does not fit although it says that it does.
        EcarError: it belongs to another run.
    """
    tensors, state = load_checkpoint(folder)
    check_same_run(trainer, folder, state)
    check_fit(folder, "model", tensors["model"], trainer.task.trained.state_dict())
    average_shapes = dict(zip(trainer.parameter_names, trainer.parameters, strict=True))
    for stem in trainer.averages:
        if stem not in tensors:
            raise EcarError(
                f"the checkpoint {str(folder)!r} holds no second set of averaged weights: leave "
                "out second_ema_decay to continue, or give another --output for a new run"
            )
        check_fit(folder, stem, tensors[stem], average_shapes)
    try:
        trainer.task.restore(state["position"])
        complete = trainer.all_weights_used and state["step"] > 0
        load_optimizer_tensors(trainer.optimizers, tensors["optimizer"], complete)
        trainer.meter.restore(state["meter"])
    except (ValueError, TypeError, RuntimeError) as error:
        unsound(folder, str(error))
    if not trainer.main:
        trainer.meter.reset()  # the sums of all processes live on in the main one
    own = trainer.task.trained.state_dict()
    trainer.task.trained.load_state_dict({k: like(v, own[k]) for k, v in tensors["model"].items()})
    for stem, average in trainer.averages.items():
        for name, shadow in zip(trainer.parameter_names, average.shadow_params, strict=True):
            shadow.copy_(like(tensors[stem][name], shadow))
        average.optimization_step = state["ema_steps"]
    trainer.step, trainer.seconds_before = state["step"], state["seconds"]
    trainer.plan = resumed_plan(trainer.cfg, state)
    trainer.guard.restore(state["guard"])
    trainer.last_row = state["last_row"]
    return state


def find_checkpoints(cfg: TrainConfig, run: RunFolder) -> tuple[bool, list[Path]]:
    """Whether ``cfg.resume`` names a place, and the checkpoints there, oldest first.

    Of a run folder that is named, only the newest counts. Where the launcher has replaced lost
    processes, the run goes on from what it has saved since it was launched.

    Raises:
        EcarError: a path that holds none.
    """
    if run.relaunched and cfg.resume != "auto":
        own = [
            folder for folder in list_checkpoints(cfg.run_folder) if folder.name not in run.found
        ]
        if own:
            return False, own
    if cfg.resume == "none":
        return False, []
    if cfg.resume == "auto":
        return False, list_checkpoints(cfg.run_folder)
    folder = Path(cfg.resume)
    inside = list_checkpoints(folder)
    if inside:  # a run folder was named
        return True, inside[-1:]
    if not (folder / "state.json").is_file():
        raise EcarError(
            f"there is no checkpoint to resume from at {cfg.resume!r}: give auto, none, a run "
            "folder, or one of its checkpoints/step-... folders"
        )
    return True, [folder]


def going_on_from(cfg: TrainConfig, launch: Launch) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a run will go on from and the configuration in it; None: it begins.

    For what has to be known before the model is made. Whether the checkpoint is sound is asked
    later, by :func:`resume`; where none can be read, the configuration is the run's own.

    Raises:
        EcarError: ``cfg.resume`` is a path that holds none.
    """

    def look() -> tuple[Path, dict[str, Any]] | None:
        _, folders = find_checkpoints(cfg, launch.folder)
        for folder in reversed(folders):
            with contextlib.suppress(UnsoundCheckpoint, OSError):
                return folder, read_state(folder)["config"]
        return (folders[-1], cfg.to_dict()) if folders else None

    return of_the_first(launch.accelerator, together(launch.accelerator, look))


def check_same_run(trainer: Training, folder: Path, state: dict[str, Any]) -> None:
    """Refuses to go on under settings that would bend the curve."""
    if state["global_batch"] != trainer.global_batch:
        raise EcarError(
            f"the checkpoint {str(folder)!r} was trained with {state['global_batch']} images "
            f"per step, this run has {trainer.global_batch}: {NEW_RUN}"
        )
    for name, value in trainer.cfg.to_dict().items():
        old = state["config"].get(name, value)
        if name not in FREE_ON_RESUME and of_training(old) != of_training(value):
            raise EcarError(
                f"the checkpoint {str(folder)!r} was trained with {name} {old!r}, this run "
                f"has {value!r}: {NEW_RUN}"
            )
    changed = difference(state["identity"] or {}, trainer.task.identity)
    if changed and not trainer.cfg.new_data:
        raise EcarError(
            f"{changed}, unlike when the checkpoint {str(folder)!r} was trained: bring the old "
            "data back to continue, give another --output for a new run, or go on with what is "
            "there now by --new-data"
        )
    if changed and trainer.main:
        logger.warning("%s: the run goes on with that", changed)


def of_training(setting: Any) -> Any:
    """A setting without what bends no curve: the defaults of sampling among a model's arguments."""
    if not isinstance(setting, dict):
        return setting
    return {name: value for name, value in setting.items() if name not in SAMPLING_DEFAULTS}


def resumed_plan(cfg: TrainConfig, state: dict[str, Any]) -> Plan:
    """The stored plan; if steps or time box were changed on purpose, it is bent from here on."""
    plan, old, step = Plan(**state["plan"]), state["config"], state["step"]
    ends = {"steps": cfg.steps, "max_minutes": cfg.max_minutes}
    if all(old.get(name, now) == now for name, now in ends.items()):
        return plan
    if cfg.max_minutes is None:
        return plan.revised(step, cast(int, cfg.steps))
    return Plan(cfg.steps, start=step, progress=plan.at(step))


def check_fit(
    folder: Path, stem: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    """Compares names, shapes, types and finiteness with what a trainer has.

    Raises:
        UnsoundCheckpoint: naming the first tensor that does not fit.
    """
    for name in sorted(set(own) | set(tensors)):
        there, here = (
            f"{str(t[name].dtype).removeprefix('torch.')} {tuple(t[name].shape)}"
            if name in t
            else "not at all"
            for t in (tensors, own)
        )
        if there != here:
            unsound(folder, f"{stem} has {name} of shape {there}, this model {here}")
        if not tensors[name].isfinite().all():
            unsound(folder, f"{stem} has {name} with values that are not finite")
