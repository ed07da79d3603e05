"""The stream: complete, repeatable, and open to interventions."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ecar_lab import EcarError, LatentEdit, trace
from ecar_lab.flow import clean_estimate, upsample
from tests.conftest import tiny_model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def run(model, labels=(0, 1), steps=3, guidance=1.0, seed=0, **options):
    return list(trace(model, list(labels), steps, guidance, generator(seed), **options))


@pytest.fixture(scope="module")
def model():
    return tiny_model(latent_size=16, num_stages=3)


def test_every_step_of_every_stage_is_told_once(model):
    events = run(model, steps=[2, 1, 3])
    assert [(e.stage, e.step) for e in events] == [
        *((0, 0), (0, 1), (0, 2)),
        *((1, 0), (1, 1)),
        *((2, 0), (2, 1), (2, 2), (2, 3)),
    ]
    assert [e.is_stage_end for e in events] == [e.step == e.num_steps for e in events]
    assert [e.is_final for e in events].index(True) == len(events) - 1
    for event in events:
        side = model.schedule.resolutions[event.stage]
        assert event.latent.shape == event.clean_estimate.shape == (2, 3, side, side)
        assert event.latent.dtype == torch.float32
        assert event.token_map.shape == (2, (side // 2) ** 2, 32)
        assert len(event.history) == event.stage
        assert (event.velocity_norm is None) == (event.step == 0)
        assert event.seconds >= 0
        assert event.flops > 0
    assert events[-1].t == 1.0
    assert events[0].t == 0.0


def test_a_stage_starts_from_the_transition_of_the_last_end(model):
    events = run(model)
    end, start = events[3], events[4]
    coefficients = model.schedule.transition(1)
    noise = (start.latent - coefficients.scale * upsample(end.latent)) / coefficients.sigma
    assert 0.8 < noise.std() < 1.2
    assert torch.equal(start.history[0], end.latent)


def test_same_seed_same_image_and_another_seed_another(model):
    a, b, c = (run(model, seed=seed)[-1].latent for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_an_image_does_not_depend_on_its_batch(model):
    """With one generator per image."""
    options = dict(num_inference_steps=3, guidance_scale=1.5)
    batch = list(trace(model, [0, 1, 2], generator=[generator(s) for s in (5, 6, 7)], **options))[
        -1
    ].latent
    alone = list(trace(model, [1], generator=[generator(6)], **options))[-1].latent
    torch.testing.assert_close(batch[1:2], alone, atol=1e-4, rtol=0)


def test_guidance_one_runs_no_second_half_and_equals_the_class_alone(model):
    rows = []
    hook = model.head.out.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    plain = run(model, guidance=1.0)[-1].latent
    alone, rows[:] = set(rows), []
    guided = run(model, guidance=2.0)[-1].latent
    hook.remove()
    assert alone == {2}
    assert set(rows) == {4}
    assert not torch.allclose(plain, guided)


def test_guidance_extrapolates_every_channel_from_the_null_class(model):
    def first_velocity(labels, guidance):
        events = run(model, labels, [1, 1, 1], guidance)
        return events[1].latent - events[0].latent

    with_class = first_velocity([0, 1], 1.0)
    guided = first_velocity([0, 1], 3.0)
    half = first_velocity([0, 1], 0.5)
    none = 2 * half - with_class  # v_none from v_none + 0.5 (v_class - v_none)
    torch.testing.assert_close(guided, none + 3 * (with_class - none), atol=1e-4, rtol=1e-4)
    per_channel = (guided - with_class).abs().amax(dim=(0, 2, 3))
    assert (per_channel > 1e-4).all()


@pytest.mark.parametrize("guidance", [[1.0, 1.0, 2.0], [2.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
def test_guidance_at_one_stage_leaves_earlier_ones_alone(model, guidance):
    plain, guided = run(model), run(model, guidance=guidance)
    for a, b in zip(plain, guided, strict=True):
        if guidance[: a.stage + 1] == [1.0] * (a.stage + 1):
            torch.testing.assert_close(a.latent, b.latent, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain[-1].latent, guided[-1].latent)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
def test_going_on_from_any_event_gives_the_same_end(model, guidance, solver):
    noise = {s: torch.randn(2, 3, r, r, generator=generator(9)) for s, r in enumerate((4, 8, 16))}
    options = dict(guidance=guidance, solver=solver, noise=noise)
    events = run(model, **options)
    # Adams-Bashforth's history is not in an event, so within a stage it begins anew.
    for index in (0, 3, 4, 7) if solver == "ab2" else (0, 2, 3, 4, 7, 9):
        rest = run(model, start_from=events[index], **options)
        assert [(e.stage, e.step) for e in rest] == [(e.stage, e.step) for e in events[index + 1 :]]
        torch.testing.assert_close(rest[-1].latent, events[-1].latent, atol=1e-5, rtol=1e-5)


def by_hand(model, steps, start):
    """The end of a stage: Adams-Bashforth's steps, made of Euler's, from an event of one image."""
    latent, previous = start.latent, None
    for step in range(start.step, steps):
        here = replace(start, step=step, local_time=step / steps, latent=latent)
        euler = run(model, [0], steps, solver="euler", start_from=here)[0].latent
        slope = (euler - latent) * steps
        latent = euler if previous is None else euler + (slope - previous) / (2 * steps)
        previous = slope
    return latent


def test_the_default_is_adams_bashforth_and_each_stage_has_a_history_of_its_own(model):
    events = run(model, [0], 3)
    for start, end in ((events[0], events[3]), (events[4], events[7]), (events[8], events[11])):
        torch.testing.assert_close(by_hand(model, 3, start), end.latent, atol=1e-4, rtol=1e-4)
    euler = run(model, [0], 3, solver="euler")
    assert torch.equal(events[1].latent, euler[1].latent)
    assert not torch.allclose(events[2].latent, euler[2].latent)


def test_a_run_that_starts_within_a_stage_begins_the_history_anew(model):
    events = run(model, [0], 3)
    rest = run(model, [0], 3, start_from=events[9])
    torch.testing.assert_close(rest[-1].latent, by_hand(model, 3, events[9]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(rest[-1].latent, events[-1].latent, atol=1e-4)


def test_a_latent_that_was_changed_on_the_way_has_no_history(model):
    """An edit, or a latent sent back: what follows is the run from the changed state."""
    plain = run(model, [0], 3)
    mask = torch.ones(16, 16, dtype=torch.bool)
    other = torch.randn(1, 3, 16, 16, generator=generator(8))
    edited = run(model, [0], 3, edits=[LatentEdit(2, mask, other, step=1)])
    expected = run(model, [0], 3, start_from=replace(plain[9], latent=other))
    torch.testing.assert_close(edited[-1].latent, expected[-1].latent, atol=1e-5, rtol=1e-5)
    events = trace(model, [0], 3, 1.0, generator())
    event = next(events)
    while not event.is_final:
        event = events.send(other if (event.stage, event.step) == (2, 1) else None)
    torch.testing.assert_close(event.latent, expected[-1].latent, atol=1e-5, rtol=1e-5)


def test_a_latent_that_is_sent_back_as_it_was_changes_nothing(model):
    events = trace(model, [0], 3, 1.0, generator())
    event = next(events)
    while not event.is_final:
        event = events.send(event.latent)
    assert torch.equal(event.latent, run(model, [0], 3)[-1].latent)


def test_guidance_acts_in_the_steps_that_start_within_the_interval_and_nowhere_else(model):
    rows = []
    hook = model.head.out.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    options = dict(guidance=2.0, solver="euler", steps=[4, 4, 4])
    intervals = [(0, 1), (0.25, 0.75), (0, 0.5)]
    events = run(model, guidance_interval=intervals, **options)
    hook.remove()
    assert rows == [4, 4, 4, 4, 2, 4, 4, 2, 4, 4, 2, 2]
    for event, after in pairwise(events):  # each step anew, in a run that is guided or not
        low, high = intervals[event.stage]
        if event.is_stage_end or event.stage == 0:
            continue
        scale = 2.0 if low <= event.local_time < high else 1.0
        again = run(model, **{**options, "guidance": scale}, start_from=event)[0]
        torch.testing.assert_close(again.latent, after.latent, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(events[-1].latent, run(model, **options)[-1].latent)


def test_heun_s_second_look_is_guided_as_its_step_is(model):
    rows = []
    hook = model.head.out.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    run(model, steps=2, guidance=2.0, solver="heun", guidance_interval=(0, 0.5))
    hook.remove()
    assert rows == [4, 4, 2, 2] * 3


def test_the_power_of_the_grid_says_where_the_steps_lie(model):
    events = run(model, steps=2, time_power=[1.0, 2.0, 0.5], solver="euler")
    for stage, middle in enumerate((0.5, 0.25, 0.5**0.5)):
        own = [event for event in events if event.stage == stage]
        assert [event.local_time for event in own] == pytest.approx([0, middle, 1])
        low, high = model.schedule.window(stage)
        assert own[1].t == pytest.approx(low + middle * (high - low))
    even = run(model, steps=2, solver="euler")
    assert torch.equal(events[3].latent, even[3].latent)  # where stage 1 starts
    short, usual = (run_[4].latent - run_[3].latent for run_ in (events, even))
    torch.testing.assert_close(short, usual / 2, atol=1e-5, rtol=1e-4)


def test_guidance_is_decided_by_where_a_step_starts(model):
    rows = []
    hook = model.head.out.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    run(model, steps=4, guidance=2.0, guidance_interval=(0, 0.5), time_power=[1.0, 2.0, 0.5])
    hook.remove()
    assert rows == [4, 4, 2, 2, 4, 4, 4, 2, 4, 2, 2, 2]  # starts: i/4, (i/4)², sqrt(i/4)


def test_the_grid_of_the_config_is_the_default_and_an_argument_beats_it():
    own = tiny_model(latent_size=16, num_stages=3, time_power=[1.0, 2.0, 1.5])
    assert own.powers() == [1.0, 2.0, 1.5]
    assert own.powers(1) == [1.0] * 3
    assert [event.local_time for event in run(own, steps=2)[3:6]] == [0, 0.25, 1]
    assert [event.local_time for event in run(own, steps=2, time_power=1)[3:6]] == [0, 0.5, 1]


def test_noise_of_an_edit_is_that_of_its_moment_on_the_grid(model):
    mask = torch.ones(16, 16, dtype=torch.bool)
    edit = LatentEdit(2, mask, "noise", step=1)
    events = run(model, [0] * 40, steps=2, time_power=2.0, edits=[edit])
    after = events[7]
    assert (after.stage, after.step, after.local_time) == (2, 1, 0.25)
    assert after.latent.std().item() == pytest.approx(1 - after.t, rel=0.03)


def test_the_clean_estimate_is_that_of_the_step_s_own_velocity(model):
    """So it lies on the straight line on which the step went, whatever the solver."""
    for solver in ("euler", "heun", "ab2"):
        first, second = run(model, steps=3, time_power=1.5, solver=solver)[1:3]
        length = second.local_time - first.local_time
        velocity = (second.latent - first.latent) / length
        expected = clean_estimate(
            model.schedule, 0, second.latent, velocity, second.local_time, None
        )
        torch.testing.assert_close(second.clean_estimate, expected, atol=1e-4, rtol=1e-4)


def test_an_interval_without_a_step_is_no_guidance(model):
    none = run(model, steps=2, guidance=3.0, guidance_interval=(0.6, 0.9))
    plain = run(model, steps=2)
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(none, plain, strict=True))
    assert [event.flops for event in none] == [event.flops for event in plain]


def test_the_interval_of_the_config_is_the_default_and_an_argument_beats_it():
    own = tiny_model(latent_size=16, num_stages=3, guidance_interval=[None, [0, 0.5], None])
    assert own.intervals() == [(0.0, 1.0), (0.0, 0.5), (0.0, 1.0)]
    assert own.intervals((0, 1)) == [(0.0, 1.0)] * 3
    costs = [sum(e.flops for e in run(own, guidance=2.0, **more))
             for more in ({}, {"guidance_interval": (0, 1)})]  # fmt: skip
    assert costs[0] < costs[1]
    assert tiny_model(latent_size=16, num_stages=3).intervals() == [(0.0, 1.0)] * 3


def test_a_fork_keeps_the_coarse_stages_and_draws_the_later_ones_anew(model):
    events = run(model)
    end_of_first = events[3]
    fork = run(model, seed=1, start_from=end_of_first)
    assert fork[0].stage == 1
    assert torch.equal(fork[0].history[0], end_of_first.latent)
    assert not torch.equal(fork[-1].latent, events[-1].latent)


def test_the_class_can_change_at_a_stage(model):
    same = run(model, [0, 0])
    switched = run(model, [0, 0], class_labels_from={2: 2})
    assert torch.equal(same[7].latent, switched[7].latent)
    assert not torch.allclose(same[-1].latent, switched[-1].latent)
    assert switched[-1].class_labels.tolist() == [2, 2]
    assert switched[0].class_labels.tolist() == [0, 0]


def test_given_noise_takes_the_place_of_the_generator_s(model):
    noise = torch.randn(2, 3, 4, 4, generator=generator(3))
    assert torch.equal(run(model, noise={0: noise})[0].latent, noise)


def test_without_renoise_blocks_stay_constant_at_the_start(model):
    start = run(model, renoise=False)[4].latent
    blocks = start.reshape(2, 3, 4, 2, 4, 2)
    assert torch.equal(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))
    only_last = run(model, renoise=[True, True, False])
    assert torch.equal(only_last[4].latent, run(model)[4].latent)


@pytest.mark.parametrize("replacement", ["zero", "noise", torch.full((3, 4, 4), 0.5)])
def test_an_edit_replaces_its_region_and_nothing_else(model, replacement):
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    plain = run(model)
    edited = run(model, edits=[LatentEdit(0, mask, replacement)])
    before, after = plain[3].latent, edited[3].latent
    assert torch.equal(before[:, :, 2:], after[:, :, 2:])
    assert not torch.equal(before[:, :, :2], after[:, :, :2])
    if replacement == "zero":
        assert not after[:, :, :2].any()
    if isinstance(replacement, torch.Tensor):
        assert (after[:, :, :2] == 0.5).all()
    assert not torch.allclose(plain[-1].latent, edited[-1].latent)


def test_attention_is_carried_where_it_was_asked_for(model):
    events = run(model, guidance=2.0, attention_layer=0)
    starts = [event for event in events if event.step == 0]
    assert [tuple(e.attention.shape) for e in starts] == [
        (2, 2, 4, 4),
        (2, 2, 16, 20),
        (2, 2, 64, 84),
    ]
    assert all(e.attention is None for e in events if e.step)


def test_time_spent_by_the_consumer_is_not_counted(model, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    total = 0.0
    for event in trace(model, [0], 2, generator=generator()):
        total += event.seconds
        clock[0] += 100.0
    assert total == 0.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(solver="rk4"), "solver 'rk4' is unknown: use one of euler, heun, ab2"),
        (dict(guidance_interval=(0.8, 0.2)), "0.8 to 0.2 ends before it begins: give the lower"),
        (dict(guidance_interval=(0.5, 0.5)), "ends before it begins"),
        (dict(guidance_interval=(0, float("nan"))), "ends before it begins"),
        (dict(guidance_interval=(-0.1, 0.5)), "-0.1 to 0.5 leaves the stage: local time is 0 to 1"),
        (dict(guidance_interval=(0.5, 2)), "leaves the stage"),
        (dict(guidance_interval=[0.1, 0.5, 1.0]), "is no pair: give low and high"),
        (dict(guidance_interval=0.5), "0.5 is no pair"),
        (dict(guidance_interval=[(0, 1), (0, 1)]), "guidance_interval has 2 values for 3 stages"),
        (dict(guidance_interval=[None, "all", None]), "'all' is no pair"),
        (
            dict(time_power=0),
            "time_power 0: use 1 for even steps, more .up to 8. for shorter first",
        ),
        (dict(time_power=float("nan")), "time_power nan"),
        (dict(time_power=[1, 2]), "time_power has 2 values for 3 stages"),
        (dict(steps=0), "at least 1"),
        (dict(guidance=float("nan")), "not a finite number"),
        (dict(labels=["bird"]), "class 'bird' is unknown"),
        (dict(class_labels_from={3: 0}), "class_labels_from names stage 3: use 0 to 2"),
        (dict(class_labels_from={1: [0, 1, 2]}), "3 labels for 2 images"),
        (dict(noise={0: torch.zeros(2, 3, 8, 8)}), "it must be"),
        (dict(edits=[LatentEdit(1, torch.ones(4, 4).bool())]), "it must be"),
        (dict(edits=[LatentEdit(0, torch.ones(4, 4).bool(), step=9)]), "use 0 to 3"),
        (
            dict(edits=[LatentEdit(0, torch.ones(4, 4).bool(), "blur")]),
            "use noise, zero or a tensor",
        ),
        (dict(attention_layer=5), "no attention layer 5"),
        (dict(renoise=[True]), "renoise has 1 values for 3 stages"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(model, options, sentence):
    with pytest.raises(EcarError, match=sentence):
        trace(
            model,
            options.pop("labels", [0, 1]),
            options.pop("steps", 3),
            options.pop("guidance", 1.0),
            **options,
        )


def test_an_event_of_another_run_has_to_fit(model):
    events = run(model)
    with pytest.raises(EcarError, match="same model and batch size"):
        trace(model, [0], 3, start_from=events[3])
    with pytest.raises(EcarError, match="a stage of 3 steps, this run has 5"):
        trace(model, [0, 1], 5, start_from=events[2])
    with pytest.raises(EcarError, match=r"at local time 0\.333333 .* at 0\.111111: use the same"):
        trace(model, [0, 1], 3, start_from=events[1], time_power=2.0)
    trace(model, [0, 1], 3, start_from=events[3], time_power=2.0)  # at a stage's end all is well
    with pytest.raises(EcarError, match="last event of its run"):
        trace(model, [0, 1], 3, start_from=events[-1])
    with pytest.raises(EcarError, match="1 generators for 2 images"):
        trace(model, [0, 1], 3, generator=[generator()])
