"""The pictures of notebook 2: what is computed for them, and that they draw."""

import pytest
import torch
from matplotlib.figure import Figure

from ecar_lab.layers import token_coordinates
from ecar_lab.teaching.explore import autoregression as explore
from ecar_lab.transformer import block_causal_mask
from ecar_lab.viz.colours import LatentColours


def made_up_run(heads: int = 2) -> explore.AttentionRun:
    """Two stages, one layer; in stage 1 head 0 looks at the covering token, head 1 nowhere else
    than at the last one of its own stage."""
    sides, tokens = (2, 4), (4, 16)
    first = torch.full((heads, 4, 4), 0.25)
    second = torch.zeros(heads, 16, 20)
    run = explore.AttentionRun([[first, second]], sides, torch.zeros(1, 3, 8, 8))
    for token in range(tokens[1]):
        second[0, token, run.token_at(0, token // 4, token % 4)] = 1.0
        second[1, token, -1] = 1.0
    return run


@pytest.mark.parametrize(
    ("stage", "row", "column", "token"), [(1, 3, 2, 14), (0, 3, 2, 3), (0, 1, 2, 1), (0, 0, 0, 0)]
)
def test_a_place_belongs_to_the_token_that_covers_it(stage, row, column, token):
    assert made_up_run().token_at(stage, row, column) == token


def test_a_row_is_cut_into_the_grids_of_the_stages_so_far():
    run = made_up_run()
    assert [tuple(part.shape) for part in run.maps(run.row(1, 0, 0, 5))] == [(2, 2), (4, 4)]
    assert [tuple(part.shape) for part in run.maps(run.row(0, 0, 0, 3))] == [(2, 2)]


def test_heads_are_averaged_and_shares_sum_to_one():
    run = made_up_run()
    mean = run.row(1, 0, explore.MEAN, 5)
    torch.testing.assert_close(mean, (run.row(1, 0, 0, 5) + run.row(1, 0, 1, 5)) / 2)
    assert run.shares(1, 0) == pytest.approx([0.5, 0.5])
    assert run.shares(0, 0) == pytest.approx([1.0])


def test_it_is_counted_how_often_the_covering_token_is_the_favourite():
    run = made_up_run()
    assert run.covered(1, 0, 0) == 1.0
    assert run.covered(1, 0, 1) == 0.25  # no weight at all: the first of four equals
    assert "50% / 50%, 100%" in explore.caption(run)


def test_a_real_run_is_the_attention_of_its_trace(tiny_pipeline):
    tiny_pipeline.set_progress_bar_config(disable=True)
    run = explore.attention_run(tiny_pipeline, "cat", 1)
    generator = torch.Generator().manual_seed(1)
    events = list(tiny_pipeline.trace(["cat"], generator=generator, attention_layer=0))
    found = [event.attention[0] for event in events if event.step == 0]
    for stage, expected in enumerate(found):
        torch.testing.assert_close(run.weights[0][stage], expected)
        torch.testing.assert_close(
            run.weights[0][stage].sum(dim=-1), torch.ones(2, 4 ** (stage + 1))
        )


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("head", [explore.MEAN, 1])
def test_a_look_draws_every_stage(stage, head):
    drawn = explore.look(made_up_run(), stage, 0, head, 3, 3)
    titles = [axis.get_title() for axis in drawn.axes]
    assert sum("of the attention" in title for title in titles) == stage + 1
    shown = [text.get_text() for axis in drawn.axes for text in axis.texts]
    assert shown.count("not there yet") == 1 - stage


def test_the_controls_follow_the_model(tiny_pipeline, monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    tiny_pipeline.set_progress_bar_config(disable=True)
    box = explore.attention(tiny_pipeline, "cat", 1)
    (stage, _, head, *_), (trouble, view) = box.children[:-2], box.children[-2:]
    assert list(stage.options) == [0, 1]
    assert list(head.options) == [explore.MEAN, 0, 1]
    before = view.value
    stage.value = 0
    assert view.value != before
    assert not trouble.value


def test_the_pictures_draw():
    mask = block_causal_mask((4, 16), torch.device("cpu"))
    colours = LatentColours.pca(torch.randn(1, 3, 8, 8))
    drawn = [
        explore.order_of_calls((2, 4)),
        explore.mask_pictures({"a": mask, "b": ~mask}, (4, 16)),
        explore.same_grid(torch.randn(1, 3, 4, 4), torch.randn(1, 16, 8), colours),
        explore.token_places([token_coordinates(2), token_coordinates(4)]),
        explore.logit_maps({"a": (torch.rand(4, 4), 0.5, 0.5), "b": (torch.rand(2, 2), 0, 1)}),
        explore.changes({"a": [0, 1.0], "b": [1.0, 2.0]}),
        explore.growth_lines((4, 16), {"seconds": {"stage by stage": ([1, 2], 0.5)}}),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)


def test_open_pairs_have_the_hue_of_their_row():
    mask = block_causal_mask((1, 2), torch.device("cpu"))
    axis = explore.mask_pictures({"mask": mask}, (1, 2)).axes[0]
    pixels = torch.as_tensor(axis.images[0].get_array())
    assert torch.equal((pixels == 1).all(dim=-1), ~mask)
    torch.testing.assert_close(pixels[1, 0], pixels[2, 2])


def test_calls_are_numbered_one_a_token_and_one_a_stage():
    one_by_one, *stages = explore.order_of_calls((2, 4)).axes
    assert [text.get_text() for text in one_by_one.texts] == [str(k) for k in range(1, 17)]
    assert [{text.get_text() for text in axis.texts} for axis in stages] == [{"1"}, {"2"}]
