"""The multistage transformer: what sees what, and that the cache changes nothing."""

import pytest
import torch

from ecar_lab import EcarError
from ecar_lab.layers import patchify, rotary_table, rotate, token_coordinates, unpatchify
from ecar_lab.transformer import KVCache, block_causal_mask
from tests.conftest import tiny_model


def end_states(model, batch=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, r, r, generator=g) for r in model.schedule.resolutions[:-1]]


@pytest.fixture(scope="module")
def model():
    return tiny_model(latent_size=16, num_stages=3, transformer_layers=2)


def test_patches_survive_the_round_trip():
    latent = torch.randn(2, 3, 8, 8)
    tokens = patchify(latent, 2)
    assert tokens.shape == (2, 16, 12)
    assert torch.equal(unpatchify(tokens, 2), latent)
    assert torch.equal(tokens[0, 1].reshape(3, 2, 2), latent[0, :, :2, 2:4])


def test_a_coarse_token_lies_in_the_middle_of_those_it_covers():
    fine = token_coordinates(4).reshape(4, 4, 2)
    coarse = token_coordinates(2).reshape(2, 2, 2)
    torch.testing.assert_close(fine[:2, 2:].reshape(-1, 2).mean(0), coarse[0, 1])


def test_rotation_keeps_norms_and_sees_only_differences_of_position():
    table = rotary_table((4,), 16, 4, torch.device("cpu"))
    q, k = torch.randn(16), torch.randn(16)
    turned_q = rotate(q.expand(1, 16, 1, 16), table)[0, :, 0]
    turned_k = rotate(k.expand(1, 16, 1, 16), table)[0, :, 0]
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(16))
    products = turned_q @ turned_k.T
    torch.testing.assert_close(products[0, 5], products[5, 10])  # both: one down, one right
    assert (products[0, 5] - products[0, 1]).abs() > 1e-3


def test_the_mask_opens_by_whole_stages():
    mask = block_causal_mask((1, 4), torch.device("cpu"))
    assert mask.tolist() == [[True] + [False] * 4] + [[True] * 5] * 4


def test_cached_steps_equal_the_masked_full_forward(model):
    ends, labels = end_states(model), torch.tensor([1, 3])
    with torch.no_grad():
        full = model.transformer(ends, labels)
        cache = model.transformer.new_cache()
        for stage, expected in enumerate(full):
            previous = ends[stage - 1] if stage else None
            token_map, _ = model.transformer.step(stage, previous, labels, cache)
            torch.testing.assert_close(token_map, expected, atol=1e-5, rtol=1e-5)
    assert cache.num_tokens == sum(model.transformer.tokens_per_stage) == 4 + 16 + 64
    assert cache.bytes == 2 * 2 * 2 * 32 * 84 * 4  # layers, k and v, batch, width, tokens, float32


def test_a_token_never_sees_a_later_stage(model):
    ends, labels = end_states(model), torch.tensor([1, 2])
    changed = [ends[0], ends[1] + 1]
    with torch.no_grad():
        before, after = model.transformer(ends, labels), model.transformer(changed, labels)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert (before[2] - after[2]).abs().max() > 1e-3


def test_a_stage_sees_all_earlier_stages(model):
    ends, labels = end_states(model), torch.tensor([1, 2])
    with torch.no_grad():
        before = model.transformer(ends, labels)
        after = model.transformer([ends[0] + 1, ends[1]], labels)
    assert (before[2] - after[2]).abs().max() > 1e-4


def test_without_history_the_maps_know_class_and_stage_alone():
    model = tiny_model(history="none", coupling="correlated")
    labels = torch.tensor([1, 2])
    with torch.no_grad():
        one = model.transformer(end_states(model, seed=0), labels)
        other = model.transformer(end_states(model, seed=1), labels)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0][0], one[0][1])


def test_the_first_stages_alone_give_the_same_maps(model):
    ends, labels = end_states(model), torch.tensor([1, 2])
    with torch.no_grad():
        full, part = model.transformer(ends, labels), model.transformer(ends[:1], labels, 2)
    assert len(part) == 2
    for a, b in zip(full, part, strict=False):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_tokens_of_the_coarsest_stage_differ(model):
    with torch.no_grad():
        token_map = model.transformer(end_states(model), torch.tensor([0, 1]))[0]
    assert (token_map[:, 0] - token_map[:, 1]).abs().max() > 1e-3


def test_attention_weights_are_those_of_the_layer(model):
    """Rows sum to one, and weights times values give the layer's attention output."""
    ends, labels = end_states(model), torch.tensor([1, 2])
    with torch.no_grad():
        cache = model.transformer.new_cache()
        model.transformer.step(0, None, labels, cache)
        _, weights = model.transformer.step(1, ends[0], labels, cache, attention_layer=1)
    assert weights.shape == (2, 2, 16, 20)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 16))
    values = cache.memory[1, 1, :, :, :20]
    assert cache.num_tokens == 20  # looking did not add tokens
    assert (weights @ values).isfinite().all()


def test_a_full_cache_says_so():
    cache = KVCache(1, 4)
    key = torch.zeros(1, 1, 3, 8)
    cache.extend(0, key, key)
    with pytest.raises(EcarError, match="6 tokens do not fit in a KV cache of 4"):
        cache.extend(0, key, key)


def test_the_mask_of_512_px_is_small():
    """64x64 latent, patches of 2, 4 stages: no quadratic surprise (1,360 tokens)."""
    mask = block_causal_mask((16, 64, 256, 1024), torch.device("cpu"))
    assert mask.numel() * mask.element_size() < 2**21


def test_sampling_in_inference_mode_does_not_spoil_a_later_training_step():
    model = tiny_model(latent_size=32, num_stages=2, width=16)  # a size no other test has cached
    labels = torch.tensor([0])
    with torch.inference_mode():
        model.transformer([torch.randn(1, 3, 16, 16)], labels)
    maps = model.transformer([torch.randn(1, 3, 16, 16)], labels)
    maps[1].sum().backward()
    assert model.transformer.blocks[0].attention.qkv.weight.grad is not None
