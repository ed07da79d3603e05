"""The Live tab: a wish as settings, the newest wish first, and an image that follows a slider."""

import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from apps.live import runs
from apps.live.runs import Newest, draw, first_wish, settings_of
from apps.live.tab import MOST_WAITING, Live
from apps.shared.inline import png_of
from apps.shared.settings import Settings
from ecar_lab.errors import EcarError
from ecar_lab.viz.colours import decode
from ecar_lab.viz.pictures import to_pil
from tests.app.page import NO_TOUR, QUIET, open_tab, run
from tests.browsing import PATIENCE
from tests.conftest import tiny_model

pytestmark = QUIET


@pytest.fixture
def wish(studio) -> dict[str, Any]:
    return first_wish(studio.defaults(), studio.class_names)


def test_the_first_wish_is_the_run_it_comes_from(studio, wish):
    assert settings_of(studio.pipeline.model, wish) == studio.defaults()


def test_a_wish_is_settings_and_settings_put_the_sliders_back(studio, wish):
    model = studio.pipeline.model
    own = {"mix_class": "frog", "mix": 0.3, "from_stage": 1, "walk_seed": 9, "walk": [1.0, 0.5]}
    settings = settings_of(model, {**wish, **own})
    assert (settings.mix_class, settings.mix) == ("frog", (0.0, 0.3))
    assert (settings.walk_seed, settings.walk) == (9, (1.0, 0.5))
    again = first_wish(settings, studio.class_names)
    assert {name: again[name] for name in own} == own
    assert settings_of(model, again) == settings
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("mode", ["velocity", "few-step"])
def test_guidance_acts_where_the_model_guides(mode):
    model = tiny_model(guidance_scale=[1.0, 2.0], mode=mode, num_inference_steps=2)
    low, high = runs.guidance_range(model)
    wish = first_wish(Settings.of(model, "cat", 0), model.class_names)
    assert low <= wish["guidance"] <= high
    assert settings_of(model, {**wish, "guidance": 1.5}).guidance == (1.0, 1.5)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"class_name": "unicorn"}, "class 'unicorn' is unknown"),
        ({"class_name": ["cat"]}, "a class of the wish is no name"),
        ({"mix_class": "unicorn", "mix": 1}, "class 'unicorn' is unknown"),
        ({"mix": 2}, "mix"),
        ({"mix": float("nan")}, "mix"),
        ({"guidance": "much"}, "guidance is 'much': give a number"),
        ({"guidance": 10**400}, "guidance"),
        ({"guidance": -1}, "guidance"),
        ({"seed": 1.5}, "seed is '1.5': give a whole number"),
        ({"seed": 2**31}, "seed 2147483648 is out of range"),
        ({"from_stage": 2}, "from_stage is 2: use 0 to 1"),
        ({"walk": [0.5]}, "walk is"),
        ({"walk": [0.5, None]}, "walk is empty: give a number"),
        ({"walk_seed": -1, "walk": [1, 1]}, "seed -1 is out of range"),
        ({"more": 1}, "cannot be read: load the page again"),
    ],
)
def test_a_wish_that_cannot_be_is_one_sentence(studio, wish, own, words):
    with pytest.raises(EcarError) as refusal:
        settings_of(studio.pipeline.model, {**wish, **own})
    assert words in str(refusal.value)


def test_a_picture_holds_every_stages_end_and_the_image_itself(studio, wish):
    settings = settings_of(studio.pipeline.model, {**wish, "mix": 0.5, "walk": [0.2, 0.7]})
    drawn = draw(studio, settings)
    assert drawn is not None
    *_, final = studio.trace(settings)
    image = to_pil(decode(studio.pipeline.tokenizer, final.latent))[0]
    with Image.open(io.BytesIO(png_of(drawn.sprite))) as sprite:
        side = image.width
        assert sprite.size == (2 * side, side)
        assert sprite.crop((side, 0, 2 * side, side)).tobytes() == image.tobytes()


def test_a_run_that_nobody_wants_any_more_ends_at_its_next_step(studio, monkeypatch):
    steps = []
    trace = studio.trace

    def counted(settings):
        for event in trace(settings):
            steps.append(event.step)
            yield event

    monkeypatch.setattr(studio, "trace", counted)
    newest = Newest()
    newest.note("page", 1)

    def wanted() -> bool:
        if len(steps) == 2:
            newest.note("page", 2)
        return newest.is_newest("page", 1)

    assert draw(studio, studio.defaults(), wanted) is None
    assert len(steps) == 2
    assert newest.is_newest("page", 2)
    assert newest.is_newest("another page", 1)


def test_answers_are_pictures_sentences_or_a_request_to_come_again(studio, wish, monkeypatch):
    live = Live(studio)

    def ask(**asked: Any) -> dict[str, Any]:
        return run(live.answer({"page": "p", "number": 5, "wish": wish, **asked}, None))

    assert ask()["run"]["title"] == str(studio.defaults())
    assert ask(number=4) == {"dropped": True}
    assert ask(wish={**wish, "seed": -1})["sentence"].startswith("Seed -1 is out of range")
    assert "load the page again" in ask(number="5")["sentence"]
    assert "load the page again" in run(live.answer([1], None))["sentence"]
    monkeypatch.setattr(live, "_waiting", MOST_WAITING)
    assert ask(number=6) == {"busy": True}


def test_a_draft_takes_fewer_steps_and_says_so(studio, wish):
    full, draft = (settings_of(studio.pipeline.model, wish, draft) for draft in (False, True))
    assert full.steps == (2, 2)
    assert draft.steps == (1, 1)
    assert replace(draft, steps=full.steps) == full
    asked = {"page": "p", "number": 1, "wish": wish, "draft": True}
    answer = run(Live(studio).answer(asked, None))
    assert answer["draft"]
    assert "steps 1 + 1" in answer["run"]["title"]


def test_a_wish_that_follows_lets_the_one_before_it_end(studio, wish):
    live = Live(studio)
    turn = live.turn

    def held(request):  # while the first waits for the model, a second one comes
        second = {"page": "p", "number": 2, "wish": {}, "follows": True}
        assert "cannot be read" in run(live.answer(second, None))["sentence"]
        return turn(request)

    live.turn = held
    assert "run" in run(live.answer({"page": "p", "number": 1, "wish": wish}, None))


def test_the_image_follows_a_slider_and_becomes_the_current_run(browser, demo_address):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    tab = context.new_page()
    tab.goto(demo_address)
    tab.get_by_role("tab", name="Live", exact=True).wait_for()
    open_tab(tab, "Live")
    tab.wait_for_selector(".live[data-number]:not(.behind)")
    before = tab.locator(".live .image").evaluate("image => image.style.backgroundImage")
    assert "seed" not in tab.url
    under_way, most = [], []

    def began(request):
        if "component_server" in request.url:
            under_way.append(request)
            most.append(len(under_way))

    def ended(request):
        if request in under_way:
            under_way.remove(request)

    tab.on("request", began)
    tab.on("requestfinished", ended)
    share = tab.get_by_label("Share of it")
    share.focus()
    for _ in range(20):
        tab.keyboard.press("ArrowRight")
    tab.wait_for_selector(".live:not(.behind)")
    assert share.get_attribute("aria-valuetext") == "40 %"
    assert "40% dog in stage 2" in tab.inner_text(".live .status")
    after = tab.locator(".live .image").evaluate("image => image.style.backgroundImage")
    assert after != before
    assert 1 <= len(most) <= 21  # one more when the finger rests
    assert max(most) <= 2  # one, or a second that ends or follows it
    tab.wait_for_function("location.search.includes('mix_class=dog&mix=0.0,0.4')")
    open_tab(tab, "Generate")
    tab.wait_for_selector("#generate-changes >> visible=true")
    assert "40% dog in stage 2" in tab.inner_text("#generate-changes")
    context.close()
