"""The Inspect tab: attention, mask, token maps and cache as numbers; then the page itself."""

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from apps.inspection import runs, views
from apps.inspection.runs import Inspections, compare_caches
from apps.inspection.tab import Inspect
from apps.inspection.views import (
    attention_view,
    cache_sentence,
    cache_table,
)
from apps.shared.inline import png_of
from apps.shared.settings import Settings
from apps.shared.studio import Studio, a_folder
from ecar_lab.benchmark.caching import compare_cache
from ecar_lab.errors import EcarError
from ecar_lab.interventions import stage_noise
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import IdentityTokenizer
from ecar_lab.transformer import KVCache, block_causal_mask
from tests.app.page import QUIET, served
from tests.browsing import PATIENCE
from tests.conftest import tiny_model

pytestmark = QUIET
TOKENS = (4, 16)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A tiny pipeline whose transformer has two layers."""
    folder = tmp_path_factory.mktemp("inspect") / "two-layers"
    model = tiny_model(transformer_layers=2)
    ECARPipeline(model=model, tokenizer=IdentityTokenizer()).save_pretrained(folder)
    studio = Studio(folder, device="cpu", dtype="float32")
    studio.open_in_background()
    return studio


@pytest.fixture
def settings(studio: Studio) -> Settings:
    return replace(studio.defaults(), class_name="dog", seed=3)


def unpacked(view: dict, stage: int) -> np.ndarray:
    """What the page makes of the attention of a stage: (heads, tokens, tokens so far)."""
    whole = np.frombuffer(base64.b64decode(view["attention"][stage]), "<u2")
    return whole.reshape(view["heads"], TOKENS[stage], sum(TOKENS[: stage + 1])) / 65535


# -- attention and mask ----------------------------------------------------------------------------


def test_attention_sums_to_one_and_sees_what_the_mask_allows(studio, settings):
    view = Inspections(studio).open(settings, 1, "visitor").view(1)
    seen = block_causal_mask(TOKENS, torch.device("cpu")).sum(dim=1).tolist()
    for stage, first in enumerate((0, 4)):
        weights = unpacked(view, stage)
        assert weights.shape[2] == seen[first]  # no column for a later stage
        np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-3)
    starts = [e for e in studio.trace(settings, attention_layer=1) if e.step == 0]
    np.testing.assert_allclose(unpacked(view, 1), starts[1].attention[0].numpy(), atol=1e-5)
    other = Inspections(studio).open(settings, 0, "visitor").view(0)
    assert np.abs(unpacked(other, 1) - unpacked(view, 1)).max() > 1e-3


def test_no_later_stage_changes_what_an_earlier_one_looks_at(studio, settings):
    model = studio.pipeline.model
    noise = dict(enumerate(stage_noise(model, [3, 99])))
    starts = [
        [e for e in studio.pipeline.trace(["dog"], noise=n, attention_layer=1) if e.step == 0]
        for n in (noise, {**noise, 1: torch.zeros_like(noise[1])})
    ]
    assert not torch.equal(starts[0][1].latent, starts[1][1].latent)
    assert torch.equal(starts[0][0].attention, starts[1][0].attention)


def test_too_many_weights_are_sent_as_their_mean(studio, settings, monkeypatch):
    starts = [e for e in studio.trace(settings, attention_layer=0) if e.step == 0]
    whole = attention_view(starts)
    monkeypatch.setattr(views, "MAX_WEIGHTS", 100)
    short = attention_view(starts)
    assert (whole["heads"], short["heads"]) == (2, 1)
    mean = unpacked(whole, 1).mean(axis=0)
    np.testing.assert_allclose(unpacked(short, 1)[0], mean, atol=3e-5)


# -- token maps ------------------------------------------------------------------------------------


def test_a_stage_of_one_token_borrows_the_directions_of_all(tmp_path):
    model = tiny_model(num_stages=3)  # 1, 4 and 16 tokens
    ECARPipeline(model=model, tokenizer=IdentityTokenizer()).save_pretrained(tmp_path / "three")
    studio = Studio(tmp_path / "three", device="cpu", dtype="float32")
    view = Inspections(studio).open(studio.defaults(), 0, None).view(0)
    assert [stage["side"] for stage in view["stages"]] == [1, 2, 4]
    for stage in view["stages"]:
        with Image.open(io.BytesIO(png_of(stage["map"]))) as picture:
            assert picture.size == (stage["side"],) * 2


# -- the cache -------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 2])
def test_the_cache_changes_nothing(window):
    model = tiny_model(transformer_layers=2, attention_window=window)
    labels = model.class_ids("dog")
    ends = [torch.randn(1, 3, 4, 4)]
    found = compare_cache(model.transformer, ends, labels, repeats=1)
    assert found.difference < 1e-5 < found.stages[1].magnitude
    assert [stage.tokens for stage in found.stages] == [4, 16]
    assert [stage.reused for stage in found.stages] == [0, 4]
    assert [stage.recomputed for stage in found.stages] == [0, 4]
    width, layers, numbers = 32, 2, 4 * (4 if window else 20)
    assert found.stages[-1].cache_bytes == 2 * layers * width * numbers


def test_a_cache_that_forgets_would_be_seen(studio, settings, monkeypatch):
    found = Inspections(studio).open(settings, 0, "visitor")
    good = compare_caches(studio, found)
    extend = KVCache.extend

    def forgetful(self, layer, key, value):
        keys, values = extend(self, layer, key, value)
        return keys[:, :, -key.shape[2] :], values[:, :, -key.shape[2] :]

    monkeypatch.setattr(KVCache, "extend", forgetful)
    bad = compare_caches(studio, found)
    assert good[0].difference < 1e-5
    assert bad[0].difference > 1e-2


def test_the_dtype_used_is_told_beside_float32(studio, settings, monkeypatch):
    monkeypatch.setattr(studio, "dtype", torch.bfloat16)
    used, exact = compare_caches(studio, Inspections(studio).open(settings, 0, "visitor"))
    assert (used.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    assert used.stages[1].cache_bytes == exact.stages[1].cache_bytes / 2
    stages = [replace(stage, difference=0.25) for stage in used.stages]
    sentence = cache_sentence([replace(used, stages=tuple(stages)), exact])
    assert "4 more tokens" in sentence
    assert f"differs by more than {exact.difference:.1g}," in sentence
    assert "In bfloat16 the two round differently on their way, by 0.2 at most" in sentence
    assert cache_table([used, exact]).count("<tr>") == 4


# -- what is kept ----------------------------------------------------------------------------------


def test_a_run_is_computed_once_per_layer_and_the_oldest_make_room(studio, settings, monkeypatch):
    studio.opening()  # which is no call of ours
    calls = []
    trace = ECARPipeline.trace

    def counted(self, *args, **kwargs):
        calls.append(kwargs["attention_layer"])
        return trace(self, *args, **kwargs)

    monkeypatch.setattr(ECARPipeline, "trace", counted)
    kept = Inspections(studio)
    first = kept.open(settings, 0, "one")
    assert kept.open(settings, 0, "one") is first
    kept.open(settings, 1, "one")
    assert calls == [0, 1]
    kept.open(settings, 0, "another")
    assert calls == [0, 1, 0]
    for seed in range(runs.KEEP):
        kept.open(replace(settings, seed=100 + seed), 0, "one")
    kept.open(settings, 0, "another")
    assert len(calls) == 3 + runs.KEEP
    kept.open(settings, 0, "one")
    assert len(calls) == 4 + runs.KEEP
    studio.folders.forget("another")
    kept.open(settings, 0, "another")  # the pictures are gone with the folder
    assert len(calls) == 5 + runs.KEEP


def test_a_visitor_who_left_is_told_so(studio):
    def write_late() -> None:
        with a_folder(studio, "gone") as folder:
            studio.folders.forget("gone")
            (folder / "late.png").write_bytes(b"")

    with pytest.raises(EcarError, match="the session has ended"):
        write_late()


def test_the_latest_run_is_opened_with_all_that_was_changed(studio, settings):
    with gr.Blocks():
        tab = Inspect(studio)
    request = SimpleNamespace(session_hash="with a run")
    *_, refused = tab.inspect_latest(request, 0)
    assert "You have no run yet" in refused[tab.banner]
    changed = replace(settings, seeds=(3, 8))
    list(studio.run(changed, "with a run"))
    *_, update = tab.inspect_latest(request, 0)
    assert update[tab.opened] == changed
    assert "noise of seed 8 in stage 2" in update[tab.inspector]["title"]
    assert update[tab.controls.seed] == 3


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(studio: Studio, browser) -> Iterator:
    with served(studio, Inspect) as (address, tab):
        yield address, tab, browser


@pytest.fixture(scope="module")
def sight(page):
    """One page for all tests, each of which takes the run that it finds."""
    address, _, browser = page
    sight = browser.new_page(viewport={"width": 1200, "height": 900})
    sight.set_default_timeout(PATIENCE)
    sight.goto(address)
    sight.wait_for_selector(".inspector .cell.chosen")
    yield sight
    sight.close()


def stage(sight, number: int):
    return sight.locator(".inspector .stage").nth(number - 1)


def percent(text: str) -> float:
    return float(text.split("\N{NO-BREAK SPACE}")[0])


def test_a_click_shows_where_the_token_looks(sight, page):
    view = page[1].inspections.open(page[1].studio.defaults(), 1, None).view(1)
    stage(sight, 2).locator(".cell").nth(6).click()
    row = unpacked(view, 1).mean(axis=0)[6]
    shares = [stage(sight, n).locator(".share").inner_text() for n in (1, 2)]
    expected = [100 * row[:4].sum(), 100 * row[4:].sum()]
    assert [percent(share) for share in shares] == pytest.approx(expected, abs=0.06)
    heats = (
        stage(sight, 1)
        .locator(".cell")
        .evaluate_all("cells => cells.map(cell => Number(cell.style.getPropertyValue('--heat')))")
    )
    assert heats == pytest.approx((row[:4] / row[:4].max()).tolist(), abs=2e-3)
    answer = sight.inner_text(".inspector .answer")
    assert "Token at row 2, column 3 of stage 2, layer 2, mean of the heads" in answer
    assert "Row 11 of 20" in sight.inner_text(".inspector .mask")
    top = sight.evaluate("document.querySelector('.marker').style.top")
    assert "50%" in top  # row 10 of 20, from 0

    sight.get_by_label("1", exact=True).and_(sight.locator("[name*=Head]")).check()
    row = unpacked(view, 1)[0, 6]
    share = percent(stage(sight, 1).locator(".share").inner_text())
    assert share == pytest.approx(100 * row[:4].sum(), abs=0.06)


def test_the_keyboard_walks_the_patches(sight):
    grid = sight.get_by_role("grid", name="Patches of stage 1")
    assert grid.locator("[tabindex='0']").count() == 1
    grid.locator("[tabindex='0']").focus()
    sight.keyboard.press("ArrowRight")
    sight.keyboard.press("ArrowRight")  # there is nothing further right
    sight.keyboard.press("ArrowDown")
    assert "stage 2" in sight.inner_text(".inspector .answer")  # nothing was chosen yet
    sight.keyboard.press("Enter")
    answer = sight.inner_text(".inspector .answer")
    assert "Token at row 2, column 2 of stage 1" in answer
    assert "Attention to stage 1: 100.0\N{NO-BREAK SPACE}%." in answer
    assert stage(sight, 2).locator(".share").inner_text() == "Not seen"
    chosen = grid.locator("[aria-selected=true]")
    assert chosen.get_attribute("aria-label").startswith("row 2, column 2")
    assert "It sees 4 tokens" in sight.inner_text(".inspector .mask")


def test_another_run_another_layer_and_the_cache(sight):
    stage(sight, 2).locator(".cell").nth(3).click()
    sight.locator("#inspect-layer").get_by_label("1", exact=True).check()
    sight.wait_for_function(
        "document.querySelector('.inspector .answer').textContent.includes('layer 1')"
    )
    assert "row 1, column 4 of stage 2" in sight.inner_text(".inspector .answer")
    sight.locator("#inspect-seed input").fill("12")
    sight.locator("#inspect-seed input").press("Tab")
    sight.click("#inspect-go")
    sight.wait_for_function(
        "document.querySelector('.inspector .status').textContent.includes('seed 12')"
    )
    sight.click("#inspect-check")
    sight.wait_for_selector("#inspect-cache tbody tr")
    rows = sight.locator("#inspect-cache tbody tr").all_inner_texts()
    assert [row.split()[:3] for row in rows] == [
        ["1", "4", "0"],
        ["2", "16", "4"],
        ["All", "20", "4"],
    ]
    assert "gives the same token maps" in sight.inner_text("#inspect-cache")
    sight.wait_for_function(
        "[...document.querySelectorAll('.inspector img')].every(i => i.alt && i.naturalWidth)"
    )


def test_a_refusal_gives_the_page_back(sight):
    sight.click("#inspect-latest")
    sight.wait_for_selector("text=you have no run yet")
    sight.wait_for_function(
        "document.querySelector('.inspector .status').textContent.startsWith('Open')"
    )


def test_a_phone_shows_it_without_sideways_scrolling(page):
    sight = page[2].new_page(viewport={"width": 390, "height": 844})
    sight.set_default_timeout(PATIENCE)
    sight.goto(page[0])
    sight.wait_for_selector(".inspector .cell.chosen")
    sight.click("#inspect-check")
    sight.wait_for_selector("#inspect-cache tbody tr")
    assert sight.evaluate("document.documentElement.scrollWidth") == 390
    beyond = "document.querySelectorAll('.inspector *')"
    right = f"Math.max(...[...{beyond}].map(e => e.getBoundingClientRect().right))"
    assert sight.evaluate(right) <= 390
    sight.close()
