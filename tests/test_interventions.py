"""Forks: which noise they keep, which they get anew; a stage's end from elsewhere."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.flow import endpoints
from ecar_lab.interventions import (
    LatentEdit,
    fork_seeds,
    stage_end_of,
    stage_noise,
    walk_noise,
)
from ecar_lab.layers import embed_classes
from ecar_lab.trace import trace
from tests.conftest import tiny_model


def test_a_fork_has_the_early_noise_of_the_run_and_other_noise_from_its_stage_on():
    model = tiny_model(num_stages=3)
    run = stage_noise(model, 7)
    for seeds in fork_seeds((7, 7, 7), 1, 2, [1, 2]):
        fork = stage_noise(model, seeds)
        same = [torch.equal(one, other) for one, other in zip(run, fork, strict=True)]
        assert same == [True, False, False]
        assert torch.equal(fork[2], stage_noise(model, seeds[-1])[2])


def test_a_fork_takes_no_seed_that_the_run_has_from_its_stage_on():
    assert fork_seeds((4, 2, 0), 1, 3, count()) == [(4, 1, 1), (4, 3, 3), (4, 4, 4)]
    assert fork_seeds((4, 2), 1, 3, [2, 5]) == [(4, 5)]


@pytest.mark.parametrize("stage", [0, 2])
def test_a_fork_needs_a_stage_before_it_and_one_to_draw_anew(stage):
    with pytest.raises(EcarError, match=f"a fork at stage {stage}: use 1 to 1"):
        fork_seeds((4, 4), stage, 1, [5])


# -- between two classes, between two draws of noise -----------------------------------------------


@pytest.mark.parametrize("few_step", [False, True])
def test_a_mix_of_a_class_with_itself_is_the_class(few_step):
    model = tiny_model(mode="few-step" if few_step else "velocity")
    _, plain = ends_of(model, [2, 0])
    labels, mixed = ends_of(model, [2, 0], class_mix={0: ([2, 0], 0.3), 1: ([2, 0], 0.3)})
    assert labels.shape == (2, model.num_classes + 1)
    torch.testing.assert_close(mixed, plain)
    _, other = ends_of(model, [2, 0], class_mix={1: (1, 0.3)})
    assert not torch.allclose(other, plain)


def test_a_mix_is_the_mean_of_two_embeddings():
    table = torch.nn.Embedding(4, 5)
    shares = torch.tensor([[0.75, 0.0, 0.25, 0.0]])
    expected = 0.75 * table.weight[0] + 0.25 * table.weight[2]
    torch.testing.assert_close(embed_classes(table, shares), expected[None])
    assert torch.equal(embed_classes(table, torch.tensor([2])), table.weight[2:3])


def test_a_mix_all_the_way_is_the_other_class_from_its_stage_on():
    model = tiny_model()
    labels, mixed = ends_of(model, [0], class_mix={1: (2, 1)})
    _, changed = ends_of(model, [0], class_labels_from={1: 2})
    assert torch.equal(mixed, changed)
    assert labels.tolist() == [2]


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({2: (1, 0.5)}, "class_mix names stage 2: use 0 to 1"),
        ({0: (9, 0.5)}, "class 9 is out of range"),
        ({0: (1, 1.5)}, r"the share 1\.5 of another class: use 0 to 1"),
        ({0: (1, float("nan"))}, "the share nan of another class: use 0 to 1"),
        ({0: (1, True)}, "the share True of another class"),
        ({0: 1}, r"class_mix of stage 0 is 1: give \(labels, share\)"),
        ({0: ([1, 2], 0.5)}, "class_mix has 2 labels for 1 images"),
        ("cat", "class_mix"),
    ],
)
def test_a_mix_that_fits_no_model_is_refused(mix, words):
    with pytest.raises(EcarError, match=words):
        trace(tiny_model(), [0], class_mix=mix)


def test_noise_stays_white_on_its_way_and_ends_where_it_should():
    draws = [
        [torch.randn(40_000, generator=torch.Generator().manual_seed(seed))] * 3 for seed in (0, 1)
    ]
    start, half, end = walk_noise(*draws, [0, 0.5, 1.0])
    assert torch.equal(start, draws[0][0])
    assert torch.equal(end, draws[1][2])
    # The standard error of a standard deviation from 40,000 numbers is 0.0035.
    assert half.std().item() == pytest.approx(1, abs=0.02)
    for whole in (start, end):
        assert (half * whole).mean().item() == pytest.approx(0.5**0.5, abs=0.02)
    with pytest.raises(EcarError, match="the share 2 of a walk: use 0 to 1"):
        walk_noise(*draws, 2)


def ends_of(model, labels, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and latent of the last event."""
    generator = torch.Generator().manual_seed(5)
    *_, event = trace(model, labels, 2, 2.0, generator=generator, **options)
    return event.class_labels, event.latent


# -- a stage's end state from elsewhere ------------------------------------------------------------


@pytest.mark.parametrize("coupling", ["correlated", "independent"])
def test_a_given_picture_ends_a_stage_as_training_ends_it(coupling):
    model = tiny_model(num_stages=3, patch_size=1, coupling=coupling)
    latent = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    alone = [stage_noise(model, seed) for seed in (0, 1)]
    noise = [torch.cat(both) for both in zip(*alone, strict=True)]
    event = stage_end_of(model, latent, 1, [0, 2], noise)
    _, ends = endpoints(model.schedule, latent, noise)
    assert event.is_stage_end
    assert not event.is_final
    assert torch.equal(event.latent, ends[1])
    assert [torch.equal(a, b) for a, b in zip(event.history, ends[:1], strict=True)] == [True]
    events = list(trace(model, [0, 2], 2, start_from=event, noise=dict(enumerate(noise))))
    assert [e.stage for e in events] == [2] * 3
    # The stage after starts where training has it start.
    starts, _ = endpoints(model.schedule, latent, noise)
    torch.testing.assert_close(events[0].latent, starts[2])


@pytest.mark.parametrize(
    ("stage", "latent", "labels", "words"),
    [
        (1, (1, 3, 8, 8), [0], "stage names stage 1: use 0 to 0"),
        (0, (1, 3, 4, 4), [0], r"the latent is \(1, 3, 4, 4\)"),
        (0, (2, 3, 8, 8), [0, 1], "noise of stage 0 is"),
        (0, (1, 3, 8, 8), [0, 1], "2 labels for 1 images"),
    ],
)
def test_a_picture_that_fits_no_stage_is_refused(stage, latent, labels, words):
    model = tiny_model()
    with pytest.raises(EcarError, match=words):
        stage_end_of(model, torch.zeros(latent), stage, labels, stage_noise(model, 0))


NAN = float("nan")
Z = torch.zeros(1, 3, 4, 4)


@pytest.fixture(scope="module")
def short():
    """A model, and the events of a run: two stages of two steps, one image."""
    model = tiny_model()
    return model, list(trace(model, [0], 2, generator=torch.Generator().manual_seed(0)))


def run(model, **options):
    return list(trace(model, [0], 2, generator=torch.Generator().manual_seed(0), **options))


@pytest.mark.parametrize("one", [1.0, np.int64(1), torch.tensor(1)])
def test_stages_and_steps_are_found_whatever_number_names_them(short, one):
    model, _ = short
    noise, mask = torch.zeros(1, 3, 8, 8), torch.ones(8, 8, dtype=torch.bool)

    def events(number):
        edit = LatentEdit(stage=number, mask=mask, replacement="zero", step=number)
        changes = {"class_labels_from": {number: 2}, "noise": {number: noise}, "edits": [edit]}
        return [event.latent for event in run(model, **changes)]

    assert all(map(torch.equal, events(one), events(1)))


@pytest.mark.parametrize(
    ("at", "changed", "words"),
    [
        (2, {"num_stages": 3}, "is of a model with 3 stages, this one has 2"),
        (2, {"stage": 9}, "start_from names stage 9"),
        (1, {"step": 9}, "is no event of a run"),
        (1, {"step": -1}, "is no event of a run"),
        (4, {"history": ()}, "is no event of a run"),
        (4, {"history": None}, "is no event of a run"),
        (4, {"history": (Z * NAN,)}, "the history of start_from.* is not finite"),
        (4, {"history": (Z[..., :2],)}, r"the history of start_from.* it must be \(1, 3, 4, 4\)"),
        (2, {"latent": Z.long()}, "the latent of start_from.* must be a float tensor"),
        (2, {"latent": Z * NAN}, "the latent of start_from.* is not finite"),
        (2, {"latent": Z + 1e20}, r"the latent of start_from.* reaches 1e\+20"),
        (2, {"latent": Z.to("meta")}, "the latent of start_from.* is on the device meta"),
        (2, {"clean_estimate": None}, "the estimate of start_from.* is NoneType"),
    ],
)
def test_an_event_that_no_run_had_is_no_start(short, at, changed, words):
    model, events = short
    with pytest.raises(EcarError, match=words):
        run(model, start_from=replace(events[at], **changed))


def test_a_start_in_another_precision_goes_on_in_single_precision(short):
    model, events = short
    start = replace(events[2], latent=events[2].latent.double())
    again = run(model, start_from=start, noise={1: torch.zeros(1, 3, 8, 8)})
    assert {event.latent.dtype for event in again} == {torch.float32}


@pytest.mark.parametrize(("at", "step"), [(1, 0), (1, 1), (2, 1), (2, None)])
def test_an_edit_that_would_come_too_late_is_refused(short, at, step):
    model, events = short
    edit = LatentEdit(stage=0, mask=torch.ones(4, 4, dtype=torch.bool), step=step)
    with pytest.raises(EcarError, match="edit later, or start earlier"):
        run(model, start_from=events[at], edits=[edit])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"replacement": np.zeros(1)}, "use noise, zero or a tensor"),
        ({"replacement": Z.to(torch.complex64)}, "give a dense tensor of floats"),
        ({"replacement": Z.to("meta")}, "give a dense tensor of floats"),
        ({"replacement": Z.to_sparse()}, "give a dense tensor of floats"),
        ({"mask": torch.ones(4, 4, dtype=torch.bool, device="meta")}, "give a bool tensor"),
        ({"step": NAN}, "an edit at step nan"),
        ({"step": [1]}, r"an edit at step \[1\]"),
    ],
)
def test_an_edit_without_numbers_is_refused(short, changed, words):
    edit = LatentEdit(stage=0, mask=torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(EcarError, match=words):
        run(short[0], edits=[replace(edit, **changed)])


@pytest.mark.parametrize(
    ("latent", "noise", "words"),
    [
        (None, 2, "the latent is NoneType"),
        (torch.zeros(3, 8, 8), 2, r"the latent is \(3, 8, 8\): it must be \(1, 3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), 2, r"the latent is \(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8).long(), 2, "the latent is torch.int64"),
        (torch.full((1, 3, 8, 8), NAN), 2, "the latent is not finite"),
        (torch.full((1, 3, 8, 8), 1e20), 2, r"the latent reaches 1e\+20"),
        (torch.zeros(1, 3, 8, 8), 1, "there is noise of 1 stages: give 2"),
        (torch.zeros(1, 3, 8, 8), None, "noise is None"),
    ],
)
def test_what_is_no_painting_or_no_noise_is_refused(short, latent, noise, words):
    eps = None if noise is None else stage_noise(short[0], 0)[:noise]
    with pytest.raises(EcarError, match=words):
        stage_end_of(short[0], latent, 0, 0, eps)


@pytest.mark.parametrize("seed", [1.5, "0", None, True, 2**64, NAN, [None, 1]])
def test_what_is_no_seed_is_refused(short, seed):
    with pytest.raises(EcarError, match="use a whole number"):
        stage_noise(short[0], seed)


@pytest.mark.parametrize(("stage", "count"), [("1", 2), (1.5, 2), (1, -1), (1, "3")])
def test_a_fork_of_no_stage_or_count_is_refused(stage, count):
    with pytest.raises(EcarError, match="use "):
        fork_seeds((0, 0), stage, count, range(9))


def test_only_an_ecar_is_traced():
    with pytest.raises(EcarError, match="trace\\(\\) was given 'digits': give an ECAR"):
        trace("digits", [0])


def test_images_that_no_memory_holds_are_not_begun(tiny_pipeline):
    with pytest.raises(EcarError, match=r"2,000,000,000 images at once needs .* in several calls"):
        tiny_pipeline([0, 1], num_images_per_prompt=10**9)


def test_steps_so_uneven_that_they_have_no_length_are_refused(short):
    with pytest.raises(EcarError, match=r"less \(from 0.01\)"):
        run(short[0], time_power=1e-30)
    assert all(event.clean_estimate.isfinite().all() for event in run(short[0], time_power=0.01))


@pytest.mark.parametrize("labels", [torch.zeros(2, device="meta"), torch.eye(2)[0].to_sparse()])
def test_labels_without_numbers_are_refused(short, labels):
    with pytest.raises(EcarError, match="neither a name nor a whole number"):
        trace(short[0], labels)
