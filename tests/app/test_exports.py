"""What a run can be taken away as."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from apps.runs.exports import EXPORTS, export
from apps.shared.recipes import Recipe
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.colours import STAGE_HUES
from tests.app.examples import CHANGED, PLAIN
from tests.app.page import QUIET

pytestmark = QUIET


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
