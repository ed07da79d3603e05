"""Checks of notebook 7: the cost of a plan, guidance, forks, masks, and the way between noises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ecar_lab.teaching.check import Wrong, exercise, expect_close, expect_something, expect_tensor

Costs = Sequence[int]


def _plan_flops(
    steps: Sequence[int], guidance: Sequence[float], call: Costs, read: Costs, step: Costs
) -> int:
    guided = [scale != 1 for scale in guidance]
    total = 0
    for s, count in enumerate(steps):
        total += (1 + any(guided[s:])) * call[s]
        total += (1 + guided[s]) * (read[s] + count * step[s])
    return total


@exercise("7.1 FLOPs of a plan", _plan_flops)
def plan_flops(attempt: Callable[..., float]) -> None:
    """``plan_flops(steps, guidance, call, read, step) -> FLOPs`` of one image."""
    for steps, guidance in (
        ((4, 2, 3), (1.0, 1.0, 1.0)),
        ((8, 6, 5), (2.5, 2.5, 1.0)),
        ((8, 6, 5), (1.0, 2.5, 2.5)),
        ((2, 3, 4), (1.0, 3.0, 1.0)),
        ((3, 3, 2), (1, 0.0, 1)),  # guided is whatever is not 1
        ((4, 2, 3), (0.5, 1.0, 1.0)),
        ((5, 4), (1, 4)),
    ):
        call, read, step = (
            costs[: len(steps)] for costs in ((3, 20, 100), (1, 5, 31), (7, 50, 300))
        )
        right = _plan_flops(steps, guidance, call, read, step)
        above = [1 + (scale > 1) for scale in guidance]
        before = [1 + any(scale != 1 for scale in guidance[: s + 1]) for s in range(len(steps))]
        halves = [1 + (scale != 1) for scale in guidance]
        heads = [h * (r + n * v) for h, r, n, v in zip(halves, read, steps, step, strict=True)]
        transformer = right - sum(heads)
        bare = sum(n * v for n, v in zip(steps, step, strict=True))
        every_step = [h * n * c for h, n, c in zip(halves, steps, call, strict=True)]
        expect_close(
            attempt(steps, guidance, call, read, step),
            float(right),
            {
                "it takes guided to mean above 1: every scale but 1 runs both halves": (
                    _plan_flops(steps, [float(two) for two in above], call, read, step)
                ),
                "it runs both halves at scale 1 too, where the one without class has weight 0": (
                    2 * (sum(call) + sum(read) + bare)
                ),
                "it knows nothing of guidance: where the scale is not 1, the head runs twice": (
                    sum(call) + sum(read) + bare
                ),
                "the transformer's calls are missing: one per stage, two where both halves run": (
                    sum(heads)
                ),
                "it counts one flow step per stage: multiply by the steps": (
                    transformer
                    + sum(h * (r + v) for h, r, v in zip(halves, read, step, strict=True))
                ),
                "it doubles the flow steps only: the token map is read for both halves too": (
                    transformer
                    + sum(
                        r + h * n * v for h, r, n, v in zip(halves, read, steps, step, strict=True)
                    )
                ),
                "it calls the transformer at every flow step: one call serves a whole stage": (
                    sum(every_step) + sum(heads)
                ),
                "it forgets that the head reads the token map once per stage: add read": (
                    transformer
                    + sum(h * n * v for h, n, v in zip(halves, steps, step, strict=True))
                ),
                "it doubles the transformer in guided stages only: up to the last guided stage the "
                "half without class needs its own keys and values": (
                    sum(h * c for h, c in zip(halves, call, strict=True)) + sum(heads)
                ),
                "it doubles the transformer from the first guided stage on: it is up to the last "
                "one that the half without class is needed": (
                    sum(two * c for two, c in zip(before, call, strict=True)) + sum(heads)
                ),
                "it doubles the head alone: the transformer runs for the half without class, too": (
                    sum(call) + sum(heads)
                ),
                "it doubles every stage where only some are guided: at scale 1 there is one half": (
                    max(halves) * (sum(call) + sum(read) + bare)
                ),
                "it reads the token map at every step: that is done once per stage": (
                    transformer
                    + sum(
                        h * n * (r + v)
                        for h, n, r, v in zip(halves, steps, read, step, strict=True)
                    )
                ),
            },
            f"the cost of steps {steps} at guidance {guidance}",
        )


def _guided(with_class: Tensor, without: Tensor, scales: Sequence[float], stage: int) -> Tensor:
    return without + scales[stage] * (with_class - without)


@exercise(
    "7.2 guided velocity",
    _guided,
    settings=[((1.5, 3.0, 2.0), 3), ((0.0, 0.5), 2), ((1, 2.5, 4), 1)],
)
def guided(attempt: Callable[..., Tensor], scales: tuple[float, ...], batch: int) -> None:
    """``guided(with_class, without, scales, stage) -> velocity``."""
    with_class, without = torch.randn(2, batch, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    for stage, scale in enumerate(scales):
        right = _guided(with_class, without, scales, stage)
        change = with_class - without
        three_of_four = torch.cat((right[:, :3], with_class[:, 3:]), dim=1)
        others = {
            f"it takes scales[{other}] where stage is {stage}": (
                _guided(with_class, without, scales, other)
            )
            for other in range(len(scales))
            if other != stage
        }
        expect_close(
            attempt(with_class, without, scales, stage),
            right,
            {
                "that is the velocity with class: below 1, too, the formula holds": with_class,
                "with and without class are swapped: start from the velocity without": (
                    with_class - scale * change
                ),
                "it starts from the velocity with class: scale 1 would already overshoot": (
                    with_class + scale * change
                ),
                "the difference alone is no velocity: add the one without class": scale * change,
                "it scales the velocity with class and does not look at the other": (
                    scale * with_class
                ),
                "that is the velocity without class: the class counts at every scale but 0": (
                    without
                ),
                "the velocity without class is not taken off: add the scale times the difference": (
                    without + scale * with_class
                ),
                "it guides three of the four channels: all of them are guided": three_of_four,
                **others,
            },
            f"the velocity for stage={stage}",
        )


def _fork_noise(base: Sequence[Tensor], fresh: Sequence[Tensor], kept: int) -> dict[int, Tensor]:
    return {s: base[s] if s <= kept else fresh[s] for s in range(len(base))}


@exercise("7.3 noise of a fork", _fork_noise, settings=[(4,), (3,), (2,)])
def fork_noise(attempt: Callable[..., Mapping[int, Tensor]], stages: int) -> None:
    """``fork_noise(base, fresh, kept) -> {stage: noise}``."""
    base = [torch.full((1,), float(stage)) for stage in range(stages)]
    fresh = [noise + 100 for noise in base]
    for kept in (min(1, stages - 1), 0, -1, stages - 1):
        found = attempt(base, fresh, kept)
        expect_something(found)
        if not isinstance(found, Mapping):
            raise Wrong(f"the result is a {type(found).__name__}: return a dict {{stage: noise}}")
        if set(found) - set(range(stages)):
            raise Wrong(f"its keys are {sorted(found)}: they go from 0 to {stages - 1}")
        if not all(isinstance(noise, Tensor) for noise in found.values()):
            raise Wrong("the values are noises: base[s] or fresh[s]")
        for s, noise in found.items():
            if not any(noise.shape == one.shape and torch.equal(noise, one) for one in
                       (base[s], fresh[s])):  # fmt: skip
                raise Wrong(
                    f"with kept = {kept} neither base[{s}] nor fresh[{s}] is under {s}: noises "
                    "are taken as they are, each for its own stage"
                )
        kept_now = _taken(found, base)
        fresh_now = _taken(found, fresh)
        wanted = set(range(kept + 1))
        if kept_now == wanted and kept_now | fresh_now == set(range(stages)):
            continue
        asked = f"with kept = {kept} it"
        if kept_now == wanted and not fresh_now:
            raise Wrong(f"{asked} leaves out the later stages: give them the fresh noise")
        if fresh_now == wanted and kept_now == set(range(stages)) - wanted:
            raise Wrong(f"{asked} is the wrong way round: the early stages are kept")
        if kept_now == set(range(max(kept, 0))):
            raise Wrong(f"{asked} keeps a stage too few: base[{kept}] itself is kept")
        if kept_now == set(range(min(kept + 2, stages))):
            raise Wrong(f"{asked} keeps a stage too many: take fresh[{kept + 1}]")
        raise Wrong(f"{asked} keeps base at {sorted(kept_now)}, it should be {sorted(wanted)}")


def _taken(noise: Mapping[int, Tensor], source: Sequence[Tensor]) -> set[int]:
    """The stages whose noise is that of ``source``."""
    return {stage for stage, value in noise.items() if torch.equal(value, source[stage])}


def _left_half(resolutions: Sequence[int], stage: int) -> Tensor:
    side = resolutions[stage]
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[:, : side // 2] = True
    return mask


@exercise("7.4 left half of a latent", _left_half, settings=[((4, 8, 16),), ((6, 12),)])
def left_half(attempt: Callable[..., Tensor], resolutions: tuple[int, ...]) -> None:
    """``left_half(resolutions, stage) -> mask`` (r_s, r_s), bool."""
    for stage, side in enumerate(resolutions):
        right, found = _left_half(resolutions, stage), attempt(resolutions, stage)
        if isinstance(found, Tensor) and found.ndim == 2 and found.shape[0] == found.shape[1]:
            if found.shape[0] == resolutions[-1] != side:
                raise Wrong(
                    f"the mask for stage={stage} has the full size: this stage's latent has "
                    f"{side} pixels per side"
                )
            if found.shape[0] == resolutions[0] != side:
                raise Wrong(
                    f"the mask for stage={stage} has the size of the first stage: this stage's "
                    f"latent has {side} pixels per side"
                )
            if found.shape[0] == side // 2:
                raise Wrong("the mask is as small as the half: it covers the whole latent")
        found = expect_tensor(found, (side, side), f"the mask for stage={stage}")
        if found.dtype != torch.bool:
            raise Wrong(f"the mask holds {found.dtype}: torch.where asks for torch.bool")
        if torch.equal(found, right):
            continue
        if torch.equal(found, ~right):
            raise Wrong(
                "it is True on the right: the mask says what is replaced, and that is the left half"
            )
        if torch.equal(found, right.T):
            raise Wrong("it is the upper half: the last index counts columns, the first one rows")
        if torch.equal(found, ~right.T):
            raise Wrong("it is the lower half: the last index counts columns, the first one rows")
        if found.all():
            raise Wrong("it is True everywhere: only the left half is replaced")
        if not found.any():
            raise Wrong("it is False everywhere: set the left half to True")
        extra, missing = int((found & ~right).sum()), int((~found & right).sum())
        raise Wrong(
            f"the mask for stage={stage}: {extra} places are True and should not be, "
            f"{missing} are missing"
        )


def _arc(first: Tensor, second: Tensor, share: float, dims: tuple[int, ...]) -> Tensor:
    """Slerp with an angle of its own for all that ``dims`` do not cover."""
    lengths = (
        first.square().sum(dims, keepdim=True) * second.square().sum(dims, keepdim=True)
    ).sqrt()
    angle = ((first * second).sum(dims, keepdim=True) / lengths).clamp(-1, 1).acos()
    return (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / (
        torch.sin(angle)
    )


def _slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    cosine = F.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    angle = cosine.clamp(-1, 1).acos()
    weights = torch.sin((1 - share) * angle), torch.sin(share * angle)
    return (weights[0] * first + weights[1] * second) / torch.sin(angle)


@exercise("7.5 between two noises", _slerp, settings=[((1, 2, 4, 4),), ((3, 4, 2, 2),)])
def slerp(attempt: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    """``slerp(first, second, share) -> noise``, of the same shape."""
    # Shorter than 1, so that an angle taken from the bare product is a number and can be told.
    first, second = 0.1 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    for share in (0.25, 0.6, 0.0, 1.0):
        right = _slerp(first, second, share)
        angle = F.cosine_similarity(first.flatten(), second.flatten(), dim=0).acos()
        straight = torch.lerp(first, second, share)
        bare = (first * second).sum().acos()
        unnormalised = (
            torch.sin((1 - share) * bare) * first + torch.sin(share * bare) * second
        ) / torch.sin(bare)
        expect_close(
            attempt(first, second, share),
            right,
            {
                "that is the straight line: its middle is too short; walk along the arc": (
                    (1 - share) * first + share * second
                ),
                "the ends are swapped: share 0 is the first noise": _slerp(second, first, share),
                "the angle comes from the bare product: divide it by both lengths": unnormalised,
                "it is not divided by the sine of the angle": right * torch.sin(angle),
                "it mixes with the roots of 1 - share and share, which keeps the length only where "
                "the noises are at right angles: use the angle between them": (
                    (1 - share) ** 0.5 * first + share**0.5 * second
                ),
                "it goes along the arc of a right angle: use the angle between the two": (
                    math.cos(share * math.pi / 2) * first + math.sin(share * math.pi / 2) * second
                ),
                "it is the straight line, made as long as the first noise: walk along the arc": (
                    straight / straight.norm() * first.norm()
                ),
                **{
                    f"it takes an angle for each {what}: one for the whole tensor, of the "
                    "flattened noises": _arc(first, second, share, dims)
                    for what, dims in (("position", (1,)), ("row", (3,)), ("image", (1, 2, 3)))
                    if what != "image" or len(first) > 1
                },
            },
            f"the noise at share {share}",
            tolerance=1e-5,
        )
