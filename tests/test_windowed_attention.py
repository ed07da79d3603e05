"""Attention in windows: who sees whom, that caching changes nothing, and what it costs."""

import pytest
import torch
from conftest import tiny_model

from ecar_lab import ECAR, EcarError, trace
from ecar_lab.attention import attend_in_windows, same_window, windows_among
from ecar_lab.machine import count_flops


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def end_states(model, batch=2, seed=0):
    g = generator(seed)
    return [torch.randn(batch, 3, r, r, generator=g) for r in model.schedule.resolutions[:-1]]


def windowed_model(**options):
    """Token sides 2, 4, 8, 16, of which the last two are larger than a window of 4."""
    settings = dict(latent_size=32, num_stages=4, transformer_layers=2, head_layers=2)
    return tiny_model(**{**settings, "attention_window": 4, **options})


@pytest.fixture(scope="module")
def model():
    return windowed_model()


def window_of(row, column, side, size, shift):
    """By hand: which window of the torus a token lies in."""
    return (row - shift) % side // size, (column - shift) % side // size


@pytest.mark.parametrize("shift", [0, 2])
def test_a_token_attends_to_its_window_and_the_context(shift):
    side, size, context = 8, 4, 3
    g = generator()
    query, key, value = (torch.randn(2, 2, side**2, 8, generator=g) for _ in range(3))
    shared = tuple(torch.randn(2, 2, context, 8, generator=g) for _ in range(2))
    places = [divmod(token, side) for token in range(side**2)]
    windows = [window_of(*place, side, size, shift) for place in places]
    sees = torch.tensor([[True] * context + [a == b for b in windows] for a in windows])
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, torch.cat((shared[0], key), 2), torch.cat((shared[1], value), 2), attn_mask=sees
    )
    attended = attend_in_windows(query, key, value, shared, size, shift)
    torch.testing.assert_close(attended, expected, atol=1e-6, rtol=1e-6)
    seen = same_window(side, size, shift, torch.device("cpu"))
    assert torch.equal(seen, sees[:, context:])


def test_cached_steps_equal_the_full_forward_with_windows(model):
    ends, labels = end_states(model), torch.tensor([1, 2])
    with torch.no_grad():
        full = model.transformer(ends, labels)
        cache = model.transformer.new_cache()
        for stage, expected in enumerate(full):
            previous = ends[stage - 1] if stage else None
            token_map, _ = model.transformer.step(stage, previous, labels, cache)
            torch.testing.assert_close(token_map, expected, atol=1e-5, rtol=1e-5)
    assert cache.num_tokens == 4 + 16  # stages with windows leave nothing behind


def changed_tokens(model, stage, pixel_stage, pixel):
    """Which tokens of a stage's map change with one pixel of the end state before a stage."""
    labels = torch.tensor([1])
    ends = end_states(model, batch=1)
    other = [end.clone() for end in ends]
    other[pixel_stage - 1][0, :, *pixel] += 1
    with torch.no_grad():
        before, after = model.transformer(ends, labels), model.transformer(other, labels)
    side = model.transformer.token_sides[stage]
    return (before[stage] - after[stage]).abs().amax(-1).reshape(side, side) > 1e-7


def test_one_block_of_a_large_stage_sees_one_window():
    """Pixel (0, 0) of e_2 is token (0, 0) of stage 3: in the window of tokens 0 ... 3."""
    seen = changed_tokens(windowed_model(transformer_layers=1), 3, 3, (0, 0))
    assert seen[:4, :4].all()
    assert seen.sum() == 16


def test_the_second_block_carries_news_across_borders_on_a_torus(model):
    """Shifted by two tokens, windows reach from the first four to both neighbours."""
    seen = changed_tokens(model, 3, 3, (0, 0))
    reached = torch.arange(16)[seen.any(1)].tolist()
    assert reached == [0, 1, 2, 3, 4, 5, 14, 15]
    assert seen.sum() == len(reached) ** 2


def test_a_large_stage_sees_all_of_the_small_ones_and_none_of_the_large(model):
    assert changed_tokens(model, 3, 1, (0, 0)).all()  # e_0, read by stage 1 (4x4 tokens)
    assert not changed_tokens(model, 3, 2, (0, 0)).any()  # e_1, read by stage 2 (8x8 tokens)
    assert not changed_tokens(model, 1, 2, (0, 0)).any()  # and no stage sees a later one


@pytest.mark.parametrize("window", [16, 32])
def test_a_window_as_large_as_the_largest_stage_changes_nothing(window):
    plain, windowed = windowed_model(attention_window=None), windowed_model(attention_window=window)
    labels, state = torch.tensor([1, 2]), torch.randn(2, 3, 32, 32, generator=generator())
    time = torch.tensor([0.2, 0.7])
    with torch.no_grad():
        ends = end_states(plain)
        maps = [net.transformer(ends, labels) for net in (plain, windowed)]
        speeds = [
            net.head(3, state, m[3], net.head.modulations(3, time, labels))
            for net, m in zip((plain, windowed), maps, strict=True)
        ]
    assert all(torch.equal(a, b) for a, b in zip(*maps, strict=True))
    assert torch.equal(*speeds)
    assert plain.flops() == windowed.flops()


def test_the_head_looks_in_windows_too(model):
    labels = torch.tensor([1])
    state = torch.randn(1, 3, 32, 32, generator=generator())
    other = state.clone()
    other[0, :, 0, 0] += 1
    with torch.no_grad():
        token_map = torch.zeros(1, 256, 32)
        modulations = model.head.modulations(3, torch.tensor([0.3]), labels)
        change = model.head(3, state, token_map, modulations) - model.head(
            3, other, token_map, modulations
        )
    seen = change.abs().amax((0, 1)).reshape(16, 2, 16, 2).amax((1, 3)) > 1e-7
    assert torch.arange(16)[seen.any(1)].tolist() == [0, 1, 2, 3, 4, 5, 14, 15]


def test_attention_weights_cover_all_tokens_so_far(model):
    ends, labels = end_states(model), torch.tensor([1, 2])
    with torch.no_grad():
        cache = model.transformer.new_cache()
        for stage in range(4):
            previous = ends[stage - 1] if stage else None
            _, weights = model.transformer.step(stage, previous, labels, cache, attention_layer=1)
    assert weights.shape == (2, 2, 256, 4 + 16 + 64 + 256)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 256))
    assert not weights[..., 20:84].any()
    assert ((weights[..., 84:] > 0).sum(-1) == 16).all()


@pytest.mark.parametrize("stages", [4, 1])
def test_flops_with_windows_equal_the_counter(stages):
    model = windowed_model(num_stages=stages)
    run = lambda: list(trace(model, [0], 2, 2.0, generator()))  # noqa: E731
    total = sum(map(sum, model.flops(2, 2.0).values()))
    assert total == sum(event.flops for event in run())
    assert total == pytest.approx(count_flops(run), rel=0.02)
    assert total < sum(map(sum, windowed_model(num_stages=stages, attention_window=None)
                           .flops(2, 2.0).values()))  # fmt: skip


def test_a_training_step_reaches_every_weight(model):
    latent = torch.randn(4, 3, 32, 32, generator=generator())
    model.zero_grad()
    model.loss(latent, torch.arange(4) % 3, model.draw(4, generator()), 0.5).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    model.zero_grad()


def test_sampling_from_a_fork_goes_on_as_before(model):
    events = list(trace(model, [0], 2, generator=generator()))
    fork = next(event for event in events if event.stage == 2 and event.is_stage_end)
    noise = {3: torch.randn(1, 3, 32, 32, generator=generator(5))}
    *_, first = trace(model, [0], 2, generator=generator(), noise=noise)
    *_, again = trace(model, [0], 2, generator=generator(), noise=noise, start_from=fork)
    torch.testing.assert_close(first.latent, again.latent, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_remembers_its_window_and_an_old_one_has_none(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert ECAR.from_pretrained(tmp_path, use_safetensors=True).config.attention_window == 4
    old = {k: v for k, v in dict(model.config).items() if k != "attention_window"}
    assert ECAR.from_config(old).config.attention_window is None


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (1, "attention_window is 1: use 2 or more"),
        (3, "3 does not divide a stage of 4x4.*use .* 2"),
    ],
)
def test_a_window_that_does_not_fit_is_refused(window, words):
    with pytest.raises(EcarError, match=words):
        windowed_model(attention_window=window)


def test_only_stages_larger_than_a_window_have_any():
    assert windows_among((2, 4), 4) is None
    assert windows_among((2, 4, 8, 16), 4) == ((8, 16), 4)
