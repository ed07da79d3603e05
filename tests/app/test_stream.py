"""Settings, and the frames and times that are streamed of their run."""

import io
import json
import re

import pytest
import torch
from PIL import Image

from apps.generate.views import cost_table
from apps.shared import stream
from apps.shared.inline import png_of
from apps.shared.settings import Edit, Settings
from ecar_lab.errors import EcarError
from ecar_lab.viz.colours import LatentColours
from tests.app.page import QUIET

pytestmark = QUIET


@pytest.fixture
def settings() -> Settings:
    return Settings("cat", 4, (3, 2), (1.5, 1.5))


@pytest.fixture
def colours(tiny_pipeline) -> LatentColours:
    return LatentColours.of(tiny_pipeline.tokenizer)


def test_no_event_is_lost_however_seldom_the_page_is_told(
    tiny_pipeline, settings, colours, tmp_path
):
    views = [
        progress.view
        for progress in stream.stream(tiny_pipeline, settings, tmp_path, colours, interval=1e9)
    ]
    assert [len(view["frames"]) for view in views] == [1, 7]
    last = views[-1]
    assert last["done"]
    assert [(frame["stage"], frame["step"]) for frame in last["frames"]] == [
        *((0, step) for step in range(4)),
        *((1, step) for step in range(3)),
    ]
    ends = [frame for frame in last["frames"] if frame["step"] == frame["steps"]]
    sizes = {(row, size_of(frame[row])) for frame in last["frames"] for row in ("noisy", "clean")}
    assert sizes == {(row, (side, side)) for row in ("noisy", "clean") for side in (4, 8)}
    assert [size_of(frame["decoded"]) for frame in ends] == [(4, 4), (8, 8)]
    # The finished image alone is a file, and it is what the last frame shows.
    (image,) = tmp_path.iterdir()
    assert image.read_bytes() == png_of(last["frames"][-1]["decoded"])


def size_of(url: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(png_of(url))) as picture:
        return picture.size


def test_a_view_stays_as_it_was_when_the_run_goes_on(tiny_pipeline, settings, colours, tmp_path):
    views = [
        progress.view
        for progress in stream.stream(tiny_pipeline, settings, tmp_path, colours, interval=0)
    ]
    assert [len(view["frames"]) for view in views] == list(range(1, 8))


def test_times_are_those_of_the_trace(tiny_pipeline, settings, colours, tmp_path):
    *_, progress = stream.stream(tiny_pipeline, settings, tmp_path, colours)
    assert [stage.steps for stage in progress.costs] == [3, 2]
    assert all(stage.transformer > 0 and stage.head > 0 for stage in progress.costs)
    assert progress.costs[0].decode == 0 < progress.costs[1].decode
    assert stream.total(progress.costs).head == sum(stage.head for stage in progress.costs)
    table = cost_table(progress)
    assert re.findall(r"<th scope='col'>(.*?)</th>", table) == ["Stage", "1: 4×4", "2: 8×8", "All"]


def test_settings_survive_json_and_say_what_is_different():
    edit = Edit(0, ("10", "00"), "copy", None, "dog", 5)
    settings = Settings(
        "cat", 4, (3, 2), (1.0, 2.0), "heun", ("cat", "dog"), (4, 9), (True, False), (edit,)
    )
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert settings.differences() == [
        "heun",
        "class dog in stage 2",
        "noise of seed 9 in stage 2",
        "no new noise in stage 2",
        "1 latent pixels at the end of stage 1 ← dog, seed 5",
    ]
    with pytest.raises(EcarError, match="the setting 'colour' is unknown"):
        Settings.from_json({**settings.to_json(), "colour": 1})
    with pytest.raises(EcarError, match="these settings have no seed"):
        Settings.from_json({"class_name": "cat"})
    with pytest.raises(EcarError, match="guidance has 1 values for 2 stages"):
        Settings("cat", 4, (3, 2), (1.0,))


def test_settings_are_the_run_of_their_seed(tiny_pipeline):
    model = tiny_pipeline.model
    settings = Settings.of(model, "dog", 7, [3, 2], 2.0)
    *_, event = tiny_pipeline.trace(**settings.trace_arguments(model))
    *_, plain = tiny_pipeline.trace(
        ["dog"], [3, 2], 2.0, generator=torch.Generator().manual_seed(7)
    )
    assert torch.equal(event.latent, plain.latent)
