"""Optimizers, their state as named tensors, and the learning-rate curve of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ecar_lab.files import Tensors
from ecar_lab.training.config import TrainConfig
from ecar_lab.training.muon import muon_for
from ecar_lab.training.sharding import WholeMuon, is_spread, like

# A weight whose smaller side is below this touches pixels or latents rather than hidden features
# (patch embedding, output projection): there an orthogonal update makes no sense.
HIDDEN_SIDE = 32


def is_hidden_matrix(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether ``parameter`` is the weight matrix of a linear map between hidden features."""
    return (
        isinstance(module, nn.Linear)
        and parameter.ndim == 2
        and min(parameter.shape) >= HIDDEN_SIDE
    )


def build_optimizers(model: nn.Module, cfg: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices and AdamW for all other parameters, or AdamW alone.

    Muon's step is scaled to the root mean square of an AdamW step (``match_rms_adamw``), so one
    learning rate serves both. Weight decay acts on matrices and kernels, not on biases, gains and
    embeddings.
    """
    hidden, decayed, plain = [], [], []
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if cfg.optimizer == "muon" and is_hidden_matrix(module, parameter):
                hidden.append(parameter)
            elif parameter.ndim >= 2 and not isinstance(module, nn.Embedding):
                decayed.append(parameter)
            else:
                plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": cfg.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if hidden:
        kind = WholeMuon if is_spread(hidden[0]) else muon_for(hidden[0].device)
        optimizers.append(
            kind(
                hidden,
                lr=cfg.lr,
                weight_decay=cfg.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    device = next(model.parameters()).device
    optimizers.append(
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=cfg.lr,
            betas=cfg.betas,
            fused=device.type in ("cpu", "cuda", "mps"),
        )
    )
    return optimizers


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> Tensors:
    """The state of all optimizers as named tensors: ``<optimizer>.<parameter>.<entry>``."""
    named: Tensors = {}
    for number, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                named[f"{number}.{index}.{key}"] = torch.as_tensor(value)
    return named


def load_optimizer_tensors(
    optimizers: list[torch.optim.Optimizer], named: Tensors, complete: bool = False
) -> None:
    """Puts back what ``optimizer_tensors`` took; settings such as the learning rate stay as built.

    Args:
        complete: every parameter must have its entries, as after a step that used them all.

    Raises:
        ValueError: the tensors are not the state of optimizers of this shape; none was touched.
    """
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in named.items():
        number, index, key = name.split(".", 2)
        if not 0 <= int(number) < len(states):
            raise ValueError(f"it holds the state of an optimizer {number}, this run has none")
        states[int(number)].setdefault(int(index), {})[key] = tensor
    for number, (optimizer, state) in enumerate(zip(optimizers, states, strict=True)):
        _check_entries(number, optimizer, state, complete)
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for index, entries in state.items():
            for key, tensor in entries.items():
                if tensor.ndim:  # fused optimizers walk weights and state in the same memory order
                    entries[key] = like(tensor, parameters[index])
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check_entries(
    number: int,
    optimizer: torch.optim.Optimizer,
    state: dict[int, dict[str, Tensor]],
    complete: bool,
) -> None:
    """Every parameter with a state has the same entries, of its own shape; `ValueError` if not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if complete and len(state) < len(parameters):
        missing = min(set(range(len(parameters))) - set(state))
        raise ValueError(f"it lacks the state of parameter {missing} of optimizer {number}")
    usual = {key for entries in state.values() for key in entries}
    for index, entries in state.items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"it has a parameter {index} of optimizer {number}, this run has none")
        if set(entries) != usual:
            raise ValueError(
                f"it lacks {min(usual - set(entries))} of parameter {index} of optimizer {number}"
            )
        for key, tensor in entries.items():
            if tensor.ndim and tensor.shape != parameters[index].shape:
                raise ValueError(
                    f"{key} of parameter {index} of optimizer {number} has shape "
                    f"{tuple(tensor.shape)}, the parameter {tuple(parameters[index].shape)}"
                )
            if not tensor.isfinite().all():
                raise ValueError(f"{key} of parameter {index} of optimizer {number} is not finite")


@dataclass
class Plan:
    """How far the learning-rate curve has come at a step, and where it ends.

    From ``start`` on, progress runs linearly from ``progress`` to 1 at ``total``; before ``total``
    is known it stands still. Without a time box the plan never changes. With one it is ``settled``
    once the rate is known, stored with every checkpoint, and revised at checkpoints only when the
    rate has changed; the learning rate never jumps.
    """

    total: int | None = None
    start: int = 0
    progress: float = 0.0
    settled: bool = False

    def at(self, step: int) -> float:
        """Progress in [0, 1] at ``step``."""
        if self.total is None:
            return self.progress
        rest = max(self.total - self.start, 1)
        done = min(max(step - self.start, 0) / rest, 1.0)
        return self.progress + (1.0 - self.progress) * done

    def revised(self, step: int, total: int) -> Plan:
        """The plan that goes on from here and ends at ``total``."""
        return Plan(max(total, step + 1), start=step, progress=self.at(step), settled=True)


def lr_factor(step: int, plan: Plan, warmup_steps: int, floor: float) -> float:
    """Learning rate at ``step`` as a fraction of its peak: linear warm-up times cosine to a floor.

    ``min(1, (step+1)/warmup) * (floor + (1-floor) * (1 + cos(pi * progress)) / 2)``
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warm * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * plan.at(step))))
