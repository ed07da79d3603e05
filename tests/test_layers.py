"""Other MLPs and norms in a block, and the long skips of the head."""

import pytest
import torch

from ecar_lab import EcarError, trace
from ecar_lab.device import Casts
from ecar_lab.layers import Linear, SwiGLU, gated_width, long_skip_maps, modulate
from ecar_lab.machine import count_flops
from ecar_lab.model import ECAR
from tests.conftest import tiny_model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_gated_mlp_has_as_many_weights_as_a_plain_one():
    for width in (128, 256, 384, 768):
        hidden = gated_width(4 * width)
        gated = sum(p.numel() for p in SwiGLU(width, hidden).parameters())
        assert hidden % 32 == 0
        assert gated == pytest.approx(2 * 4 * width**2, rel=0.04)


def test_a_gated_mlp_is_its_formula():
    mlp = SwiGLU(8, 32)
    x = torch.randn(2, 3, 8, generator=generator())
    gate, value = (x @ mlp.gate_value.weight.T + mlp.gate_value.bias).split(32, dim=-1)
    torch.testing.assert_close(mlp(x), mlp.out(gate * gate.sigmoid() * value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_keeps_the_mean_and_layer_takes_it_away(dtype):
    x = 3 + torch.randn(2, 5, 64, generator=generator())
    zero = torch.zeros(2, 64)
    rms = modulate(x.to(dtype), zero, zero, "rms")
    exact = x.to(dtype).float()
    expected = exact / (exact.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(rms, expected)
    assert rms.mean() > 0.9
    assert modulate(x.to(dtype), zero, zero).mean().abs() < 1e-3


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 6])
def test_long_skips_join_the_outer_layers_and_no_neighbours(layers):
    joined = {int(later): layers - 1 - int(later) for later in long_skip_maps(layers, 8)}
    expected = {1: {}, 2: {}, 3: {2: 0}, 4: {3: 0}, 6: {5: 0, 4: 1}}
    assert joined == expected[layers]


def test_long_skips_change_nothing_at_first_and_carry_the_early_layer_later():
    plain, skipping = tiny_model(head_layers=4), tiny_model(head_layers=4, long_skips=True)
    skipping.load_state_dict(plain.state_dict(), strict=False)
    fresh = ECAR(**{k: v for k, v in skipping.config.items() if not k.startswith("_")})
    assert not any(p.any() for p in fresh.head.skips.parameters())
    skipping.head.skips.load_state_dict(fresh.head.skips.state_dict())
    latent, labels = torch.randn(4, 3, 8, 8, generator=generator()), torch.tensor([0, 1, 2, 0])
    draw = plain.draw(4, generator())
    with torch.no_grad():
        before = plain.loss(latent, labels, draw).loss
        assert torch.equal(skipping.loss(latent, labels, draw).loss, before)
        skipping.head.skips["3"].weight.copy_(torch.eye(32))
        read = skipping.head.read(torch.zeros(4, 4, 32))
        conditions = skipping.head.modulations(0, draw.local_time[:, 0], labels)
        layers: list[torch.Tensor] = []
        output = skipping.head(0, draw.noise[0], read, conditions, layers)
        block, rotary_sides = skipping.head.blocks[3], (2,)
        entered = []
        hook = block.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
        again = skipping.head(0, draw.noise[0], read, conditions)
        hook.remove()
    assert len(layers) == 4
    assert rotary_sides == (skipping.head.token_sides[0],)
    torch.testing.assert_close(again, output)
    torch.testing.assert_close(entered[0], layers[2] + layers[0])


@pytest.mark.parametrize(
    "style",
    [
        {"mlp": "swiglu"},
        {"norm": "rms"},
        {"long_skips": True},
        {"mlp": "swiglu", "norm": "rms", "long_skips": True, "local_mixing": True},
    ],
)
def test_every_style_is_counted_learns_and_is_saved(style, tmp_path):
    model = tiny_model(transformer_layers=2, head_layers=4, **style)
    parts = model.flops([3, 2], [1.0, 2.0])
    counted = count_flops(lambda: list(trace(model, [0], [3, 2], [1.0, 2.0], generator())))
    assert sum(map(sum, parts.values())) == pytest.approx(counted, rel=0.02)
    latent, labels = torch.randn(4, 3, 8, 8, generator=generator()), torch.tensor([0, 1, 2, 0])
    draw = model.draw(4, generator())
    loss = model.loss(latent, labels, draw, 0.5).loss
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    model.save_pretrained(tmp_path)
    again = ECAR.from_pretrained(tmp_path, use_safetensors=True).eval()
    with torch.no_grad():
        assert torch.equal(again.loss(latent, labels, draw, 0.5).loss, loss.detach())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"mlp": "gelu"}, "mlp 'gelu' is unknown: use relu2 or swiglu"),
        ({"norm": "batch"}, "norm 'batch' is unknown: use layer or rms"),
    ],
)
def test_an_unknown_style_is_refused(wrong, sentence):
    with pytest.raises(EcarError, match=sentence):
        tiny_model(**wrong)


def test_weights_are_cast_once_and_the_numbers_stay(monkeypatch):
    model = tiny_model()

    def latent() -> torch.Tensor:
        seed = torch.Generator().manual_seed(0)
        *_, last = trace(model, class_labels=["cat"], generator=seed, dtype="bfloat16")
        return last.latent

    once = latent()
    with monkeypatch.context() as plain:
        plain.setattr(Linear, "forward", torch.nn.Linear.forward)
        assert torch.equal(latent(), once)
    model.casts = Casts()  # kept from run to run
    assert torch.equal(latent(), once)
    kept = dict(model.casts)
    assert kept
    assert torch.equal(latent(), once)
    assert all(model.casts[layer] is cast for layer, cast in kept.items())
