"""The controls of notebook 7: what they compute, and that they follow their sliders."""

import pytest
import torch

from ecar_lab.cost import total_flops
from ecar_lab.teaching.explore import generation


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
