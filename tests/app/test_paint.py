"""The Paint tab: what a painting becomes, what is refused, and the page."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from apps.inspection.runs import Inspections
from apps.intervene.runs import Bases
from apps.paint import runs
from apps.paint.runs import Painting, Wish
from apps.paint.tab import Paint
from apps.runs.exports import EXPORTS, export
from apps.shared.recipes import Origin, Recipe, finished, replay
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError
from ecar_lab.interventions import stage_end_of, stage_noise
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import IdentityTokenizer
from ecar_lab.viz.colours import LatentColours
from ecar_lab.viz.pictures import to_pil
from tests.app.page import QUIET, served
from tests.browsing import PATIENCE
from tests.conftest import tiny_model

pytestmark = QUIET
HALVES = Painting(("#ff0000",) * 8 + ("#0000ff",) * 8)


@pytest.fixture(scope="module")
def studio(tiny_checkpoint: Path) -> Studio:
    return Studio(tiny_checkpoint, device="cpu", dtype="float32")


def picture_in(url: str) -> np.ndarray:
    kind, content = url.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def test_a_painting_is_cells_and_back():
    picture = HALVES.picture(8)
    assert picture.shape == (1, 3, 8, 8)
    assert picture[0, :, 0, 0].tolist() == [1, -1, -1]
    assert picture[0, :, 7, 7].tolist() == [-1, -1, 1]
    assert Painting.of_picture(picture, 4) == HALVES
    assert Painting.of_picture(picture, 2).colours == ("#ff0000",) * 2 + ("#0000ff",) * 2


def test_every_beginning_has_as_many_cells_as_asked_for():
    for name in runs.BEGINNINGS:
        small, large = runs.beginning(name, 4), runs.beginning(name, 8)
        assert (small.side, large.side) == (4, 8)
        assert len(set(small.colours)) > 1
        assert Painting.of_picture(large.picture(8), 4) == small


def test_the_later_stages_complete_it_each_seed_like_its_own_run(studio):
    """Batch, sprite and classes: every image is the one that it would be alone."""
    wish = Wish(HALVES, 0, ("cat", "frog"), (3, 4))
    handed, done = runs.complete(studio, wish)
    assert handed["sprite"] is None
    assert handed["handed"][0]["label"] == "Painted"
    assert done["done"]
    sprite = picture_in(done["sprite"])
    assert sprite.shape == (8, 4 * 8, 3)
    model = studio.pipeline.model
    latent = studio.pipeline.tokenizer.encode(HALVES.picture(8))
    for index, (name, seed) in enumerate([("cat", 3), ("cat", 4), ("frog", 3), ("frog", 4)]):
        noise = stage_noise(model, seed)
        start = stage_end_of(model, latent, 0, name, noise)
        *_, last = studio.pipeline.trace([name], start_from=start, noise=dict(enumerate(noise)))
        alone = np.asarray(to_pil(studio.pipeline.decode(last.latent) * 2 - 1)[0]).astype(int)
        there = sprite[:, 8 * index : 8 * index + 8].astype(int)
        assert abs(alone - there).max() <= 1, (name, seed)


def test_what_is_painted_decides_and_the_pictures_of_the_way_are_its_own(studio):
    other = Painting(HALVES.colours[::-1])
    ends = [list(runs.complete(studio, Wish(one, 0, ("dog",), (0,)))) for one in (HALVES, other)]
    first, second = (picture_in(views[-1]["sprite"]) for views in ends)
    assert (first != second).any()
    way = [picture_in(one["picture"]) for one in ends[0][0]["handed"]]
    assert [len(picture) for picture in way] == [8, 8, 4, 4]
    assert (way[0] == np.asarray(to_pil(HALVES.picture(8))[0])).all()


def test_three_stages_tell_of_each_later_one():
    pipeline = ECARPipeline(tiny_model(num_stages=3, patch_size=1), IdentityTokenizer())
    colours = LatentColours.of(pipeline.tokenizer)
    studio: Any = SimpleNamespace(pipeline=pipeline, dtype=torch.float32, colours=colours)
    names = pipeline.class_names
    views = list(runs.complete(studio, Wish(HALVES, 0, tuple(names[:1]), (0,))))
    assert [view.get("at") for view in views] == [None, 2, 3]
    assert [view["done"] for view in views] == [False, False, True]
    assert len(list(runs.complete(studio, Wish(HALVES, 1, tuple(names[:1]), (0,))))) == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "no painting yet"),
        ({"colours": "red"}, "no painting yet"),
        ({"colours": ["#ff0000"] * 9}, "no painting yet"),
        ({"colours": ["red"] * 16}, "the colour 'red' is unknown"),
        ({"colours": [7] * 16}, "the colour '7' is unknown"),
        ({"colours": ["#ff0000);x"] * 16}, "is unknown"),
    ],
)
def test_what_is_no_painting_is_refused(value, words):
    with pytest.raises(EcarError, match=words):
        Painting.of_page(value, [4, 8])


@pytest.mark.parametrize(
    ("classes", "seeds", "words"),
    [
        ((), (0,), "0 classes: choose 1 to 4"),
        (("cat",) * 5, (0,), "5 classes"),
        (("cat",), (), "0 seeds"),
        (("cat",), (-1,), "seed -1 is out of range"),
    ],
)
def test_what_is_no_wish_is_refused(classes, seeds, words):
    with pytest.raises(EcarError, match=words):
        Wish(HALVES, 0, classes, seeds)


def test_the_last_stage_leaves_nothing_to_complete(studio):
    with pytest.raises(EcarError, match="stage names stage 1: use 0 to 0"):
        list(runs.complete(studio, Wish(HALVES, 1, ("cat",), (0,))))
    with pytest.raises(EcarError, match="unicorn"):
        list(runs.complete(studio, Wish(HALVES, 0, ("unicorn",), (0,))))


def test_bad_requests_are_answered_by_a_sentence(studio):
    with gr.Blocks():
        tab = Paint(studio)
    good = {"colours": list(HALVES.colours)}
    for wishes, words in [
        ((None, 0, ["cat"], 0, 2), "There is no painting yet"),
        ((good, None, ["cat"], 0, 2), "No stage is chosen"),
        ((good, 0, [], 0, 2), "0 classes"),
        ((good, 0, ["cat"], -5, 2), "Seed -5 is out of range"),
        ((good, 0, ["cat"], 0, 99), "99 seeds"),
        ((good, 0, ["cat"], 0, 1e12), "1000000000000 seeds"),
        ((good, 0, ["cat"], float("nan"), 2), "give a whole number"),
        ((good, 0, ["cat"], "1", 2), "give a whole number"),
        ((good, 0, ["cat"], 1.5, 2), "give a whole number"),
        ((good, 0, ["cat"], 0, None), "give a whole number"),
        ((good, 0.5, ["cat"], 0, 2), "give a whole number"),
        ((good, [0], ["cat"], 0, 2), "give a whole number"),
        ((good, 7, ["cat"], 0, 2), "use 0 to 0"),
        ((good, 0, "cat", 0, 2), "choose some from the list"),
        ((good, 0, 5, 0, 2), "choose some from the list"),
        ((good, 0, [["cat"]], 0, 2), "is a list in a list"),
        ((good, 0, ["cat"] * 10**5, 0, 2), "100000 classes"),
        ((["colours"], 0, ["cat"], 0, 2), "There is no painting yet"),
    ]:
        *_, answer = tab.complete(*wishes)
        assert words in answer[tab.banner]
        assert tab.results not in answer
    assert list(tab.at_once(False, good, 0, ["cat"], 0, 2)) == []


def test_an_image_that_is_kept_is_a_run_whose_recipe_brings_it_back(studio, tmp_path):
    """With frames, GIF and latents, though the painted stage was never computed."""
    with gr.Blocks():
        tab = Paint(studio)
    origin, owner = Origin.of(studio), SimpleNamespace(session_hash="keeper")
    *_, done = runs.complete(studio, Wish(HALVES, 0, ("cat", "frog"), (3, 4)))
    pressed = SimpleNamespace(_data={"name": "frog", "seed": 4})
    *_, kept, _ = tab.keep(owner, done, pressed)
    assert "Run 1 in the tab Runs: frog, seed 4" in kept[tab.results]["kept"]
    (run,) = studio.folders.runs("keeper")
    assert run.settings.painted == HALVES.at(0)
    shown = picture_in(done["sprite"])[:, 3 * 8 :].astype(int)
    assert np.abs(shown - np.asarray(Image.open(run.image).convert("RGB"))).max() <= 1
    frames = run.progress.view["frames"]
    assert [(frame["stage"], frame["step"]) for frame in frames] == [(0, 1), (1, 0), (1, 1), (1, 2)]
    costs = run.progress.costs
    assert (costs[0].steps, costs[0].head_flops, costs[1].steps) == (0, 0, 2)
    for kind in EXPORTS:
        assert export(studio, origin, run, kind).stat().st_size > 0

    saved = export(studio, origin, run, "recipe")
    again = Recipe.read(saved)
    assert again.settings == run.settings
    elsewhere = Studio(studio.checkpoint, "cpu", "float32")
    progress = finished(replay(elsewhere, again, None))
    assert again.verdict(progress.image, []) == (True, again.verdict(progress.image, [])[1])

    for whole in (Bases(studio).of, lambda *run: Inspections(studio).open(run[0], 0, run[1])):
        with pytest.raises(EcarError, match="choose a run that has them all"):
            whole(run.settings, "keeper")
    for stage, words in ((1, "use 0 to 0"), (-1, "use 0 or more")):
        values = json.loads(saved.read_text("utf-8"))
        values["settings"]["painted"]["stage"] = stage
        with pytest.raises(EcarError, match=words):
            Recipe.from_json(values).check(studio, origin)


@pytest.mark.parametrize(
    ("view", "data", "words"),
    [
        (None, {}, "no image yet"),
        ({}, {"name": "cat", "seed": 1}, "no painting yet"),
        ({"colours": ["#000000"] * 16, "stage": "x"}, {}, "give a whole number"),
        ({"colours": ["#000000"] * 16, "stage": 1}, {"name": "cat"}, "give a whole number"),
        ({"colours": ["#000000"] * 16, "stage": 1}, {"name": 7, "seed": 1}, "lass"),
        ({"colours": ["#000000"] * 16, "stage": 9}, {"name": "cat", "seed": 1}, "use 0 to 0"),
    ],
)
def test_an_image_that_is_none_is_not_kept(studio, view, data, words):
    with gr.Blocks():
        tab = Paint(studio)
    *_, answer = tab.keep(SimpleNamespace(session_hash="junk"), view, SimpleNamespace(_data=data))
    assert words in answer[tab.banner]
    assert studio.folders.runs("junk") == []


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(studio: Studio, browser) -> Iterator:
    with served(studio, Paint) as (address, _):
        yield address, browser


@pytest.fixture(scope="module")
def sight(page):
    """One page for all tests, each of which leaves a painting that is completed at once."""
    sight = page[1].new_page(viewport={"width": 1300, "height": 900})
    sight.set_default_timeout(PATIENCE)
    sight.goto(page[0])
    drawn(sight)
    yield sight
    sight.close()


def drawn(sight, but: str = "") -> str:
    """Waits for finished images, other ones than those named, and returns them."""
    sight.wait_for_function(
        """but => {
            const tile = document.querySelector('.completed .tile');
            const words = document.querySelector('.completed .status')?.textContent ?? '';
            return words.includes('images from') && tile.style.backgroundImage !== but;
        }""",
        arg=but,
    )
    return sight.eval_on_selector(".completed .tile", "tile => tile.style.backgroundImage")


def cells(sight) -> list[str]:
    return sight.locator(".canvas .cell").evaluate_all(
        "cells => cells.map(cell => cell.ariaLabel.split(': ')[1])"
    )


def test_a_stroke_is_completed_and_taken_back(sight):
    before, opening = cells(sight), drawn(sight)
    sight.get_by_role("radio", name="green").check()
    first, third = (sight.locator(".canvas .cell").nth(n).bounding_box() for n in (0, 2))
    sight.mouse.move(first["x"] + 5, first["y"] + 5)
    sight.mouse.down()
    sight.mouse.move(third["x"] + 5, third["y"] + 5)  # too fast to be seen in between
    sight.mouse.up()
    assert cells(sight)[:4] == ["green"] * 3 + before[3:4]
    after = drawn(sight, but=opening)
    sight.get_by_role("button", name="Undo").click()
    assert cells(sight) == before
    assert drawn(sight, but=after) == opening  # the same painting, the same images
    sight.keyboard.press("Control+y")
    assert cells(sight)[:3] == ["green"] * 3


def test_the_keyboard_paints_too(sight):
    sight.locator(".canvas .cell").first.focus()
    for key in ("7", "Enter", "Shift+ArrowRight", "ArrowDown", "1", "Enter"):
        sight.keyboard.press(key)
    there = cells(sight)
    assert [there[0], there[1], there[5]] == ["yellow", "yellow", "black"]
    sight.locator(".canvas").get_by_role("button", name="Clear").click()
    assert set(cells(sight)) == {"grey"}
    sight.keyboard.press("Control+z")
    assert cells(sight) == there


def test_cells_can_be_finer_and_coarser(sight):
    sight.get_by_role("button", name="ship at sea").click()
    coarse = cells(sight)
    sight.locator(".canvas .sizes").get_by_role("radio").nth(1).check()
    assert len(cells(sight)) == 64
    sight.locator(".canvas .sizes").get_by_role("radio").nth(0).check()
    there = sight.evaluate("[...document.querySelectorAll('.canvas .cell')].length")
    assert there == 16
    assert cells(sight) == coarse


def test_a_picture_of_ones_own_begins_it(sight, tmp_path):
    file = tmp_path / "own.png"
    Image.new("RGB", (40, 30), (24, 24, 24)).save(file)
    before = drawn(sight)
    with sight.expect_file_chooser() as choosing:
        sight.get_by_role("button", name="From a picture of yours").click()
    choosing.value.set_files(file)
    sight.wait_for_function(
        "[...document.querySelectorAll('.canvas .cell')].every(c => c.ariaLabel.endsWith('black'))"
    )
    drawn(sight, but=before)
    sight.get_by_role("button", name="From my latest run").click()
    sight.wait_for_selector("text=You have no run yet")


def test_without_live_only_the_button_completes(sight):
    sight.get_by_label("Live").uncheck()
    before = drawn(sight)
    sight.get_by_role("radio", name="green").check()
    sight.get_by_role("button", name="Fill").click()
    sight.get_by_role("button", name="Complete it").click()
    assert drawn(sight, but=before) != before
    sight.get_by_label("Live").check()


def test_a_phone_shows_it_without_sideways_scrolling(page):
    sight = page[1].new_page(viewport={"width": 390, "height": 844})
    sight.set_default_timeout(PATIENCE)
    sight.goto(page[0])
    drawn(sight)
    assert sight.evaluate("document.documentElement.scrollWidth") == 390
    every = "[...document.querySelectorAll('.completed *, .canvas *')]"
    assert sight.evaluate(f"Math.max(...{every}.map(e => e.getBoundingClientRect().right))") <= 390
    sight.close()


def test_an_image_is_kept_by_a_press(sight):
    sight.get_by_role("button", name="Keep as a run: cat, seed 0").click()
    sight.wait_for_function(
        "document.querySelector('.completed .status').textContent.startsWith('Run 1 in the tab')"
    )
    sight.wait_for_selector(".completed:not([aria-busy])")
    sight.get_by_role("button", name="Complete it").click()
    drawn(sight)
