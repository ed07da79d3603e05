"""Every architecture that `ecar train model --architecture` knows, in E-CAR's size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch

from ecar_lab.baselines.code_ar import CodeAR
from ecar_lab.baselines.dit import DiT
from ecar_lab.baselines.stage_epsilon import StageEpsilon
from ecar_lab.baselines.token_ar import TokenAR
from ecar_lab.bounds import check_arguments, check_size
from ecar_lab.errors import EcarError
from ecar_lab.generator import LatentGenerator
from ecar_lab.model import ECAR

# What a baseline has in common with the E-CAR that it is measured against.
SHARED = ("latent_size", "latent_channels", "patch_size", "num_classes", "class_names")
TOLERANCE = 0.03  # parameters of a baseline against E-CAR's


def dit(shape: dict[str, Any], **options: Any) -> LatentGenerator:
    """A DiT with as many parameters as the E-CAR of ``shape``."""
    return DiT(**{**_in_common(shape), **matched_shape(_frozen(shape)), **options})


def token_ar(kind: type[TokenAR], shape: dict[str, Any], **options: Any) -> TokenAR:
    """A token-by-token model with as many parameters as the E-CAR of ``shape``."""
    settings = {**_in_common(shape), **options}
    matched = matched_tokens(kind, _frozen(shape), _frozen(settings))
    return kind(**{**matched, **settings})


def _in_common(shape: dict[str, Any]) -> dict[str, Any]:
    """What a baseline of one stage has in common with the E-CAR of ``shape``."""
    shared = {name: shape[name] for name in SHARED if name in shape}
    guidance = shape.get("guidance_scale", 1.0)
    shared["guidance_scale"] = guidance if isinstance(guidance, int | float) else max(guidance)
    return shared


# Every stage starts from noise, whatever the windows of E-CAR are.
RESTART = {"coupling": "restart", "window_ends": None}

ARCHITECTURES: dict[str, Callable[..., LatentGenerator]] = {
    "ecar": lambda shape, **options: ECAR(**{**shape, **options}),
    "full-denoise": lambda shape, **options: ECAR(**{**shape, **RESTART, **options}),
    "stage-epsilon": lambda shape, **options: StageEpsilon(
        **{**shape, **RESTART, "time_power": 1.0, **options}
    ),
    "dit": dit,
    "dit-epsilon": lambda shape, **options: dit(shape, **{"objective": "epsilon", **options}),
    "mar": lambda shape, **options: token_ar(TokenAR, shape, **options),
    "mar-masked": lambda shape, **options: token_ar(
        TokenAR, shape, **{"order": "masked", **options}
    ),
    "code-ar": lambda shape, **options: token_ar(CodeAR, shape, **{"patch_size": 1, **options}),
}

KINDS: dict[str, type[LatentGenerator]] = {
    "stage-epsilon": StageEpsilon,
    **dict.fromkeys(("dit", "dit-epsilon"), DiT),
    **dict.fromkeys(("mar", "mar-masked"), TokenAR),
    "code-ar": CodeAR,
}


def build(architecture: str, shape: dict[str, Any], /, **options: Any) -> LatentGenerator:
    """A new generator of the given architecture, as large as the E-CAR of ``shape``.

    Args:
        shape: arguments of ``ECAR``. options: arguments of the architecture that replace its own.

    Raises:
        EcarError: the architecture or an option is unknown, sizes do not divide.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise EcarError(f"architecture {architecture!r} is unknown: use one of {known}")
    check_arguments(ECAR, shape)  # which a baseline's own sizes are worked out from
    check_size("E-CAR", shape)
    check_arguments(KINDS.get(architecture, ECAR), options)
    return ARCHITECTURES[architecture](shape, **options)


def count_parameters(make: Callable[[], torch.nn.Module]) -> int:
    """Parameters of what ``make`` builds, without the memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make().parameters())


def closest(
    target: int, candidates: Iterable[dict[str, Any]], make: Callable[..., torch.nn.Module]
) -> dict[str, Any]:
    """The candidate whose model comes nearest to ``target`` parameters.

    Raises:
        EcarError: none comes within 3%.
    """
    counted = [
        (abs(count_parameters(lambda c=candidate: make(**c)) - target), index, candidate)
        for index, candidate in enumerate(candidates)
    ]
    distance, _, best = min(counted)
    if distance > TOLERANCE * target:
        raise EcarError(
            f"no baseline comes within {TOLERANCE:.0%} of {target:,} parameters: "
            f"give {', '.join(best)} in the model's arguments"
        )
    return best


def around(
    target: int, rising: list[dict[str, Any]], make: Callable[..., torch.nn.Module]
) -> list[dict[str, Any]]:
    """Of candidates of rising size the two that ``target`` parameters lie between, or the one at
    that end. To build all of them, even without memory, takes seconds."""
    larger = bisect_left(
        rising, target, key=lambda candidate: count_parameters(lambda: make(**candidate))
    )
    return rising[max(0, larger - 1) : larger + 1]


@lru_cache(maxsize=32)
def matched_shape(frozen: tuple) -> dict[str, Any]:
    """Layers, heads and their dimension of the DiT that is as large as an E-CAR.

    As many heads, and about as many blocks as transformer and head have together.
    """
    shape: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in frozen}
    target = count_parameters(lambda: ECAR(**shape))
    heads, width = shape["num_heads"], shape["width"]
    layers = shape["transformer_layers"] + shape["head_layers"]
    shared = {name: shape[name] for name in SHARED if name in shape}

    def make(**sizes: Any) -> DiT:
        return DiT(**shared, **sizes)

    def candidates(step: int, spare: int) -> list[dict[str, Any]]:
        counts = range(max(1, layers - spare), layers + spare + 1)
        dims = [
            dim
            for dim in range(4, 2 * width // heads, step)
            if dim * heads % 4 == 0 and 0.6 < dim * heads / width < 1.5
        ]
        rows = (
            [{"num_layers": count, "num_heads": heads, "head_dim": dim} for dim in dims]
            for count in sorted(counts, key=lambda n: abs(n - layers))
        )
        return [near for row in rows for near in around(target, row, make)]

    try:
        return closest(target, candidates(step=2, spare=1), make)
    except EcarError:  # a small model leaves few choices: odd head dimensions, too
        return closest(target, candidates(step=1, spare=2), make)


@lru_cache(maxsize=32)
def matched_tokens(kind: type[TokenAR], frozen: tuple, settings: tuple) -> dict[str, Any]:
    """Sizes of the token-by-token model that is as large as an E-CAR.

    Width and heads are E-CAR's; about a fifth of its blocks (as in MAR, arXiv 2406.11838) are
    given up for a head of three MLP blocks each, whose width makes up the number of parameters.
    """
    shape, given = dict(frozen), dict(settings)
    target = count_parameters(lambda: ECAR(**shape))
    blocks = shape["transformer_layers"] + shape["head_layers"]
    in_head = max(1, round(0.18 * blocks))
    sizes = {
        "width": shape["width"],
        "num_heads": shape["num_heads"],
        "transformer_layers": max(1, blocks - in_head),
        "head_layers": 3 * in_head,
    }

    def make(**head: int) -> TokenAR:
        return kind(**{**given, **sizes, **head})

    widths = [{"head_width": width} for width in range(8, 8 * shape["width"], 2)]
    return {**sizes, **closest(target, around(target, widths, make), make)}


def _frozen(shape: dict[str, Any]) -> tuple:
    def hashable(value: Any) -> Any:
        return tuple(map(hashable, value)) if isinstance(value, list) else value

    return tuple(sorted((name, hashable(value)) for name, value in shape.items()))
