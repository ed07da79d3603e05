"""Transitions, end points, clean estimates and solvers, against their formulas."""

import math

import pytest
import torch

from ecar_lab import StageSchedule
from ecar_lab.flow import (
    SOLVERS,
    block_mean,
    clean_estimate,
    endpoints,
    pyramid,
    transition,
    upsample,
)

COUPLINGS = ["independent", "correlated"]
WINDOWS = [(0.5, 0.75, 1.0), (0.3, 0.8, 1.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(schedule, batch, channels=2, seed=0):
    g = generator(seed)
    return [torch.randn(batch, channels, r, r, generator=g) for r in schedule.resolutions]


def block_covariance(noise):
    """Covariance of the four pixels of a 2x2 block, (4, 4), over all blocks."""
    b, c, h, w = noise.shape
    blocks = noise.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(-1, 4)
    return blocks.T.cov()


def test_the_pyramid_averages_blocks():
    latent = torch.arange(16.0).reshape(1, 1, 4, 4)
    coarse, full = pyramid(latent, 2)
    assert torch.equal(full, latent)
    assert torch.equal(coarse, torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))
    assert torch.equal(block_mean(upsample(latent)), latent)


@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("end", [0.3, 0.5, 0.8])
def test_correlated_start_state_noise_is_white(end, ratio):
    schedule = StageSchedule(2 * ratio, 2, (end, 1.0), "correlated", ratio)
    start = schedule.window(1)[0]
    n = 40_000
    clean = torch.full((n, 1, 2, 2), 0.7)
    noise = torch.randn(n, 1, 2, 2, generator=generator(1))
    previous_end = end * clean + (1 - end) * noise
    white = torch.randn(n, 1, 2 * ratio, 2 * ratio, generator=generator(2))
    x_start = transition(schedule, 1, previous_end, white)
    assert x_start.mean().item() == pytest.approx(start * 0.7, abs=3e-3)
    covariance = block_covariance(x_start)  # neighbours, within a block whatever its size
    torch.testing.assert_close(covariance, (1 - start) ** 2 * torch.eye(4), atol=1e-2, rtol=0)


@pytest.mark.parametrize("end", [0.3, 0.5, 0.8])
def test_independent_start_state_has_the_formula_s_covariance(end):
    schedule = StageSchedule(8, 2, (end, 1.0), "independent")
    coefficients = schedule.transition(1)
    n = 40_000
    previous_end = (1 - end) * torch.randn(n, 1, 4, 4, generator=generator(1))
    x_start = transition(schedule, 1, previous_end, torch.randn(n, 1, 8, 8, generator=generator(2)))
    shared = (coefficients.scale * (1 - end)) ** 2
    expected = coefficients.sigma**2 * torch.eye(4) + shared
    torch.testing.assert_close(block_covariance(x_start), expected, atol=6e-3, rtol=0)


def test_correlated_noise_sums_to_zero_in_every_block():
    schedule = StageSchedule(8, 2, (0.5, 1.0), "correlated")
    zero = torch.zeros(3, 2, 4, 4)
    eps = transition(schedule, 1, zero, torch.randn(3, 2, 8, 8, generator=generator()))
    assert block_mean(eps).abs().max() < 1e-6
    many = transition(
        schedule,
        1,
        torch.zeros(20_000, 1, 4, 4),
        torch.randn(20_000, 1, 8, 8, generator=generator()),
    )
    expected = schedule.transition(1).sigma ** 2 * (4 / 3) * (torch.eye(4) - 0.25)
    torch.testing.assert_close(block_covariance(many), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_training_starts_where_sampling_would(coupling):
    """The start that training makes is the transition from the end that training shows."""
    schedule = StageSchedule(16, 3, coupling=coupling)
    noise = draws(schedule, 4)
    starts, ends = endpoints(schedule, torch.randn(4, 2, 16, 16, generator=generator(5)), noise)
    for stage in (1, 2):
        if coupling == "independent":
            again = transition(schedule, stage, ends[stage - 1], noise[stage])
            torch.testing.assert_close(starts[stage], again)
        assert starts[stage].shape == ends[stage].shape


def test_correlated_noise_is_the_same_at_both_ends_of_a_stage():
    """start = a Up2(D) + (1 - a) n and end = b D + (1 - b) n with one n, at every stage."""
    schedule = StageSchedule(16, 3, (0.4, 0.7, 1.0), "correlated")
    latent = torch.randn(4, 2, 16, 16, generator=generator(5))
    levels = pyramid(latent, 3)
    noise = draws(schedule, 4)
    starts, ends = endpoints(schedule, latent, noise)
    a = schedule.window(2)[0]
    noise_at_start = (starts[2] - a * upsample(levels[1])) / (1 - a)
    torch.testing.assert_close(noise_at_start, noise[2], atol=1e-5, rtol=1e-5)
    a, b = schedule.window(1)
    noise_at_start = (starts[1] - a * upsample(levels[0])) / (1 - a)
    noise_at_end = (ends[1] - b * levels[1]) / (1 - b)
    torch.testing.assert_close(noise_at_start, noise_at_end, atol=1e-5, rtol=1e-5)


def test_each_stage_has_its_own_noise_under_independent():
    schedule = StageSchedule(8, 2, (0.5, 1.0), "independent")
    n = 20_000
    noise = draws(schedule, n, channels=1)
    zero = torch.zeros(n, 1, 8, 8)
    starts, ends = endpoints(schedule, zero, noise)
    fresh = starts[1] - schedule.transition(1).scale * upsample(ends[0])
    correlation = (block_mean(fresh) * ends[0]).mean().item()
    assert abs(correlation) < 5e-3


def test_the_leak_of_correlated_noise_is_real():
    """History and state together give the clean block means away: why the coupling needs a
    transformer that does not see the end states."""
    schedule = StageSchedule(8, 2, (0.5, 1.0), "correlated")
    latent = torch.randn(16, 1, 8, 8, generator=generator())
    starts, ends = endpoints(schedule, latent, draws(schedule, 16, channels=1))
    tau, a = 0.5, schedule.window(1)[0]
    state = (1 - tau) * starts[1] + tau * ends[1]
    # Known: e_0 = b D + (1 - b) n_0 with n_0 = 2 blockmean(n), and the block mean of the state.
    # Unknown: block means of D and of n. Two equations, so they can be solved for.
    known = torch.stack((ends[0], block_mean(state)), dim=-1)
    system = torch.tensor([[0.5, 0.5 * 2], [(1 - tau) * a + tau, (1 - tau) * (1 - a)]])
    solved = torch.linalg.solve(system, known[..., None])[..., 0, 0]
    torch.testing.assert_close(solved, block_mean(latent), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("coupling", "windows", "ratio"),
    [
        *((coupling, windows, ratio) for coupling in COUPLINGS for windows in WINDOWS
          for ratio in (2, 4)),
        ("restart", (1.0, 1.0, 1.0), 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tau", [0.0, 0.35, 1.0])
def test_clean_estimate_of_the_true_velocity_is_the_clean_latent(coupling, windows, ratio, tau):
    schedule = StageSchedule(16, 3, windows, coupling, ratio)
    latent = torch.randn(2, 2, 16, 16, generator=generator(3))
    starts, ends = endpoints(schedule, latent, draws(schedule, 2))
    for stage, level in enumerate(pyramid(latent, 3, ratio)):
        state = (1 - tau) * starts[stage] + tau * ends[stage]
        previous = ends[stage - 1] if stage else None
        estimate = clean_estimate(
            schedule, stage, state, ends[stage] - starts[stage], tau, previous
        )
        torch.testing.assert_close(estimate, level, atol=1e-4, rtol=1e-4)


def test_a_restart_goes_from_white_noise_to_the_clean_level_in_every_stage():
    schedule = StageSchedule(16, 3, coupling="restart")
    latent = torch.randn(2, 2, 16, 16, generator=generator(3))
    noise = draws(schedule, 2)
    starts, ends = endpoints(schedule, latent, noise)
    for start, end, eps, level in zip(starts, ends, noise, pyramid(latent, 3), strict=True):
        assert torch.equal(start, eps)
        assert torch.equal(end, level)


def test_one_stage_reduces_to_plain_flow_matching():
    schedule = StageSchedule(8, 1)
    latent = torch.randn(2, 3, 8, 8, generator=generator())
    noise = draws(schedule, 2, channels=3, seed=1)
    starts, ends = endpoints(schedule, latent, noise)
    assert torch.equal(starts[0], noise[0])
    assert torch.equal(ends[0], latent)


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_constant_velocity_lands_exactly_on_the_end_state(solver, steps):
    start = torch.randn(2, 3, 4, 4, generator=generator(), dtype=torch.float64)
    end = torch.randn(2, 3, 4, 4, generator=generator(1), dtype=torch.float64)
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
    state, slope = start, None
    for step in range(steps):
        state, slope = SOLVERS[solver](lambda x, i: end - start, state, times, step, slope)
    torch.testing.assert_close(state, end, atol=1e-12, rtol=0)


@pytest.mark.parametrize("power", [1.0, 1.7], ids=["even grid", "uneven grid"])
def test_adams_bashforth_is_of_second_order_at_one_evaluation_a_step(power):
    """dx/dt = 2 cos(3 t) x from 1: twice as many steps, a quarter of the error."""
    asked = []

    def error(solver, steps):
        times = [(k / steps) ** power for k in range(steps + 1)]

        def velocity(state, index):
            asked.append(index)
            return 2 * math.cos(3 * times[index]) * state

        x, slope = torch.ones(1, dtype=torch.float64), None
        for step in range(steps):
            x, slope = SOLVERS[solver](velocity, x, times, step, slope)
        return abs(x.item() - math.exp(2 * math.sin(3) / 3))

    errors = [error("ab2", steps) for steps in (64, 128, 256)]
    assert asked == [*range(64), *range(128), *range(256)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)
    assert errors[0] < error("euler", 64) / 10


def test_adams_bashforth_is_exact_where_the_velocity_is_a_line_in_time():
    """After Euler's first step, which is not: x' = t with steps of any length."""
    times = [0.0, 0.1, 0.4, 0.5, 1.0]
    state, slope = torch.tensor([0.1**2 / 2], dtype=torch.float64), torch.zeros(1)
    for step in range(1, 4):
        state, slope = SOLVERS["ab2"](
            lambda x, i: torch.full_like(x, times[i]), state, times, step, slope
        )
    assert state.item() == pytest.approx(0.5, abs=1e-12)


def test_adams_bashforth_equals_euler_where_the_velocity_is_constant_or_has_no_past():
    state, constant = torch.randn(2, 8, generator=generator()).unbind()
    times = [0.0, 0.3, 0.35, 1.0]
    for step in range(3):
        euler = SOLVERS["euler"](lambda x, i: constant, state, times, step)
        for past in (constant, None):
            ab2 = SOLVERS["ab2"](lambda x, i: constant, state, times, step, past)
            assert all(map(torch.equal, euler, ab2))


def test_heun_is_of_second_order_and_euler_of_first():
    """dx/dt = x from 1: halving the step quarters Heun's error and halves Euler's."""

    def error(solver, steps):
        times = [k / steps for k in range(steps + 1)]
        x = torch.ones(1, dtype=torch.float64)
        for step in range(steps):
            x, _ = SOLVERS[solver](lambda state, i: state, x, times, step)
        return abs(x.item() - math.e)

    assert error("euler", 32) / error("euler", 64) == pytest.approx(2, rel=0.05)
    assert error("heun", 32) / error("heun", 64) == pytest.approx(4, rel=0.05)
