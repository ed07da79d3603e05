"""A run in the page's address: what it holds, what is refused, and that a link brings the very
image back in a browser that has never been here."""

import hashlib
import io
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from apps.shared.links import LONGEST, checkpoint_of, query_of, read_back, settings_of
from apps.shared.settings import Edit, Settings
from ecar_lab.errors import EcarError
from tests.app.page import DONE, NO_TOUR, QUIET, open_tab
from tests.browsing import PATIENCE

pytestmark = QUIET
PLAIN = Settings("cat", 7, (3, 2), (1.0, 2.5))
EDIT = Edit(0, ("1000",) * 4, "copy", None, "dog", 5)
CHANGED = replace(
    PLAIN, classes=("cat", "dog"), seeds=(7, 9), renoise=(True, False), edits=(EDIT,),
    mix_class="frog", mix=(0.0, 0.3), walk_seed=2, walk=(0.5, 0.0),
    intervals=((0.0, 0.5), (0.0, 1.0)), powers=(1.3, 1.0), solver="heun",
)  # fmt: skip


@pytest.mark.parametrize("settings", [PLAIN, CHANGED])
def test_an_address_holds_all_settings(studio, origin, settings):
    query = query_of(settings, origin)
    assert settings_of(f"?{query}", studio.pipeline.model, origin) == (settings, "")
    assert settings_of(f"?__theme=dark&present&{query}", studio.pipeline.model, origin)
    assert checkpoint_of(f"?{query}") == "tiny"
    named = parse_qs(query)
    assert named["run"] == ["1"]
    assert named["seed"] == ["7"]
    assert named["steps"] == ["3,2"]


@pytest.mark.parametrize("name", ["7", "1,2", "[1]", "null", "tench, Tinca tinca", "a&b=c", "é 鱼"])
def test_a_class_of_any_name_survives_the_address(origin, name):
    query = query_of(replace(PLAIN, class_name=name), origin)
    fields = {key: read_back(text[0]) for key, text in parse_qs(query).items()}
    assert fields["class_name"] == name


def test_an_address_without_a_run_is_no_link(studio, origin):
    for query in ("", "?", "?__theme=dark", "?overrun=1"):
        assert settings_of(query, studio.pipeline.model, origin) is None
        assert checkpoint_of(query) == ""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("run=1", "run=9", "this link has format '9', this version reads 1"),
        ("checkpoint=tiny", "checkpoint=other", "for the checkpoint 'other', here runs 'tiny'"),
        ("checkpoint=tiny", "checkpoint=", "names no checkpoint"),
        ("class_name=cat", "class_name=unicorn", "class 'unicorn' is unknown"),
        ("seed=7", "seed=-1", "seed -1 is out of range: use 0 to 2147483647"),
        ("seed=7", "seed=seven", "seed"),
        ("seed=7", "seed=NaN", "seed"),
        ("seed=7", "seed=7&seed=8", "names 'seed' twice"),
        ("seed=7&", "", "these settings have no seed"),
        ("steps=3,2", "steps=3,2,2", "guidance has 2 values for 3 stages"),
        ("steps=3,2", "steps=3,", "steps"),
        ("steps=3,2", "steps=3,1e9", "steps"),
        ("seed=7", "seed=7&colour=red", "the setting 'colour' is unknown"),
        ("seed=7", "seed=7&edits=1", "edits"),
        ("seed=7", f"seed=7&edits={'[' * 3000}", "edits"),
        ("seed=7", f"seed=7&x={'1' * LONGEST}", "a link of this app has at most 6,000"),
    ],
)
def test_a_link_that_is_damaged_or_foreign_is_one_sentence(studio, origin, old, new, words):
    query = query_of(PLAIN, origin)
    assert query.count(old) == 1
    with pytest.raises(EcarError) as refusal:
        settings_of(query.replace(old, new), studio.pipeline.model, origin)
    assert words in str(refusal.value)
    assert str(refusal.value).startswith("this link")
    assert len(str(refusal.value)) < 400


def test_other_weights_under_the_same_name_are_told(studio, origin):
    query = query_of(PLAIN, replace(origin, checkpoint_hash="0" * 16))
    found = settings_of(query, studio.pipeline.model, origin)
    assert found is not None
    assert "weights of tiny have changed" in found[1]


def test_a_run_that_is_too_long_for_a_link_has_none(origin):
    assert query_of(replace(PLAIN, edits=(EDIT,) * 200), origin) == ""


def pixels(tab, selector: str) -> str:
    """SHA-256 of the RGB bytes of a picture on the page."""
    source = tab.get_attribute(selector, "src")
    answer = tab.context.request.get(source)
    assert answer.ok
    with Image.open(io.BytesIO(answer.body())) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


@pytest.mark.parametrize("settings", [PLAIN, CHANGED], ids=["plain", "changed"])
def test_a_link_brings_the_image_of_the_pipeline_in_a_fresh_browser(
    browser, demo_address, studio, origin, make, settings
):
    with Image.open(make(settings).image) as image:
        wanted = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    tab = context.new_page()
    tab.goto(f"{demo_address}?{query_of(settings, origin)}")
    tab.wait_for_function(DONE % str(settings).replace("'", "\\'"))
    tab.wait_for_selector("#generate-player-picture img[alt*='seed 7']")
    assert pixels(tab, "#generate-player-picture img") == wanted
    assert tab.locator("#generate-seed input").input_value() == "7"
    # The address still names it: a reload, or whoever opens it, gets it again.
    tab.wait_for_function("document.querySelector('.current .copy:not([disabled])')")
    assert urlsplit(tab.url).query == query_of(settings, origin)
    context.close()


def test_a_bad_link_is_one_sentence_and_the_page_opens_as_ever(browser, demo_address):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    tab = context.new_page()
    tab.goto(f"{demo_address}?run=1&checkpoint=cifar10-turbo&class_name=cat")
    tab.wait_for_selector("#link-banner [role=alert]")
    assert "for the checkpoint 'cifar10-turbo', here runs 'tiny'" in tab.inner_text("#link-banner")
    open_tab(tab, "Generate")
    tab.wait_for_function(DONE % "cat, seed 0")
    context.close()
