"""What notebook 5 explores: the head's answer at one moment."""

import pytest
import torch

from ecar_lab.teaching.explore import model as explore


@pytest.fixture
def scene(tiny_pipeline):
    return explore.scene(tiny_pipeline, "dog", seed=1)


def test_a_scene_holds_the_token_maps_that_training_would_see(scene):
    model = scene.pipe.model
    assert scene.labels == ["cat", "dog", "frog", explore.NO_CLASS]
    with torch.no_grad():
        expected = model.transformer(scene.ends[:-1], torch.tensor([1]))
    for found, right in zip(scene.token_maps, expected, strict=True):
        torch.testing.assert_close(found[1:2], right)


def test_a_moment_lies_on_the_straight_way_and_its_error_is_the_training_loss(scene):
    model = scene.pipe.model
    found = explore.moment(scene, 1, 0.25, "dog", "dog")
    start, end = scene.starts[1], scene.ends[1]
    torch.testing.assert_close(found.state, 0.75 * start + 0.25 * end)
    torch.testing.assert_close(found.target, end - start)
    right = (found.velocity - (end - start)).square().mean().item()
    assert found.error == pytest.approx(right)
    assert found.estimate.shape == (1, 3, *[model.schedule.resolutions[1]] * 2)


def test_both_classes_reach_the_velocity(scene):
    same = explore.moment(scene, 1, 0.5, "dog", "dog").velocity
    for told in (("cat", "dog"), ("dog", "cat"), (explore.NO_CLASS, "dog")):
        assert not torch.allclose(same, explore.moment(scene, 1, 0.5, *told).velocity)


def test_an_exact_velocity_points_to_the_clean_latent(scene, monkeypatch):
    """The clean estimate is right where the head is."""
    model, at = scene.pipe.model, 1
    target = scene.ends[at] - scene.starts[at]
    monkeypatch.setattr(model.head, "forward", lambda *_: target)
    found = explore.moment(scene, at, 0.5, "dog", "dog")
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
