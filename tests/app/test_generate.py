"""The Generate tab in a browser: a run, its player, Stop, and what an error does."""

import time

import pytest

from apps.shared.parts import preset_steps
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from tests.app.page import DONE, NO_TOUR, QUIET, open_generate, wait_for_sizes
from tests.browsing import PATIENCE

pytestmark = QUIET


@pytest.fixture(scope="module")
def tab(browser, demo_address: str):
    """The page with its opening image shown. A test leaves a run shown that is done, whichever."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    page = context.new_page()
    open_generate(page, demo_address)
    yield page
    context.close()


@pytest.fixture
def slow_trace(monkeypatch):
    """A model that stays at its first event until the test lets it go on."""
    trace = ECARPipeline.trace

    def slow(self, *args, **kwargs):
        for event in trace(self, *args, **kwargs):
            yield event
            while ECARPipeline.trace is slow:
                time.sleep(0.5)  # Stop is heard between two events; each repeats all frames
                yield event

    monkeypatch.setattr(ECARPipeline, "trace", slow)
    return monkeypatch


def choose(tab, class_name: str, seed: int | str) -> None:
    controls = tab.locator("#generate-controls")
    controls.get_by_label("Class").click()
    tab.get_by_role("option", name=class_name, exact=True).click()
    controls.get_by_label("Seed", exact=True).fill(str(seed))
    controls.get_by_label("Seed", exact=True).press("Tab")


def first_steps(tab):
    """The number of steps of stage 1, once the controls that have it are open."""
    number = tab.locator("#generate-controls").get_by_label("number input for Steps, stage 1")
    if not number.is_visible():
        tab.get_by_role("button", name="Steps, guidance and solver").click()
    number.wait_for()
    return number


def said(tab) -> str:
    return tab.inner_text("#generate-player .status")


STEPS = "document.querySelector('#generate-more input[type=number]').value === '%s'"
SAYS = "words => document.querySelector('#generate-player .status').textContent === words"


def test_an_image_of_the_model_is_there_before_the_first_click(tab):
    tab.wait_for_selector("#generate-player-picture img")
    assert tab.locator("#generate-player .tile img").count() == 6
    assert "cat, seed 0" in tab.inner_text("#generate-player .status")


def test_generate_shows_every_stage_and_the_image(tab):
    tab.evaluate(
        """() => {
            window.said = [];
            const status = document.querySelector("#generate-player .status");
            new MutationObserver(() => window.said.push(status.textContent))
                .observe(status, { childList: true });
        }"""
    )
    choose(tab, "dog", 7)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "dog, seed 7")
    said = "\n".join(tab.evaluate("window.said"))
    order = ["Stage 1 starts from pure noise", "Stage 1, flow step 2 of 2", "is upsampled to 8×8"]
    order += ["gets new noise", "Stage 2, flow step 2 of 2", "Done"]
    places = [said.find(part) for part in order]
    assert -1 not in places, said
    assert places == sorted(places)

    tab.wait_for_selector("#generate-player-picture img[alt*='dog, seed 7']")
    wait_for_sizes(tab, "#generate-player .tile img", [4, 8] * 3)
    wait_for_sizes(tab, "#generate-player-picture img", [8])
    widths = (
        "[...document.querySelectorAll('#generate-player .tile img')].map((image) => image.width)"
    )
    shown = tab.evaluate(widths)
    assert [wide / narrow for narrow, wide in zip(shown[::2], shown[1::2], strict=True)] == [2] * 3
    alts = tab.eval_on_selector_all(
        "#generate-player .tile img", "images => images.map(image => image.alt)"
    )
    assert alts[0] == "Noisy latent of stage 1, 4 by 4, step 2 of 2"
    head = tab.locator(".costs thead th").all_inner_texts()
    assert head == ["Stage", "1: 4×4", "2: 8×8", "All"]


def test_a_seed_left_empty_is_drawn_and_shown(tab):
    choose(tab, "cat", "")
    before = said(tab)  # may be of a cat, and Generate may be done before anybody looks again
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(
        """before => {
            const words = document.querySelector('#generate-player .status').textContent;
            return words !== before && words.startsWith('Done: cat');
        }""",
        arg=before,
    )
    seed = tab.locator("#generate-controls").get_by_label("Seed", exact=True).input_value()
    assert seed.isdecimal()
    assert f"seed {seed}," in tab.inner_text("#generate-player .status")


def test_the_dice_change_the_seed(tab):
    seed = tab.locator("#generate-controls").get_by_label("Seed", exact=True)
    before = seed.input_value()
    tab.get_by_role("button", name="New seed").click()
    tab.wait_for_function(
        "before => document.querySelector('#generate-seed input').value !== before", arg=before
    )
    assert 0 <= int(seed.input_value()) < 2**31


def test_a_finished_run_is_walked_through_by_keyboard_without_the_server(tab):
    requests = []
    slider = tab.get_by_label("Step of the run")
    assert slider.get_attribute("max") == slider.input_value() == "6"
    slider.focus()
    tab.on("request", lambda request: requests.append(request.url))
    tab.keyboard.press("Home")
    assert "Stage 1 starts from pure noise" in said(tab)
    shown = tab.locator("#generate-player .tile img").count()
    assert shown  # and a stage not begun shows nothing
    wait_for_sizes(tab, "#generate-player .tile img", [4] * shown)
    assert tab.locator("#pipeline [aria-current]").inner_text().endswith("Token map 1")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    assert "is upsampled to 8×8" in said(tab)
    assert tab.locator("#pipeline [aria-current]").inner_text().endswith("Upsample + re-noise")
    tab.keyboard.press("ArrowRight")
    assert "gets new noise" in said(tab)
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    assert "Stage 1, flow step 2 of 2" in said(tab)
    tab.keyboard.press(" ")
    tab.wait_for_function(DONE % "")
    assert [url for url in requests if "queue" in url] == []
    curves = tab.locator("#generate-player svg")
    assert curves.count() == 3
    assert curves.first.get_attribute("aria-label").startswith("Velocity over 4 steps")


def test_presets_of_a_few_step_model_are_steps_that_it_was_trained_on():
    assert [preset_steps((4, 2, 1), name, 4) for name in ("fast", "best")] == [[2, 1, 1], [4, 4, 2]]
    assert preset_steps((8, 6), "best") == [16, 12]


def test_a_preset_sets_the_steps(tab):
    choose(tab, "cat", 0)
    assert first_steps(tab).input_value() == "2"
    tab.get_by_label("best").click()
    tab.wait_for_function(STEPS % 4)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "cat, seed 0, steps 4 + 4")
    tab.get_by_label("balanced").click()
    tab.wait_for_function(STEPS % 2)


def test_stop_ends_a_run_and_the_next_one_goes(tab, slow_trace):
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function("document.querySelectorAll('#generate-player .tile img').length > 0")
    tab.get_by_role("button", name="Stop").click()
    tab.wait_for_function(
        "document.querySelector('#generate-player .status').textContent === 'Stopped.'"
    )
    tab.wait_for_selector("#generate:not([disabled])")
    slow_trace.undo()
    choose(tab, "frog", 1)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "frog, seed 1")


def test_a_visitor_who_goes_away_does_not_hold_up_the_next(browser, tab, demo_address, slow_trace):
    other = browser.new_context()
    other.set_default_timeout(PATIENCE)
    page = other.new_page()
    page.goto(demo_address)
    page.get_by_role("tab", name="Generate", exact=True).click()
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function("document.querySelectorAll('#generate-player .tile img').length > 0")
    other.close()
    slow_trace.undo()
    choose(tab, "dog", 5)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "dog, seed 5")


def test_an_error_is_a_sentence_on_the_page(tab, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise EcarError("<b>guidance</b> nan is not finite: use 1 or more")

    before = said(tab)
    monkeypatch.setattr(ECARPipeline, "trace", refuse)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_selector("#generate-banner [role=alert]")
    assert tab.inner_text("#generate-banner") == "<b>guidance</b> nan is not finite: use 1 or more"
    tab.wait_for_selector("#generate:not([disabled])")
    tab.wait_for_function(SAYS, arg=before)  # the image before is not lost


def test_a_number_that_is_none_is_our_sentence_and_no_more(tab, capfd):
    first_steps(tab)
    before = said(tab)
    for field, typed, words in (
        ("Seed", "-5", "Seed -5 is out of range: use 0 to 2147483647"),
        ("Seed", "2147483648", "Seed 2147483648 is out of range: use 0 to 2147483647"),
        ("Seed", "3.7", "Seed is '3.7': give a whole number"),
        ("number input for Steps, stage 1", "2.5", "Steps of stage 1 is '2.5': give a whole numb"),
    ):
        number = tab.locator("#generate-controls").get_by_label(field, exact=True)
        right = number.input_value()
        number.fill(typed)
        tab.get_by_role("button", name="Generate", exact=True).click()
        tab.locator("#generate-banner [role=alert]", has_text=words).wait_for()
        assert tab.inner_text("#generate-banner").startswith(words)
        tab.wait_for_selector("#generate:not([disabled])")
        tab.wait_for_function(SAYS, arg=before)
        assert tab.locator(".toast-body").count() == 0
        number.fill(right)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_fault_of_ours_gives_the_button_back(tab, monkeypatch):
    def break_down(self, *args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr(ECARPipeline, "trace", break_down)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(
        "document.querySelector('#generate-player .status').textContent === 'Stopped.'"
    )
    tab.wait_for_selector("#generate:not([disabled])")
