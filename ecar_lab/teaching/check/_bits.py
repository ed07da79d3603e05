"""The checks of notebook 1 that count bits, and compare at equal ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from ecar_lab.teaching.check import exercise, expect_close


def _code_bits(tokens: int, codes: int) -> float:
    return tokens * math.log2(codes)


@exercise(
    "1.6 the bits of an image in codes", _code_bits, settings=[(256, 512), (16, 1000), (9, 2)]
)
def code_bits(attempt: Callable[[int, int], Any], tokens: int, codes: int) -> None:
    """``code_bits(tokens, codes) -> bits``: each token is one of so many codes."""
    right = _code_bits(tokens, codes)
    mistakes = {
        "that is the bits of one token: an image has several": math.log2(codes),
        "that is in nats: a bit is a choice of two, so the logarithm is to base 2": (
            tokens * math.log(codes)
        ),
        "that is in decimal digits: the logarithm is to base 2": tokens * math.log10(codes),
        "tokens and codes have changed places": codes * math.log2(tokens),
        "a token is one of so many codes, not all of them: it takes their logarithm": (
            float(tokens * codes)
        ),
        "all tokens together are one of codes ** tokens: that is no sum of logarithms": (
            math.log2(tokens * codes)
        ),
        "bits are rounded down: return what the logarithm gives": float(
            tokens * int(math.log2(codes))
        ),
        "that is bytes: return bits": right / 8,
    }
    mistakes = {said: wrong for said, wrong in mistakes.items() if abs(wrong - right) > 1e-6}
    expect_close(attempt(tokens, codes), right, mistakes, f"code_bits({tokens}, {codes})")


Points = Sequence[tuple[float, float]]


def _quality_at(points: Points, bits: float) -> float:
    for (left, low), (right, high) in pairwise(sorted(points)):
        if left <= bits <= right:
            return low + (high - low) * (bits - left) / (right - left)
    raise ValueError(f"{bits} bits lie outside of what was measured")


CURVE = [(2000.0, 24.0), (900.0, 18.0), (1500.0, 22.5), (3200.0, 26.0)]


@exercise(
    "1.7 quality at a number of bits",
    _quality_at,
    settings=[(CURVE, 1000.0), (CURVE, 2304.0), (sorted(CURVE), 1500.0), (CURVE, 3200.0)],
)
def quality_at(attempt: Callable[[Points, float], Any], points: Points, bits: float) -> None:
    """``quality_at(points, bits)``: on the straight lines through measured (bits, quality)."""
    asked = f"quality_at(points, {bits:g})"
    right, ordered = _quality_at(points, bits), sorted(points)
    below = max((p for p in ordered if p[0] <= bits), default=ordered[0])
    above = min((p for p in ordered if p[0] >= bits), default=ordered[-1])
    share = (bits - below[0]) / (above[0] - below[0]) if above != below else 0.0
    (first_bits, first), (last_bits, last) = ordered[0], ordered[-1]
    whole = first + (last - first) * (bits - first_bits) / (last_bits - first_bits)
    mistakes = {
        "the share is upside down: at the left point's bits it is the left point's quality": (
            above[1] + (below[1] - above[1]) * share
        ),
        **{
            f"that is a measured point, the one {where}: go along the line between its "
            "neighbours": point[1]
            for where, point in (("below", below), ("above", above))
        },
        "that is the middle of both neighbours, wherever between them the bits lie": (
            (below[1] + above[1]) / 2
        ),
        "that is the line from the first to the last point: take the two neighbours": whole,
        "that is the number of bits: return the quality": bits,
        "points come in any order: sort them by bits before you look for neighbours": (
            _unsorted(points, bits)
        ),
    }
    mistakes = {said: wrong for said, wrong in mistakes.items() if abs(wrong - right) > 1e-6}
    expect_close(attempt(list(points), bits), right, mistakes, asked)


def _unsorted(points: Points, bits: float) -> float:
    """What somebody finds who takes the points as they come."""
    for (left, low), (right, high) in pairwise(points):
        if left <= bits <= right:
            return low + (high - low) * (bits - left) / (right - left)
    return points[-1][1]
