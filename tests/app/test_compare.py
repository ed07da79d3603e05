"""The Compare tab: both runs, their frames and numbers; then the page on a pipeline with random
weights and a tiny DiT beside it."""

import io
import json
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from apps.compare import runs as compare_runs
from apps.compare import tab as compare_tab
from apps.compare.runs import Rival, compare
from apps.compare.tab import Compare
from apps.compare.views import result_table, rows
from apps.shared.inline import png_of
from apps.shared.settings import Settings
from apps.shared.studio import Studio
from ecar_lab.baselines import BaselinePipeline, DiT, make_pipeline
from ecar_lab.errors import EcarError
from ecar_lab.tokenizers.makers import IdentityTokenizer
from ecar_lab.training.cards import images_seen
from ecar_lab.viz.pictures import to_pil
from tests.app.page import QUIET, served
from tests.browsing import PATIENCE

pytestmark = QUIET
CARD = "| | |\n|---|---|\n| model | 1,234 images (5 steps of 256) in 1 minute |\n"


def tiny_dit(class_names: list[str]) -> DiT:
    """A DiT of the size of the tiny E-CAR, all random."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = DiT(
            latent_size=8, latent_channels=3, patch_size=2, num_classes=len(class_names),
            class_names=class_names, num_layers=1, num_heads=2, head_dim=16, guidance_scale=1.5,
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_dit(folder: Path, class_names: list[str]) -> None:
    pipeline = make_pipeline(tiny_dit(class_names), IdentityTokenizer())
    pipeline.save_pretrained(folder)


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny checkpoint with a DiT beside it, and a card that counts its images."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("pair") / "tiny")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    save_dit(folder.with_name("tiny-dit"), ["cat", "dog", "frog"])
    return folder


@pytest.fixture
def studio(pair: Path) -> Studio:
    return opened(pair)


def opened(folder: Path) -> Studio:
    studio = Studio(folder, device="cpu", dtype="float32")
    studio.open_in_background()
    return studio


SETTINGS = Settings("dog", 7, (2, 3), (1.0, 2.0))


def run(studio: Studio, folder: Path, steps: int = 4, guidance: float = 2.0):
    *moments, last = compare(studio, Rival(studio), SETTINGS, steps, guidance, folder)
    return moments, last


# ---------------------------------------------------------------------------------- without browser


def test_both_make_the_image_that_their_pipelines_make(studio, pair, tmp_path):
    _, last = run(studio, tmp_path)
    ecar, dit = last.lanes
    options = {"output_type": "pt"}
    solver = studio.pipeline.model.solver()  # what the page offers; both walk by it
    ours = studio.pipeline(
        ["dog"], [2, 3], [1.0, 2.0], torch.Generator().manual_seed(7), **options
    ).images
    theirs = BaselinePipeline.from_pretrained(pair.with_name("tiny-dit"))(
        ["dog"], 4, 2.0, torch.Generator().manual_seed(7), solver=solver, **options
    ).images
    for lane, images in ((ecar, ours), (dit, theirs)):
        frame = lane.frames[-1]
        with Image.open(io.BytesIO(png_of(frame["clean"]))) as shown:
            assert shown.tobytes() == to_pil(2 * images - 1)[0].tobytes()
            large = shown.resize((256, 256), Image.Resampling.NEAREST)
        with Image.open(lane.image) as finished:
            assert finished.tobytes() == large.tobytes()
    assert ecar.image != dit.image


def test_every_event_is_a_frame_at_the_seconds_and_operations_it_took(studio, tmp_path):
    _, last = run(studio, tmp_path)
    ecar, dit = last.lanes
    assert [(f["stage"], f["step"]) for f in ecar.frames] == [
        *((0, step) for step in range(3)),
        *((1, step) for step in range(4)),
    ]
    assert [(f["stage"], f["step"]) for f in dit.frames] == [(0, step) for step in range(5)]
    for lane, event_seconds in zip(last.lanes, (ecar.seconds, dit.seconds), strict=True):
        for axis in ("seconds", "gflop"):
            places = [frame[axis] for frame in lane.frames]
            assert places == sorted(places)
            assert places[-1] > 0
        assert lane.frames[-1]["seconds"] == pytest.approx(event_seconds, abs=1e-4)
        pictures = [png_of(f[row]) for f in lane.frames for row in ("clean", "noisy")]
        assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    steps, guidance = list(SETTINGS.steps), list(SETTINGS.guidance)
    planned = studio.pipeline.model.flops(steps, guidance)
    assert ecar.flops == sum(map(sum, planned.values()))
    assert dit.flops == sum(map(sum, dit.contender.pipeline.model.flops(4, 2.0).values()))
    assert json.loads(json.dumps(last.view)) == last.view


def test_nothing_is_drawn_while_a_model_runs(studio, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_runs, "PAUSE", 0)
    said = []
    for moment in compare(studio, Rival(studio), SETTINGS, 4, 2.0, tmp_path):
        if moment.view is None:
            said.append(moment.status)
            assert moment.status == "The frames are drawn …" or list(tmp_path.iterdir()) == []
    assert "E-CAR runs: stage 2, step 3 of 3 …" in said
    assert said.index("DiT runs: step 1 of 4 …") > said.index("E-CAR runs: stage 2, step 3 of 3 …")
    assert said[-1] == "The frames are drawn …"


def test_where_decoding_is_dear_frames_are_the_latents_colours(studio, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_runs, "LONGEST_DECODING", -1)
    _, last = run(studio, tmp_path)
    for lane in last.lanes:
        assert [frame["decoded"] for frame in lane.frames[:-1]] == [False] * (len(lane.frames) - 1)
        assert lane.frames[-1]["decoded"]
        with Image.open(io.BytesIO(png_of(lane.frames[1]["clean"]))) as shown:
            colours = studio.colours(lane.events[1].clean_estimate)
            assert shown.tobytes() == to_pil(colours)[0].tobytes()


def test_the_table_quotes_cards_and_counts(studio, tmp_path):
    _, last = run(studio, tmp_path)
    table = {name: cells for name, *cells in rows(last.lanes)}
    ecar, dit = (lane.contender.pipeline.model for lane in last.lanes)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ecar, dit)]
    assert table["Parameters"][:2] == [f"{count:,}" for count in counts]
    assert table["Training images"] == ["1,234", "not recorded", ""]
    assert table["Steps"] == ["2 + 3", "4", "0.80×"]
    assert table["Guidance"] == ["1 / 2", "2", ""]
    ratio = last.lanes[1].flops / last.lanes[0].flops
    assert table["GFLOP"][2] == f"{ratio:.2f}×"
    assert "random weights" not in result_table(last)


def test_without_a_dit_beside_it_a_random_one_is_timed_and_shows_no_image(
    tiny_checkpoint, tmp_path
):
    studio = opened(tiny_checkpoint)
    rival = Rival(studio)
    assert not rival.trained
    *_, last = compare(studio, rival, SETTINGS, 3, 1.0, tmp_path)
    ecar, dit = last.lanes
    assert dit.contender.parameters == pytest.approx(ecar.contender.parameters, rel=0.03)
    assert dit.seconds > 0 < dit.flops
    assert dit.image is None
    assert ecar.image is not None
    assert not any("clean" in frame or "noisy" in frame for frame in dit.frames)
    assert not list(tmp_path.glob("dit*"))
    assert not last.view["lanes"][1]["trained"]
    table = {name: cells for name, *cells in rows(last.lanes)}
    assert table["Training images"][1] == "none (untrained: timing only)"
    assert "random weights" in result_table(last)


@pytest.mark.parametrize(
    ("told", "beside"),
    [('{"teacher": "tiny"}', "tiny-dit"), ('{"teacher": "no"}', None), ("{}", None), ("[", None)],
)
def test_a_distilled_model_is_compared_with_the_dit_beside_its_teacher(
    pair, tiny_checkpoint, tmp_path, told, beside
):
    shutil.copytree(pair.with_name("tiny-dit"), tmp_path / "tiny-dit")
    shutil.copytree(tiny_checkpoint, tmp_path / "turbo")
    (tmp_path / "turbo" / "training.json").write_text(told, encoding="utf-8")
    folder = Rival(opened(tmp_path / "turbo")).folder
    assert (folder and folder.name) == beside


@pytest.mark.parametrize("fault", ["classes", "kind", "damage"])
def test_a_dit_that_does_not_belong_is_refused_in_a_sentence(tiny_checkpoint, tmp_path, fault):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    beside = tmp_path / "tiny-dit"
    if fault == "kind":
        shutil.copytree(tiny_checkpoint, beside)
        sentence = "'tiny-dit' beside the checkpoint holds a ECAR: put a DiT there"
    else:
        save_dit(beside, ["cat", "dog", "horse"])
        sentence = "'tiny-dit' makes the classes cat, dog, horse, this checkpoint cat, dog, frog"
    if fault == "damage":
        (beside / "model" / "diffusion_pytorch_model.safetensors").write_bytes(b"none")
        sentence = "cannot be loaded"
    rival = Rival(Studio(folder, device="cpu", dtype="float32"))
    assert rival.trained
    with pytest.raises(EcarError, match=sentence):
        rival.get()


def test_the_guidance_offered_is_that_of_the_dits_checkpoint(pair, tiny_checkpoint):
    assert Rival(Studio(pair)).default_guidance == 1.5
    studio = Studio(tiny_checkpoint)
    assert Rival(studio).default_guidance == studio.defaults().guidance[0]


def test_images_seen_are_read_from_the_card_else_the_plan(tmp_path):
    assert images_seen(tmp_path) is None
    plan = {"steps": 10, "batch_size": 4, "grad_accum": 2}
    (tmp_path / "training.json").write_text(json.dumps(plan), encoding="utf-8")
    assert images_seen(tmp_path) == 80
    for unknown in ({"steps": None}, {"max_minutes": 2.0}):
        (tmp_path / "training.json").write_text(json.dumps({**plan, **unknown}), encoding="utf-8")
        assert images_seen(tmp_path) is None
    card = tmp_path / "README.md"
    card.write_text("| model | big |\n| data | 9,000 images |\n", encoding="utf-8")
    assert images_seen(tmp_path) is None
    card.write_text(CARD, encoding="utf-8")
    assert images_seen(tmp_path) == 1234
    card.write_text("| images seen | 64,000 |\n", encoding="utf-8")
    assert images_seen(tmp_path) == 64000


def test_settings_for_a_comparison_may_be_any_class_and_seed(studio, tmp_path):
    other = replace(SETTINGS, class_name="frog", seed=8)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    *_, one = compare(studio, Rival(studio), SETTINGS, 2, 2.0, tmp_path / "a")
    *_, two = compare(studio, Rival(studio), other, 2, 2.0, tmp_path / "b")
    for lane, same in zip(one.lanes, two.lanes, strict=True):
        assert lane.image.read_bytes() != same.image.read_bytes()


# ------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def page_and_tab(pair: Path):
    with served(opened(pair), Compare) as (address, tab):
        yield address, tab


@pytest.fixture(scope="module")
def page(browser, page_and_tab):
    """One page for all tests, each of which leaves it free to compare."""
    # Without motion the lanes stand at their end at once.
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(page_and_tab[0])
    page.get_by_role("button", name="Compare", exact=True).wait_for()
    yield page
    context.close()


def press_compare(page) -> None:
    """Compares, and waits for the end: not of the comparison before, whose table is marked."""
    page.evaluate("document.querySelector('#compare-table table')?.setAttribute('class', 'old')")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_selector("#compare-table table:not(.old)")
    page.wait_for_function(
        "document.querySelector('.lanes .status').textContent.endsWith('E-CAR done, DiT done')"
    )


def test_both_are_walked_through_together_without_the_server(page):
    page.locator("#dit-steps input[type=number]").fill("6")
    page.locator("#dit-steps input[type=number]").press("Tab")
    press_compare(page)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    alts = page.eval_on_selector_all(".lanes img", "images => images.map(image => image.alt)")
    assert alts == [
        "E-CAR: finished image, done", "E-CAR: finished latent, done",
        "DiT: finished image, done", "DiT: finished latent, done",
    ]  # fmt: skip
    slider = page.get_by_label("Place on the axis")
    slider.focus()
    status = page.locator(".lanes .status")
    page.get_by_label("Operations (GFLOP)").check()
    assert "GFLOP: E-CAR done, DiT done" in status.inner_text()
    page.get_by_role("button", name="Start of both runs").click()
    assert "DiT step 0 of 6" in status.inner_text()
    assert "done" not in status.inner_text()
    slider.focus()
    seen = set()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
        text = status.inner_text()
        seen.add(text.split(": ", 1)[1])
        if text.endswith("E-CAR done, DiT done"):
            break
    assert len(seen) > 6
    page.keyboard.press("ArrowLeft")
    assert "done, DiT done" not in status.inner_text()
    assert slider.get_attribute("aria-valuetext") == status.inner_text()
    page.keyboard.press(" ")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    assert status.inner_text().endswith("E-CAR done, DiT done")
    assert [url for url in requests if "queue" in url] == []


def test_the_one_that_takes_less_is_through_first(page):
    press_compare(page)
    page.get_by_label("Operations (GFLOP)").check()
    ends = page.eval_on_selector_all(
        ".lanes .cursor", "nodes => nodes.map(node => parseFloat(node.style.left))"
    )
    rows_ = page.locator("#compare-table tbody tr")
    work = next(row for row in rows_.all_inner_texts() if row.startswith("GFLOP")).split()
    less, more = sorted(map(float, work[1:3]))
    assert max(ends) == 100
    assert min(ends) == pytest.approx(100 * less / more, abs=1.5)


def test_the_finished_images_have_words_and_keys(page):
    press_compare(page)
    page.wait_for_selector("#compare-pictures img[alt^='Finished image of DiT: cat, seed 0']")
    assert page.locator("#compare-pictures img[alt^='Finished image of E-CAR']").count() == 1
    handle = page.get_by_role("slider", name="Border between the images of E-CAR and DiT")
    before = handle.bounding_box()["x"]
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        f"document.activeElement.getBoundingClientRect().x > {before} + 2", timeout=PATIENCE
    )


def test_an_error_is_a_banner_and_the_next_run_goes(page, page_and_tab, monkeypatch):
    tab = page_and_tab[1]

    def refuse():
        raise EcarError("<b>the DiT</b> is damaged: fetch it again")

    with monkeypatch.context() as broken:
        broken.setattr(tab.rival, "get", refuse)
        page.get_by_role("button", name="Compare", exact=True).click()
        page.wait_for_selector("#compare-banner [role=alert]")
        assert page.inner_text("#compare-banner") == "<b>the DiT</b> is damaged: fetch it again"
        page.wait_for_selector("#compare:not([disabled])")
    press_compare(page)
    assert page.locator("#compare-banner [role=alert]").count() == 0


def test_stop_ends_a_comparison_and_the_next_one_goes(page, monkeypatch):
    def endless(lane, run):
        while True:
            time.sleep(0.05)
            yield compare_runs.Moment("It goes on for ever")

    with monkeypatch.context() as slow:
        slow.setattr(compare_runs, "timed", endless)
        page.get_by_role("button", name="Compare", exact=True).click()
        page.locator(".lanes .status", has_text="It goes on for ever").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator(".lanes .status", has_text="Stopped.").wait_for()
        page.wait_for_selector("#compare:not([disabled])")
    press_compare(page)


# Compare is pressed at the first moment that it can be, Stop some milliseconds after it can be.
PRESSES = """async gaps => {
    const [go, stop] = ["#compare", "#compare-stop"].map(id => document.querySelector(id));
    const tab = go.closest("[role=tabpanel]") ?? document;
    const lanes = tab.querySelector(".lanes:has(.status)"), said = [];
    const pause = (ms) => new Promise(done => setTimeout(done, ms));
    const free = async (button) => { while (button.disabled) await pause(1); };
    const note = () =>
        said.push([lanes.querySelector(".status").textContent, lanes.getAttribute("aria-busy")]);
    for (const gap of gaps) {
        await free(go);
        go.click();
        await free(stop);
        await pause(gap);
        stop.click();
        note();
        await free(go);
        note();
    }
    return said;
}"""


def test_a_press_after_stop_is_never_lost(page, page_and_tab, monkeypatch):
    begun, gaps = [], random.Random(5)
    plain = compare_tab.compare

    def counted(*given):
        begun.append(given)
        return plain(*given)

    def endless(lane, run):
        while True:
            time.sleep(0.1)  # a step that cannot be interrupted
            yield compare_runs.Moment("It goes on for ever")

    with monkeypatch.context() as slow:
        slow.setattr(compare_tab, "compare", counted)
        slow.setattr(compare_runs, "timed", endless)
        said = page.evaluate(PRESSES, [gaps.uniform(0, 60) for _ in range(20)])
    assert [words for words, _ in said] == ["Stopping …", "Stopped."] * 20
    assert all(busy == ("true" if words == "Stopping …" else None) for words, busy in said)
    assert len(begun) == 20
    press_compare(page)


def test_a_phone_needs_no_sideways_scrolling(browser, page_and_tab):
    page = browser.new_page(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    page.set_default_timeout(PATIENCE)
    page.goto(page_and_tab[0])
    press_compare(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # Numbers of a model of millions of weights are wider than the tiny one's.
    page.locator("#compare-table tbody tr").first.locator("td").evaluate_all(
        "cells => cells.slice(0, 2).forEach(cell => cell.textContent = '99,948,176')"
    )
    beyond = "[...document.querySelectorAll('.lanes *, #compare-table *')]"
    beyond += ".filter(e => e.getBoundingClientRect().right > 390.5).length"
    assert page.evaluate(beyond) == 0
    page.close()
