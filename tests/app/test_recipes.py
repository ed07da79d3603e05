"""Recipes: each brings its image back, and every field is checked."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from apps.shared.recipes import MAX_BYTES, Origin, Recipe, finished, pixels_of, replay
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError
from tests.app.examples import CHANGED, HALF, PLAIN
from tests.app.page import QUIET

pytestmark = QUIET


@pytest.fixture
def recipe(make, origin: Origin) -> Recipe:
    return Recipe.of(make(PLAIN), origin)


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


def test_a_recipe_from_before_there_was_a_choice_keeps_euler_whole_stages_and_even_steps(
    studio, origin, make, monkeypatch
):
    """Also where the checkpoint has an interval and a grid of its own by now."""
    run = make(replace(PLAIN, solver="euler"))
    values = Recipe.of(run, origin).to_json()
    del values["settings"]["intervals"], values["settings"]["powers"]
    model = studio.pipeline.model
    today = {**model.config, "guidance_interval": [0.0, 0.5], "time_power": 1.5}
    monkeypatch.setattr(model, "_internal_dict", FrozenDict(today))
    assert studio.defaults().intervals == ((0.0, 0.5), (0.0, 0.5))
    assert studio.defaults().powers == (1.5, 1.5)
    read = Recipe.from_json(values)
    told = read.settings
    assert (told.solver, told.intervals, told.powers) == ("euler", (), ())
    again = finished(replay(studio, read, None))
    assert read.verdict(again.image, [])[0]
    other = finished(studio.run(replace(read.settings, intervals=((0, 0.5),) * 2), None))
    assert not read.verdict(other.image, [])[0]


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
        (_at("settings.seed", "4"), "seed is '4': use a whole number"),
        (_at("settings.seed", -1), "seed -1 is out of range"),
        (_at("settings.steps", [3, 2.5]), "steps is (3, 2.5): use a list, each 1 or more"),
        (_at("settings.steps", [3, 300]), "use at most 256"),
        (_at("settings.steps", [3, 0]), "steps is (3, 0): use a list, each 1 or more"),
        (_at("settings.steps", [3]), "2 values for 1 stages"),
        (_at("settings.class_name", "zebra"), "class 'zebra' is unknown"),
        (_at("settings.classes", ["cat", "zebra"]), "class 'zebra' is unknown"),
        (_at("settings.solver", "magic"), "solver 'magic' is unknown"),
        (_at("settings.solver", []), "solver is (): use text"),
        (_at("settings.guidance", "high"), "guidance is 'high': use a list"),
        (_at("settings.renoise", ["false", True]), "renoise is ('false', True): use a list, each"),
        (_at("settings.edits", {"stage": 1}), "edits is {'stage': 1}: use a list"),
        (_at("settings.class_name", 3), "class_name is 3: use text"),
        (_at("settings.intervals", [[0.8, 0.2], [0, 1]]), "0.8 to 0.2 ends before it begins"),
        (_at("settings.powers", [1.0, 0]), "time_power 0: use 1 for even steps"),
        (_at("settings.powers", [1.5]), "powers has 1 values for 2 stages"),
        (_at("settings.intervals", [[0, 0.5]]), "intervals has 1 values for 2 stages"),
        (_at("settings.intervals", [0, 0.5]), "intervals is (0, 0.5): use a list"),
        (_at("settings.intervals", [["0", 0.5], [0, 1]]), "intervals is (('0', 0.5), (0, 1)): use"),
        (_at("settings.edits", [{**EDIT, "stage": 7}]), "edit at stage 7: use 0 to 1"),
        (_at("settings.edits", [{**EDIT, "stage": "1"}]), "stage is '1': use 0 or more"),
        (_at("settings.edits", [{**EDIT, "stage": 0}]), "mask of an edit has 8 rows: use 4"),
        (_at("settings.edits", [{**EDIT, "step": 3}]), "after step 3: use 0 to 2"),
        (_at("settings.edits", [{**COPY, "class_name": "zebra"}]), "class 'zebra' is unknown"),
        (
            _at("settings.edits", [{**COPY, "class_name": ["dog"]}]),
            "class_name is ('dog',): use",
        ),
        (_at("settings.edits", [{**COPY, "seed": 2**40}]), "an edit of seed 1099511627776: use 0"),
        (_at("settings.edits", [{**EDIT, "seed": -1}]), "an edit of seed -1: use 0 to"),
        (_at("settings.guidance", [1.0, 1e308]), "guidance 1e+308 leaves nothing of the image"),
        (_at("image.width", 0), "width of the image is 0: use 1 to 65536"),
        (_at("image.height", 10**9), "height of the image is 1000000000: use 1 to 65536"),
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
