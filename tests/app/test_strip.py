"""The strip at the top: what it knows of a model and a run; that it stays, opens and follows."""

import pytest

from apps.overview.runs import dit_gflop, work_bars
from apps.shell.strip import parts_of
from ecar_lab.baselines import build
from tests.app.page import NO_TOUR, QUIET, open_generate, open_tab
from tests.browsing import PATIENCE

pytestmark = QUIET

TOP = "document.querySelector('#pipeline').getBoundingClientRect().top"
LIT = "document.querySelector('#pipeline [aria-current]')?.textContent === '%s'"
# Of the part that is lit: does all of it stand between the edges of the screen?
IN_SIGHT = """() => {
    const box = document.querySelector('#pipeline [aria-current]')?.getBoundingClientRect();
    return box && box.left >= 0 && box.right <= innerWidth;
}"""


@pytest.fixture(scope="module")
def page(browser, demo_address):
    """The Generate tab with its opening image; every test leaves the strip closed."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    tab = context.new_page()
    open_generate(tab, demo_address)
    yield tab
    context.close()


def test_its_parts_are_the_model_s_and_their_work_is_the_model_s_own_count(studio):
    parts = parts_of(studio)
    names = ["Class", "Token map 1", "Flow 4×4", "Upsample + re-noise", "Token map 2", "Flow 8×8"]
    assert [part["name"] for part in parts] == [*names, "Decode"]
    own = studio.defaults()
    flops = studio.pipeline.model.flops(own.steps, own.guidance, own.solver)
    counted = sum(part["gflop"] or 0 for part in parts)
    assert counted == pytest.approx(sum(map(sum, flops.values())) / 1e9)
    shapes = {(part["part"], part["stage"]): part["tensors"][0]["shape"] for part in parts}
    assert shapes[("map", 1)] == "16 × 32"
    assert shapes[("up", 1)] == "3 × 4 × 4"


def test_a_run_s_facts_are_those_of_its_events(studio, make):
    settings = studio.defaults()
    facts = make(settings).progress.view["facts"]
    ends = [event for event in studio.trace(settings) if event.is_stage_end]
    assert len(facts) == len(ends) == 2
    for own, event in zip(facts, ends, strict=True):
        for key, tensor in (("latent", event.latent), ("map", event.token_map)):
            ends_of = (tensor.min().item(), tensor.max().item())
            assert own[key] == pytest.approx(ends_of, abs=2e-3), key
    flops = studio.pipeline.model.flops(settings.steps, settings.guidance, settings.solver)
    assert [own["gflop"]["flow"] for own in facts] == pytest.approx(
        [count / 1e9 for count in flops["head"]]
    )
    assert all(own["ms"]["map"] > 0 and own["ms"]["flow"] > 0 for own in facts)
    assert facts[-1]["map_picture"].startswith("data:image/png;base64,")


def test_the_bar_beside_it_is_that_of_a_dit_of_as_many_parameters(studio):
    config = {k: v for k, v in studio.pipeline.model.config.items() if not k.startswith("_")}
    (flops,) = build("dit", config).flops(50)["network"]
    assert dit_gflop(studio) == pytest.approx(flops / 1e9)
    html = work_bars(2.0, 9.0)
    assert "needs 4.5 times the work" in html
    assert "width:22.22%" in html
    assert work_bars(2.0, None) == ""


def test_it_stays_in_sight_however_far_the_page_is_scrolled(page):
    page.set_viewport_size({"width": 900, "height": 500})
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function("scrollY > 200")
    assert page.evaluate(TOP) == 0
    page.evaluate("scrollTo(0, 0)")
    page.set_viewport_size({"width": 1440, "height": 900})


def test_a_part_opens_its_sentence_its_tensors_and_its_cost(page):
    part = page.get_by_role("button", name="Flow 8×8")
    part.focus()
    page.keyboard.press("Enter")
    opened = page.get_by_role("region", name="Flow 8×8")
    assert part.get_attribute("aria-expanded") == "true"
    text = opened.inner_text()
    assert "carries the latent from noise" in text
    assert "3 × 8 × 8" in text
    assert " to " in opened.get_by_role("row", name="clean estimate").inner_text()
    assert " GFLOP (" in text
    assert " ms (" in text
    assert "cat, seed 0" in text
    assert opened.locator("img").count() == 2
    page.get_by_role("button", name="Token map 2").click()
    assert page.get_by_role("region", name="Token map 2").locator("img").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#strip-opened").is_hidden()
    focused = page.evaluate("document.activeElement.textContent")
    assert focused == "Token map 2"


def test_it_says_where_the_open_tab_is(page):
    page.wait_for_function(LIT % "Decode")
    page.get_by_label("Step of the run").focus()
    page.keyboard.press("Home")
    page.wait_for_function(LIT % "Token map 1")
    open_tab(page, "Inspect")
    page.wait_for_function(LIT % "Token map 2")  # of the chosen token, in the finest stage
    open_tab(page, "Tokenizer")
    page.wait_for_function(LIT % "Decode")
    open_tab(page, "Runs")  # where nothing has run yet
    page.wait_for_function("!document.querySelector('#pipeline [aria-current]')")
    open_tab(page, "Generate")
    page.wait_for_function(LIT % "Token map 1")
    page.get_by_label("Step of the run").press("End")


def test_on_a_phone_it_is_one_line_that_follows_and_every_tab_is_in_the_bar(page):
    page.set_viewport_size({"width": 390, "height": 844})
    height = "document.querySelector('#pipeline').offsetHeight"
    page.wait_for_function(f"{height} < 60")
    for key in ("Home", "End"):
        page.get_by_label("Step of the run").press(key)
        page.wait_for_function(IN_SIGHT)
    for tab in page.locator("#tabs > .tab-wrapper [role=tab]").all():
        tab.click()
        assert tab.get_attribute("aria-selected") == "true"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_role("button", name="More tabs").count() == 0
    open_tab(page, "Generate")
    page.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1920, 1080)])
def test_scrubber_and_curves_are_above_the_fold_and_the_table_is_whole(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    bottom = "document.querySelector('#generate-player .curves').getBoundingClientRect().bottom"
    page.wait_for_function(f"{bottom} <= innerHeight")
    scroll = "document.querySelector('.costs .scroll')"
    assert page.evaluate(f"{scroll}.scrollWidth <= {scroll}.clientWidth")
    small = page.evaluate(
        """() => [...document.querySelectorAll('.player *, .costs *, #pipeline *')]
            .filter(node => node.offsetParent && node.textContent.trim()
                && parseFloat(getComputedStyle(node).fontSize) < 13)
            .map(node => node.textContent)"""
    )
    assert small == []
