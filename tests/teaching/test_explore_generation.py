"""Notebook 7: its controls follow their sliders, its figures and tables say what was measured."""

import pytest
import torch

from ecar_lab.cost import total_flops
from ecar_lab.teaching.explore import generation as shown
from ecar_lab.teaching.explore import generation_controls as generation
from ecar_lab.teaching.explore import generation_edits


def test_a_plan_costs_what_the_model_says(tiny_pipeline):
    events = generation.sample(tiny_pipeline, "dog", 3, [3, 2], [1.0, 2.0])
    assert [event.num_steps for event in events if event.is_stage_end] == [3, 2]
    flops = total_flops(tiny_pipeline.model.flops([3, 2], [1.0, 2.0]))
    assert sum(event.flops for event in events) == flops
    assert generation.cost_in_words(events).startswith(f"{flops / 1e9:.1f} GFLOP, ")
    same = tiny_pipeline("dog", [3, 2], [1.0, 2.0], torch.Generator().manual_seed(3), "latent")
    assert torch.equal(events[-1].latent, same.images)


def test_a_seed_of_its_own_changes_its_stage_and_what_follows(tiny_pipeline):
    runs = [generation.sample_seeds(tiny_pipeline, "cat", seeds) for seeds in ((1, 1), (1, 2))]
    (first, last), (same, other) = (
        [event.latent for event in run if event.is_stage_end] for run in runs
    )
    assert torch.equal(first, same)
    assert not torch.equal(last, other)


@pytest.mark.parametrize("make", [generation.knobs, generation.seeds])
def test_the_picture_follows_the_controls(make, tiny_pipeline, monkeypatch, capsys):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = make(tiny_pipeline, "cat")
    *controls, trouble, view = box.children
    before = view.value
    controls[0].value = "frog"
    assert view.value != before
    before = view.value
    controls[-1].value += 1
    assert view.value != before
    assert trouble.value == ""


@pytest.mark.parametrize(("groups", "columns", "per_row"), [(1, 1, 1), (4, 2, 4), (9, 3, 1)])
def test_a_gallery_is_large_and_fits_a_notebook(groups, columns, per_row):
    images = {str(group): torch.zeros(per_row, 3, 32, 32) for group in range(groups)}
    picture = generation.gallery(images, columns, per_row)
    assert 32 * 3 * per_row * columns <= picture.width <= 1400


def test_the_share_of_right_digits_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(shown, "show", lambda picture, *words: said.extend(words))
    tried = {
        (steps, scale): (torch.zeros(10, 3, 8, 8), steps / 10)
        for steps in (1, 4)
        for scale in (1, 3)
    }
    shown.own_digits(tried, "your own weights", 50)
    assert "1, 4 steps per stage from the same noise: 10%, 40% of 50" in said[0]


def test_a_bill_is_in_multiples_of_the_first(monkeypatch):
    rows = []
    monkeypatch.setattr(generation_edits, "table", lambda header, found: rows.extend(found))
    generation_edits.bills({"usual": (2.0, 0.1), "twice": (4.0, 0.15)})
    assert rows[1] == ("twice", "4.00", "2.00", "1.50")


def test_images_that_differ_have_other_fingerprints():
    one = generation.gallery({"": torch.zeros(1, 3, 8, 8)}, 1, 1)
    assert generation_edits.fingerprint(one) == generation_edits.fingerprint(one.copy())
    assert generation_edits.fingerprint(one) != generation_edits.fingerprint(
        one.point(lambda value: 255 - value)
    )
