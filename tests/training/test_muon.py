"""Muon in float32: PyTorch's steps, without their rounding, and its state."""

import pytest
import torch
from torch import nn

from ecar_lab.training.muon import Float32Muon, muon_for, orthogonalized
from ecar_lab.training.optim import load_optimizer_tensors, optimizer_tensors

SETTINGS = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315), 5, 1e-7)


def walked(kind: type[torch.optim.Muon], shape: tuple[int, int], steps: int = 6) -> nn.Parameter:
    """A weight after some steps towards a target; its optimizer sees float32 gradients."""
    torch.manual_seed(0)
    weight, target = nn.Parameter(torch.randn(shape)), torch.randn(shape)
    optimizer = kind([weight], **SETTINGS)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    return weight


@pytest.mark.parametrize("shape", [(48, 48), (32, 96), (96, 32)])
def test_its_steps_are_those_of_pytorch_but_for_their_rounding(shape):
    ours, theirs, begun = (
        walked(kind, shape, steps).detach()
        for kind, steps in ((Float32Muon, 6), (torch.optim.Muon, 6), (Float32Muon, 0))
    )
    moved = (theirs - begun).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    assert moved > 0.01 * begun.norm()


def test_singular_values_end_near_one_and_vectors_stay():
    torch.manual_seed(1)
    matrix = torch.randn(24, 64)
    update = orthogonalized(matrix, *NEWTON_SCHULZ)
    before, after = torch.linalg.svd(matrix), torch.linalg.svdvals(update)
    assert 0.5 < after.min() <= after.max() < 1.5
    turned = before.U.T @ update @ before.Vh[:24].T
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 1e-4
    torch.testing.assert_close(orthogonalized(matrix.T, *NEWTON_SCHULZ), update.T)


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonalized(torch.zeros(8, 8), *NEWTON_SCHULZ).any()


def test_a_processor_without_fast_bfloat16_gets_float32(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert muon_for(torch.device("cpu")) is Float32Muon
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert muon_for(torch.device("cpu")) is torch.optim.Muon


@pytest.mark.parametrize(
    "kinds", [(Float32Muon, torch.optim.Muon), (torch.optim.Muon, Float32Muon)]
)
def test_a_run_goes_on_with_the_other_kind(kinds):
    """As a run does that was moved to another machine."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(32, 32))
    first, second = (kind([weight], **SETTINGS) for kind in kinds)
    weight.grad = torch.randn(32, 32)
    first.step()
    load_optimizer_tensors([second], optimizer_tensors([first]), complete=True)
    kept = second.state[weight]["momentum_buffer"]
    torch.testing.assert_close(kept, first.state[weight]["momentum_buffer"])
    before = weight.detach().clone()
    second.step()
    assert (weight - before).norm() > 0.1 * before.norm() * SETTINGS["lr"]
