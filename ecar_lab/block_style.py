"""What a block may be made of otherwise, and the long skips of a head. All off unless asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ecar_lab.errors import EcarError


@dataclass(frozen=True)
class BlockStyle:
    """What a block is made of.

    Attributes:
        local_mixing: whether ``LocalMixing`` stands before the MLP.
        mlp: ``relu2``, two matrices about a ``SquaredReLU``, or ``swiglu``, :class:`SwiGLU`.
        norm: ``layer`` or ``rms``, of ``layers.modulate``.

    Raises:
        EcarError: an unknown MLP or norm.
    """

    local_mixing: bool = False
    mlp: str = "relu2"
    norm: str = "layer"

    def __post_init__(self) -> None:
        for name, known in (("mlp", ("relu2", "swiglu")), ("norm", ("layer", "rms"))):
            if (value := getattr(self, name)) not in known:
                raise EcarError(f"{name} {value!r} is unknown: use {' or '.join(known)}")


def gated_width(hidden: int) -> int:
    """Hidden features of a gated MLP with about as many weights as a plain one of ``hidden``: two
    thirds of it, for it has three matrices, rounded to a multiple of 32."""
    return 32 * max(1, round(2 * hidden / 3 / 32))


class SwiGLU(nn.Module):
    """Gated MLP ``W_out (silu(W_gate x) * W_value x)`` (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_value = nn.Linear(width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


def long_skip_maps(num_layers: int, width: int) -> nn.ModuleDict:
    """Linear maps from what block i gives to what block L-1-i gets, added to it; named by the
    latter's number. They start at zero. Neighbours have none: one follows the other anyway."""
    pairs = range((num_layers - 1) // 2)
    maps = nn.ModuleDict({str(num_layers - 1 - i): nn.Linear(width, width) for i in pairs})
    for parameter in maps.parameters():
        nn.init.zeros_(parameter)
    return maps
