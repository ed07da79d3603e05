"""Checks of notebook 5: the loss of all stages and the sampling loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ecar_lab.flow import endpoints, pyramid, transition, upsample
from ecar_lab.generator import TrainingDraw
from ecar_lab.teaching import pieces
from ecar_lab.teaching.check import (
    Counted,
    Wrong,
    exercise,
    expect_close,
    expect_gradients,
    expect_list,
)
from ecar_lab.teaching.check._modules import leaves

# -- the loss --------------------------------------------------------------------------------------


def _model(stages: int) -> Any:
    """A small E-CAR of the kit's parts with random weights, all gates open."""
    model = pieces.MyECAR(SimpleNamespace(
        latent_size=2**stages, num_stages=stages, window_ends=None, coupling="independent",
        patch_size=1, latent_channels=2, num_classes=4, width=16, num_heads=2,
        transformer_layers=2, head_layers=2,
    ))  # fmt: skip
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.3)
    return model


def _draw(model: Any, batch: int) -> TrainingDraw:
    sides, channels = model.schedule.resolutions, model.latent_channels
    noise = tuple(torch.randn(batch, channels, side, side) for side in sides)
    drop = torch.linspace(0.05, 0.95, batch)
    return TrainingDraw(noise, torch.rand(batch, len(sides)), drop, torch.randn_like(noise[-1]))


def _errors(
    model: Any, latent: Tensor, labels: Tensor, draw: TrainingDraw, rate: float, *,
    drop: str = "both", history: str = "ends", tau: str = "own", target: str = "way",
    swap: bool = False, maps: str = "own",
) -> list[Tensor]:  # fmt: skip
    """The errors of all stages; every option but the default is a mistake."""
    dropped = torch.where(draw.class_drop < rate, model.null_class, labels)
    of_maps = dropped if drop in ("both", "transformer") else labels
    of_head = dropped if drop in ("both", "head") else labels
    starts, ends = endpoints(model.schedule, latent, draw.noise)
    read = {"ends": ends, "starts": starts, "clean": pyramid(latent, len(ends))}[history]
    token_maps = model.transformer(read[:-1], of_maps)
    errors = []
    for stage, token_map in enumerate(token_maps):
        local_time = draw.local_time[:, 0 if tau == "first" else stage]
        ways = (ends[stage], starts[stage]) if swap else (starts[stage], ends[stage])
        state = torch.lerp(*ways, local_time[:, None, None, None])
        modulations = model.head.modulations(stage, local_time, of_head)
        token_map = token_map if maps == "own" else token_map.detach()
        velocity = model.head(stage, state, model.head.read(token_map), modulations)
        clean = pyramid(latent, len(ends))[stage]
        aim = {"way": ends[stage] - starts[stage], "end": ends[stage],
               "data": clean - draw.noise[stage]}[target]  # fmt: skip
        errors.append(velocity - aim)
    return errors


LOSS_MISTAKES: dict[str, dict[str, Any]] = {
    "no image loses its class: replace labels where class_drop is below class_dropout": {
        "drop": "none"
    },
    "the transformer alone loses the class: the head too": {"drop": "transformer"},
    "the head alone loses the class: the transformer too": {"drop": "head"},
    "the transformer reads clean images: it reads end states, which are still noisy": {
        "history": "clean"
    },
    "the transformer reads start states: it reads the end states of earlier stages": {
        "history": "starts"
    },
    "all stages get the local times of the first: column s of draw.local_time is stage s": {
        "tau": "first"
    },
    "start and end are swapped in the state": {"swap": True},
    "the target is the end itself: it is the way, end - start": {"target": "end"},
    "the target is data - noise, the velocity of the whole way: a stage goes from start to end": {
        "target": "data"
    },
}


@exercise("5.5 the loss", pieces.flow_errors, settings=[(3, 4, 0.3), (2, 6, 0.5), (2, 3, 0.0)])
def flow_errors(
    attempt: Callable[..., Sequence[Tensor]], stages: int, batch: int, rate: float
) -> None:
    """``flow_errors(model, latent, class_labels, draw, class_dropout) -> [velocity - target]``."""
    model = _model(stages)
    draw, labels = _draw(model, batch), torch.arange(batch) % 4
    latent = torch.randn_like(draw.latent_noise)
    kept = [part.clone() for part in (*draw.noise, draw.local_time, draw.class_drop)]
    right = pieces.flow_errors(model, latent, labels, draw, rate)
    wrong = {
        words: _errors(model, latent, labels, draw, rate, **option)
        for words, option in LOSS_MISTAKES.items()
    }
    calls = Counted(model.transformer.forward)
    model.transformer.forward = calls
    found = expect_list(attempt(model, latent, labels, draw, rate), "the result")
    if any(
        not torch.equal(a, b)
        for a, b in zip(kept, (*draw.noise, draw.local_time, draw.class_drop), strict=True)
    ):
        raise Wrong("your function changed the draw in place: another model still needs it")
    if len(found) != stages:
        raise Wrong(f"it returns {len(found)} tensors: one per stage, {stages}")
    for stage, (got, want) in enumerate(zip(found, right, strict=True)):
        mistakes = {words: errors[stage] for words, errors in wrong.items()}
        mistakes["it is target - velocity: the velocity first"] = -want
        mistakes["it is squared already: multistage_loss squares"] = want.square()
        with torch.no_grad():
            expect_close(got, want, mistakes, f"the error of stage {stage + 1}")
    if len(calls.calls) != 1:
        raise Wrong(
            f"it calls the transformer {len(calls.calls)} times: one masked call gives all maps"
        )
    whole = torch.cat([one.flatten() for one in found]), torch.cat([e.flatten() for e in right])
    expect_gradients(*whole, {
        **{f"transformer.{n}": w for n, w in leaves(model.transformer, "patch", "final").items()},
        **{f"head.{n}": w for n, w in leaves(model.head, "map", "out", "final").items()},
    })  # fmt: skip


# -- the sampling loop -----------------------------------------------------------------------------


@exercise(
    "5.7 the sampling loop",
    pieces.generate,
    settings=[(3, (2, 3, 2), (1, 2.5, 2)), (2, (3, 1), (1, 1)), (2, (2, 2), (3, 1))],
)
def generate(
    attempt: Callable[..., Sequence[pieces.Event]],
    stages: int,
    steps: tuple[int, ...],
    guidance: tuple[float, ...],
) -> None:
    """``generate(model, class_labels, steps, guidance, generator) -> [(stage, step, latent)]``."""
    model, labels = _model(stages), torch.tensor([3, 1])
    right = pieces.generate(model, labels, steps, guidance, torch.Generator().manual_seed(5))
    asked = Counted(model.transformer.step)
    rows: list[int] = []
    hook = model.head.register_forward_pre_hook(lambda _, given: rows.append(len(given[1])))
    model.transformer.step = asked
    events = expect_list(
        attempt(model, labels, steps, guidance, torch.Generator().manual_seed(5)), "the result"
    )
    del model.transformer.step
    hook.remove()
    if any(not isinstance(event, tuple) or len(event) != 3 for event in events):
        raise Wrong("every entry of the result is (stage, step, latent)")
    wanted, found = ([(int(e[0]), int(e[1])) for e in every] for every in (right, events))
    if wanted != found:
        if found == [place for place in wanted if place[1]]:
            raise Wrong("the start of every stage is missing: append (stage, 0, latent) too")
        if found == [place for place in wanted if place[1] == steps[place[0]]]:
            raise Wrong("only the ends of the stages are there: append every step")
        raise Wrong(f"the events are {found}: they should be {wanted}")
    for number, (event, want) in enumerate(zip(events, right, strict=True)):
        stage, step, latent = want
        if isinstance(event[2], Tensor) and event[2].requires_grad:
            raise Wrong("sampling keeps what a backward pass needs: put torch.no_grad() around it")
        before = right[number - 1][2] if number else None
        ends = [e[2] for e in right[:number] if e[1] == steps[e[0]]]
        with torch.no_grad():
            if step:
                mistakes = _wrong_steps(model, labels, stage, step, steps, guidance, before, ends)
            else:
                mistakes = _wrong_starts(model, stage, before, latent)
        place = f"step {step} of" if step else "the start of"
        expect_close(event[2], latent, mistakes, f"the latent at {place} stage {stage + 1}", 1e-3)
    _expect_thrift([len(call[2]) for call in asked.calls], rows, steps, guidance)


def _wrong_starts(model: Any, stage: int, before: Any, right: Tensor) -> dict[str, Tensor]:
    if stage == 0:
        return {"the first stage starts from nothing: from noise": torch.zeros_like(right)}
    clean = transition(model.schedule, stage, before, torch.zeros_like(right))
    coefficients = model.schedule.transition(stage)
    noise = (right - clean) / coefficients.sigma
    return {
        "the stage starts without fresh noise: transition(schedule, stage, end, noise)": clean,
        "the end state is only upsampled: use transition, which scales it and adds noise": (
            upsample(before)
        ),
        "the stage starts from noise alone: from the end state of the one before": noise,
        "noise is added with its full strength: transition knows how much": (
            upsample(before) + noise
        ),
    }


def _wrong_steps(
    model: Any, labels: Tensor, stage: int, step: int, steps: Sequence[int],
    guidance: Sequence[float], x: Any, ends: Sequence[Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """Diagnosis -> where the mistake leads from the state before the step."""

    def at(time: float, labels: Tensor, history: Sequence[Tensor] = ends, map_of=None) -> Tensor:
        maps = model.transformer(history, labels if map_of is None else map_of, stage + 1)
        modulations = model.head.modulations(stage, torch.full((len(x),), time), labels)
        return model.head(stage, x, model.head.read(maps[stage]), modulations)

    nobody = torch.full_like(labels, model.null_class)
    count, scale = steps[stage], guidance[stage]
    time, length = (step - 1) / count, 1 / count
    with_class, without = at(time, labels), at(time, nobody)
    late, late_none = at(step / count, labels), at(step / count, nobody)
    right = without + scale * (with_class - without)
    mistakes = {
        "it goes backwards: latent + dt * velocity": x - length * right,
        "dt is 1: it is one over the number of steps": x + right,
        "the latent does not move: latent + dt * velocity": x,
        "time is that of the end of the step: a step begins with the velocity at its start": (
            x + length * (late_none + scale * (late - late_none))
        ),
    }
    if scale != 1:
        mistakes["the velocity is not guided: guidance has one scale per stage"] = (
            x + length * with_class
        )
        mistakes["the halves are swapped: the one with class comes first"] = x + length * (
            with_class + scale * (without - with_class)
        )
        with_map = without + scale * (at(time, labels, map_of=nobody) - without)
        mistakes["the token map of the half without class serves both halves"] = x + length * (
            with_map
        )
    for other in set(guidance) - {scale}:
        mistakes[f"the stage is guided by {other:g}, another stage's scale"] = x + length * (
            without + other * (with_class - without)
        )
    if step > 1:
        first, none = at(0.0, labels), at(0.0, nobody)
        mistakes["every step has the modulations of the first: take those of its own time"] = (
            x + length * (none + scale * (first - none))
        )
    if stage:
        blank = [torch.zeros_like(end) for end in ends]
        a, b = at(time, labels, blank), at(time, nobody, blank)
        mistakes["the transformer reads zeros: the end state of the stage before"] = x + length * (
            b + scale * (a - b)
        )
    return mistakes


def _expect_thrift(
    asked: list[int], rows: list[int], steps: Sequence[int], guidance: Sequence[float]
) -> None:
    """The transformer once per stage, the head once per step, halves without class where needed."""
    if len(asked) != len(steps):
        raise Wrong(f"it calls the transformer {len(asked)} times: once per stage, {len(steps)}")
    if len(rows) != sum(steps):
        raise Wrong(f"it calls the head {len(rows)} times: once per step, {sum(steps)}")
    once = [1 + (g != 1) for g, n in zip(guidance, steps, strict=True) for _ in range(n)]
    if rows != [2 * halves for halves in once]:
        raise Wrong(
            "the head runs a half without class in a stage that is not guided: ask for one half"
        )
    late = [1 + any(g != 1 for g in guidance[stage:]) for stage in range(len(steps))]
    if asked != [2 * halves for halves in late]:
        raise Wrong(
            "the transformer runs a half without class too often: it is needed up to the last "
            "guided stage, and no longer"
        )
