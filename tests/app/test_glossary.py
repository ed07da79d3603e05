"""The glossary: terms are explained where they stand and in a list, by mouse, keyboard, touch."""

import re

import pytest

from apps.shell.shell import read
from tests.app.page import NO_TOUR, QUIET, open_generate
from tests.browsing import PATIENCE

pytestmark = QUIET

MEANING = "#term-meaning"


@pytest.fixture(scope="module")
def page(browser, demo_address):
    context = browser.new_context(has_touch=True, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    tab = context.new_page()
    open_generate(tab, demo_address)
    yield tab
    context.close()


def test_every_term_has_one_plain_meaning_and_a_form_that_finds_it():
    terms = read("glossary.json")
    names = [entry["term"] for entry in terms]
    assert len(set(names)) == len(names)
    for word in ("latent", "token map", "flow head", "velocity", "t", "σ", "guidance", "Euler",
                 "Heun", "AB2", "KV cache", "GFLOP", "DiT", "PSNR", "Fréchet distance", "stage",
                 "re-noise", "patch", "tokenizer"):  # fmt: skip
        assert word in names
    for entry in terms:
        assert entry["text"].endswith("."), entry["term"]
        assert len(entry["text"]) < 260, entry["term"]
        if entry["term"] != "t":  # which is one only beside an equals sign
            assert re.fullmatch(entry["forms"], entry["term"], re.IGNORECASE), entry["term"]


def test_a_term_is_explained_by_mouse_keyboard_and_touch_and_escape_ends_it(page):
    head = page.locator("#generate-player .label .term", has_text="Clean estimate")
    head.hover()
    page.wait_for_selector(f"{MEANING} >> visible=true")
    assert page.inner_text(MEANING).startswith("clean estimate: Where the latent")
    page.keyboard.press("Escape")
    assert page.locator(MEANING).is_hidden()
    head.focus()
    assert page.locator(MEANING).is_visible()
    assert head.get_attribute("aria-describedby") == "term-meaning"
    page.keyboard.press("Escape")
    assert page.locator(MEANING).is_hidden()
    page.locator(".introduction .term >> visible=true").first.tap()
    assert page.inner_text(MEANING).startswith("stage: ")
    page.touchscreen.tap(5, 5)
    assert page.locator(MEANING).is_hidden()


def test_a_text_explains_a_term_once_and_keeps_its_words(page):
    introduction = page.locator(".introduction p >> visible=true")
    assert introduction.inner_text().startswith("Each stage asks the transformer once for a token")
    terms = introduction.locator(".term").all_inner_texts()
    assert terms == ["stage", "transformer", "token map", "flow model", "latent"]


def test_what_a_part_of_the_strip_opens_is_explained_each_time(page):
    for _ in range(2):
        page.get_by_role("button", name="Token map 1").click()
        page.wait_for_selector("#strip-opened .term")
        page.keyboard.press("Escape")


def test_the_list_has_all_terms_and_escape_closes_it(page):
    page.get_by_role("button", name="Glossary").click()
    listed = page.get_by_role("dialog", name="Glossary").locator("dt").all_inner_texts()
    assert sorted(listed) == sorted(entry["term"] for entry in read("glossary.json"))
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog", name="Glossary").is_hidden()
