"""The numbers of the stages."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecar_lab import EcarError, StageSchedule
from ecar_lab.flow import transition
from ecar_lab.schedule import even_window_ends, per_stage, plan_text, time_grid

COUPLINGS = ["independent", "correlated"]


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 5])
def test_windows_begin_at_noise_and_end_at_data(num_stages):
    schedule = StageSchedule(latent_size=32, num_stages=num_stages)
    assert schedule.window(0)[0] == 0.0
    assert schedule.window(num_stages - 1)[1] == 1.0
    assert schedule.resolutions[-1] == 32
    assert all(2 * a == b for a, b in pairwise(schedule.resolutions))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_stage_starts_noisier_than_the_last_one_ended(coupling):
    schedule = StageSchedule(16, 3, (0.4, 0.7, 1.0), coupling)
    for stage in (1, 2):
        assert 0 < schedule.window(stage)[0] < schedule.window(stage - 1)[1]


@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("end", [0.1, 0.5, 0.9])
def test_noise_after_a_transition_has_standard_deviation_one_minus_a(coupling, end, ratio):
    schedule = StageSchedule(8, 2, (end, 1.0), coupling, ratio)
    assert schedule.resolutions == (8 // ratio, 8)
    transition = schedule.transition(1)
    start = schedule.window(1)[0]
    # correlated: eps has variance n / (n - 1) * (n - 1) / n = 1 per pixel, as white noise has
    variance = (transition.scale * (1 - end)) ** 2 + transition.sigma**2
    assert math.isclose(variance, (1 - start) ** 2, rel_tol=1e-12)
    assert math.isclose(transition.scale, start / end)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 5])
def test_time_slices_of_stages_are_disjoint_and_fill_the_unit_interval(num_stages):
    schedule = StageSchedule(32, num_stages)
    slices = [schedule.time_slice(stage) for stage in range(num_stages)]
    assert slices[0][0] == 0.0
    assert all(low < high for low, high in slices)
    assert all(high < low for (_, high), (low, _) in pairwise(slices))
    assert slices[-1][1] <= 1.0


def test_conditioning_time_of_two_stages_never_agrees():
    schedule = StageSchedule(16, 3)
    times = [schedule.conditioning_time(s, k / 16) for s in range(3) for k in range(17)]
    assert len(set(times)) == len(times)


def test_flow_time_runs_through_the_window():
    schedule = StageSchedule(8, 2, (0.5, 1.0))
    assert schedule.flow_time(1, 0.0) == pytest.approx(1 / 3)
    assert schedule.flow_time(1, 1.0) == 1.0


def test_one_stage_is_plain_flow_matching():
    schedule = StageSchedule(16, 1)
    assert schedule.resolutions == (16,)
    assert schedule.window(0) == (0.0, 1.0)


def test_default_windows_are_even():
    assert even_window_ends(1) == (1.0,)
    assert even_window_ends(3) == (0.5, 0.75, 1.0)


def test_a_schedule_cannot_be_changed():
    with pytest.raises(AttributeError):
        StageSchedule(16, 3).num_stages = 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(latent_size=30, num_stages=4), "30 is not divisible by 8 .* use 32"),
        (dict(num_stages=6), "6 stages: use 1 to 5"),
        (dict(num_stages=0), "0 stages: use 1 to 5"),
        (dict(num_stages=2, window_ends=(0.7, 0.5)), "do not increase"),
        (dict(num_stages=2, window_ends=(0.0, 1.0)), "do not increase"),
        (dict(num_stages=2, window_ends=(float("nan"), 1.0)), "do not increase"),
        (dict(num_stages=2, window_ends=(0.5, 0.9)), "must end at 1"),
        (dict(num_stages=3, window_ends=(0.5, 1.0)), "2 window ends for 3 stages"),
        (dict(coupling="other"), "coupling 'other' is unknown: use independent, correlated"),
        (dict(ratio=1), "ratio of 1: use 2 or more"),
        (dict(latent_size=8, num_stages=3, ratio=4), "8 is not divisible by 16 .* use 16"),
        (dict(num_stages=2, window_ends=(0.5, 1.0), coupling="restart"), "all must be 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_the_remedy(arguments, sentence):
    with pytest.raises(EcarError, match=sentence):
        StageSchedule(**arguments)


def test_there_is_no_transition_into_the_first_stage():
    with pytest.raises(EcarError, match="into stage 0"):
        StageSchedule(16, 3).transition(0)


def test_one_value_stands_for_all_stages():
    assert per_stage(4, 3, "steps") == [4, 4, 4]
    assert per_stage([8, 6, 4], 3, "steps") == [8, 6, 4]
    with pytest.raises(EcarError, match="steps has 2 values for 3 stages"):
        per_stage([8, 6], 3, "steps")


def test_a_plan_is_told_with_spaces_one_number_as_it_is():
    assert plan_text([8, 6, 6]) == plan_text((8, 6, 6)) == "8 + 6 + 6"
    assert plan_text(50) == plan_text([50]) == "50"


def test_a_time_grid_goes_from_0_to_1_in_even_steps_or_in_steps_that_grow():
    assert time_grid(4) == [0, 0.25, 0.5, 0.75, 1]
    assert time_grid(2, 2.0) == [0, 0.25, 1]
    for power in (0.5, 1.3):
        times = time_grid(6, power)
        lengths = [after - before for before, after in pairwise(times)]
        assert (times[0], times[-1]) == (0, 1)
        assert lengths == sorted(lengths, reverse=power < 1)


@st.composite
def schedules(draw):
    """Any schedule that there can be, with windows that leave room between their ends."""
    stages, ratio = draw(st.integers(1, 4)), draw(st.sampled_from([2, 3, 4]))
    inner = draw(
        st.lists(st.integers(1, 99), min_size=stages - 1, max_size=stages - 1, unique=True)
    )
    ends = (*(end / 100 for end in sorted(inner)), 1.0)
    size = ratio ** (stages - 1) * draw(st.integers(1, 3))
    return StageSchedule(size, stages, ends, draw(st.sampled_from(COUPLINGS)), ratio)


@settings(deadline=None, derandomize=True)
@given(schedules())
def test_every_schedule_covers_the_way_and_keeps_its_stages_apart(schedule):
    windows = [schedule.window(stage) for stage in range(schedule.num_stages)]
    assert windows[0][0] == 0.0
    assert windows[-1][1] == 1.0
    for (_, end), (start, later_end) in pairwise(windows):
        assert 0 < start < end < later_end, "a stage starts noisier than the last one ended"
    slices = [schedule.time_slice(stage) for stage in range(schedule.num_stages)]
    assert slices[0][0] == 0.0
    assert all(low < high for low, high in slices)
    assert all(high < low for (_, high), (low, _) in pairwise(slices))
    assert slices[-1][1] < 1.0


@settings(deadline=None, derandomize=True)
@given(schedules())
def test_every_transition_hands_on_the_signal_and_noise_of_the_right_size(schedule):
    """x_start = a D + noise of standard deviation 1 - a, which ``correlated`` makes white."""
    for stage in range(1, schedule.num_stages):
        start, ratio = schedule.window(stage)[0], schedule.ratio
        end, hand_over = schedule.ends[stage - 1], schedule.transition(stage)
        assert math.isclose(hand_over.scale * end, start)
        # Linear in the noise: one draw for each pixel of a block gives the matrix of the map.
        pixels = ratio**2
        basis = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, ratio, ratio)
        still = torch.zeros(pixels, 1, 1, 1, dtype=torch.float64)
        added = transition(schedule, stage, still, basis).flatten(1)
        kept = (hand_over.scale * (1 - end)) ** 2  # the last stage's noise, one per block
        covariance = added.T @ added + kept
        expected = (1 - start) ** 2 * torch.eye(pixels, dtype=torch.float64)
        if schedule.coupling == "independent":
            expected = expected + kept * (1 - torch.eye(pixels, dtype=torch.float64))
        torch.testing.assert_close(covariance, expected, atol=1e-6, rtol=1e-5)


@settings(deadline=None, derandomize=True)
@given(
    st.integers(-1, 40),
    st.integers(-1, 7),
    st.none() | st.lists(st.floats() | st.integers(-1, 2), max_size=4).map(tuple),
    st.sampled_from([*COUPLINGS, "restart", "", "x"]),
    st.integers(-1, 4),
)
def test_numbers_that_make_no_schedule_are_one_sentence(size, stages, ends, coupling, ratio):
    try:
        schedule = StageSchedule(size, stages, ends, coupling, ratio)
    except EcarError:
        return
    assert schedule.ends[-1] == 1.0
    assert len(schedule.ends) == schedule.num_stages == stages
    assert all(0 <= start < end <= 1 for start, end in map(schedule.window, range(stages)))
