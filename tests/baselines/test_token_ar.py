"""Token by token: orders, cache, cost, size, and the quantized twin."""

import itertools

import pytest
import torch

from ecar_lab import EcarError
from ecar_lab.baselines import CodeAR, TokenAR, build, token_ar_flops
from ecar_lab.baselines.pipeline import load_pipeline, make_pipeline
from ecar_lab.baselines.token_cost import tokens_per_event
from ecar_lab.machine import count_flops
from ecar_lab.model import ECAR
from ecar_lab.presets import get_preset
from ecar_lab.tokenizers.makers import ConvTokenizer

SIZES = dict(
    latent_size=8, latent_channels=3, patch_size=2, num_classes=3, width=16, num_heads=2,
    transformer_layers=2, head_width=12, head_layers=2, num_inference_steps=2,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(kind=TokenAR, **changes):
    """All weights random, so that no branch of it is silent (see conftest.tiny_model)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(**{**SIZES, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def causal():
    return tiny()


@pytest.fixture(scope="module")
def masked():
    return tiny(order="masked", num_iterations=5)


def batch(model, size=6):
    side = model.config.latent_size
    latent = torch.randn(size, model.config.latent_channels, side, side, generator=generator(1))
    return latent, torch.arange(size) % model.num_classes


def test_the_cache_does_not_change_the_latent(causal):
    for guidance in (1.0, 2.5):
        with_cache, without = (
            causal.sample([0, 2], 3, guidance, generator(), kv_cache=kv_cache)
            for kv_cache in (True, False)
        )
        torch.testing.assert_close(with_cache, without, atol=1e-5, rtol=0)
        assert with_cache.abs().max() > 0.1


def test_a_causal_token_map_does_not_know_its_own_token_or_later_ones(causal):
    tokens = torch.randn(1, 16, 12, generator=generator())
    changed = tokens.clone()
    changed[:, 5:] += 1
    with torch.no_grad():
        a, b = (causal.transformer(x, torch.tensor([0]), None) for x in (tokens, changed))
    torch.testing.assert_close(a[:, :6], b[:, :6])
    assert (a[:, 6:] - b[:, 6:]).abs().amax(dim=(0, 2)).min() > 1e-4


def test_a_masked_token_map_knows_all_known_tokens_and_no_other(masked):
    tokens = torch.randn(1, 16, 12, generator=generator())
    known = torch.arange(16)[None] >= 8
    unknown_changed, known_changed = tokens.clone(), tokens.clone()
    unknown_changed[:, 0] += 1
    known_changed[:, 15] += 1
    with torch.no_grad():
        base, same, other = (
            masked.transformer(x, torch.tensor([0]), known)
            for x in (tokens, unknown_changed, known_changed)
        )
    torch.testing.assert_close(base, same)
    assert (base - other).abs().amax(dim=(0, 2)).min() > 1e-5


def test_a_causal_run_tells_every_token_once_and_holds_zeros_beyond(causal):
    events = list(causal.trace([0, 1], 2, generator=generator()))
    assert [event.step for event in events] == list(range(17))
    assert [event.is_final for event in events].index(True) == 16
    for event in events:
        known = torch.arange(16).view(1, 1, 4, 4) < event.step
        known = known.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(2, 3, 8, 8)
        assert (event.latent[~known] == 0).all()
        assert (event.latent[known] != 0).all()
        assert event.t == event.step / 16
        # keys and values, two layers, two images, 16 channels, 4 bytes
        assert event.cache_bytes == 2 * 2 * 2 * 16 * 4 * event.step
    assert all(set(event.seconds_split) == {"transformer", "head"} for event in events[1:])
    without = causal.trace([0, 1], 2, generator=generator(), kv_cache=False)
    assert {event.cache_bytes for event in without} == {0}


def test_the_masked_order_makes_every_token_once_in_an_order_of_each_image(masked):
    events = list(masked.trace([0, 0], 2, generator=generator()))
    made = [(event.latent != 0).flatten(1).sum(1) // 12 for event in events]
    assert [n.tolist() for n in made] == [[0, 0], [1, 1], [4, 4], [7, 7], [12, 12], [16, 16]]
    for before, after in itertools.pairwise(events):
        kept = before.latent != 0
        assert torch.equal(before.latent[kept], after.latent[kept])
    _, first, *_ = masked.trace([0] * 12, 1, generator=generator())
    places = {tuple(image.flatten().tolist()) for image in first.latent != 0}
    assert len(places) > 4


@pytest.mark.parametrize("iterations", [1, 3, 7, 16, 64])
def test_the_cosine_schedule_makes_all_tokens_and_some_each_time(iterations):
    counts = tokens_per_event({**SIZES, "order": "masked", "num_iterations": iterations})
    assert sum(counts) == 16
    assert min(counts) >= 1
    assert len(counts) == min(iterations, 16)


@pytest.mark.parametrize("order", ["causal", "masked"])
def test_an_image_does_not_depend_on_its_batch(order):
    model = tiny(order=order, num_iterations=5)
    together = model.sample([0, 1, 2], 2, 1.5, [generator(s) for s in (5, 6, 7)])
    alone = model.sample([1], 2, 1.5, [generator(6)])
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{}, {"order": "masked"}, {"kind": CodeAR, "patch_size": 1, "latent_size": 4}],
    ids=["causal", "masked", "codes"],
)
def test_bfloat16_weights_and_autocast_run(changes):
    model = tiny(**changes)
    exact = model.sample([0], 2, 2.0, generator())
    mixed = model.sample([0], 2, 2.0, generator(), dtype=torch.bfloat16)
    latent, labels = batch(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.loss(latent, labels, model.draw(2, generator())).loss.isfinite()
    cast = model.to(torch.bfloat16).sample([0], 2, 2.0, generator())
    assert exact.dtype == mixed.dtype == cast.dtype == torch.float32
    if "kind" not in changes:
        torch.testing.assert_close(mixed, exact, atol=0.2, rtol=0)
        torch.testing.assert_close(cast, exact, atol=0.2, rtol=0)


def test_guidance_moves_away_from_the_null_class():
    """With one token and one step the sample is noise + v, v = none + g (class - none)."""
    model = tiny(latent_size=2)
    plain, guided = (model.sample([1], 1, g, generator()) for g in (1.0, 3.0))
    model.class_ids = lambda labels: torch.tensor([model.null_class])
    without = model.sample([1], 1, 1.0, generator())
    torch.testing.assert_close(guided, without + 3 * (plain - without), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain, without)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(
    ("changes", "kv_cache"),
    [
        ({}, True),
        ({}, False),
        ({"order": "masked", "num_iterations": 5}, True),
        ({"kind": CodeAR, "patch_size": 1, "latent_size": 4, "codebook_size": 20}, True),
    ],
    ids=["cache", "no cache", "masked", "codes"],
)
def test_flops_in_closed_form_equal_the_counter(changes, kv_cache, guidance, solver):
    model = tiny(**changes)
    options = dict(solver=solver, kv_cache=kv_cache)
    counted = count_flops(lambda: model.sample([0], 3, guidance, generator(), **options))
    parts = model.flops(3, guidance, solver, kv_cache)
    assert sum(map(sum, parts.values())) == counted
    events = list(model.trace([0], 3, guidance, generator(), **options))
    assert sum(event.flops for event in events) == counted


def test_flops_at_any_size_need_no_weights():
    assert token_ar_flops(SIZES, 3, 2.0, False) == tiny().flops(3, 2.0, kv_cache=False)
    huge = token_ar_flops({**SIZES, "latent_size": 128}, 3, kv_cache=False)
    kept = token_ar_flops({**SIZES, "latent_size": 128}, 3, kv_cache=True)
    assert huge["transformer"][0] > 100 * kept["transformer"][0]
    assert huge["head"] == kept["head"]


@pytest.mark.parametrize("order", ["causal", "masked"])
def test_a_draw_in_slices_gives_the_loss_of_the_whole(order):
    model = tiny(order=order)
    latent, labels = batch(model, 6)
    draw = model.draw(6, generator())
    assert len(draw.noise) == model.config.head_draws
    with torch.no_grad():
        whole = model.loss(latent, labels, draw, 0.5).loss
        again = model.loss(latent, labels, model.draw(6, generator()).to("cpu"), 0.5).loss
        parts = [
            model.loss(latent[i : i + 3], labels[i : i + 3], draw.slice(i, i + 3), 0.5).loss
            for i in (0, 3)
        ]
    assert torch.equal(whole, again)
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_masked_training_hides_between_one_token_and_all_as_the_cosine_says():
    model = tiny(order="masked")
    draw = model.draw(400, generator())
    unknown = (~model._known(draw)).sum(dim=1)
    assert unknown.min() == 1 or unknown.min() == 2
    assert unknown.max() == 16
    assert unknown.float().mean() / 16 == pytest.approx(2 / torch.pi + 0.5 / 16, abs=0.01)
    places = (~model._known(draw)).float().mean(dim=0)
    assert places.max() - places.min() < 0.15


@pytest.mark.parametrize(("order", "steps"), [("causal", 50), ("masked", 100)])
def test_training_makes_a_token_follow_the_tokens_before_it(order, steps):
    """Data: all tokens of an image are equal. Knowing one, the next has no variance left."""
    torch.manual_seed(0)
    sizes = {
        **SIZES,
        "latent_size": 2,
        "patch_size": 1,
        "latent_channels": 1,
        "transformer_layers": 1,
        "width": 32,
    }
    model = TokenAR(**{**sizes, "head_width": 32, "order": order, "num_iterations": 4})
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    for step in range(steps):
        latent = torch.randn(64, 1, 1, 1, generator=generator(step)).expand(64, 1, 2, 2)
        draw = model.draw(64, generator(1000 + step))
        model.loss(latent, torch.zeros(64, dtype=torch.long), draw).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    latent = model.eval().sample([0] * 200, 8, 1.0, generator()).flatten(1)
    assert latent.std(dim=1).mean() < 0.4 * latent.mean(dim=1).std()


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet256"])
@pytest.mark.parametrize("architecture", ["mar", "mar-masked", "code-ar"])
def test_parameters_are_those_of_ecar(preset, architecture):
    shape = get_preset(preset).model
    with torch.device("meta"):
        target, model = ECAR(**shape), build(architecture, shape)
    assert model.num_parameters() == pytest.approx(target.num_parameters(), rel=0.03)
    assert model.config.order == ("masked" if architecture == "mar-masked" else "causal")
    assert model.config.class_names == shape.get("class_names")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"order": "spiral"}, "order 'spiral' is unknown: use causal or masked"),
        ({"latent_size": 7}, "a latent of 7 is not divisible by patches of 2: use 8"),
        ({"head_draws": 0}, "head_draws is 0: use 1 to"),
        ({"kind": CodeAR}, "patches of 2: a token is one code, use a patch_size of 1"),
    ],
)
def test_unusable_sizes_are_refused(changes, sentence):
    with pytest.raises(EcarError, match=sentence):
        tiny(**changes)


def test_a_latent_sent_back_is_refused(causal):
    events = causal.trace([0], generator=generator())
    next(events)
    next(events)
    with pytest.raises(EcarError, match="cannot be changed"):
        events.send(torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def codes():
    """A VQ tokenizer and a model of its codes."""
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(
        kind="vq", codebook_size=20, width=16, depth=1, latent_channels=3
    ).eval()
    tokenizer.latent_shift.fill_(0.3)
    tokenizer.latent_scale.fill_(1.7)
    model = tiny(CodeAR, patch_size=1, latent_size=4, codebook_size=20)
    model.prepare_for(tokenizer)
    return tokenizer, model


def test_codes_are_those_of_the_tokenizer_and_samples_are_codes(codes, tmp_path):
    tokenizer, model = codes
    images = torch.rand(5, 3, 8, 8, generator=generator()) * 2 - 1
    latent = tokenizer.encode(images).movedim(1, -1).flatten(1, 2)
    vectors = model.codebook.vectors
    torch.testing.assert_close(vectors[model.codebook.ids(latent)], latent)
    make_pipeline(model, tokenizer).save_pretrained(tmp_path)
    again = load_pipeline(tmp_path, dtype=torch.bfloat16).model
    assert torch.equal(again.codebook.vectors, vectors)
    sample = model.sample([0, 1], generator=generator()).movedim(1, -1).flatten(0, 2)
    assert (sample[:, None] == vectors).all(dim=-1).any(dim=-1).all()


def test_codes_are_drawn_with_the_probabilities_of_the_softmax():
    model = tiny(CodeAR, patch_size=1, latent_size=2, codebook_size=20)
    model.head.codes.weight.data *= 8
    count = 4000
    sample = model.sample([0] * count, generator=generator()).movedim(1, -1)[:, 0, 0]
    drawn = torch.bincount(model.codebook.ids(sample), minlength=20) / count
    with torch.no_grad():
        modulations = model.transformer.modulations(torch.tensor([0]))
        z = model.transformer.read_prefix(torch.zeros(1, 0, 3), torch.tensor([0]), modulations)
        wanted = model.head(z[0, 0]).softmax(dim=-1)
    torch.testing.assert_close(drawn, wanted, atol=0.03, rtol=0)
    assert wanted.max() > 2 / 20


def test_the_loss_of_codes_is_their_cross_entropy(codes):
    _, model = codes
    ids = torch.randint(20, (4, 16), generator=generator())
    latent = model.codebook.vectors[ids].movedim(-1, 1).unflatten(2, (4, 4))
    with torch.no_grad():
        output = model.loss(latent, torch.zeros(4, dtype=torch.long), model.draw(4, generator()))
        tokens = model.codebook.vectors[ids]
        z = model.transformer(tokens, torch.zeros(4, dtype=torch.long), None)
        logits = model.head(z).log_softmax(dim=-1)
    wanted = -logits.gather(-1, ids[:, :, None]).mean()
    torch.testing.assert_close(output.loss, wanted)
    assert output.per_bin.isnan().all()


def test_a_tokenizer_without_codes_is_refused(codes):
    tokenizer, model = codes
    with pytest.raises(EcarError, match="does not quantise"):
        model.prepare_for(ConvTokenizer(width=16, depth=1, latent_channels=3))
    other = tiny(CodeAR, patch_size=1, latent_size=4, codebook_size=8)
    with pytest.raises(EcarError, match="the tokenizer has 20 codes, the model 8"):
        other.prepare_for(tokenizer)
