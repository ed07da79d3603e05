"""The All classes tab: every image is that of its class and seed; then the page."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from apps.overview.runs import counted, grow
from apps.overview.tab import Overview
from apps.shared.settings import Settings
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError
from tests.app.page import DONE, NO_TOUR, QUIET
from tests.browsing import PATIENCE

pytestmark = QUIET


@pytest.fixture(scope="module")
def studio(tiny_checkpoint: Path) -> Studio:
    return Studio(tiny_checkpoint, device="cpu", dtype="float32")


def test_every_image_is_the_one_of_its_class_and_seed(studio):
    *_, view = grow(studio, 5)
    assert view["classes"] == ["cat", "dog", "frog"]
    assert view["done"]
    content = base64.b64decode(view["frames"][-1]["sprite"].split(",")[1])
    sprite = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    assert sprite.shape == (8, 3 * 8, 3)
    for index, name in enumerate(view["classes"]):
        *_, alone = studio.run(Settings.of(studio.pipeline.model, name, 5), "overview")
        picture = np.asarray(Image.open(alone.image).convert("RGB")).astype(int)
        assert abs(sprite[:, 8 * index : 8 * index + 8] - picture).max() <= 1, name


def test_it_grows_by_a_picture_a_message_and_every_stage_end_is_there(studio):
    views = list(grow(studio, 0))
    assert [len(view["frames"]) for view in views] == list(range(1, len(views) + 1))
    ends = [f["stage"] for f in views[-1]["frames"] if f["step"] == f["steps"]]
    assert ends == [0, 1]
    assert [view["done"] for view in views[:-1]] == [False] * (len(views) - 1)


def test_the_cost_named_is_the_model_s_own_count(studio):
    settings = studio.defaults()
    flops = studio.pipeline.model.flops(settings.steps, settings.guidance, settings.solver)
    cost = counted(studio, settings)
    assert cost.gflop == pytest.approx(sum(map(sum, flops.values())) / 1e9)
    assert (cost.calls, cost.steps) == (2, sum(settings.steps))


def test_bad_seeds_are_answered_by_a_sentence(studio):
    with pytest.raises(EcarError, match="seed -1 is out of range"):
        next(grow(studio, -1))
    with gr.Blocks():
        tab = Overview(studio)
    *_, answer = tab.run(2**40)
    assert "is out of range" in answer[tab.banner]
    for seed in (float("nan"), float("inf"), "x", [1], 1.5, True):
        *_, answer = tab.run(seed)
        assert "give a whole number" in answer[tab.banner].replace("\n", " ")
    for view in (None, {}, {"seed": "x"}):
        with pytest.raises(gr.Error, match="give a whole number"):
            tab.look_inside(view, SimpleNamespace(name="cat"))
    with pytest.raises(gr.Error, match="no class 'unicorn'"):
        tab.look_inside({"seed": 1}, SimpleNamespace(name="unicorn"))


def test_all_classes_grow_and_one_is_looked_into(browser, demo_address):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.add_init_script(NO_TOUR)
    page.goto(demo_address)
    told = "document.querySelector('.overview .status')?.textContent.includes('%s')"
    page.wait_for_function(told % "3 classes from seed 0, in")
    page.get_by_label("Seed").and_(page.locator("#overview-seed input")).fill("7")
    page.keyboard.press("Enter")
    page.wait_for_function(told % "3 classes from seed 7, in")
    page.get_by_role("button", name="dog").click()
    page.wait_for_function(DONE % "dog, seed 7")
    assert (
        page.get_by_role("tab", name="Generate", exact=True).get_attribute("aria-selected")
        == "true"
    )
    page.close()
