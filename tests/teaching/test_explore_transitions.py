"""The exploration of notebook 4: noise inside 2x2 blocks, measured against its formula."""

import pytest
import torch

from ecar_lab import StageSchedule
from ecar_lab.teaching.explore import block_noise as blocks
from ecar_lab.teaching.explore import transitions as explore
from ecar_lab.teaching.explore import windows_study

LATENT = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("coupling", blocks.COUPLINGS)
@pytest.mark.parametrize("end", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("renoise", [True, False])
def test_measured_noise_has_the_covariance_of_the_formula(end, coupling, renoise):
    noise = blocks.block_noise(end, coupling, renoise)
    torch.testing.assert_close(noise.measured, noise.formula, rtol=0, atol=0.03)


@pytest.mark.parametrize("end", [0.1, 0.5, 0.9])
def test_both_couplings_reach_the_noise_of_their_time_and_only_one_is_white(end):
    white = blocks.block_noise(end, "correlated", True)
    other = blocks.block_noise(end, "independent", True)
    for noise in (white, other):
        assert noise.std == pytest.approx(noise.wanted, rel=0.02)
        assert noise.formula.diagonal() == pytest.approx(noise.wanted**2)
    own = white.formula - torch.diag(white.formula.diagonal())
    assert own.abs().max() < 1e-12
    assert other.formula[0, 1] == pytest.approx(other.wanted**2 / 4)


def test_without_new_noise_a_start_state_is_made_of_equal_blocks():
    schedule = StageSchedule(8, 2, (0.5, 1.0))
    state = blocks.start_state(schedule, LATENT, renoise=False, seed=0)
    assert torch.equal(state[..., ::2, ::2], state[..., 1::2, 1::2])
    noisy = blocks.start_state(schedule, LATENT, renoise=True, seed=0)
    assert not torch.equal(noisy[..., ::2, ::2], noisy[..., 1::2, 1::2])


def test_the_controls_redraw(monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = explore.transitions(LATENT)
    end, coupling, renoise, seed, trouble, view = box.children
    for control, value in ((end, 0.8), (coupling, "correlated"), (renoise, False), (seed, 5)):
        before = view.value
        control.value = value
        assert view.value != before
        assert trouble.value == ""


def test_captions_quote_what_they_are_given(shown):
    start = torch.linspace(0.1, 0.5, 5)
    explore.show_eigenvalues({0.5: (start, 0.25 - start), 0.8: (start, 0.45 - start)})
    assert "b = 0.5 and 0.8, crossing zero at dots near a = 0.20 and 0.40" in shown.alts[0]
    explore.show_noise_left([(0.4, 0.61, 0.25, 0.74)])
    row = "| 1 → 2 | 0.40 | 0.61 | 0.60 | 0.25 | 0.74 | 0.75 |"
    assert shown.tables[0].splitlines()[2] == row
    explore.show_unknown([("correlated", True, [0.5, 0.25, 0.0])])
    assert shown.tables[1].endswith("| `correlated` | yes | 0.500 | 0.250 | 0.000 |")
    explore.show_wrong_history((0.0, 0.1), {"restart": (1.0, 2.0, 3.0)})
    assert shown.tables[2].splitlines()[::2] == [
        "| Frechet distance | δ = 0.0 | δ = 0.1 | own history |",
        "| restart | 1.00 | 2.00 | 3.00 |",
    ]


def test_the_pictures_draw(shown):
    digits, two = torch.randn(10, 1, 8, 8), [torch.randn(10, 1, 8, 8)] * 2
    explore.show_pyramid([digits[..., :2, :2], digits[..., :4, :4], digits])
    explore.show_windows(StageSchedule(8, 3))
    matrices = dict.fromkeys(blocks.COUPLINGS, [torch.eye(4)] * 3)
    explore.show_covariances(dict.fromkeys(blocks.COUPLINGS, [0.5] * 5), matrices, 1.0)
    explore.show_pairs(two, two, (0, 0.25, 0.5, 0.75, 1))
    explore.show_samples({"one": digits, "real": digits})
    curve = {"one": torch.linspace(2, 1, 30)}
    explore.show_signs(curve, {"one": [0.5, 0.25]}, {"one": [0.0, 0.5]}, (0.1, 0.9))
    explore.show_without_noise(*torch.zeros(3, 4, 3, 8, 8), list("abcd"))
    assert shown.numbers == list("2356789")
    assert all(picture[1:4] == b"PNG" for picture in shown.pictures)


def test_rows_of_the_study_have_their_scores_at_the_plan_asked_for():
    score = {"frechet": {"mean": 0.5, "std": 0.25}, "recall": {"mean": 0.75, "std": 0.0}}
    study = {"rows": [{"name": "a"}, {"name": "b", "quality": [{}, score]}]}
    row = windows_study.study_row(study, "b")
    found = windows_study.scores_of(row, 1, ("recall", "frechet"))
    assert found == ["0.75 ± 0.00", "0.50 ± 0.25"]
