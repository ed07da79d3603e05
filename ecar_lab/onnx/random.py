"""The numbers that ``torch.randn`` draws on a CPU, without torch: the same seed, the same noise.

torch draws words of 32 bits from a Mersenne Twister (mt19937) and turns pairs of uniform numbers
into pairs of normal ones (Box and Muller). It has two ways of it, chosen by how many numbers are
asked for at once: fewer than 16 in double precision, pair after pair, 16 and more in single
precision, in blocks of 16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
BLOCK = 16


class Generator:
    """``torch.Generator().manual_seed(seed)``, as far as :meth:`randn` goes.

    The last bit of a number may be another: torch takes logarithms and sines from its processor's
    vector instructions.
    """

    def __init__(self, seed: int):
        self.words = np.random.RandomState(seed & 0xFFFFFFFF)  # torch reads no more of a seed
        self.left_over: float | None = None  # the second of a pair that was asked for by halves

    def randn(self, shape: Sequence[int]) -> Array:
        """White noise, float32."""
        count = math.prod(shape)
        numbers = self._in_blocks(count) if count >= BLOCK else self._one_by_one(count)
        return numbers.reshape(shape)

    def _in_blocks(self, count: int) -> Array:
        """Blocks of 16: the first eight uniform numbers give radii, the others angles. What is left
        over at the end belongs to a block of 16 that is drawn anew, over the numbers before it."""
        uniform = self._uniform(count)
        whole = count - count % BLOCK
        numbers = uniform.copy()
        numbers[:whole] = box_muller(uniform[:whole])
        if whole < count:
            numbers[-BLOCK:] = box_muller(self._uniform(BLOCK))
        return numbers

    def _uniform(self, count: int) -> Array:
        """24 bits of a word each, in [0, 1)."""
        words = self.words.randint(0, 2**32, count, dtype=np.uint32)
        return (words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def _one_by_one(self, count: int) -> Array:
        numbers = np.empty(count, np.float32)
        for index in range(count):
            if self.left_over is not None:
                numbers[index], self.left_over = self.left_over, None
                continue
            turn, share = self._uniform_double(), self._uniform_double()
            radius, angle = math.sqrt(-2 * math.log1p(-share)), 2 * math.pi * turn
            numbers[index] = radius * math.cos(angle)
            self.left_over = radius * math.sin(angle)
        return numbers

    def _uniform_double(self) -> float:
        """53 bits of two words, in [0, 1)."""
        high, low = (int(word) for word in self.words.randint(0, 2**32, 2, dtype=np.uint32))
        return ((high << 32 | low) & (2**53 - 1)) * 2.0**-53


def box_muller(uniform: Array) -> Array:
    """Uniform numbers to normal ones, in blocks of 16 whose pairs lie eight apart."""
    pairs = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(-2 * np.log(1 - pairs[:, 0]))
    angle = np.float32(2 * math.pi) * pairs[:, 1]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)
