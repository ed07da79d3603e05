"""Signs in a training log: silent on a sound one, loud on each kind of sickness."""

import math
import random

import pytest

from ecar_lab.doctor import diagnose
from ecar_lab.doctor import run as checkup
from tests.doctor.examples import SEEDS, falling, fired, flat, log_rows, value_of


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rows", "noise"), [(8, 0.02), (20, 0.02), (60, 0.05)])
def test_a_healthy_log_raises_nothing(seed, rows, noise):
    assert fired(diagnose.from_log(log_rows(falling(seed, rows, noise)), {})) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows", [6, 20, 60])
def test_a_loss_that_does_not_fall_is_seen(seed, rows):
    found = diagnose.from_log(log_rows(flat(seed, rows)), {})
    assert fired(found) == ["loss_not_falling"]


def test_a_fall_has_to_exceed_the_noise():
    # A tenth less is enough in a quiet curve, and not in one that scatters by a third.
    def judge(noise: float) -> list[diagnose.Diagnosis]:
        levels = [1.0] * 10 + [0.9] * 10
        curves = [[a * b for a, b in zip(levels, flat(s, 20, noise), strict=True)] for s in SEEDS]
        return [diagnose.loss_not_falling(curve) for curve in curves]

    assert {found.threshold for found in judge(0.005)} == {0.05}
    assert not any(found.fired for found in judge(0.005))
    needed = [found.threshold for found in judge(0.3)]
    assert sum(needed) / len(needed) == pytest.approx(3 * 0.3 * math.sqrt(2 / 4), rel=0.4)
    assert sum(found.fired for found in judge(0.3)) >= 4
    quiet = diagnose.loss_not_falling([1.0] * 10 + [0.94] * 10)
    assert quiet.value == pytest.approx(0.06)
    assert not quiet.fired
    assert diagnose.loss_not_falling([1.0] * 10 + [0.96] * 10).fired


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_swings_is_seen(seed):
    swinging = [loss * (1.4 if row % 2 else 0.6) for row, loss in enumerate(falling(seed))]
    assert diagnose.loss_oscillating(swinging).fired
    spiked = falling(seed, 20)
    spiked[15] *= 2
    assert diagnose.loss_oscillating(spiked).fired
    assert "diverged" not in fired(diagnose.from_log(log_rows(spiked), {}))


def test_the_swing_is_the_noise_whatever_the_slope():
    for noise in (0.03, 0.2):
        draw = random.Random(0)
        line = [5 - 0.001 * row + draw.gauss(0, noise) for row in range(2000)]
        value = value_of(diagnose.loss_oscillating(line))
        assert value == pytest.approx(noise / 3.5, rel=0.1)
    straight = [5 - 0.01 * row for row in range(100)]
    assert value_of(diagnose.loss_oscillating(straight)) < 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_explodes_is_seen(seed):
    curve = falling(seed, 10)
    assert value_of(diagnose.diverged([*curve, 1.0, 2.0, 8.0])) > 10
    assert diagnose.diverged([*curve, None]).fired
    assert diagnose.diverged([*curve, math.nan]).fired
    recovered = [*curve, 4.0, *curve]
    assert diagnose.diverged(recovered).fired
    # Exploded before the first log and falling ever since: only the model's zero tells.
    late = [3e4, 1e4, 5e3, 2e3, 1e3]
    assert not diagnose.diverged(late).fired
    assert fired(diagnose.from_log(log_rows(late), {})) == ["diverged"]
    assert fired(diagnose.from_log(log_rows(late), {"kind": "tokenizer"})) == []


def test_divergence_is_judged_against_the_lowest_level_so_far():
    assert diagnose.diverged([1.0, 0.5, 1.4]).value == pytest.approx(2.8)
    assert not diagnose.diverged([1.0, 0.5, 1.4]).fired
    assert diagnose.diverged([1.0, 0.5, 1.6]).fired


def test_clipped_gradients_waiting_and_slowness_are_notes():
    rows = log_rows(falling(0), gradient_norm=5.0, data_wait=0.5, mfu=0.002)
    found = diagnose.from_log(rows, {"grad_clip": 1.0})
    assert fired(found) == ["gradients_clipped_always", "data_starved", "training_slow"]
    assert {checkup.finding(one).status for one in found if one.fired} == {"note"}
    assert fired(diagnose.from_log(rows, {"grad_clip": 10.0})) == ["data_starved", "training_slow"]


def test_gradients_that_are_clipped_at_the_start_only_are_no_sign():
    norms = [9.0] * 5 + [0.5] * 15
    assert not diagnose.gradients_clipped_always(norms, 1.0).fired
    assert diagnose.gradients_clipped_always(norms, 0.4).fired


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stage_that_lags_is_named(seed):
    rows = list(zip(falling(seed), flat(seed), falling(seed + 9), strict=True))
    found = diagnose.stage_lagging(rows)
    assert found.fired
    assert "stage 2 the least" in found.found
    both = list(zip(falling(seed), falling(seed + 9, floor=0.6), strict=True))
    assert not diagnose.stage_lagging(both).fired
    neither = list(zip(flat(seed), flat(seed + 9), strict=True))
    assert not diagnose.stage_lagging(neither).fired


def test_what_cannot_be_measured_is_said_and_never_fires():
    for rows in ([], log_rows([1.0, 0.9])):
        found = diagnose.from_log(rows, {})
        assert fired(found) == []
        short = next(one for one in found if one.name == "loss_not_falling")
        assert short.value is None
        assert checkup.finding(short).status == "note"
        assert "not measured" in checkup.finding(short).value
