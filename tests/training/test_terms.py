"""What a training may add to the velocity error: direction, tilted time, alignment."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ecar_lab.baselines import build
from ecar_lab.errors import EcarError
from ecar_lab.generator import StagePrediction
from ecar_lab.tokenizers.makers import ConvTokenizer, IdentityTokenizer
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.model import train_model
from ecar_lab.training.terms import (
    Alignment,
    ExtraTerms,
    direction_error,
    terms_for,
    tilt,
    tilt_finest,
)
from tests.conftest import tiny_model
from tests.training.runs import assert_same, config, curve, cut_back, weights


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


# -- direction --


def test_direction_is_no_error_when_parallel_and_two_when_opposite():
    target = random(3, 4, 8, 8)
    zero = torch.zeros(3)
    torch.testing.assert_close(direction_error(target, target, 2), zero, atol=1e-6, rtol=0)
    torch.testing.assert_close(direction_error(7 * target, target, 2), zero, atol=1e-6, rtol=0)
    torch.testing.assert_close(direction_error(-target, target, 2), zero + 2)


def test_direction_counts_every_token_alike_however_long():
    target = random(1, 4, 4, 4)
    output = target.clone()
    output[:, :, :2, :2] *= -1  # one token of four
    target[:, :, :2, :2] *= 100
    assert direction_error(output, target, 2).item() == pytest.approx(2 / 4, abs=1e-5)


@pytest.mark.parametrize("architecture", ["ecar", "dit"])
def test_a_term_adds_to_the_loss_and_leaves_the_velocity_error_alone(architecture):
    model = tiny_model()
    if architecture == "dit":
        shape = {k: v for k, v in model.config.items() if not k.startswith("_")}
        model = build("dit", {**shape, "width": 64}).eval()
    latent, labels = random(8, 3, 8, 8), torch.arange(8) % 3
    draw = model.draw(8, generator())
    said: list[StagePrediction] = []

    def term(prediction: StagePrediction):
        said.append(prediction)
        return direction_error(prediction.output, prediction.target, 2)

    with torch.no_grad():
        plain = model.loss(latent, labels, draw)
        more = model.loss(latent, labels, draw, term=term)
    added = torch.stack([term(stage).mean() for stage in list(said)]).mean()
    torch.testing.assert_close(more.loss, plain.loss + added)
    assert added > 0.1
    assert torch.equal(more.per_stage, plain.per_stage)
    errors = [(stage.output - stage.target).square().mean() for stage in said[: len(model.sides)]]
    torch.testing.assert_close(torch.stack(errors), plain.per_stage)


def test_a_term_knows_which_image_a_flow_is_of():
    model = tiny_model(latent_size=16, num_stages=3)
    draw = model.draw(4, generator(), head_draws=[2, 1, 1])
    found = {}

    def term(said: StagePrediction):
        found[said.stage] = said.images.tolist(), [tuple(x.shape) for x in said.layers]
        return said.output.new_zeros(len(said.output))

    with torch.no_grad():
        model.loss(random(4, 3, 16, 16), torch.zeros(4).long(), draw, 0.0, [1, 1, 2], term)
    assert found[0][0] == [0, 0, 2, 2, 1, 1, 3, 3]  # those that reach the finest stage come first
    assert found[1][0] == [0, 2, 1, 3]
    assert found[2] == ([0, 2], [(2, 64, 32)])


# -- tilted time --


@pytest.mark.parametrize("amount", [-0.99, -0.5, 0.5, 0.99])
def test_tilted_times_stay_in_range_in_order_and_in_place_at_the_ends(amount):
    time = torch.cat((torch.linspace(0, 1, 1001)[:-1], torch.tensor([1 - 2**-24])))
    tilted = tilt(time, amount)
    assert tilted[0] == 0
    assert tilted.max() < 1
    assert (tilted.diff() >= 0).all()
    assert tilt(torch.tensor([0.5]), amount).item() == pytest.approx(0.5)


def test_tilting_by_half_makes_the_middle_twice_as_dense():
    time = tilt((torch.arange(100_000) + 0.5) / 100_000, 0.5)
    for middle in (0.02, 0.5):
        share = ((time - middle).abs() < 0.01).float().mean().item() / 0.02
        u = time.sub(middle).abs().argmin() / 100_000
        assert share == pytest.approx(1 / (1 + 0.5 * math.cos(2 * math.pi * u)), rel=0.01)
    assert share == pytest.approx(2, rel=0.02)


def test_only_the_finest_stage_is_tilted_and_its_draws_stay_stratified():
    model = tiny_model(latent_size=16, num_stages=3)
    draw = model.draw(32, generator(), head_draws=[2, 2, 3])
    tilted = tilt_finest(draw, 0.6)
    assert torch.equal(tilted.local_time[:, :2], draw.local_time[:, :2])
    assert all(map(torch.equal, tilted.more_time[:2], draw.more_time[:2]))
    edges = tilt(torch.arange(33) / 32, 0.6)
    for times in (tilted.local_time[:, 2], *tilted.more_time[2].unbind(1)):
        ordered = times.sort().values
        assert ((edges[:-1] <= ordered) & (ordered <= edges[1:])).all()
    once = model.draw(8, generator())
    assert tilt_finest(once, 0.6).more_time == ()


# -- alignment --


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return ConvTokenizer(latent_channels=3, width=32, depth=1).eval()


def test_tokens_that_say_what_the_encoder_sees_are_no_error(tokenizer):
    model = tiny_model(head_layers=3)
    alignment = Alignment(model, tokenizer)
    assert alignment.layer == 1
    with torch.no_grad():
        alignment.projector.weight.zero_()[:, :, 1, 1] = torch.eye(32)
        alignment.projector.bias.zero_()
        features = alignment.features(random(2, 3, 16, 16))  # (2, 32, 8, 8)
        wanted = torch.nn.functional.avg_pool2d(features, 2)  # stage 1 has 4x4 tokens
        seen = wanted - wanted.mean(dim=(2, 3), keepdim=True)
        seen = seen / seen.square().mean(dim=(2, 3), keepdim=True).sqrt()
        tokens = 5 * seen.flatten(2).transpose(1, 2)
        layers = [torch.zeros_like(tokens), tokens, torch.zeros_like(tokens)]
        assert alignment(layers, 1, features).abs().max() < 1e-3
        others = [part.flip(0) for part in layers]
        assert alignment(others, 1, features).min() > 0.3


def test_alignment_ends_after_sixty_percent_of_the_run(tokenizer):
    model = tiny_model()
    terms = ExtraTerms(2, 0.0, 0.7, Alignment(model, tokenizer))
    latent, labels, draw = random(4, 3, 8, 8), torch.zeros(4).long(), model.draw(4, generator())
    images = random(4, 3, 16, 16, seed=1)

    def added(progress: float) -> float:
        terms.progress = progress
        model.zero_grad()
        terms.zero_grad()
        output = model.loss(latent, labels, draw, term=terms.for_batch(images))
        output.loss.backward()
        return (output.loss - output.per_stage.mean()).item()

    assert added(0.0) == pytest.approx(added(0.59))
    assert terms.align_weight == 0.7
    assert added(0.0) > 0.1
    assert all(p.grad.any() for p in terms.alignment.parameters())
    assert added(0.6) == added(1.0) == pytest.approx(0, abs=1e-7)
    assert terms.align_weight == 0
    assert all(not p.grad.any() for p in terms.alignment.parameters())


def test_a_model_takes_the_terms_that_it_has_a_use_for(tokenizer):
    both = ModelTrainConfig(direction_loss=0.5, align=0.5)
    model = tiny_model()
    shape = {k: v for k, v in model.config.items() if not k.startswith("_")}
    assert terms_for(ModelTrainConfig(), model, tokenizer) is None
    ours = terms_for(both, model, tokenizer)
    assert ours is not None
    assert ours.alignment is not None
    theirs = terms_for(both, build("dit", {**shape, "width": 64}), tokenizer)
    assert theirs is not None
    assert theirs.alignment is None
    assert terms_for(both, build("mar", {**shape, "width": 64}), tokenizer) is None
    with pytest.raises(EcarError, match="IdentityTokenizer: leave align out, or name another"):
        terms_for(both, model, IdentityTokenizer())


@pytest.fixture(scope="module")
def extras(tokenizer, tmp_path_factory) -> dict:
    """Switches of a run with everything in it; its alignment ends between steps 4 and 5 of 8."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    shape = dict(width=32, num_heads=2, transformer_layers=1, head_layers=3, patch_size=1)
    return dict(
        tokenizer=str(folder), model={**shape, "num_stages": 2}, direction_loss=0.5, time_tilt=0.5,
        align=0.5, second_ema_decay=0.1, flip=True, head_draws=[1, 2],
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole_run(extras, tmp_path_factory) -> Path:
    return train_model(config(tmp_path_factory.mktemp("runs") / "run", **extras))


@pytest.mark.parametrize("step", [4, 6])
def test_a_run_with_every_term_resumes_bit_for_bit(whole_run, extras, tmp_path, step):
    run = cut_back(whole_run, tmp_path / "run", step)
    train_model(config(run, **extras))
    for stem in ("model", "ema", "second_ema", "optimizer"):
        assert_same(weights(run, stem), weights(whole_run, stem))
    assert curve(run) == curve(whole_run)


def test_the_projector_is_trained_and_never_exported(whole_run, extras, tmp_path):
    name = "terms.alignment.projector.weight"
    first = train_model(config(tmp_path / "short", **{**extras, "steps": 2}))
    assert not torch.equal(weights(first)[name], weights(whole_run)[name])
    exported = load_file(whole_run / "final" / "model" / "diffusion_pytorch_model.safetensors")
    assert not [key for key in exported if "projector" in key or "terms" in key]
    assert {f"model.{key}" for key in exported} == {
        key for key in weights(whole_run) if not key.startswith("terms.")
    }


def test_mirrored_latents_come_with_mirrored_images(tokenizer):
    from ecar_lab.data.feeds import LatentStore, to_float

    images = torch.randint(0, 255, (3, 3, 4, 4), dtype=torch.uint8, generator=generator())
    store = LatentStore(torch.zeros(3, 2, 1, 2, 2).half(), None, torch.arange(3), images)
    *_, labels, taken = store.take(torch.tensor([2, 0]), torch.tensor([True, False]))
    assert labels.tolist() == [2, 0]
    assert torch.equal(taken, torch.stack((to_float(images[2]).flip(-1), to_float(images[0]))))
    *_, rest = store.without([0]).take(torch.tensor([1]), torch.tensor([False]))
    assert torch.equal(rest[0], to_float(images[2]))


# -- two sets of averaged weights --


def test_the_better_average_is_exported_and_both_errors_are_noted(whole_run):
    from ecar_lab.training.log import read_metrics

    last = read_metrics(whole_run)[-1]
    errors = {stem: last[f"held_out_error_{stem}"] for stem in ("ema", "second_ema")}
    assert errors["ema"] != errors["second_ema"]
    better = min(errors, key=errors.__getitem__)
    stored = load_file(whole_run / "final" / "model" / "diffusion_pytorch_model.safetensors")
    for name, tensor in stored.items():
        averaged = weights(whole_run, better)[f"model.{name}"]
        torch.testing.assert_close(tensor, averaged.bfloat16(), rtol=0, atol=0)
    decay = {"ema": 0.995, "second_ema": 0.1}[better]
    assert f"EMA {decay}" in (whole_run / "final" / "README.md").read_text()


def test_an_average_is_what_its_decay_says(tmp_path):
    run = train_model(config(tmp_path / "run", second_ema_decay=0.0, steps=2, save_every=1))
    latest = weights(run)  # decay 0: the weights themselves
    assert_same(weights(run, "second_ema"), latest, rtol=1e-5, atol=1e-7)
    assert not torch.equal(*(weights(run, s)["head.out.weight"] for s in ("ema", "second_ema")))


def test_a_second_average_cannot_begin_in_the_middle_of_a_run(tmp_path):
    run = train_model(config(tmp_path / "run", steps=2))
    state = next((run / "checkpoints").glob("*2/state.json"))
    text = state.read_text()
    assert '"second_ema_decay": null, ' in text  # a run from before there was such a switch
    state.write_text(text.replace('"second_ema_decay": null, ', ""))
    (state.parent / "SHA256SUMS").unlink()  # nor checksums
    with pytest.raises(EcarError, match="no second set of averaged weights: leave out second_ema"):
        train_model(config(run, second_ema_decay=0.5))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(direction_loss=-1.0), "direction_loss is -1.0: use a finite number from 0"),
        (dict(align=math.nan), "align is nan: use a finite number from 0"),
        (dict(time_tilt=1.0), "time_tilt is 1.0: use a number between -1 and 1"),
        (dict(second_ema_decay=1.5), "second_ema_decay is 1.5: use a number from 0 to 1"),
        (dict(second_ema_decay=0.995), "other than ema_decay, 0.995"),
    ],
)
def test_values_that_cannot_be_are_refused(wrong, sentence):
    with pytest.raises(EcarError, match=sentence):
        ModelTrainConfig.from_preset("digits", **wrong).check()
