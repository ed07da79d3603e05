"""Checks of notebook 11: the square that is kept, a warm start's classes, and copies of images."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ecar_lab.teaching.check import (
    Wrong,
    exercise,
    expect_close,
    expect_list,
    expect_pair,
    expect_something,
)
from ecar_lab.teaching.check._ab2 import draw

__all__ = ["first_rows", "middle_square", "nearer_share", "nearest"]


def _middle_square(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


@exercise(
    "11.1 the square that is kept",
    _middle_square,
    settings=[(100, 60), (60, 101), (33, 48), (64, 64)],
)
def middle_square(attempt: Callable[[int, int], Any], width: int, height: int) -> None:
    """``middle_square(width, height) -> (left, top, right, bottom)`` in pixels."""
    asked = f"middle_square({width}, {height})"
    found = expect_list(attempt(width, height), asked)
    if len(found) != 4:
        raise Wrong(f"{asked} has {len(found)} numbers: return left, top, right and bottom")
    if not all(isinstance(each, numbers.Real) for each in found):
        raise Wrong(f"{asked} holds something that is no number: return four numbers")
    left, top, right, bottom = _middle_square(width, height)
    side, longer = min(width, height), max(width, height)
    across, down = (width - longer) / 2, (height - longer) / 2
    as_tensor = {
        "right and bottom are edges, counted from the picture's left and top, not sizes": (
            *(left, top, side, side),
        ),
        "left and top, right and bottom are swapped: x comes first": (top, left, bottom, right),
        "that is the square in the corner: the middle is kept": (0, 0, side, side),
        "that is the other corner: the middle is kept": (
            *(width - side, height - side, width, height),
        ),
        "that is the whole picture, which is no square": (0, 0, width, height),
        "all that is too much is cut off on one side: half of it on either": (
            *(width - side, height - side, width - side + side / 2, height - side + side / 2),
        ),
        "the square is as large as the longer side: it sticks out of the picture": (
            *(across, down, across + longer, down + longer),
        ),
        "half pixels are rounded off, so the square is not in the middle: divide by 2, not // 2": (
            *((width - side) // 2, (height - side) // 2),
            *((width - side) // 2 + side, (height - side) // 2 + side),
        ),
        "that is the middle and the size: return the four edges": (
            *(width / 2, height / 2, side, side),
        ),
    }
    expect_close(
        torch.tensor([float(each) for each in found]),
        torch.tensor([left, top, right, bottom]),
        {said: torch.tensor([float(each) for each in wrong]) for said, wrong in as_tensor.items()},
        asked,
        tolerance=1e-6,
    )


def _first_rows(own: Sequence[str], known: Sequence[str]) -> list[int]:
    rows = [known.index(name) if name in known else len(known) for name in own]
    return [*rows, len(known)]


@exercise(
    "11.2 the rows that classes begin with",
    _first_rows,
    settings=[
        (("tree", "ship", "cat"), ("cat", "dog", "ship", "frog")),
        (("a", "b"), ("c", "d", "e")),
        (("dog", "cat"), ("cat", "dog")),
    ],
)
def first_rows(
    attempt: Callable[[list[str], list[str]], Any], own: Sequence[str], known: Sequence[str]
) -> None:
    """``first_rows(own, known)``: a row of the checkpoint for each class, and for no class."""
    asked = f"first_rows({list(own)}, {list(known)})"
    found = expect_list(attempt(list(own), list(known)), asked)
    right, null = _first_rows(own, known), len(known)
    if not all(isinstance(row, numbers.Integral) for row in found):
        raise Wrong(f"{asked} holds something else than numbers of rows: return a list of ints")
    rows = [int(row) for row in found]
    if rows == right:
        return
    matched, new = right[:-1], [name not in known for name in own]
    mistakes = [
        (right[:-1], "the last row is missing: no class is a row of its own, after all classes"),
        ([null, *matched], "no class comes first: it is the last row of the table"),
        (
            [*range(len(own)), null],
            "classes are matched by their place: they are known by name, wherever they stand",
        ),
        (
            [row for row, is_new in zip(matched, new, strict=True) if not is_new] + [null],
            "new classes are left out: they begin as no class, with its row",
        ),
        (
            [0 if is_new else row for row, is_new in zip(matched, new, strict=True)] + [null],
            "a new class begins as the first class known: it should begin as no class",
        ),
        (
            [-1 if is_new else row for row, is_new in zip(matched, new, strict=True)] + [null],
            "row -1 is only by Python's custom the last one: give its number, len(known)",
        ),
        (
            [null - 1 if is_new else row for row, is_new in zip(matched, new, strict=True)]
            + [null - 1],
            "that is the last class's row: no class comes after it, in row len(known)",
        ),
        (
            [null] * (len(own) + 1),
            "every class begins as no class: one that the checkpoint knows keeps its row",
        ),
        (
            [*matched, len(own)],
            "no class is counted in the new model's table: all rows are the checkpoint's",
        ),
    ]
    for wrong, said in mistakes:
        if rows == wrong and wrong != right:
            raise Wrong(said)
    if len(rows) != len(right):
        raise Wrong(f"{asked} has {len(rows)} rows: one for each class, and one for no class")
    raise Wrong(f"{asked} is {rows}, it should be {right}")


def _nearest(images: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    distances = torch.cdist(images.flatten(1), known.flatten(1))
    found = distances.min(dim=1)
    return found.indices, found.values / images[0].numel() ** 0.5


@exercise(
    "11.3 the nearest training image",
    _nearest,
    settings=[(5, 7, (3, 4, 4)), (1, 3, (3, 2, 2)), (6, 4, (1, 5, 3))],
)
def nearest(
    attempt: Callable[[Tensor, Tensor], Any], count: int, bank: int, shape: tuple[int, ...]
) -> None:
    """``nearest(images, known)``: number of the nearest known image, and how far it is (RMS)."""
    images, known = draw(count, *shape), draw(bank, *shape, seed=1)
    numbers_, distances = expect_pair(
        attempt(images, known), "things: the numbers of the nearest images, and their distances"
    )
    right, far = _nearest(images, known)
    gaps = (images[:, None] - known[None]).flatten(2)
    squared = gaps.square().mean(2)
    l1 = gaps.abs().mean(2)
    back = squared.argmin(0)
    expect_something(numbers_, "the first result")
    if isinstance(numbers_, Tensor) and numbers_.is_floating_point():
        raise Wrong("the numbers are no whole ones: is it distances, numbers that you return?")
    if isinstance(numbers_, Tensor) and numbers_.shape == (bank,) != right.shape:
        raise Wrong("it looks for the nearest image of each known one: the other way round")
    expect_close(
        torch.as_tensor(numbers_).double(),
        right.double(),
        {
            "these are the farthest ones: take the smallest distance": squared.argmax(1).double(),
            "it looks for the nearest image of each known one: the other way round": back.double(),
            "signed differences cancel out: square them, or take them absolutely": (
                gaps.mean(2).argmin(1).double()
            ),
        },
        "the numbers of the nearest images",
    )
    pixels = images[0].numel()
    expect_close(
        distances,
        far,
        {
            "the root is missing: RMS is the root of the mean square": far.square(),
            "that is the sum over the pixels, under the root: divide by their number": (
                far * pixels**0.5
            ),
            "it is divided by the number of pixels outside of the root: its root belongs there": (
                far / pixels**0.5
            ),
            "that is the sum of squares: take the mean over the pixels, and the root": (
                far.square() * pixels
            ),
            "these are mean absolute differences: square, mean, root": (
                l1.gather(1, right[:, None])[:, 0]
            ),
            "these are the mean distances to all known images: that to the nearest is wanted": (
                squared.sqrt().mean(1)
            ),
        },
        "the distances",
    )


def _nearer_share(made: Tensor, unseen: Tensor) -> float:
    gaps = made[:, None] - unseen[None]
    return ((gaps < 0).double().mean() + 0.5 * (gaps == 0).double().mean()).item()


@exercise(
    "11.4 how often a generated image lies nearer",
    _nearer_share,
    settings=[
        ((0.5, 0.1, 0.35, 0.25), (0.2, 0.35, 0.3, 0.9)),
        ((0.3, 0.3), (0.3, 0.3, 0.3)),
        ((0.7, 0.8), (0.1, 0.2, 0.9)),
    ],
)
def nearer_share(
    attempt: Callable[[Tensor, Tensor], Any], made: Sequence[float], unseen: Sequence[float]
) -> None:
    """``nearer_share(made, unseen)``: share of pairs in which the generated image is nearer."""
    a, b = torch.tensor(made), torch.tensor(unseen)
    right = _nearer_share(a, b)
    less, equal = (a[:, None] < b[None]).double(), (a[:, None] == b[None]).double()
    short = min(len(a), len(b))
    expect_close(
        attempt(a, b),
        right,
        {
            "it is the other way round: how often is the generated one the nearer one?": 1 - right,
            "pairs that are equal count half: they are left out": less.mean().item(),
            "pairs that are equal count half: they count in full": (less + equal).mean().item(),
            "that is the number of pairs: divide it by how many there are": (
                (less + 0.5 * equal).sum().item()
            ),
            "only numbers at the same place are compared: every one with every other": (
                ((a[:short] < b[:short]).double() + 0.5 * (a[:short] == b[:short])).mean().item()
            ),
            "it compares with the mean of the unseen ones: compare with each of them": (
                (a < b.mean()).double().mean().item()
            ),
            "it compares with the nearest unseen one alone: compare with each of them": (
                (a < b.min()).double().mean().item()
            ),
            "that is a percentage: return a share, 0 to 1": 100 * right,
        },
        "the share",
        tolerance=1e-6,
    )
