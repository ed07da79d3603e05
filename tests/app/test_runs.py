"""The Runs tab in a browser."""

import json
from collections.abc import Iterator
from dataclasses import replace

import gradio as gr
import pytest
from PIL import Image

from apps.runs.tab import Runs
from apps.shared.parts import PRIVATE, styles, visitor
from apps.shared.recipes import finished
from apps.shared.studio import Studio
from tests.app.examples import PLAIN
from tests.app.page import QUIET, download, load
from tests.browsing import PATIENCE, free_port

pytestmark = QUIET


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    with gr.Blocks(analytics_enabled=False) as page:
        with gr.Tab("Make"):
            done = gr.HTML("", elem_id="done")

            def run(request: gr.Request) -> str:
                for seed in (1, 2, 3):
                    finished(studio.run(replace(PLAIN, seed=seed), visitor(request)))
                return "<p>Done</p>"

            gr.Button("Make them").click(run, None, done, **PRIVATE)
        with gr.Tab("Runs"):
            Runs(studio).wire(page)
    gr.set_static_paths([studio.folders.root])
    page.queue()
    port = free_port()
    _, url, _ = page.launch(
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        _frontend=False,  # as the app does it
        css_paths=styles(),
        run_history=False,
    )
    yield url
    page.close()


@pytest.fixture
def tab(browser, address: str):
    """The Runs tab on a phone, with the runs of seeds 1, 2 and 3."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    page.get_by_role("button", name="Make them").click()
    page.wait_for_selector("#done:has-text('Done')")
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_selector(".history .run")
    yield page
    context.close()


def test_two_runs_are_pinned_by_keyboard_and_compared(tab):
    names = tab.locator(".history .run strong").all_inner_texts()
    assert names == ["3: cat, seed 3", "2: cat, seed 2", "1: cat, seed 1"]
    assert all(tab.locator(".history img").evaluate_all("all => all.map(i => i.alt)"))
    assert tab.locator("#runs-pin-a").is_disabled()
    tab.locator(".history input").first.focus()
    tab.keyboard.press("Space")
    tab.wait_for_selector("#runs-details:has-text('Run 3')")
    tab.locator("#runs-pin-a").press("Enter")
    tab.wait_for_selector(".history .run:nth-child(1):has-text('pinned as A')")
    tab.locator(".history input").first.focus()
    tab.keyboard.press("ArrowDown")
    tab.wait_for_selector("#runs-details:has-text('Run 2')")
    tab.locator("#runs-pin-b").press("Enter")
    tab.wait_for_selector("#runs-difference table")
    rows = tab.locator("#runs-difference tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [["Seed", "3", "2"]]
    assert "levels apart" in tab.inner_text("#runs-difference")
    tab.wait_for_selector("#runs-picture-a img[alt*='seed 3']")
    tab.wait_for_selector("#runs-picture-b img[alt*='seed 2']")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_a_recipe_saved_and_loaded_gives_the_identical_image(tab, tmp_path):
    tab.locator(".history input").last.check()
    tab.wait_for_selector("#runs-details:has-text('Run 1')")
    with Image.open(download(tab, "gif", ".gif", tmp_path)) as gif:
        assert gif.n_frames == 7
    file = download(tab, "recipe", ".json", tmp_path)
    assert file.name == "cat-seed1-recipe.json"
    load(tab, file)
    tab.wait_for_selector("#runs-status .same:has-text('Identical')")
    assert tab.locator(".history .run").count() == 4
    assert tab.locator(".history .chosen strong").inner_text() == "4: cat, seed 1"
    tab.wait_for_selector("#runs-picture-chosen img[alt*='number 4: cat, seed 1']")
    assert tab.locator("#runs-file").count() == 0  # a file belongs to the run it was made from

    values = json.loads(file.read_text())
    values["checkpoint_hash"] = "0" * 16
    values["image"]["sha256"] = "0" * 64
    file.write_text(json.dumps(values))
    load(tab, file)
    tab.wait_for_selector("#runs-status .other:has-text('Not identical')")
    assert "weights of 'tiny' have changed" in tab.inner_text("#runs-banner [role=alert]")

    values["checkpoint"] = "<b>other</b>"
    file.write_text(json.dumps(values))
    load(tab, file)
    tab.wait_for_selector("#runs-banner [role=alert]:has-text('is for the checkpoint')")
    assert "'<b>other</b>'" in tab.inner_text("#runs-banner [role=alert]")
    assert tab.locator(".history .run").count() == 5
