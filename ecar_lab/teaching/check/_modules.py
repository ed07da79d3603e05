"""What the checks of classes share: a learner's module beside the kit's, with the same weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ecar_lab.teaching.check import Attempt, Wrong, expect_close, expect_gradients


def twins(attempt: type, reference: type, *sizes: Any, **named: Any) -> tuple[Any, Any]:
    """An instance of the attempt and one of the kit's; both hold the very same random weights.

    Raises:
        Wrong: the attempt is no module, or its layers have other names or shapes.
    """
    theirs, mine = reference(*sizes, **named), attempt(*sizes, **named)
    if not isinstance(mine, nn.Module):
        raise Wrong("it is no torch module: class ...(nn.Module), and super().__init__() first")
    wanted = {name: tuple(weight.shape) for name, weight in theirs.named_parameters()}
    found = {name: tuple(weight.shape) for name, weight in mine.named_parameters()}
    for name in wanted:
        if name not in found:
            raise Wrong(f"it has no weights {name}: keep the scaffold's layers and their names")
        if wanted[name] != found[name]:
            raise Wrong(f"its weights {name} are {found[name]}: they should be {wanted[name]}")
    more = [name for name in found if name not in wanted]
    if more:
        raise Wrong(f"it has weights that the kit's has not: {', '.join(more)}")
    for name, weight in theirs.named_parameters():
        place, _, last = name.rpartition(".")
        wide = weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.3
        setattr(mine.get_submodule(place), last, nn.Parameter(torch.randn_like(weight) * wide))
        setattr(theirs.get_submodule(place), last, mine.get_parameter(name))
    return mine, theirs


def expect_same(
    method: Any,
    given: tuple[Any, ...],
    right: Tensor,
    mistakes: dict[str, Tensor],
    what: str,
    sources: dict[str, Tensor] | None = None,
) -> None:
    """Calls a learner's method with copies, compares value and gradients.

    Args:
        given: its arguments. sources: the leaves that must get a gradient; none are looked at if
            None.

    Raises:
        Wrong: as of ``expect_close`` and ``expect_gradients``.
    """
    found = Attempt(method)(*given)
    with torch.no_grad():
        expect_close(found, right, mistakes, what)
    if sources:
        expect_gradients(found, right, sources)


def leaves(module: nn.Module, *parts: str) -> dict[str, Tensor]:
    """The weights of some layers of a module, by name."""
    named = module.named_parameters()
    return {name: weight for name, weight in named if name.startswith(parts)}
