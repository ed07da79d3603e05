"""Learning rate and optimizers: the plan, who takes which weights, the stored state."""

import pytest
import torch
from torch import nn

from ecar_lab.training.config import ModelTrainConfig, TokenizerTrainConfig
from ecar_lab.training.optim import (
    Plan,
    build_optimizers,
    load_optimizer_tensors,
    lr_factor,
    optimizer_tensors,
)


def test_learning_rate_warms_up_and_falls_to_its_floor():
    plan = Plan(total=100)
    factors = [lr_factor(step, plan, warmup_steps=10, floor=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1, rel=1e-3)
    assert max(factors) == factors[9]
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[50] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[100] == pytest.approx(0.1)


def test_revised_plan_bends_the_curve_without_a_jump():
    plan = Plan(total=100)
    shorter = plan.revised(40, 60)
    assert shorter.at(40) == plan.at(40)
    assert shorter.at(50) == pytest.approx(0.7)
    assert shorter.at(60) == 1.0
    longer = shorter.revised(50, 1050)
    assert longer.at(50) == shorter.at(50)
    assert longer.at(1050) == 1.0


def test_unsettled_plan_stands_still():
    assert Plan().at(1000) == 0.0


def small_model() -> nn.Module:
    return nn.ModuleDict(
        {
            "embedding": nn.Embedding(10, 64),
            "patch": nn.Linear(16, 64),
            "hidden": nn.Linear(64, 64),
            "norm": nn.LayerNorm(64),
            "out": nn.Linear(64, 12),
        }
    )


def test_muon_takes_hidden_matrices_and_nothing_else():
    model = small_model()
    muon, adamw = build_optimizers(model, ModelTrainConfig(optimizer="muon"))
    assert isinstance(muon, torch.optim.Muon)
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [(64, 64)]
    assert muon.param_groups[0]["params"][0] is model["hidden"].weight
    both = [p for o in (muon, adamw) for g in o.param_groups for p in g["params"]]
    assert {id(p) for p in both} == {id(p) for p in model.parameters()}
    assert len(both) == len(list(model.parameters()))


def test_weight_decay_spares_biases_gains_and_embeddings():
    model = small_model()
    (adamw,) = build_optimizers(model, ModelTrainConfig(optimizer="adamw", weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in adamw.param_groups for p in g["params"]}
    assert decay[id(model["patch"].weight)] == 0.3
    for spared in (model["embedding"].weight, model["norm"].weight, model["out"].bias):
        assert decay[id(spared)] == 0.0


def test_optimizer_state_survives_another_memory_layout():
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)

    cfg = TokenizerTrainConfig(optimizer="adamw", lr=0.1)
    images = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))

    def step(net: nn.Module, optimizers: list) -> None:
        net.zero_grad()
        net(images).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()

    first = model()
    optimizers = build_optimizers(first, cfg)
    step(first, optimizers)
    stored = {n: t.contiguous().clone() for n, t in optimizer_tensors(optimizers).items()}
    second = model()
    second.load_state_dict({n: t.contiguous() for n, t in first.state_dict().items()})
    restored = build_optimizers(second, cfg)
    load_optimizer_tensors(restored, stored)
    step(first, optimizers)
    step(second, restored)
    assert torch.equal(first.weight, second.weight)


def test_optimizer_state_of_another_model_is_refused():
    cfg = ModelTrainConfig(optimizer="adamw")
    model = nn.Linear(8, 8)
    optimizers = build_optimizers(model, cfg)
    model(torch.ones(1, 8)).sum().backward()
    optimizers[0].step()
    other = build_optimizers(nn.Linear(8, 9), cfg)
    with pytest.raises(ValueError, match=r"exp_avg.* has shape \(8, 8\), the parameter \(9, 8\)"):
        load_optimizer_tensors(other, optimizer_tensors(optimizers))


@pytest.mark.parametrize(
    ("lost", "words"),
    [("0.0.exp_avg", "lacks exp_avg of parameter 0"), ("0.0.", "lacks the state")],
)
def test_optimizer_state_that_lacks_entries_is_refused(lost: str, words: str):
    model = nn.Linear(8, 8)
    optimizers = build_optimizers(model, ModelTrainConfig(optimizer="adamw"))
    model(torch.ones(1, 8)).sum().backward()
    optimizers[0].step()
    named = {n: t for n, t in optimizer_tensors(optimizers).items() if not n.startswith(lost)}
    if lost == "0.0.exp_avg":
        named["0.0.exp_avg_sq"] = optimizer_tensors(optimizers)["0.0.exp_avg_sq"]
    with pytest.raises(ValueError, match=words):
        load_optimizer_tensors(optimizers, named, complete=True)
