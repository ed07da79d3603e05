"""The Runs tab: recipes that bring an image back, differences, exports, and the page itself."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from app_page import PATIENCE, free_port
from PIL import Image

from apps.differences import differing_settings, distance, distance_in_words
from apps.exports import EXPORTS, export
from apps.parts import PRIVATE, visitor
from apps.recipes import MAX_BYTES, Origin, Recipe, finished, pixels_of, replay
from apps.runs import Runs
from apps.settings import Edit, Settings
from apps.studio import Run, Studio
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.colours import STAGE_HUES

# Gradio's own bookkeeping, in pandas' words of yesterday.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no_silent_downcasting", "ignore:The copy keyword is deprecated"
)

PLAIN = Settings("cat", 4, (3, 2), (1.5, 2.0))
HALF = tuple("11110000" for _ in range(8))
CHANGED = replace(
    PLAIN,
    solver="heun",
    classes=("cat", "dog"),
    seeds=(4, 9),
    renoise=(True, False),
    edits=(
        Edit(0, ("1000", "0000", "0000", "0000"), "noise", step=1),
        Edit(1, HALF, "copy", class_name="frog", seed=2),
        Edit(1, HALF[::-1], "zero", step=0),
    ),
)


@pytest.fixture(scope="module")
def studio(tiny_checkpoint: Path) -> Studio:
    return Studio(tiny_checkpoint, "cpu", "float32")


@pytest.fixture(scope="module")
def origin(studio: Studio) -> Origin:
    return Origin.of(studio)


@pytest.fixture
def make(studio: Studio, request) -> Iterator:
    """Makes a run of a visitor, named like the test, who leaves at its end."""
    owner = request.node.name

    def made(settings: Settings) -> Run:
        assert finished(studio.run(settings, owner))
        return studio.folders.runs(owner)[-1]

    yield made
    studio.folders.forget(owner)


@pytest.fixture
def recipe(make, origin: Origin) -> Recipe:
    return Recipe.of(make(PLAIN), origin)


# -------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("settings", [PLAIN, CHANGED], ids=["plain", "changed"])
def test_a_recipe_alone_brings_the_image_back(make, origin, tiny_checkpoint, tmp_path, settings):
    run = make(settings)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(Recipe.of(run, origin).to_json()))
    elsewhere = Studio(tiny_checkpoint, "cpu", "float32")
    read = Recipe.read(file)
    assert read.settings == settings
    assert read.check(elsewhere, Origin.of(elsewhere)) == []
    again = finished(replay(elsewhere, read, "visitor"))
    assert again is not None
    same, sentence = read.verdict(again.image, [])
    assert same
    assert "byte for byte" in sentence
    assert pixels_of(again.image) == pixels_of(run.image)


def test_a_recipe_whose_settings_were_changed_is_told_apart(studio, recipe):
    values = recipe.to_json()
    values["settings"]["seed"] = 5
    read = Recipe.from_json(values)
    again = finished(replay(studio, read, None))
    same, sentence = read.verdict(again.image, [])
    assert not same
    assert "the settings in the file were changed" in sentence


def test_a_recipe_runs_in_its_own_precision(studio, origin, recipe):
    half = replace(recipe, origin=replace(recipe.origin, dtype="bfloat16"))
    first = finished(replay(studio, half, None))
    assert pixels_of(first.image) != pixels_of(finished(studio.run(PLAIN, None)).image)
    noted = Recipe.of(first, origin)
    assert noted.origin.dtype == "bfloat16"
    assert noted.verdict(finished(replay(studio, noted, None)).image, [])[0]
    assert studio.dtype == torch.float32


def test_other_weights_of_the_same_name_are_a_doubt_and_another_checkpoint_is_refused(
    studio, origin, recipe
):
    retrained = replace(origin, checkpoint_hash="0" * 16)
    (doubt,) = recipe.check(studio, retrained)
    assert "weights of 'tiny' have changed" in doubt
    renamed = replace(origin, checkpoint="tiny-2")
    assert recipe.check(studio, renamed) == []
    with pytest.raises(EcarError, match=r"for the checkpoint 'tiny', here runs 'other'.*--check"):
        recipe.check(studio, replace(retrained, checkpoint="other"))


def test_another_device_and_version_are_doubts(studio, origin, recipe):
    there = replace(origin, device="cuda", versions={**origin.versions, "torch": "1.0"})
    doubts = replace(recipe, origin=there).check(studio, origin)
    assert [doubt.split(",")[0] for doubt in doubts] == ["it was made on cuda", "torch was 1.0"]


def _at(path: str, value):
    """A change to a recipe's JSON: the value at a place such as ``settings.seed``."""

    def change(values: dict) -> dict:
        *parents, last = path.split(".")
        place = values
        for name in parents:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return values

    return change


EDIT = {"stage": 1, "mask": list(HALF), "action": "zero"}
COPY = {**EDIT, "action": "copy", "class_name": "dog", "seed": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_at("format", 2), "format 2, this version reads 1"),
        (_at("format", None), "names no format"),
        (_at("dtype", None), "lacks 'dtype'"),
        (_at("dtype", "float8"), "'float8'"),
        (_at("colour", "red"), "unknown field 'colour'"),
        (_at("settings.colour", "red"), "'colour' is unknown"),
        (_at("device", 3), "'device' of the recipe is not text"),
        (_at("versions.torch", 2), "'torch' of the versions is not text"),
        (_at("image.sha256", "F" * 64), "sha256 of the recipe is not 64"),
        (_at("image.width", True), "'width' of the image is not a whole number"),
        (_at("checkpoint_hash", "../../etc"), "checkpoint_hash of the recipe is not 16"),
        (_at("settings", []), "'settings' of the recipe is not an object"),
        (_at("settings.seed", "4"), "'seed' of the recipe is not what"),
        (_at("settings.seed", -1), "seed -1 is out of range"),
        (_at("settings.steps", [3, 2.5]), "'steps' of the recipe is not what"),
        (_at("settings.steps", [3, 10**9]), "use at most 256"),
        (_at("settings.steps", [3, 0]), "0 flow steps"),
        (_at("settings.steps", [3]), "2 values for 1 stages"),
        (_at("settings.class_name", "zebra"), "class 'zebra' is unknown"),
        (_at("settings.classes", ["cat", "zebra"]), "class 'zebra' is unknown"),
        (_at("settings.solver", "magic"), "solver 'magic' is unknown"),
        (_at("settings.edits", [{**EDIT, "stage": 7}]), "edit at stage 7: use 0 to 1"),
        (_at("settings.edits", [{**EDIT, "stage": "1"}]), "edit at stage '1'"),
        (_at("settings.edits", [{**EDIT, "stage": 0}]), "mask of an edit has 8 rows: use 4"),
        (_at("settings.edits", [{**EDIT, "step": 3}]), "after step 3: use 0 to 2"),
        (_at("settings.edits", [{**COPY, "class_name": "zebra"}]), "class 'zebra' is unknown"),
        (_at("settings.edits", [{**COPY, "class_name": ["dog"]}]), "give its name"),
        (_at("settings.edits", [{**COPY, "seed": 2**40}]), "copies from seed"),
        (_at("settings.edits", [EDIT] * 40), "40 edits: use at most 32"),
        (_at("settings.edits", ["all"]), "cannot be read"),
    ],
)
def test_every_field_of_a_recipe_is_checked(studio, origin, recipe, change, words):
    values = change(json.loads(json.dumps(recipe.to_json())))
    with pytest.raises(EcarError) as refusal:
        Recipe.from_json(values).check(studio, origin)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GIF89a\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"format": NaN}', "NaN"),
        (b"[1, 2]", "is no recipe"),
        (b" " * (MAX_BYTES + 1), "1.0 MB: a recipe has at most 1 MB"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_sentence(tmp_path, content, words):
    file = tmp_path / "recipe.json"
    file.write_bytes(content)
    with pytest.raises(EcarError, match=words):
        Recipe.read(file)


# ---------------------------------------------------------------------------------- differences


def test_only_what_differs_is_named():
    assert differing_settings(PLAIN, PLAIN) == []
    other = replace(PLAIN, seed=5, guidance=(1.5, 3.0), steps=(3, 8), solver="heun")
    assert differing_settings(PLAIN, other) == [
        ("Solver", "euler", "heun"),
        ("Seed", "4", "5"),
        ("Flow steps in stage 2", "2", "8"),
        ("Guidance in stage 2", "2", "3"),
    ]


def test_what_a_stage_has_of_its_own_is_named_with_the_stage():
    rows = differing_settings(PLAIN, CHANGED)
    assert ("Class in stage 2", "cat", "dog") in rows
    assert ("Seed of the noise in stage 2", "4", "9") in rows
    assert ("New noise at the start of stage 2", "yes", "no") in rows
    assert ("Edit 1", "none", "1 latent pixels after step 1 of stage 1 ← noise") in rows
    assert not {name for name, *_ in rows} & {"Class", "Seed", "Class in stage 1"}


def test_a_class_said_per_stage_but_the_same_is_no_difference():
    assert differing_settings(PLAIN, replace(PLAIN, classes=("cat", "cat"), seeds=(4, 4))) == []


def test_two_edits_of_other_pixels_are_told_apart():
    pair = [replace(PLAIN, edits=(Edit(1, mask),)) for mask in (HALF, ("00001111",) * 8)]
    ((name, first, second),) = differing_settings(*pair)
    assert name == "Edit 1"
    assert second == f"{first} (other pixels)"


def test_the_distance_of_two_images_is_in_levels_and_decibels(tmp_path):
    grey, lighter = tmp_path / "grey.png", tmp_path / "lighter.png"
    Image.new("RGB", (4, 4), (100, 100, 100)).save(grey)
    Image.new("RGB", (4, 4), (110, 110, 110)).save(lighter)
    decibels, rms = distance(grey, lighter)
    assert rms == pytest.approx(10)
    assert decibels == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    assert "10.0 of 255 levels apart (RMS), PSNR 28.1 dB" in distance_in_words(grey, lighter)
    assert "same, pixel for pixel" in distance_in_words(grey, grey)


# -------------------------------------------------------------------------------------- exports


def test_a_gif_and_a_contact_sheet_show_every_event(studio, origin, make):
    run = make(PLAIN)
    with Image.open(export(studio, origin, run, "gif")) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames == 7
    with Image.open(export(studio, origin, run, "sheet")) as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))
    bars = [tuple(int(hue[at : at + 2], 16) for at in (1, 3, 5)) for hue in STAGE_HUES[:2]]
    rows = [np.flatnonzero((pixels[:, 20] == bar).all(1)) for bar in bars]
    assert all(len(row) for row in rows)
    assert rows[0].max() < rows[1].min()
    # The last picture of the last frame is the finished image, enlarged.
    image = np.asarray(Image.open(run.image).convert("RGB")).astype(int)
    top, left = pixels.shape[0] - 16 - 6 - 64, 16 + 116 + 2 * (64 + 6)
    tile = pixels[top : top + 64, left : left + 64].astype(int)
    assert np.abs(tile - image.repeat(8, 0).repeat(8, 1)).max() <= 1


def test_latents_are_those_of_the_trace_and_need_no_pickle(studio, origin, make):
    run = make(PLAIN)
    with np.load(export(studio, origin, run, "latents"), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    events = list(studio.trace(PLAIN))
    assert arrays["stage"].tolist() == [event.stage for event in events]
    assert arrays["step"].tolist() == [event.step for event in events]
    np.testing.assert_allclose(arrays["t"], [event.t for event in events])
    for stage, size in enumerate((4, 8)):
        own = [event for event in events if event.stage == stage]
        assert arrays[f"latent_{stage}"].shape == (len(own), 3, size, size)
        for name in ("latent", "clean_estimate"):
            expected = torch.cat([getattr(event, name) for event in own]).numpy()
            np.testing.assert_array_equal(arrays[f"{name}_{stage}"], expected)
    assert Recipe.from_json(json.loads(str(arrays["recipe"]))) == Recipe.of(run, origin)


def test_the_exported_recipe_has_timings_and_can_be_loaded(studio, origin, make):
    run = make(CHANGED)
    path = export(studio, origin, run, "recipe")
    stages = json.loads(path.read_text())["timings"]
    assert [stage["latent_size"] for stage in stages] == [4, 8]
    assert all(stage["flow_head_ms"] > 0 for stage in stages)
    assert Recipe.read(path) == Recipe.of(run, origin)


def test_files_lie_in_the_runs_folder_and_are_made_once(studio, origin, make, monkeypatch):
    run = make(PLAIN)
    paths = {kind: export(studio, origin, run, kind) for kind in EXPORTS}
    assert {path.parent for path in paths.values()} == {run.folder}
    assert not list(run.folder.glob("*.part.*"))
    monkeypatch.setattr(ECARPipeline, "trace", None)
    assert {kind: export(studio, origin, run, kind) for kind in EXPORTS} == paths


def test_a_run_that_is_gone_cannot_be_exported(studio, origin, make, request):
    run = make(PLAIN)
    studio.folders.forget(request.node.name)
    with pytest.raises(EcarError, match="run 1 is gone"):
        export(studio, origin, run, "recipe")
    assert not run.folder.parent.exists()


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_visitor_who_leaves_during_an_export_leaves_nothing(
    studio, origin, make, request, monkeypatch, kind
):
    run, wanted = make(PLAIN), EXPORTS[kind]

    def leave(job, path):
        studio.folders.forget(request.node.name)
        wanted.write(job, path)

    monkeypatch.setitem(EXPORTS, kind, replace(wanted, write=leave))
    with pytest.raises(EcarError):
        export(studio, origin, run, kind)
    assert not run.folder.parent.exists()


# ----------------------------------------------------------------------------------- in a browser


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
    styles = sorted((Path(__file__).parents[1] / "apps").glob("*.css"))
    _, url, _ = page.launch(
        server_port=port, prevent_thread_lock=True, quiet=True, css_paths=styles, run_history=False
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


def download(tab, kind: str, ending: str, folder: Path) -> Path:
    tab.click(f"#runs-make-{kind}")
    tab.wait_for_selector(f"#runs-file:has-text('{ending}')")
    with tab.expect_download() as loading:
        tab.click("#runs-file")
    path = folder / loading.value.suggested_filename
    loading.value.save_as(path)
    return path


def load(tab, file: Path) -> None:
    with tab.expect_file_chooser() as choosing:
        tab.get_by_role("button", name="Load a recipe").click()
    choosing.value.set_files(file)


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
