"""Weights, gradients, averages and optimizer state spread over the processes: PyTorch's FSDP2.

Each process holds its part of every tensor, and has a whole weight only while it computes with it.
Checkpoints hold whole tensors, so a run may go on with another number of processes, or undivided.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ecar_lab.layers import Block
from ecar_lab.training.muon import muon_for


def spread(objective: nn.Module, device: torch.device) -> None:
    """Spreads the weights over all processes, in place; all begin with those of the first.

    What a block is made of is called from without, too (its modulations are), so these parts are
    the units, and all that belongs to none of them is one more.
    """
    # Of an MLP's output, a view where its last bias is added; a block changes nothing in it.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    world = torch.distributed.get_world_size()
    mesh = init_device_mesh(device.type, (world,))
    for tensor in (*objective.parameters(), *objective.buffers()):
        torch.distributed.broadcast(tensor.detach(), 0)
    for module in list(objective.modules()):
        if isinstance(module, Block):
            for part in module.children():
                if any(p.requires_grad for p in part.parameters()):
                    fully_shard(part, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def is_spread(tensor: Tensor) -> bool:
    """Whether a process has only a part of it."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Of a spread one every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, spread_one: Tensor) -> Tensor:
    """A copy of a whole tensor, which every process has, divided and laid out as another one is."""
    if not isinstance(spread_one, DTensor):
        return torch.empty_like(spread_one).copy_(tensor)
    tensor = tensor.to(spread_one.device)
    mesh, placements = spread_one.device_mesh, spread_one.placements
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def collected(named: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors of spread ones, on the CPU, in the process that keeps them; nothing in others,
    which have to ask as well."""
    kept = {}
    for name, tensor in named.items():
        full = whole(tensor)
        if keep:
            kept[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return kept


class WholeMuon(torch.optim.Muon):
    """Muon for spread weights. It orthogonalises whole matrices, one at a time: with parts of them,
    its bfloat16 products would be summed up in another order, and come out a bit apart."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override]
        for group in self.param_groups:
            settings = {name: value for name, value in group.items() if name in self.defaults}
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                matrix = nn.Parameter(whole(weight.detach()))
                matrix.grad = whole(weight.grad)
                plain = muon_for(matrix.device)([matrix], **settings)
                state = self.state[weight]
                if state:
                    plain.state[matrix]["momentum_buffer"] = whole(state["momentum_buffer"])
                plain.step()
                weight.copy_(like(matrix.detach(), weight))
                momentum = plain.state[matrix]["momentum_buffer"]
                state["momentum_buffer"] = like(momentum, weight)
