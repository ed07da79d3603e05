"""The Intervene tab: what each intervention changes and what it must leave alone; then the page."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from apps.intervene import runs, views
from apps.intervene.runs import Bases, Made, make
from apps.intervene.tab import Intervene
from apps.shared.inline import png_of
from apps.shared.settings import Edit, Settings
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError
from ecar_lab.flow import upsample
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.pictures import pixel_distance, to_pil
from tests.app.page import QUIET, served
from tests.browsing import PATIENCE

pytestmark = QUIET
CORNER = ("1100", "1000", "0000", "0000")
INSIDE = torch.tensor([[cell == "1" for cell in row] for row in CORNER])


@pytest.fixture(scope="module")
def studio(tiny_checkpoint: Path) -> Studio:
    studio = Studio(tiny_checkpoint, device="cpu", dtype="float32")
    studio.open_in_background()
    return studio


@pytest.fixture(scope="module")
def base(studio: Studio) -> Made:
    settings = Settings("cat", 4, (3, 2), (1.5, 2.0))
    return make(studio, settings, "base")


def changed(studio: Studio, settings: Settings) -> Made:
    return make(studio, settings, "changed")


def ends(made: Made) -> list[torch.Tensor]:
    return [made.at(stage).latent for stage in (0, 1)]


# -- the fork --------------------------------------------------------------------------------------


def test_a_fork_keeps_the_earlier_stages_bit_for_bit_and_draws_the_later_anew(studio, base):
    variants = runs.forked(base.settings, 0, 5, 100)
    assert [v.seeds for v in variants] == [(4, seed) for seed in range(100, 105)]
    made = [runs.make(studio, one, "fork") for one in variants]
    for one in made:
        assert torch.equal(one.at(0).latent, base.at(0).latent)
        assert not torch.equal(one.final, base.final)
    assert len({tuple(one.final.flatten().tolist()) for one in made}) == 5


@pytest.mark.parametrize("edits", [(), (Edit(0, CORNER, step=1), Edit(1, ("1" * 8,) * 8, step=1))])
def test_a_recipe_of_a_variant_brings_it_back_to_the_last_bit(studio, base, edits):
    start = changed(studio, replace(base.settings, edits=edits, classes=("cat", "frog")))
    variants = runs.forked(start.settings, 0, 4, 7)
    for one in [runs.make(studio, one, "fork") for one in variants]:
        alone = list(studio.trace(one.settings))
        assert [(e.stage, e.step) for e in alone] == [(e.stage, e.step) for e in one.events]
        assert torch.equal(alone[-1].latent, one.final)


def test_every_variant_is_a_run_with_its_own_recipe_and_frames(studio, base):
    variants = runs.forked(base.settings, 0, 4, 50)
    [runs.make(studio, one, "runs of a fork") for one in variants]
    noted = studio.folders.runs("runs of a fork")
    assert [run.settings for run in noted] == variants
    whole = base.progress
    for run in noted:
        frames = run.progress.view["frames"]
        assert len(frames) == len(whole.view["frames"]) == 4 + 3
        assert all(png_of(frame["noisy"]).startswith(b"\x89PNG") for frame in frames)
        assert [cost.tokens for cost in run.progress.costs] == [4, 16]
        assert Settings.from_json(run.settings.to_json()) == run.settings
    *_, alone = studio.run(variants[2], "alone")
    pictures = [np.asarray(Image.open(path), int) for path in (noted[2].image, alone.image)]
    assert np.array_equal(*pictures)


def test_a_fork_takes_no_seed_that_the_later_stage_has(base):
    variants = runs.forked(replace(base.settings, seeds=(4, 2)), 0, 4, 0)
    assert [v.seeds for v in variants] == [(4, 0), (4, 1), (4, 3), (4, 4)]


@pytest.mark.parametrize(
    ("stage", "count", "seed", "words"),
    [
        (1, 4, 0, "no stage follows stage 2 of 2"),
        (0, 3, 0, "3 variants: use 4 to 9"),
        (0, 10, 0, "10 variants: use 4 to 9"),
        (0, 4, -1, "seed -1 is out of range"),
    ],
)
def test_a_fork_that_cannot_be_is_refused(base, stage, count, seed, words):
    with pytest.raises(EcarError, match=words):
        runs.forked(base.settings, stage, count, seed)


# -- other interventions ---------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["zero", "noise"])
def test_an_edit_changes_only_what_is_painted(studio, base, action):
    made = changed(studio, runs.with_edit(base.settings, Edit(0, CORNER, action)))
    before, after = base.at(0).latent, made.at(0).latent
    assert torch.equal(after[..., ~INSIDE], before[..., ~INSIDE])
    assert (after[..., INSIDE] != before[..., INSIDE]).all()
    if action == "zero":
        assert (after[..., INSIDE] == 0).all()
    assert torch.equal(made.at(0, 2).latent, base.at(0, 2).latent)  # the step before
    assert not torch.equal(made.final, base.final)


def test_an_edit_at_the_end_leaves_the_rest_of_the_image_alone(studio, base):
    mask = ("1" * 4 + "0" * 4,) * 8
    made = changed(studio, runs.with_edit(base.settings, Edit(1, mask, "zero")))
    assert torch.equal(made.picture[..., 4:], base.picture[..., 4:])
    assert (pixel_distance(made.picture, base.picture)[:, :4] > 0).any()


def test_a_copy_is_what_the_other_image_has_there(studio, base):
    edit = Edit(0, CORNER, "copy", step=1, class_name="frog", seed=11)
    made = changed(studio, runs.with_edit(base.settings, edit))
    other = changed(studio, replace(base.settings, class_name="frog", seed=11))
    assert torch.equal(made.at(0, 1).latent[..., INSIDE], other.at(0, 1).latent[..., INSIDE])
    assert torch.equal(made.at(0, 1).latent[..., ~INSIDE], base.at(0, 1).latent[..., ~INSIDE])


def test_an_empty_mask_is_refused(base):
    with pytest.raises(EcarError, match="no cell is painted"):
        runs.with_edit(base.settings, Edit(0, ("0000",) * 4))


def test_swapped_noise_is_that_of_the_other_seed(studio, base):
    other = changed(studio, replace(base.settings, seed=9))
    late = changed(studio, runs.with_noise_of(base.settings, 9, [False, True]))
    early = changed(studio, runs.with_noise_of(base.settings, 9, [True, False]))
    both = changed(studio, runs.with_noise_of(base.settings, 9, [True, True]))
    assert torch.equal(ends(late)[0], ends(base)[0])
    assert torch.equal(ends(early)[0], ends(other)[0])
    assert torch.equal(both.final, other.final)
    transition = studio.pipeline.model.schedule.transition(1)

    def new_noise(made: Made) -> torch.Tensor:
        return made.at(1, 0).latent - transition.scale * upsample(made.at(0).latent)

    torch.testing.assert_close(new_noise(late), new_noise(other), atol=1e-6, rtol=0)
    torch.testing.assert_close(new_noise(early), new_noise(base), atol=1e-6, rtol=0)
    assert (new_noise(early) - new_noise(late)).abs().max() > 0.1


def test_another_class_holds_from_its_stage_on(studio, base):
    made = changed(studio, runs.with_class(base.settings, 1, "dog"))
    assert torch.equal(ends(made)[0], ends(base)[0])
    assert not torch.equal(made.final, base.final)
    assert [made.at(stage).class_labels.item() for stage in (0, 1)] == [0, 1]
    whole = changed(studio, runs.with_class(base.settings, 0, "dog"))
    plain = changed(studio, replace(base.settings, class_name="dog"))
    assert torch.equal(whole.final, plain.final)


def test_without_new_noise_a_stage_starts_from_blocks(studio, base):
    made = changed(studio, runs.without_noise(base.settings, [1]))
    scale = studio.pipeline.model.schedule.transition(1).scale
    assert torch.equal(made.at(1, 0).latent, scale * upsample(made.at(0).latent))
    assert torch.equal(ends(made)[0], ends(base)[0])
    for stages in ([], [0], [2]):
        with pytest.raises(EcarError, match="no stage was chosen"):
            runs.without_noise(base.settings, stages)


def test_interventions_add_up(studio, base):
    settings = runs.with_class(base.settings, 1, "dog")
    settings = runs.with_noise_of(settings, 9, [False, True])
    settings = runs.with_edit(settings, Edit(0, CORNER))
    words = str(settings)
    for part in ("class dog in stage 2", "noise of seed 9 in stage 2", "3 latent pixels"):
        assert part in words
    assert runs.plain(settings) == base.settings


# -- base and views --------------------------------------------------------------------------------


def test_a_base_is_made_once_and_noted_once(studio, base, monkeypatch):
    calls = []
    trace = ECARPipeline.trace

    def counted(self, *args, **kwargs):
        calls.append(args)
        return trace(self, *args, **kwargs)

    monkeypatch.setattr(ECARPipeline, "trace", counted)
    bases = Bases(studio)
    first = bases.of(base.settings, "careful")
    assert bases.of(base.settings, "careful") is first
    assert len(calls) == 1
    list(studio.run(replace(base.settings, seed=77), "careful"))
    taken = bases.of(replace(base.settings, seed=77), "careful")  # from the history
    assert [run.settings.seed for run in studio.folders.runs("careful")] == [4, 77]
    assert taken.image == studio.folders.runs("careful")[1].image
    studio.folders.forget("careful")
    assert bases.of(base.settings, "careful").image.exists()


def test_the_view_says_which_stages_are_the_same(studio, base):
    made = changed(studio, runs.with_class(base.settings, 1, "dog"))
    view = views.changed_view(base, made, "words")
    images, latents = (group["figures"] for group in view["groups"])
    assert [one["label"] for one in images] == ["Base", "Changed", "Difference"]
    assert latents[1]["note"] == "the same, bit for bit"
    assert latents[3]["note"].startswith("differs by")
    for one in images:
        assert Path(one["file"]).exists()
    for one in (*images, *latents):
        assert one["alt"]
    with Image.open(io.BytesIO(png_of(latents[2]["file"]))) as picture:
        expected = to_pil(studio.colours(base.final))[0]
        assert np.array_equal(np.asarray(picture), np.asarray(expected))
    assert view["sentence"] == str(made.settings)


def test_the_painter_shows_the_moment_and_keeps_a_mask_that_fits(base):
    view = views.painter_view(base, 0, "end", CORNER)
    assert (view["side"], view["mask"]) == (4, list(CORNER))
    frames = [frame["noisy"] for frame in base.progress.view["frames"] if frame["stage"] == 0]
    assert view["picture"] == frames[3]
    assert views.painter_view(base, 0, "middle")["picture"] == frames[1]
    assert views.painter_view(base, 1, "start", CORNER)["mask"] == ["0" * 8] * 8
    steps = [views.step_of(base.settings, 0, moment) for moment in views.MOMENTS]
    assert steps == [0, 1, None]


def test_changed_controls_mean_another_base(studio):
    with gr.Blocks():
        tab = Intervene(studio)
    request = SimpleNamespace(session_hash="base")
    controls = ["cat", 4, "euler", 3, 2, 1.5, 2.0, 0.0, 0.0, 1.0, 0.5, 1.0, 1.2]
    *_, first, _ = tab.make_base(request, None, *controls)
    known = replace(first[tab.base], classes=("cat", "dog"))
    *_, kept, _ = tab.leave_noise_out(request, [1], known, *controls)
    assert kept[tab.base] == known
    assert "class dog in stage 2, no new noise in stage 2" in kept[tab.results]["sentence"]
    assert "Boundary score" in kept[tab.results]["says"]
    controls[0] = "frog"
    *_, other, _ = tab.leave_noise_out(request, [1], known, *controls)
    assert other[tab.base] == Settings(
        "frog", 4, (3, 2), (1.5, 2.0), "euler", intervals=((0, 1), (0, 0.5)), powers=(1, 1.2)
    )


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(studio: Studio, browser) -> Iterator:
    with served(studio, Intervene) as (address, _):
        yield address, browser


@contextmanager
def opened(page, width: int = 1200, height: int = 900) -> Iterator:
    sight = page[1].new_page(viewport={"width": width, "height": height})
    sight.set_default_timeout(PATIENCE)
    sight.goto(page[0])
    sight.wait_for_selector(".results figure img")
    yield sight
    sight.close()


@pytest.fixture(scope="module")
def sight(page):
    """One page for all tests that leave its painter alone."""
    with opened(page) as sight:
        yield sight


@pytest.fixture
def fresh(page):
    with opened(page) as sight:
        yield sight


def do(sight, tab: str, button: str, words: str) -> None:
    """Opens an intervention, presses its button, and waits for its result."""
    sight.get_by_role("tab", name=tab, exact=True).click()
    sight.get_by_role("button", name=button, exact=True).click()
    sight.wait_for_function(
        "words => document.querySelector('.results .status').textContent.includes(words)",
        arg=words,
    )


def labels(sight) -> list[str]:
    return sight.locator(".results figcaption strong").all_inner_texts()


def held_up(monkeypatch) -> threading.Semaphore:
    """Runs begin from now on when the semaphore lets them."""
    go, plain = threading.Semaphore(0), ECARPipeline.trace

    def stepped(self, *given, **named):
        assert go.acquire(timeout=60)
        return plain(self, *given, **named)

    monkeypatch.setattr(ECARPipeline, "trace", stepped)
    return go


def test_a_fork_is_a_grid_with_what_is_undecided(sight, studio):
    do(sight, "Fork", "Fork", "forked after stage 1")
    sight.wait_for_function("document.querySelectorAll('.results figure').length === 8")
    expected = ["Base", "Undecided after stage 1", *(f"Seed {seed}" for seed in range(1, 7))]
    assert labels(sight) == expected
    pictures = sight.locator(".results img")
    sight.wait_for_function(
        "[...document.querySelectorAll('.results img')].every(i => i.alt && i.naturalWidth === 8)"
    )
    assert len(set(pictures.evaluate_all("images => images.map(image => image.src)"))) == 8
    assert "on average" in sight.inner_text(".results .says")


def test_a_fork_shows_its_pictures_as_they_come_and_can_be_stopped(sight, monkeypatch):
    go = held_up(monkeypatch)
    results = sight.locator(".results")
    sight.get_by_label("First seed of the variants").fill("40")
    sight.get_by_role("button", name="Fork", exact=True).click()
    sight.wait_for_selector(".results[aria-busy=true]")
    assert sight.locator("#intervene-base").is_disabled()
    assert results.locator(".status").inner_text() == "Waiting for the model …"
    for count in (1, 2):
        go.release()
        sight.wait_for_function(
            "count => document.querySelectorAll('.results figure').length === 1 + count", arg=count
        )
    assert labels(sight) == ["Base", "Seed 40", "Seed 41"]
    sight.locator("#intervene-stop").click()
    sight.wait_for_function(
        "document.querySelector('.results .status').textContent === 'Stopping …'"
    )
    go.release(20)
    sight.wait_for_selector("#intervene-fork-go:not([disabled])")
    assert results.locator(".status").inner_text() == "Stopped."
    assert results.get_attribute("aria-busy") is None
    assert labels(sight) == ["Base", "Seed 40", "Seed 41"]


def test_class_noise_and_new_noise(sight):
    do(sight, "Class", "Change the class", "class frog in stage 2")
    assert labels(sight)[:3] == ["Base", "Changed", "Difference"]
    do(sight, "Swap", "Swap the noise", "noise of seed 1 in stage 2")
    assert labels(sight)[:4] == ["Base", "Seed B alone", "Changed", "Difference"]
    do(sight, "Re-noise", "Leave it out", "no new noise in stage 2")
    assert "Boundary score" in sight.inner_text(".results .says")


def test_painting_by_mouse_and_by_keyboard(fresh):
    sight = fresh
    do(sight, "Fork", "Base image", "cat")  # before the painter's tab was ever opened
    sight.wait_for_selector("#intervene-base:not([disabled])")
    sight.get_by_role("tab", name="Paint", exact=True).click()
    grid = sight.locator(".painter .grid")
    grid.wait_for()
    cells = grid.locator(".cell")
    first, last = (cells.nth(n).bounding_box() for n in (0, 3))
    sight.mouse.move(first["x"] + 5, first["y"] + 5)
    sight.mouse.down()
    sight.mouse.move(last["x"] + 5, last["y"] + 5)  # too fast to be seen in between
    sight.mouse.up()
    count = sight.locator(".painter .count")
    assert count.inner_text() == "4 of 16 painted"
    sight.keyboard.press("ArrowDown")  # from the cell touched first
    sight.keyboard.press("Enter")
    sight.keyboard.press("Shift+ArrowDown")
    assert count.inner_text() == "6 of 16 painted"
    painted = cells.evaluate_all(
        "cells => cells.map(cell => Number(cell.ariaSelected === 'true')).join('')"
    )
    assert painted == "1111" + "1000" + "1000" + "0000"
    do(sight, "Paint", "Replace what is painted", "6 latent pixels at the end of stage 1 ← noise")
    sight.get_by_role("button", name="Invert").click()
    sight.get_by_label("another image").check()
    sight.get_by_label("Seed of the other image").wait_for()
    do(
        sight,
        "Paint",
        "Replace what is painted",
        "10 latent pixels at the end of stage 1 ← frog, seed 1",
    )

    sight.locator("#intervene-paint-stage").get_by_label("2", exact=True).check()
    sight.wait_for_function("document.querySelectorAll('.painter .cell').length === 64")
    assert count.inner_text() == "0 of 64 painted"
    sight.get_by_role("button", name="Replace what is painted").click()
    sight.wait_for_selector("text=no cell is painted")
    sight.wait_for_function(
        "document.querySelector('.results .status').textContent.includes('10 latent pixels')"
    )
    sight.get_by_role("button", name="All", exact=True).click()
    assert count.inner_text() == "64 of 64 painted"


def test_a_phone_shows_it_without_sideways_scrolling(page):
    with opened(page, 390, 844) as sight:
        do(sight, "Re-noise", "Leave it out", "no new noise in stage 2")  # the last tab: all fit
        assert sight.evaluate("document.documentElement.scrollWidth") == 390
        every = "[...document.querySelectorAll('.results *')]"
        right = f"Math.max(...{every}.map(e => e.getBoundingClientRect().right))"
        assert sight.evaluate(right) <= 390


def test_what_is_painted_or_typed_while_a_run_goes_on_stays(fresh, monkeypatch):
    sight = fresh
    do(sight, "Fork", "Base image", "cat")
    sight.wait_for_selector("#intervene-base:not([disabled])")
    sight.get_by_role("tab", name="Paint", exact=True).click()
    sight.locator(".painter .cell").first.wait_for()
    sight.get_by_role("button", name="All", exact=True).click()
    go = held_up(monkeypatch)
    sight.get_by_role("button", name="Replace what is painted").click()
    sight.wait_for_selector(".results[aria-busy=true]")
    sight.locator(".painter .cell").first.click()
    sight.get_by_label("Seed", exact=True).fill("77")
    go.release(20)
    sight.wait_for_selector("#intervene-paint-go:not([disabled])")
    assert sight.inner_text(".painter .count") == "15 of 16 painted"
    assert sight.get_by_label("Seed", exact=True).input_value() == "77"
