"""The mode for a talk: what is in sight, how large, the keys, and the run stage by stage."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.app.page import DONE, GROWN, NO_TOUR, QUIET
from tests.app.test_access import SERIOUS, gradios_own
from tests.browsing import PATIENCE

pytestmark = QUIET

STATUS = "document.querySelector('#generate-player .status')"
SMALL = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const small = [];
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        const seen = walker.currentNode.data.trim()
            && node.checkVisibility({ visibilityProperty: true })
            && !node.closest('script, style, noscript, .visually-hidden, .spoken');
        if (seen && parseFloat(getComputedStyle(node).fontSize) < 18)
            small.push(node.outerHTML.slice(0, 90));
    }
    return small;
}"""
# How far what must be seen reaches beyond the notes, in pixels.
BEYOND = """selectors => Math.max(...selectors.map(selector =>
    document.querySelector(selector).getBoundingClientRect().bottom))
    - document.querySelector('.present-notes').getBoundingClientRect().top"""
PRESENTING = "document.documentElement.classList.contains('present')"


@pytest.fixture(scope="module")
def page(browser, demo_address):
    """The page in the mode for a talk, without motion."""
    context = browser.new_context(viewport={"width": 1280, "height": 720}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    tab = context.new_page()
    tab.goto(f"{demo_address}?present")
    tab.wait_for_function(GROWN)
    yield tab
    context.close()


def opened(page, number: int, name: str) -> None:
    page.keyboard.press(str(number))
    page.wait_for_selector(f"#tabs [role=tab][aria-selected=true]:has-text('{name}')")


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1920, 1080)])
def test_all_is_in_sight_in_large_type(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    for number, name, seen in (
        (1, "All classes", [".overview .tile:last-child", ".overview .transport"]),
        (2, "Generate", ["#generate-player .transport", "#generate-player-picture"]),
    ):
        opened(page, number, name)
        page.wait_for_function(f"({BEYOND})({seen}) <= 0")
        assert page.evaluate("document.documentElement.scrollHeight") <= height
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(SMALL) == []
    assert page.locator(".present-notes").inner_text()


def test_the_run_is_revealed_stage_by_stage_and_the_image_last(page):
    opened(page, 2, "Generate")
    page.wait_for_function(f"{STATUS}.textContent.startsWith('Stage 1, flow step 2 of 2')")
    page.wait_for_selector("#generate-player-picture.withheld")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"{STATUS}.textContent.startsWith('Stage 1, flow step 1')")
    assert page.locator(".present-notes").inner_text().startswith("It begins with pure noise")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.wait_for_function(DONE % "cat")
    page.wait_for_selector("#generate-player-picture:not(.withheld)")
    assert page.locator(".present-notes").inner_text().startswith("The tokenizer turns")


def test_keys_generate_show_and_hide(page):
    opened(page, 2, "Generate")
    page.keyboard.press("g")
    page.wait_for_selector("#generate-player-picture.withheld")
    page.wait_for_function(f"{STATUS}.textContent.startsWith('Stage 1, flow step 2 of 2')")
    for key, what in (("n", ".present-notes"), ("c", "#generate-controls"), ("?", ".present-keys")):
        before = page.locator(what).is_visible()
        page.keyboard.press(key)
        assert page.locator(what).is_visible() is not before, key
        page.keyboard.press(key)
        assert page.locator(what).is_visible() is before, key


def test_no_key_fires_while_somebody_types(page):
    opened(page, 2, "Generate")
    page.keyboard.press("c")
    seed = page.locator("#generate-seed input")
    seed.focus()
    page.keyboard.press("1")
    page.keyboard.press("p")
    assert page.evaluate(PRESENTING)
    assert page.locator("#tabs [role=tab][aria-selected=true]").inner_text() == "Generate"
    seed.fill("0")
    seed.blur()
    page.keyboard.press("c")


def test_axe_finds_nothing_serious_in_it(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = []
    for number, name in ((1, "All classes"), (2, "Generate")):
        opened(page, number, name)
        found += [
            (name, violation["id"], node["html"][:160])
            for violation in axe.run(page).response["violations"]
            for node in violation["nodes"]
            if violation["impact"] in SERIOUS and not gradios_own(violation["id"], node["html"])
        ]
    assert found == []


def test_escape_leaves_and_p_comes_back_and_the_address_says_so(page):
    page.keyboard.press("Escape")
    assert not page.evaluate(PRESENTING)
    assert "present" not in parse_qs(urlsplit(page.url).query, keep_blank_values=True)
    page.keyboard.press("1")  # which is no key any more
    assert page.locator("#tabs [role=tab][aria-selected=true]").inner_text() == "Generate"
    page.keyboard.press("p")
    assert page.evaluate(PRESENTING)
    assert "present" in parse_qs(urlsplit(page.url).query, keep_blank_values=True)
