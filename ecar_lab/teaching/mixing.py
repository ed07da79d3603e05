"""The part that blocks of some shipped models have besides those of the notebooks: local mixing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ecar_lab.layers import Block, LocalMixing


class _OfItsMap(LocalMixing):
    """Knows by the number of tokens whose map they are: of all stages in a row, or of one."""

    def __init__(self, width: int, all_sides: Sequence[int]) -> None:
        super().__init__(width)
        self.all_sides = tuple(all_sides)

    def forward(self, x: Tensor, sides: Sequence[int] = ()) -> Tensor:
        """x (B, N, D) -> the same shape."""
        tokens = x.shape[1]
        if not sides:
            in_a_row = tokens == sum(side * side for side in self.all_sides)
            sides = self.all_sides if in_a_row else (math.isqrt(tokens),)
        return super().forward(x, sides)


def with_local_mixing(net: Any) -> Any:
    """Puts a ``LocalMixing``, by the name ``mix``, before the ``mlp`` of every block of a
    transformer or flow head that was built by hand, and returns it.

    It starts at zero, so nothing changes until weights are loaded. ``net`` has ``blocks`` and
    ``token_sides``; a block has ``modulation`` (D to 6 D) and ``mlp``.
    """
    for block in net.blocks:
        block.mix = mix = _OfItsMap(block.modulation.in_features, net.token_sides)
        if not isinstance(block, Block):  # the kit's own calls its mix itself
            block.mlp.register_forward_pre_hook(lambda mlp, inputs, mix=mix: (mix(*inputs),))
    return net
