"""The plane of notebook 10 is what its formula says, its targets those of `ecar train turbo`."""

from types import SimpleNamespace

import pytest
import torch

from ecar_lab import flow
from ecar_lab.schedule import time_grid
from ecar_lab.teaching.check import few_steps as check
from ecar_lab.teaching.explore import few_steps as explore
from ecar_lab.teaching.explore import few_steps_figures as draw
from ecar_lab.teaching.explore import known_flow
from ecar_lab.training.turbo import SPANS, TurboObjective

LABELS = torch.arange(40) % 2


@pytest.fixture(scope="module")
def start():
    return torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("t", [0.0, 0.5, 0.9])
def test_the_exact_velocity_is_the_mean_over_pairs(t):
    """Against a weighted mean over drawn pairs: each drawn x needs one noise to be at the state."""
    cloud = known_flow.Cloud(torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]), 0.5)
    state = torch.tensor([[0.3, -0.2], [-0.8, 0.4]])
    random = torch.Generator().manual_seed(0)
    drawn = cloud.centres[torch.randint(3, (200_000,), generator=random)]
    data = drawn + 0.5 * torch.randn(drawn.shape, generator=random)
    eps = (state[:, None] - t * data) / (1 - t)
    share = (-eps.square().sum(-1) / 2).softmax(-1)
    mean = (share[..., None] * (data - eps)).sum(1)
    torch.testing.assert_close(cloud(state, t), mean, atol=0.04, rtol=0.02)


def test_with_class_every_particle_follows_its_own(start):
    fields = known_flow.moons(LABELS)
    with_class = fields(start, 0.4, True)
    for kind in (0, 1):
        own = fields.each[kind](start, 0.4)[kind == LABELS]
        torch.testing.assert_close(with_class[kind == LABELS], own)
    torch.testing.assert_close(fields.guided(1.0)(start, 0.4), with_class)
    torch.testing.assert_close(fields.guided(0.0)(start, 0.4), fields(start, 0.4, False))


def test_guidance_makes_the_class_more_certain(start):
    fields = known_flow.moons(LABELS, blur=0.45)
    ends = [known_flow.walk(fields.guided(g), start, time_grid(16))[-1] for g in (1.0, 2.5)]
    assert fields.certainty(ends[0]) + 0.05 < fields.certainty(ends[1]) <= 1


def test_the_order_is_the_slope_of_the_error():
    calls = (8, 16, 32)
    assert known_flow.order_of(calls, [1 / n**2 for n in calls]) == pytest.approx(2)
    assert known_flow.order_of(calls, [3 / n for n in calls]) == pytest.approx(1)


def test_solvers_have_their_orders_in_the_plane(start):
    velocity = known_flow.moons(LABELS).everything
    exact = known_flow.walk(velocity, start, time_grid(512))[-1]
    for name, step in flow.SOLVERS.items():
        errors = known_flow.errors_of(step, flow.EVALUATIONS[name], velocity, start, exact)
        order = known_flow.order_of(known_flow.EVALUATED[2:], errors[2:])
        assert order == pytest.approx(1 if name == "euler" else 2, abs=0.3), name


def test_span_rows_are_what_the_few_step_head_is_trained_on():
    states = [torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(k)) for k in range(5)]
    asked = {}

    class Head:
        def modulations(self, stage, times, labels, spans, guidance):
            asked.update(times=times, spans=spans)
            return []

        def read(self, token_map):
            return token_map

        def __call__(self, stage, state, read_map, modulations):
            asked["state"] = state
            return torch.zeros_like(state)

    guide = SimpleNamespace(
        stage=0,
        labels=torch.zeros(2, dtype=torch.long),
        walk=lambda start, guidance, steps: states,
        push=lambda state, time: torch.zeros_like(state),
    )
    objective = SimpleNamespace(student=SimpleNamespace(head=Head()), teacher_steps=8)
    one = torch.ones(2)
    _, errors = TurboObjective.stage_loss(
        objective, guide, torch.zeros(2, 1, 1), states[0], states[4], one / 2, one
    )
    rows = check.span_rows.reference(states, SPANS)
    for number, (state, time, span, target) in enumerate(rows):
        part = slice(2 * number, 2 * number + 2)
        torch.testing.assert_close(asked["state"][part], state)
        torch.testing.assert_close(asked["times"][part], one * time)
        torch.testing.assert_close(asked["spans"][part], one * span)
        torch.testing.assert_close(errors[number], target.square().mean())


def test_time_is_measured_in_seconds(tiny_pipeline):
    assert explore.seconds_of(tiny_pipeline, "cat", [3, 2], 1) > 0


def test_networks_are_the_same_number_by_number(tiny_pipeline):
    head, transformer = tiny_pipeline.model.head, tiny_pipeline.model.transformer
    assert explore.same_weights(head, head)
    assert not explore.same_weights(head, transformer)


def test_edges_are_the_mean_step_between_neighbours():
    ramp = torch.linspace(0, 1, 5).expand(1, 3, 5, 5)
    assert explore.edges(ramp) == pytest.approx(0.25 / 2)
    assert explore.edges(torch.ones(1, 3, 4, 4)) == 0


def test_the_pictures_draw(start):
    velocity = known_flow.moons(LABELS).everything
    exact = known_flow.walk(velocity, start, time_grid(64))[-1]
    tracks = draw.Tracks(velocity, start, exact)
    drawn = tracks.draw("ab2", 4, 1.3)
    assert (
        drawn.axes[0].get_title()
        == f"error {known_flow.gap(tracks.states('ab2', 4, 1.3)[-1], exact):.3f}"
    )
    assert len(tracks.states("heun", 8, 1.0)) == 5
    left, right = draw.believed(velocity, start, 4).axes
    assert left.get_ylim() == right.get_ylim()
    assert len(draw.spans(velocity, start).axes[0].lines) == 6
    panels = {str(k): start for k in range(3)}
    assert len(draw.rows_of_clouds(panels, start, 2).axes) == 4
    rings = draw.over_powers([1.0, 1.5], {"plane": {"Euler": [0.2, 0.1]}}).axes[0].lines[-1]
    assert (rings.get_xdata()[0], rings.get_ydata()[0]) == (1.5, 0.1)
    assert [len(line.get_xdata()) for line in draw.grids(6, (0.7, 2.0)).axes[0].lines[1::2]] == [
        7,
        7,
    ]
    named = draw.costs([("a, 1+1", 1.0, 0.3), ("a, 2+2", 2.0, 0.1), ("b, 1+1", 0.5, 0.2)]).axes[0]
    assert {text.get_text() for text in named.get_legend().get_texts()} == {"a", "b"}
    assert (
        draw.gallery({"one": torch.rand(2, 3, 8, 8), "two": torch.rand(2, 3, 8, 8)}, 2).width > 40
    )
