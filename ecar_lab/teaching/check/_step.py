"""The check of the trainer's step, of notebook 6."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ecar_lab.teaching import pieces
from ecar_lab.teaching.check import Wrong, exercise, expect_close
from ecar_lab.training.optim import Plan, lr_factor

CONFIG = SimpleNamespace(
    steps=40, lr=0.05, warmup_steps=3, lr_floor=0.1, grad_clip=0.5, ema_decay=0.3
)


def _stepped(
    model: nn.Module, loss: Tensor, optimizers: Sequence[Any], average: Sequence[Tensor],
    step: int, config: Any, *, clip: str = "before", rate: str = "own", kept: bool = False,
    first: bool = False, mean: str = "after", decay: str = "warm", told: str = "before",
) -> Tensor:  # fmt: skip
    """A trainer's step; every option but the default is a mistake."""
    weights = list(model.parameters())
    loss.backward()
    norm = nn.utils.clip_grad_norm_(weights, config.grad_clip if clip == "before" else 1e9)
    if clip == "each":
        for weight in weights:
            nn.utils.clip_grad_norm_([weight], config.grad_clip)
    if clip == "numbers":
        nn.utils.clip_grad_value_(weights, config.grad_clip)
    at = step + 1 if rate == "next" else step
    factor = lr_factor(at, Plan(config.steps), config.warmup_steps, config.lr_floor)
    if mean == "before":
        _averaged(average, weights, step, config, decay)
    for optimizer in optimizers[:1] if first else optimizers:
        for group in optimizer.param_groups:
            if rate != "still":
                group["lr"] = factor * (1 if rate == "factor" else config.lr)
        optimizer.step()
    if mean == "after":
        _averaged(average, weights, step, config, decay)
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    after = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    if not kept:
        for weight in weights:
            weight.grad = None
    return norm if told == "before" else after


def _averaged(
    average: Sequence[Tensor], weights: Sequence[Tensor], step: int, config: Any, decay: str
) -> None:
    early = (1 + step) / (10 + step) if step or decay == "from the start" else 0.0
    share = config.ema_decay if decay == "constant" else min(config.ema_decay, early)
    share = early if decay == "warm only" else share
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight.detach(), share if decay == "swapped" else 1 - share)


MISTAKES: dict[str, dict[str, Any]] = {
    "the gradients are not clipped, or only after the step: before optimizer.step()": {
        "clip": "never"
    },
    "every weight's gradient is clipped by its own norm: one norm for all": {"clip": "each"},
    "every number of a gradient is cut off by itself: clip their common norm": {"clip": "numbers"},
    "the learning rate stays as it was: set group['lr'] before optimizer.step()": {"rate": "still"},
    "the learning rate is the bare factor: multiply it by config.lr": {"rate": "factor"},
    "the learning rate is that of the next step": {"rate": "next"},
    "gradients of earlier steps stay and add up: optimizer.zero_grad() at the end": {"kept": True},
    "the first optimizer alone makes its step: all of them": {"first": True},
    "the average is moved before the weights are: after optimizer.step()": {"mean": "before"},
    "the average never moves: update it at the end": {"mean": "never"},
    "the average's decay is config.ema_decay from the start: it warms up, "
    "min(ema_decay, (1 + step) / (10 + step))": {"decay": "constant"},
    "the average's decay grows without end: at most config.ema_decay": {"decay": "warm only"},
    "the average's decay in step 0 is not 0: the first weights are taken whole": {
        "decay": "from the start"
    },
    "the decay weighs the new weights: it weighs the old average": {"decay": "swapped"},
}


class _Race:
    """A small model in training: the attempt's, the right one's, each mistake's."""

    def __init__(self, optimizers: int) -> None:
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        parts = [self.model] if optimizers == 1 else [self.model[0], self.model[2]]
        self.optimizers = [
            torch.optim.SGD(part.parameters(), lr=0.02 * (1 + n)) for n, part in enumerate(parts)
        ]
        self.average = [weight.detach().clone() for weight in self.model.parameters()]
        self.weights: list[Tensor] = []  # after each step
        self.means: list[Tensor] = []

    def loss(self, data: Tensor) -> Tensor:
        return 20 * (self.model(data) - data[:, :2]).square().mean()

    def step(self, function: Callable[..., Any], data: Tensor, number: int, **mistake: Any) -> Any:
        told = function(
            self.model, self.loss(data), self.optimizers, self.average, number, CONFIG, **mistake
        )
        weights = [weight.detach() for weight in self.model.parameters()]
        for kept, now in ((self.weights, weights), (self.means, self.average)):
            kept.append(torch.cat([one.flatten() for one in now]))
        return told


@exercise("6.5 the trainer's step", pieces.train_step, settings=[(2, 0), (1, 7)], changes=3)
def train_step(attempt: Callable[..., Any], optimizers: int, seed: int) -> None:
    """``train_step(model, loss, optimizers, average, step, config) -> norm before clipping``."""
    mine, right = _Race(optimizers), _Race(optimizers)
    wrong = {words: _Race(optimizers) for words in MISTAKES}
    start = copy.deepcopy(right.model.state_dict())
    for race in (mine, *wrong.values()):
        race.model.load_state_dict(start)
        race.average = [weight.clone() for weight in right.average]
    told: list[Any] = []
    norms: list[float] = []
    losses: list[float] = []
    for number in (0, 1, 2, 9):
        data = torch.randn(16, 3, generator=torch.Generator().manual_seed(seed + number))
        told.append(mine.step(attempt, data, number))
        losses.append(right.loss(data).item())
        norms.append(float(right.step(_stepped, data, number)))
        for words, race in wrong.items():
            race.step(_stepped, data, number, **MISTAKES[words])
    if all(torch.equal(mine.weights[0], weights) for weights in mine.weights[1:]):
        raise Wrong("the weights do not move: loss.backward(), then optimizer.step()")
    _expect_alike(mine, right, wrong)
    if any(one is None for one in told):
        raise Wrong("it returns nothing: return the gradients' norm before clipping")
    expect_close(
        torch.tensor([float(torch.as_tensor(one).detach()) for one in told]),
        torch.tensor(norms),
        {
            "that is the norm after clipping: return the one before, it goes into the log": (
                torch.tensor(norms).clamp(max=CONFIG.grad_clip)
            ),
            "that is the loss: return the gradients' norm before clipping": torch.tensor(losses),
        },
        "the norm",
    )


def _expect_alike(mine: _Race, right: _Race, wrong: dict[str, _Race]) -> None:
    """The same weights after every step, and the same averages."""
    for what in ("weights", "average"):
        mistakes = {
            words: torch.stack(race.means if what == "average" else race.weights)
            for words, race in wrong.items()
            if words.startswith(("the average", "the decay")) == (what == "average")
        }
        found, wanted = (
            torch.stack(race.means if what == "average" else race.weights) for race in (mine, right)
        )
        expect_close(found, wanted, mistakes, f"the {what} after some steps", tolerance=1e-5)
    if any(weight.grad is not None and weight.grad.any() for weight in mine.model.parameters()):
        raise Wrong("gradients of earlier steps stay and add up: optimizer.zero_grad() at the end")
