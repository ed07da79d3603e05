"""The pictures of notebook 2: what is computed for them, and that they draw."""

import pytest
import torch
from matplotlib.figure import Figure

from ecar_lab.layers import token_coordinates
from ecar_lab.teaching.explore import attention_run as attention
from ecar_lab.teaching.explore import autoregression as explore
from ecar_lab.teaching.explore import autoregression_figures as draw
from ecar_lab.transformer import block_causal_mask
from ecar_lab.viz.colours import LatentColours


def made_up_run(heads: int = 2) -> attention.AttentionRun:
    """Two stages, one layer; in stage 1 head 0 looks at the covering token, head 1 nowhere else
    than at the last one of its own stage."""
    sides, tokens = (2, 4), (4, 16)
    first = torch.full((heads, 4, 4), 0.25)
    second = torch.zeros(heads, 16, 20)
    run = attention.AttentionRun([[first, second]], sides, torch.zeros(1, 3, 8, 8))
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
    mean = run.row(1, 0, attention.MEAN, 5)
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
    run = attention.attention_run(tiny_pipeline, "cat", 1)
    generator = torch.Generator().manual_seed(1)
    events = list(tiny_pipeline.trace(["cat"], generator=generator, attention_layer=0))
    found = [event.attention[0] for event in events if event.step == 0]
    for stage, expected in enumerate(found):
        torch.testing.assert_close(run.weights[0][stage], expected)
        torch.testing.assert_close(
            run.weights[0][stage].sum(dim=-1), torch.ones(2, 4 ** (stage + 1))
        )


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("head", [attention.MEAN, 1])
def test_a_look_draws_every_stage(stage, head):
    drawn = attention.look(made_up_run(), stage, 0, head, 3, 3)
    titles = [axis.get_title() for axis in drawn.axes]
    assert sum("of the attention" in title for title in titles) == stage + 1
    shown = [text.get_text() for axis in drawn.axes for text in axis.texts]
    assert shown.count("not there yet") == 1 - stage


def test_the_controls_follow_the_model(tiny_pipeline, monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    tiny_pipeline.set_progress_bar_config(disable=True)
    box = explore.attention(tiny_pipeline, "cat", 1)
    (stage, _, head, *_), (trouble, view) = box.children[:-2], box.children[-2:]
    assert list(stage.options) == [1, 2]
    assert list(head.options) == [attention.MEAN, 0, 1]
    before = view.value
    stage.value = 1
    assert view.value != before
    assert not trouble.value


def test_captions_quote_what_they_are_given(shown):
    run, mask = made_up_run(), block_causal_mask((4, 16), torch.device("cpu"))
    flops = dict(zip(explore.WAYS, ([1e9, 8e9], [1e9, 4e9], [2e9, 6e9]), strict=True))
    fitted = dict.fromkeys(explore.WAYS, (3.0, 2.5, 1.25))
    explore.show_look(run, 1, 0, 0, 0, 0)
    explore.show_order_of_calls((2, 4))
    explore.show_growth((4, 16), flops, flops, fitted, 64)
    explore.show_one_call((1, 16, 64), (1, 20, 70), (1, 1.1, 2.5))
    explore.show_masks(mask.tril(), mask, (4, 16))
    explore.show_logits(torch.rand((8,) * 4), torch.rand(8, 8, 4, 4))
    explore.show_changes({"a": [0, 1.0], "b": [1.0, 2.0]})
    assert shown.numbers == ["1", "2", "3", "4", "5", "8", "9"]
    assert "100%, 0% of its attention" in shown.captions[0]
    assert "16 calls. By stages: 2 calls for 20 tokens" in shown.captions[1]
    assert "stages take 150.0% of the time" in shown.captions[2]
    assert "64 tokens take 2.5 times as long for 70 times" in shown.captions[3]
    assert "right 84% of all" not in shown.captions[4]
    explore.show_exponents(fitted)
    explore.show_heads([(1, 0.5, 0.25, (0, 1), 9)])
    first, second = (text.splitlines()[2] for text in shown.tables)
    assert first == "| token by token, no KV cache | 3 | 3.00 | 2.50 | 1.25 |"
    assert second == "| 1 | 50% | 25% | (0, 1), 9 times |"


def test_the_pictures_draw():
    mask = block_causal_mask((4, 16), torch.device("cpu"))
    colours = LatentColours.pca(torch.randn(1, 3, 8, 8))
    drawn = [
        draw.order_of_calls((2, 4)),
        draw.mask_pictures({"a": mask, "b": ~mask}, (4, 16)),
        draw.same_grid(torch.randn(1, 3, 4, 4), torch.randn(1, 16, 8), colours),
        draw.token_places([token_coordinates(2), token_coordinates(4)]),
        draw.logit_maps({"a": (torch.rand(4, 4), 0.5, 0.5), "b": (torch.rand(2, 2), 0, 1)}),
        draw.changes({"a": [0, 1.0], "b": [1.0, 2.0]}),
        draw.growth_lines((4, 16), {"seconds": {"stage by stage": ([1, 2], 0.5)}}),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)


def test_open_pairs_have_the_hue_of_their_row():
    mask = block_causal_mask((1, 2), torch.device("cpu"))
    axis = draw.mask_pictures({"mask": mask}, (1, 2)).axes[0]
    pixels = torch.as_tensor(axis.images[0].get_array())
    assert torch.equal((pixels == 1).all(dim=-1), ~mask)
    torch.testing.assert_close(pixels[1, 0], pixels[2, 2])


def test_calls_are_numbered_one_a_token_and_one_a_stage():
    one_by_one, *stages = draw.order_of_calls((2, 4)).axes
    assert [text.get_text() for text in one_by_one.texts] == [str(k) for k in range(1, 17)]
    assert [{text.get_text() for text in axis.texts} for axis in stages] == [{"1"}, {"2"}]
