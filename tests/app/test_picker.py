"""The choice of checkpoints: what is found, what is held in memory, and the pages of each."""

import json
import os
import shutil
import urllib.request
from pathlib import Path

import pytest

from apps import demo
from apps.shared import models, picker, shelf
from apps.shared.models import Models
from apps.shared.picker import Pages
from apps.shared.programs import Programs
from apps.shared.settings import Settings
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import IdentityTokenizer
from tests.app.page import DONE, NO_TOUR, QUIET, open_generate, open_tab
from tests.browsing import PATIENCE, free_port
from tests.conftest import tiny_model

pytestmark = QUIET


@pytest.fixture(scope="module")
def home(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shipped/: small, other, broken, a tokenizer; and runs/: mine, unfinished."""
    home = tmp_path_factory.mktemp("home")
    shipped, runs = home / "shipped", home / "runs"
    shutil.copytree(tiny_checkpoint, shipped / "small")
    pipeline = ECARPipeline(
        model=tiny_model(class_names=["dog", "ship"], num_classes=2), tokenizer=IdentityTokenizer()
    )
    pipeline.save_pretrained(shipped / "other")
    (shipped / "other" / "training.json").write_text(
        json.dumps({"preset": "digits", "steps": 100, "batch_size": 50}), encoding="utf-8"
    )
    shutil.copytree(tiny_checkpoint, shipped / "broken")
    weights = shipped / "broken" / "model" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    shutil.copytree(tiny_checkpoint / "tokenizer", shipped / "tokenizer")
    shutil.copytree(tiny_checkpoint, runs / "mine" / "final")
    (runs / "unfinished").mkdir()
    return home


@pytest.fixture(scope="module", autouse=True)
def full_shelf(home: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "checkpoints_root", lambda: home / "shipped")
        patch.setattr(shelf, "RUNS", home / "runs")
        yield


# ---------------------------------------------------------------------------------- without browser


def test_models_that_ship_and_own_trainings_are_found_with_a_line_each(home):
    found = {entry.name: entry for entry in shelf.shelf()}
    assert list(found) == ["broken", "other", "small", "runs/mine"]
    assert found["runs/mine"].folder == home / "runs" / "mine" / "final"
    assert found["runs/mine"].path == "runs~mine"
    count = sum(weight.numel() for weight in tiny_model(num_classes=2).parameters())
    assert found["other"].words == (
        f"2 classes, 8 px, 2 + 2 steps, {count / 1e6:.1f} M parameters, trained on digits "
        "(0.005 M images seen)"
    )


def test_the_checkpoint_asked_for_comes_first_wherever_it_lies(home, tmp_path):
    elsewhere = shutil.copytree(home / "shipped" / "small", tmp_path / "elsewhere")
    assert next(iter(shelf.shelf(elsewhere))).name == "elsewhere"
    own = shelf.shelf(home / "runs" / "mine" / "final")
    assert [entry.name for entry in own] == ["runs/mine", "broken", "other", "small"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"class_names": 3, "latent_size": "x"}'])
def test_a_configuration_of_any_kind_is_a_line(home, tmp_path, text):
    folder = shutil.copytree(home / "shipped" / "small", tmp_path / "odd")
    (folder / "model" / "config.json").write_text(text, encoding="utf-8")
    assert isinstance(shelf.about(folder), str)


def test_at_most_two_models_are_held_and_the_least_recently_used_goes(home):
    shared = Models()
    places = (home / "shipped" / "small", home / "shipped" / "other", home / "runs" / "mine")
    small, other, mine = (Studio(place, "cpu", "float32", shared) for place in places)
    assert [key[0] for key in shared._kept] == [other.checkpoint, mine.checkpoint]
    kept = other.pipeline
    assert small.pipeline is not None
    assert [key[0] for key in shared._kept] == [other.checkpoint, small.checkpoint]
    assert other.pipeline is kept
    run = other.run(Settings.of(kept.model, "ship", 1), None)
    next(run)
    assert mine.pipeline is not small.pipeline
    assert other.checkpoint not in [key[0] for key in shared._kept]
    *_, last = run  # a run under way keeps its own
    assert last.image.exists()
    assert len(shared._kept) == models.MOST


@pytest.mark.parametrize(
    ("what", "words"), [("deleted", "no longer on the disk"), ("replaced", "has been replaced")]
)
def test_a_checkpoint_that_changes_under_the_server_is_a_sentence(home, tmp_path, what, words):
    folder = shutil.copytree(home / "shipped" / "small", tmp_path / "changing")
    studio = Studio(folder, "cpu", "float32")
    settings = studio.defaults()
    if what == "deleted":
        shutil.rmtree(folder)
    else:
        os.utime(folder / "model" / "config.json", ns=(1, 1))
    with pytest.raises(EcarError, match=words):
        list(studio.run(settings, None))


def test_programs_may_ask_for_another_checkpoint(home):
    pages = Pages.of(Studio(home / "shipped" / "small", "cpu", "float32"))
    assert pages.names == ["small", "broken", "other", "runs/mine"]
    first = Programs(pages.first, pages)
    own, settings, _ = first._asked("ship", 3, checkpoint="other")
    assert own.studio.class_names == ["dog", "ship"]
    assert own.origin.checkpoint == "other"
    assert settings.class_name == "ship"
    with pytest.raises(EcarError, match="no checkpoint 'none' here: use one of small, broken, oth"):
        first._asked("cat", checkpoint="none")
    with pytest.raises(EcarError, match="cannot be loaded"):
        first._asked("cat", checkpoint="broken")


def test_links_of_a_checkpoint_are_opened_on_its_page(home):
    pages = Pages.of(Studio(home / "shipped" / "small", "cpu", "float32"))
    found = [pages.page_of(name) for name in ("small", "other", "mine", "none", "")]
    assert found == ["", "other", "runs~mine", None, None]


def test_own_trainings_beyond_the_pages_are_named_with_the_command_that_opens_them(
    home, tmp_path, monkeypatch
):
    monkeypatch.setattr(picker, "MOST_PAGES", 4)
    monkeypatch.setattr(shelf, "RUNS", tmp_path / "runs")
    for day, name in enumerate(("oldest", "middle", "newest")):
        final = shutil.copytree(home / "shipped" / "small", tmp_path / "runs" / name / "final")
        os.utime(final, (day, day))
    pages = Pages.of(Studio(home / "shipped" / "small", "cpu", "float32"))
    assert pages.names == ["small", "broken", "other", "runs/newest", "runs/middle"]
    shown = {entry["name"]: entry for entry in pages.view("")["entries"]}
    assert shown["runs/oldest"]["path"] is None
    assert shown["runs/oldest"]["words"].endswith("ecar app --checkpoint runs/oldest")
    assert shown["runs/newest"]["path"] == "runs~newest"
    assert shown["small"]["path"] == ""


# ------------------------------------------------------------------------------------- in a browser


def test_a_visitor_changes_the_checkpoint_without_a_restart(browser, home):
    first = home / "shipped" / "small"
    page, address = demo.launch(first, port=free_port(), dtype="float32", block=False)
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    try:
        with urllib.request.urlopen(f"{address}gradio_api/info") as answer:
            assert sorted(json.load(answer)["named_endpoints"]) == ["/fork", "/generate", "/trace"]
        tab = context.new_page()
        tab.add_init_script(NO_TOUR)
        open_generate(tab, address)
        choice = tab.get_by_label("Checkpoint")
        assert choice.locator("option").all_inner_texts() == [
            "small", "broken", "other", "runs/mine",
        ]  # fmt: skip
        assert choice.input_value() == "small"
        assert "3 classes, 8 px" in tab.inner_text("#picker")
        tab.get_by_label("Class", exact=True).first.click()
        tab.get_by_role("option", name="dog").click()
        tab.locator("#generate-seed input").fill("7")

        choice.select_option("other")
        tab.wait_for_url("**/other?class=dog&seed=7")
        open_tab(tab, "Generate")
        tab.wait_for_function(DONE % "dog, seed 0")  # its own first image
        tab.wait_for_function("document.querySelector('#generate-seed input').value === '7'")
        assert tab.get_by_label("Class", exact=True).first.input_value() == "dog"
        tab.get_by_role("button", name="Generate", exact=True).click()
        tab.wait_for_function(DONE % "dog, seed 7")

        tab.wait_for_url("**/other?run=1&*")
        tab.goto(tab.url.replace("/other?", "/?"))  # as sent by one whose first page it is
        tab.wait_for_url("**/other?run=1&*")
        tab.wait_for_function(DONE % "dog, seed 7")

        shutil.copytree(first, home / "runs" / "late" / "final")  # while the server is up
        tab.reload()
        late = tab.locator("#picker option", has_text="runs/late")
        late.wait_for(state="attached")
        assert late.is_disabled()
        choice.select_option("broken")
        tab.wait_for_selector("#banner [role=alert]")
        assert "cannot be loaded" in tab.inner_text("#banner")
        choice.select_option("small")
        open_tab(tab, "Generate")
        tab.wait_for_function(DONE % "cat")
    finally:
        context.close()
        page.close()
