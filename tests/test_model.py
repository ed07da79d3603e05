"""The model: labels, draws, loss, FLOPs, saving."""

from dataclasses import replace

import pytest
import torch

from ecar_lab import ECAR, EcarError
from ecar_lab.flow import clean_estimate, endpoints
from ecar_lab.machine import count_flops
from ecar_lab.model import mean_per_bin, nested_rows
from tests.conftest import tiny_model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(model, size=8):
    latent = torch.randn(
        size, 3, model.config.latent_size, model.config.latent_size, generator=generator(1)
    )
    return latent, torch.arange(size) % model.num_classes


def test_names_and_ids_mix():
    assert tiny_model().class_ids(["frog", 0, "1"]).tolist() == [2, 0, 1]
    assert tiny_model().class_ids("dog").tolist() == [1]
    assert tiny_model().class_ids(torch.tensor([2, 1])).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["zebra"], "class 'zebra' is unknown: use one of cat, dog, frog"),
        ([3], "class 3 is out of range: use 0 to 2"),
        ([-1], "class -1 is out of range"),
        (["7"], "class 7 is out of range"),
        ([1.5], "neither a name nor a whole number"),
        ([], "no class was given"),
    ],
)
def test_a_class_that_is_not_there_is_named(labels, sentence):
    with pytest.raises(EcarError, match=sentence):
        tiny_model().class_ids(labels)


@pytest.mark.parametrize("steps", [0, -1, 2.5, [2, 0]])
def test_steps_have_to_be_whole_and_positive(steps):
    with pytest.raises(EcarError, match="at least 1"):
        tiny_model().inference_steps(steps)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, [1.0, float("nan")]])
def test_guidance_has_to_be_finite(scale):
    with pytest.raises(EcarError, match="not a finite number"):
        tiny_model().guidance(scale)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (dict(latent_size=6), "6 is not divisible by 4 .* use 8"),
        (dict(history="some"), "history 'some' is unknown"),
        (dict(class_names=["a"]), "1 class names for 3 classes"),
        (dict(width=30), "30 is not divisible by 8 .* use 32"),
    ],
)
def test_a_model_that_cannot_be_is_refused_with_the_remedy(overrides, sentence):
    with pytest.raises(EcarError, match=sentence):
        tiny_model(**overrides)


def test_a_draw_is_white_stratified_and_sliceable():
    model = tiny_model()
    draw = model.draw(64, generator())
    assert [tuple(n.shape) for n in draw.noise] == [(64, 3, 4, 4), (64, 3, 8, 8)]
    # one time in every 64th of the unit interval, for each stage
    assert (draw.local_time * 64).floor().sort(dim=0).values[:, 0].tolist() == list(range(64))
    assert not torch.equal(draw.local_time[:, 0], draw.local_time[:, 1])
    part = draw.slice(8, 16)
    assert torch.equal(part.noise[1], draw.noise[1][8:16])
    assert torch.equal(part.class_drop, draw.class_drop[8:16])


def test_the_loss_of_slices_averages_to_the_loss_of_the_batch():
    model = tiny_model()
    latent, labels = batch(model)
    draw = model.draw(8, generator())
    whole = model.loss(latent, labels, draw, 0.3)
    parts = [
        model.loss(latent[i : i + 4], labels[i : i + 4], draw.slice(i, i + 4), 0.3).loss
        for i in (0, 4)
    ]
    torch.testing.assert_close(whole.loss, torch.stack(parts).mean())
    torch.testing.assert_close(whole.loss.detach(), whole.per_stage.mean())


def test_the_loss_is_the_velocity_error_of_teacher_forcing():
    model = tiny_model()
    latent, labels = batch(model, 2)
    draw = model.draw(2, generator())
    with torch.no_grad():
        output = model.loss(latent, labels, draw)
        starts, ends = endpoints(model.schedule, latent, draw.noise)
        token_map = model.transformer(ends[:-1], labels)[1]
        tau = draw.local_time[:, 1]
        state = starts[1] + tau[:, None, None, None] * (ends[1] - starts[1])
        mods = model.head.modulations(1, tau, labels)
        velocity = model.head(1, state, model.head.read(token_map), mods)
    expected = (velocity - (ends[1] - starts[1])).square().mean()
    torch.testing.assert_close(output.per_stage[1], expected)


def test_class_dropout_is_decided_per_sample():
    model = tiny_model()
    latent, labels = batch(model, 8)
    draw = model.draw(8, generator())
    none = torch.full_like(labels, model.null_class)
    with torch.no_grad():
        kept = model.loss(latent, labels, draw, 0.0).loss
        all_dropped = model.loss(latent, labels, draw, 1.1).loss
        mixed = model.loss(latent, labels, draw, 0.5).loss
        by_hand = model.loss(
            latent, torch.where(draw.class_drop < 0.5, none, labels), draw, 0.0
        ).loss
        torch.testing.assert_close(all_dropped, model.loss(latent, none, draw, 0.0).loss)
    torch.testing.assert_close(mixed, by_hand)
    assert 0 < (draw.class_drop < 0.5).sum() < 8
    assert len({kept.item(), mixed.item(), all_dropped.item()}) == 3


def test_strides_train_fine_stages_on_fewer_images():
    model = tiny_model(latent_size=16, num_stages=3)
    latent, labels = batch(model)
    draw = model.draw(8, generator())
    with torch.no_grad():
        strided = model.loss(latent, labels, draw, 0.0, stage_strides=[1, 2, 4])
        rows = torch.arange(0, 8, 2)
        even = model.loss(
            latent[rows],
            labels[rows],
            type(draw)(
                tuple(n[rows] for n in draw.noise),
                draw.local_time[rows],
                draw.class_drop[rows],
                draw.latent_noise[rows],
            ),
        )
        whole = model.loss(latent, labels, draw)
    torch.testing.assert_close(strided.per_stage[0], whole.per_stage[0])
    torch.testing.assert_close(strided.per_stage[1], even.per_stage[1])
    assert not torch.allclose(strided.per_stage[2], whole.per_stage[2])


@pytest.mark.parametrize("coupling", ["independent", "correlated", "restart"])
def test_further_draws_are_flows_of_the_same_image_after_the_same_history(coupling):
    model = tiny_model(latent_size=16, num_stages=3, coupling=coupling)
    schedule = model.schedule
    latent, _ = batch(model, 4)
    draw = model.draw(4, generator(), head_draws=[2, 3, 1])
    starts, ends = endpoints(schedule, latent, draw.noise)
    for stage, count in enumerate([2, 3, 1]):
        start, end, time = model._flows(stage, latent, starts, ends, draw)
        assert start.shape[:2] == end.shape[:2] == time.shape == (4, count)
        previous_end = ends[stage - 1] if stage else None
        for way in range(count):
            way_start, way_end = start[:, way], end[:, way]
            # From any of them the true velocity points to the one clean latent.
            estimate = clean_estimate(
                schedule, stage, way_start, way_end - way_start, 0.0, previous_end
            )
            torch.testing.assert_close(estimate, model.pyramid(latent)[stage], atol=1e-4, rtol=1e-3)
        if count > 1:
            assert (start[:, 0] - start[:, 1]).square().mean() > 0.1
        assert torch.equal(start[:, 0], starts[stage])


def test_further_draws_follow_strides_and_slices():
    model = tiny_model(latent_size=16, num_stages=3)
    latent, labels = batch(model)
    draw = model.draw(8, generator(), head_draws=[2, 2, 1])
    assert torch.equal(draw.slice(2, 4).more_noise[1], draw.more_noise[1][2:4])
    with torch.no_grad():
        whole = model.loss(latent, labels, draw, stage_strides=[1, 1, 2]).loss
        parts = [
            model.loss(latent[i:j], labels[i:j], draw.slice(i, j), stage_strides=[1, 1, 2]).loss
            for i, j in ((0, 4), (4, 8))
        ]
        once = replace(draw, more_noise=(), more_time=())
        assert model.loss(latent, labels, once, stage_strides=[1, 1, 2]).loss != whole
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    with pytest.raises(EcarError, match="at least 1"):
        model.draw(4, generator(), head_draws=[0, 1, 1])


def test_strides_that_do_not_nest_are_refused():
    assert nested_rows(4, 2, None) == [(2, None)]
    assert nested_rows(4, 2, [1, 2]) == [(2, [0, 2]), (1, [1, 3])]
    for strides in ([2, 2], [1, 2, 3], [1], [1, 0, 0]):
        with pytest.raises(EcarError, match="each a multiple"):
            nested_rows(12, 3, strides)


def test_every_weight_gets_a_gradient():
    model = tiny_model()
    latent, labels = batch(model)
    model.loss(latent, labels, model.draw(8, generator()), 0.5).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_bins_hold_means_and_nan_where_nothing_fell():
    bins = mean_per_bin(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.0, 0.1, 0.99]))
    assert bins[0] == 2.0
    assert bins[7] == 5.0
    assert bins[1:7].isnan().all()


@pytest.mark.parametrize("guidance", [1.0, 2.0, [2.0, 1.0], [1.0, 2.0]])
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
@pytest.mark.parametrize("interval", [None, (0, 0.5), [(0.6, 1), (0.1, 0.9)]])
def test_flops_in_closed_form_equal_the_counter(guidance, solver, interval):
    model = tiny_model(num_stages=2, transformer_layers=2, head_layers=2)
    options = dict(solver=solver, guidance_interval=interval, time_power=[1.5, 1.0])
    parts = model.flops([3, 2], guidance, **options)
    from ecar_lab import trace

    run = lambda: list(trace(model, [0], [3, 2], guidance, generator(), **options))  # noqa: E731
    counted = count_flops(run)
    assert sum(parts["transformer"]) + sum(parts["head"]) == pytest.approx(counted, rel=0.02)
    assert sum(event.flops for event in run()) == sum(parts["transformer"]) + sum(parts["head"])


def test_a_saved_model_gives_the_same_output(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    again = ECAR.from_pretrained(tmp_path, use_safetensors=True).eval()
    latent, labels = batch(model)
    draw = model.draw(8, generator())
    with torch.no_grad():
        assert torch.equal(
            model.loss(latent, labels, draw).loss, again.loss(latent, labels, draw).loss
        )
    assert again.schedule == model.schedule


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenet64", "imagenet128", "imagenet256"])
def test_presets_build(name):
    with torch.device("meta"):
        model = ECAR.from_preset(name)
    assert model.num_parameters() > 1e5


def test_the_small_256_px_preset_has_about_33_million_parameters():
    with torch.device("meta"):
        model = ECAR.from_preset("imagenet256-s")
    assert 30e6 < model.num_parameters() < 36e6
    assert model.schedule.resolutions == (4, 8, 16, 32)


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(EcarError, match="preset 'cifar' is unknown: use one of digits, cifar10"):
        ECAR.from_preset("cifar")


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_preset_with_other_stages_has_defaults_that_fit_them(stages):
    small = dict(num_stages=stages, window_ends=None, transformer_layers=1, head_layers=1)
    model = ECAR.from_preset("cifar10", **small)
    asked = (model.inference_steps(), model.guidance(), model.intervals(), model.powers())
    assert [len(values) for values in asked] == [stages] * 4
    own = [8, 6, 6], [1.0, 2.0, 2.0], [(0, 1), (0, 1), (0, 0.3)], [1.0, 1.3, 1.3]
    assert (asked == own) == (stages == 3)
