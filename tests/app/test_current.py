"""One current run for all tabs: who tells of it, who follows, what a reload keeps."""

import pytest

from tests.app.page import DONE, NO_TOUR, QUIET, open_tab
from tests.browsing import PATIENCE

pytestmark = QUIET


@pytest.fixture(scope="module")
def tab(browser, demo_address):
    """A page on which frog, seed 5, was made."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    page = context.new_page()
    page.goto(demo_address)
    page.get_by_role("tab", name="Generate", exact=True).wait_for()
    open_tab(page, "Generate")
    page.wait_for_function(DONE % "")
    generate(page, "frog", 5)
    yield page
    context.close()


def generate(tab, class_name: str, seed: int) -> None:
    tab.locator("#generate-class input").click()
    tab.get_by_role("option", name=class_name, exact=True).click()
    tab.locator("#generate-seed input").fill(str(seed))
    tab.locator("#generate-seed input").press("Tab")
    tab.click("#generate")
    tab.wait_for_function(DONE % f"{class_name}, seed {seed}")
    tab.wait_for_function(f"location.search.includes('class_name={class_name}&seed={seed}')")


def chosen(tab, prefix: str) -> tuple[str, str]:
    fields = [f"#{prefix}-class input", f"#{prefix}-seed input"]
    return tuple(tab.locator(field).input_value() for field in fields)


def test_every_tab_with_controls_follows_and_keeps_what_is_chosen_then(tab):
    for name in ("Compare", "Inspect", "Intervene"):
        open_tab(tab, name)
        tab.wait_for_function(f"document.querySelector('#{name.lower()}-seed input').value === '5'")
        assert chosen(tab, name.lower()) == ("frog", "5")
    tab.locator("#intervene-seed input").fill("8")
    tab.locator("#intervene-seed input").press("Tab")
    open_tab(tab, "Paint a stage")
    tab.wait_for_function("document.querySelector('#paint-seed input').value === '5'")
    open_tab(tab, "All classes")
    tab.wait_for_function("document.querySelector('#overview-seed input').value === '5'")
    open_tab(tab, "Intervene")
    assert chosen(tab, "intervene") == ("frog", "8")


def test_an_intervention_becomes_the_current_run_and_comes_to_generate(tab):
    open_tab(tab, "Intervene")
    tab.wait_for_function("document.querySelector('#intervene-class input').value === 'frog'")
    tab.locator("#intervene-seed input").fill("8")
    tab.locator("#intervene-seed input").press("Tab")
    tab.locator("#interventions").get_by_role("tab", name="Re-noise").click()
    tab.click("#intervene-renoise-go")
    tab.wait_for_function("location.search.includes('renoise=')")
    open_tab(tab, "Generate")
    tab.wait_for_selector("#generate-changes >> visible=true")
    assert "no new noise in stage 2" in tab.inner_text("#generate-changes")
    assert chosen(tab, "generate") == ("frog", "8")
    tab.click("#generate")
    tab.wait_for_function(DONE % "frog, seed 8")
    assert "no new noise in stage 2" in tab.inner_text("#generate-player .status")
    tab.click("#generate-plain")
    tab.wait_for_selector("#generate-changes", state="hidden")
    generate(tab, "frog", 5)
    assert "no new noise" not in tab.inner_text("#generate-player .status")


@pytest.mark.parametrize(
    ("word", "sign"),
    [
        ("inspect", "document.querySelector('#inspect-view')?.innerText.includes('frog, seed 5')"),
        ("paint", "document.querySelector('#paint-classes')?.innerText.includes('frog')"),
    ],
)
def test_a_button_brings_the_current_run_to_a_tab(tab, word, sign):
    open_tab(tab, "Generate")
    tab.click(f"#onward-{word}")
    tab.wait_for_function(sign)


def test_a_reload_makes_the_current_run_again_and_knows_earlier_ones(tab):
    open_tab(tab, "Generate")
    generate(tab, "dog", 3)
    tab.reload()
    tab.wait_for_function(DONE % "dog, seed 3")
    assert chosen(tab, "generate") == ("dog", "3")
    tab.wait_for_function(
        "document.querySelector('.current summary').textContent.startsWith('Earlier runs (')"
    )
    tab.click(".current summary")
    tab.locator(".current a", has_text="frog, seed 5").first.click()
    tab.wait_for_function(DONE % "frog, seed 5")


def test_runs_have_their_link_before_generate_was_ever_opened(browser, demo_address):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    page = context.new_page()
    page.goto(demo_address)
    open_tab(page, "Paint a stage")
    page.locator(".completed .tile").first.click()
    page.wait_for_function("location.search.includes('painted=')")
    open_tab(page, "Live")
    page.locator(".live input[type=range]").first.fill("0.5")
    page.wait_for_function("location.search.includes('mix=')")
    open_tab(page, "Generate")
    page.wait_for_selector("#generate-changes >> visible=true")
    assert "50% " in page.inner_text("#generate-changes")
    assert page.locator(".current .copy").is_enabled()
    context.close()
