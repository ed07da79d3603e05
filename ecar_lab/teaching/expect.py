"""What a check asks of a value: each refusal is one sentence that names the mistake."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class Wrong(Exception):
    """Raised by a diagnosing function: what is wrong with the attempt, in one sentence."""


def expect_something(value: Any, what: str = "the result") -> None:
    """Refuses None, which a function without return gives.

    Raises:
        Wrong: it is None.
    """
    if value is None:
        raise Wrong(f"{what} is None: is a return missing?")


def expect_pair(value: Any, what: str) -> tuple[Any, Any]:
    """The value, if it is a pair; ``what`` goes on after "return two".

    Raises:
        Wrong: it is something else.
    """
    expect_something(value)
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Wrong(f"return two {what}")
    return value[0], value[1]


def expect_list(value: Any, what: str) -> list[Any]:
    """The value as a list.

    Raises:
        Wrong: it is none, or one that can be read only once.
    """
    expect_something(value, what)
    if isinstance(value, Iterator):
        raise Wrong(f"{what} is a {type(value).__name__}, which can be read only once: list(...)")
    if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
        raise Wrong(f"{what} is a {type(value).__name__}: return a list")
    return list(value)


def expect_tensor(value: Any, shape: tuple[int, ...], what: str = "the result") -> Tensor:
    """The value, if it is a tensor of this shape without NaN.

    Raises:
        Wrong: it is something else.
    """
    expect_something(value, what)
    if not isinstance(value, Tensor):
        raise Wrong(f"{what} is a {type(value).__name__}: return a tensor {shape}")
    if tuple(value.shape) != tuple(shape):
        raise Wrong(f"{what} has shape {tuple(value.shape)}: it should be {tuple(shape)}")
    if value.is_floating_point() and not value.isfinite().all():
        raise Wrong(
            f"{what} holds NaN or infinity: is something divided by zero, or a root or a logarithm "
            "taken of what is negative?"
        )
    return value


def expect_close(
    value: Any,
    expected: Tensor | float,
    mistakes: Mapping[str, Tensor | float],
    what: str = "the result",
    tolerance: float = 1e-4,
    dtype: torch.dtype | None = None,
) -> None:
    """Compares a value with what it should be, and if it differs, with what typical mistakes give.

    Args:
        mistakes: diagnosis -> the value that the mistake leads to.
        tolerance: largest difference allowed, absolute and relative.
        dtype: that a tensor should have; the expected one's by default.

    Raises:
        Wrong: with the diagnosis of the mistake that gives exactly this value, or with the size of
            the difference where none does.
    """
    expect_something(value, what)
    target = torch.as_tensor(expected)
    if target.ndim == 0 and not isinstance(value, Tensor):
        if not isinstance(value, numbers.Real):  # NumPy's are
            raise Wrong(f"{what} is {type(value).__name__}: return a number")
        value = torch.tensor(float(value))
    value = expect_tensor(value, tuple(target.shape), what)
    if _close(value, target, tolerance):
        wanted = dtype or target.dtype
        if target.ndim and value.dtype != wanted:
            raise Wrong(
                f"{what} has the right values but is {value.dtype}: it should be {wanted}, what "
                "comes after it takes no other"
            )
        return
    for diagnosis, mistaken in mistakes.items():
        wrong = torch.as_tensor(mistaken)
        if wrong.shape == value.shape and _close(value, wrong, tolerance):
            raise Wrong(diagnosis)
    gap = (value.double() - target.double()).abs().max().item()
    if target.ndim == 0:
        raise Wrong(f"{what} is {value.item():.6g}, it should be {target.item():.6g}")
    raise Wrong(f"{what} has the right shape but differs by up to {gap:.3g}")


def expect_gradients(found: Any, right: Tensor, sources: Mapping[str, Tensor]) -> None:
    """Asks that a result of the right value hands gradients on as it should.

    Args:
        right: what the result should be. sources: name -> a leaf that both depend on.

    Raises:
        Wrong: a gradient is cut off, or another one.
    """
    cut = "no_grad, .detach(), .item() and .data cut it"
    if not isinstance(found, Tensor) or not found.requires_grad:
        raise Wrong(f"the value is right, but no gradient comes back through it, so nothing is "
                    f"learned: return a tensor; {cut}")  # fmt: skip
    weights = torch.randn(right.shape, generator=torch.Generator().manual_seed(9))
    leaves = tuple(sources.values())
    wanted = torch.autograd.grad((right * weights).sum(), leaves, allow_unused=True)
    arrived = torch.autograd.grad((found * weights).sum(), leaves, allow_unused=True)
    for name, leaf, want, got in zip(sources, leaves, wanted, arrived, strict=True):
        want, got = (torch.zeros_like(leaf) if one is None else one for one in (want, got))
        if _close(got, want, 1e-4):
            continue
        if not got.any():
            raise Wrong(f"the value is right, but {name} gets no gradient, so it never learns: "
                        f"{cut}")  # fmt: skip
        raise Wrong(f"the value is right, but the gradient of {name} is not: a part of it is cut "
                    f"off ({cut})")  # fmt: skip


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance)
