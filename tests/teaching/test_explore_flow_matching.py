"""The sandbox of notebook 3: trajectories, positions between steps, and its controls."""

import ipywidgets as widgets
import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.teaching.explore import flow_matching as explore
from ecar_lab.teaching.explore import flow_matching_figures as draw
from ecar_lab.teaching.explore import plane as planes


def shift(state, t):
    """Everything moves by (2, -1) in one unit of time."""
    return torch.tensor([2.0, -1.0]).expand_as(state)


def swirl(state, t):
    return t * state.flip(-1) - state


def gap(a, b):
    return (a.mean(0) - b.mean(0)).norm().item()


@pytest.fixture
def noise():
    return torch.randn(50, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def data(noise):
    return {"near": noise + 1, "far": noise + torch.tensor([2.5, -1.0])}


@pytest.fixture
def fields():
    return {name: {"one": swirl, "other": shift} for name in ("near", "far")}


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
def test_a_constant_velocity_is_followed_exactly(noise, solver):
    for steps in (1, 5):
        states = explore.trajectory(shift, noise, steps, solver)
        assert states.shape == (steps + 1, 50, 2)
        torch.testing.assert_close(states[-1], noise + torch.tensor([2.0, -1.0]))


def test_more_steps_come_closer_to_the_true_way(noise):
    true = explore.trajectory(swirl, noise, 512, "heun")[-1]
    errors = [
        (explore.trajectory(swirl, noise, steps, solver)[-1] - true).norm().item()
        for steps, solver in ((2, "euler"), (8, "euler"), (8, "ab2"), (8, "heun"))
    ]
    assert errors == sorted(errors, reverse=True)


def test_between_two_states_particles_move_straight(noise):
    states = explore.trajectory(swirl, noise, 4)
    torch.testing.assert_close(planes.position(states, 0.0), states[0])
    torch.testing.assert_close(planes.position(states, 0.5), states[2])
    torch.testing.assert_close(planes.position(states, 0.625), (states[2] + states[3]) / 2)
    torch.testing.assert_close(planes.position(states, 1.0), states[4])


def test_a_trajectory_is_computed_once(noise, data):
    calls = []

    def counted(state, t):
        calls.append(t)
        return shift(state, t)

    plane = planes.Sandbox({"far": {"one": counted}}, data, gap, noise)
    first = plane.score("far", "one", "euler", 4)
    assert first == pytest.approx(0.5, abs=1e-5)
    assert calls == [0, 0.25, 0.5, 0.75]
    assert plane.score("far", "one", "euler", 4) == first
    plane.states("far", "one", "euler", 4)
    assert len(calls) == 4


@pytest.mark.parametrize("percent", [0, 35, 100])
def test_the_picture_shows_the_particles_at_the_time_asked_for(noise, data, fields, percent):
    plane = planes.Sandbox(fields, data, gap, noise)
    left, right = plane.draw("near", "one", "euler", 4, percent).axes
    shown = torch.as_tensor(left.collections[1].get_offsets().data).float()
    states = plane.states("near", "one", "euler", 4)
    torch.testing.assert_close(shown, planes.position(states, percent / 100))
    assert right.get_xlabel() == "network calls"


def test_the_controls_redraw_and_time_can_run(noise, data, fields, monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = explore.sandbox(fields, data, gap, noise)
    play, *controls, _, view = box.children
    assert isinstance(play, widgets.Play)
    for control, value in zip(controls, ("far", "other", "heun", 2, 40), strict=True):
        before = view.value
        control.value = value
        assert view.value != before, control.description


def test_without_controls_the_examples_stay(noise, data, fields, monkeypatch):
    monkeypatch.setenv("ECAR_LAB_STATIC", "1")
    assert explore.sandbox(fields, data, gap, noise) is None


@pytest.mark.parametrize("name", explore.DATA)
def test_points_are_seeded_and_centred(name):
    dots, label = explore.points(name, 3000, torch.Generator().manual_seed(0))
    again, _ = explore.points(name, 3000, torch.Generator().manual_seed(0))
    assert torch.equal(dots, again)
    assert dots.mean(0).abs().max() < 0.06
    assert 0.5 < dots.std(0).min() <= dots.std(0).max() < 1.2
    assert set(label.tolist()) == set(range(3 if name == "blobs" else 2))


def test_unknown_points_are_refused():
    with pytest.raises(EcarError, match="no points called 'cubes': use one of moons"):
        explore.points("cubes", 3, torch.Generator())


def test_figures_show_what_they_are_given(noise):
    figure, axes = draw.clouds({"a": noise, "b": noise + 1}, behind=noise)
    assert [len(axis.collections) for axis in axes] == [2, 2]
    figure = draw.curves({"one": ((1, 2), (0.5, 0.2)), "other": ((1, 2), (0.6, 0.1))}, 0.05, "o")
    assert [line.get_label() for line in figure.axes[0].lines][-1] == "other real data"


def test_captions_quote_what_they_are_given(shown, noise):
    counts = (1, 2, 4, 8, 16, 32, 64)
    falling = [1 / count for count in counts]
    explore.show_solvers(counts, falling, [2 * d for d in falling[:-1]], 0.01)
    explore.show_samplers(counts, {"flow": falling, "noise": falling}, 0.01)
    made = {"real": noise, "g = 1": noise, "g = 4": noise}
    told = {"real": (0.9, 1.0), "g = 1": (0.75, 0.5), "g = 4": (1.0, 0.25)}
    explore.show_guidance(made, noise, told)
    explore.show_half_way({"half": noise}, 0.125, 0.0625)
    explore.show_loss_over_time(torch.tensor([[0.5, 0.25], [1.0, 2.0]]), (1.0, 2.0))
    assert shown.numbers == ["6", "8", "9", "10", "11"]
    assert "8 calls: Euler 0.125, Heun 0.500. 64 calls: 0.016 and 0.062" in shown.captions[0]
    assert "flow 0.50 / 0.125 / 0.016; noise" in shown.captions[1]
    assert "go from 75% to 100%, their spread from 0.50 to 0.25" in shown.captions[2]
    assert "are 0.125 apart, two fresh mixes of this size 0.062" in shown.captions[3]
    assert "stage 1: 0.50 in the first bin, 0.25 at least" in shown.captions[4]
    explore.show_calls(counts, {"flow": falling, "noise": falling}, {"flow": 8, "noise": None}, 0.2)
    assert [row.split(" | ")[-1] for row in shown.tables[-1].splitlines()[2:]] == [
        "8 |",
        "more than 64 |",
    ]


def test_the_pictures_draw(shown, noise):
    states = torch.stack([noise] * 5)
    explore.show_data({"noise": noise, "data": noise + 1})
    path = torch.linspace(-1, 1, 6).view(2, 3, 1)
    explore.show_mean_velocity(path[0], torch.tensor([[-1.0], [1.0]]), (0, 1), path)
    explore.show_field(states, (0, 4), swirl)
    explore.show_euler({"one": states, "other": states})
    explore.show_pairings({"random": noise, "optimal": noise}, noise)
    assert shown.numbers == list("23457")
