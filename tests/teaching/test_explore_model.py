"""What notebook 5 explores: the head's answer at one moment."""

import pytest
import torch

from ecar_lab.teaching.explore import model as explore
from ecar_lab.teaching.explore import model_figures as draw
from ecar_lab.teaching.explore import moment as moments


@pytest.fixture
def scene(tiny_pipeline):
    return moments.scene(tiny_pipeline, "dog", seed=1)


def test_a_scene_holds_the_token_maps_that_training_would_see(scene):
    model = scene.pipe.model
    assert scene.labels == ["cat", "dog", "frog", moments.NO_CLASS]
    with torch.no_grad():
        expected = model.transformer(scene.ends[:-1], torch.tensor([1]))
    for found, right in zip(scene.token_maps, expected, strict=True):
        torch.testing.assert_close(found[1:2], right)


def test_a_moment_lies_on_the_straight_way_and_its_error_is_the_training_loss(scene):
    model = scene.pipe.model
    found = moments.moment(scene, 1, 0.25, "dog", "dog")
    start, end = scene.starts[1], scene.ends[1]
    torch.testing.assert_close(found.state, 0.75 * start + 0.25 * end)
    torch.testing.assert_close(found.target, end - start)
    right = (found.velocity - (end - start)).square().mean().item()
    assert found.error == pytest.approx(right)
    assert found.estimate.shape == (1, 3, *[model.schedule.resolutions[1]] * 2)


def test_both_classes_reach_the_velocity(scene):
    same = moments.moment(scene, 1, 0.5, "dog", "dog").velocity
    for told in (("cat", "dog"), ("dog", "cat"), (moments.NO_CLASS, "dog")):
        assert not torch.allclose(same, moments.moment(scene, 1, 0.5, *told).velocity)


def test_an_exact_velocity_points_to_the_clean_latent(scene, monkeypatch):
    """The clean estimate is right where the head is."""
    model, at = scene.pipe.model, 1
    target = scene.ends[at] - scene.starts[at]
    monkeypatch.setattr(model.head, "forward", lambda *_: target)
    found = moments.moment(scene, at, 0.5, "dog", "dog")
    assert found.error == 0
    torch.testing.assert_close(found.estimate, scene.ends[at], atol=1e-4, rtol=1e-4)


def test_the_controls_redraw(scene, monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = explore.velocity(scene.pipe, "dog")
    *controls, trouble, view = box.children
    before = view.value
    controls[0].value = 1
    assert view.value != before
    assert trouble.value == ""


def test_captions_quote_what_they_are_given(shown, tiny_pipeline):
    parts = {"transformer": 100, "head": 300}
    explore.show_shares(parts, {"transformer": 10, "head": 90})
    explore.show_times(tiny_pipeline.model.schedule)
    explore.show_token_maps(*torch.randn(2, 2, 4, 8), 0.375, torch.zeros(2, 3, 8, 8), ["a", "b"])
    explore.show_spoiled({"own": (0.5, 0.25), "zeros": (2.0, 3.0)}, (1.0, 1.5))
    explore.show_error_over_time(torch.tensor([[0.5, 0.25], [0.125, 1.0]]))
    explore.show_learning(torch.tensor([[1.0, 2.0], [0.5, 0.25]]))
    explore.show_recalled(torch.zeros(20, 3, 8, 8), 0.125, 2.5, 40)
    assert shown.numbers == ["2", "3", "4", "5", "6", "8", "9"]
    assert "25% of the weights, 10% of the FLOPs" in shown.captions[0]
    assert "38% of their variance" in shown.captions[2]
    assert "zeros: 2.000 in stage 1, 3.000 in stage 2" in shown.alts[3]
    assert "stage 2: 0.12, 1.00" in shown.alts[4]
    assert "stage 1 from 1.00 to 0.7500" in shown.captions[5]
    assert "0.125 after 40 steps; two different originals differ by 2.50" in shown.captions[6]


def test_tables_hold_a_row_per_part_and_per_stage(shown):
    part = {"transformer": 2_000_000, "head": 4_000_000}
    explore.show_parts(part, part, {"transformer": 1, "head": 6}, part)
    explore.show_guidance_costs({(1, 2.5): {"transformer": [10**9, 2 * 10**9], "head": [0, 0]}})
    explore.show_bill([(4, 4, 4, 10**9, 2 * 10**9, 3 * 10**9, "8 × 1", 5 * 10**9)], 4, 256)
    rows = [text.splitlines()[2] for text in shown.tables]
    assert rows[0] == "| transformer | 2.00 M | 0.002 | 1 | 0.00 |"
    assert rows[1] == "| 1 / 2.5 | 3.00 | 0.00 |"
    assert rows[2] == "| 1 | 4×4×4 | 4×256 | 4 | 1.000 | 2.000 | 3.000 | 8 × 1 | 5.000 |"


def test_a_panel_of_shares_adds_up_to_all():
    axis = draw.shares({"weights": {"one": 1, "other": 3}}).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [25, 75]
