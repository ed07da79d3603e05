"""Muon, PyTorch's where bfloat16 is fast, and in float32 where the processor only imitates it.

Muon turns the momentum B of a weight matrix into a nearby matrix whose singular values are all
about 1: ``X = B / |B|``, five times ``X = a X + (b A + c A A) X`` with ``A = X Xᵀ`` (Newton-Schulz;
Keller Jordan et al., 2024). PyTorch's computes that in bfloat16, which a processor without it takes
some 25 times as long for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ecar_lab.device import has_fast_bfloat16


def muon_for(device: torch.device) -> type[torch.optim.Muon]:
    """The Muon that is fast there. Both have the same settings, and the same state."""
    return torch.optim.Muon if has_fast_bfloat16(device) else Float32Muon


class Float32Muon(torch.optim.Muon):
    """PyTorch's Muon with ``adjust_lr_fn="match_rms_adamw"``, all of it in float32."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state, momentum = self.state[weight], group["momentum"]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                buffer = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                ahead = weight.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
                coefficients, times = group["ns_coefficients"], group["ns_steps"]
                update = orthogonalized(ahead, coefficients, times, group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                rate = 0.2 * math.sqrt(max(weight.shape)) * group["lr"]
                weight.add_(update, alpha=-rate)


def orthogonalized(
    matrix: Tensor, coefficients: tuple[float, float, float], times: int, eps: float
) -> Tensor:
    """(m, n) -> (m, n): the same singular vectors, singular values between about 0.5 and 1.5."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(times):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
