"""Settings of the app from values of any kind, as JSON or a program may hold them."""

import json
import math
from dataclasses import asdict
from typing import Any

import gradio as gr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps import demo
from apps.shared.painted import Painted
from apps.shared.parts import RunControls
from apps.shared.programs import Programs
from apps.shared.settings import Settings
from ecar_lab.errors import EcarError

NAMES = ("class_name", "seed", "steps", "guidance", "solver", "intervals", "powers", "seeds",
         "classes", "renoise", "edits", "mix_class", "mix", "walk_seed", "walk",
         "painted")  # fmt: skip
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
SOUND = {"class_name": "cat", "seed": 0, "steps": [2, 2], "guidance": [1.0, 2.0]}


@given(name=st.sampled_from(NAMES), value=JUNK)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_any_value_makes_settings_that_survive_or_one_sentence(name: str, value: Any):
    try:
        made = Settings.from_json({**SOUND, name: value})
    except EcarError:
        return
    assert Settings.from_json(made.to_json()) == made


def test_a_mix_and_a_walk_survive_json_and_are_said():
    made = Settings.from_json(
        {**SOUND, "mix_class": "dog", "mix": [0, 0.25], "walk_seed": 9, "walk": [1, 0.5]}
    )
    assert Settings.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert made.differences() == [
        "euler",
        "25% dog in stage 2",
        "100% of the way to the noise of seed 9 in stage 1",
        "50% of the way to the noise of seed 9 in stage 2",
    ]
    alike = Settings.from_json({**SOUND, "walk_seed": 9, "walk": [0.5, 0.5]})
    assert alike.changes() == ["50% of the way to the noise of seed 9 in all stages"]
    assert made.plain() == Settings.from_json(SOUND)
    # None of it is the plain run, in whatever way it is said.
    assert Settings.from_json({**SOUND, "mix_class": "dog", "mix": [0, 0]}) == made.plain()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mix": [0, 0.5]}, "these settings have mix and no mix_class"),
        ({"walk": [0.5], "walk_seed": 1}, "walk has 1 values for 2 stages"),
        ({"walk": [0, 2], "walk_seed": 1}, "walk"),
        ({"walk": [0, 1], "walk_seed": 2**31}, "seed 2147483648 is out of range"),
    ],
)
def test_a_mix_or_a_walk_that_cannot_be_is_one_sentence(values, words):
    with pytest.raises(EcarError, match=words):
        Settings.from_json({**SOUND, **values})


def test_a_mix_and_a_walk_go_from_one_run_to_the_other(studio):
    """At the ends they are the plain runs of either, bit for bit; between them, neither."""

    def final(**values: Any) -> torch.Tensor:
        *_, event = studio.trace(Settings.from_json({**SOUND, **values}))
        return event.latent

    cat, dog, other = final(), final(class_name="dog"), final(seed=9)
    mixes = [final(mix_class="dog", mix=[share] * 2) for share in (0, 0.5, 1)]
    walks = [final(walk_seed=9, walk=[share] * 2) for share in (0, 0.5, 1)]
    for between, end in ((mixes, dog), (walks, other)):
        assert torch.equal(between[0], cat)
        assert torch.equal(between[2], end)
        assert not torch.allclose(between[1], cat)
        assert not torch.allclose(between[1], end)


def test_a_painting_is_compact_text_and_comes_back():
    colours = [f"#{number:06x}" for number in range(16)]
    painted = Painted.of(0, colours)
    assert painted.cells[0] == "000000000001000002000003"
    made = Settings.from_json({**SOUND, "painted": json.loads(json.dumps(asdict(painted)))})
    assert made.painted == painted
    assert Settings.from_json(made.to_json()) == made
    assert str(made).endswith("stage 1 painted, 4×4 cells")


@pytest.mark.parametrize(
    ("painted", "words"),
    [
        ([], "give an object with stage and cells"),
        ({"stage": 0}, "give an object with stage and cells"),
        ({"stage": 0, "cells": 5}, "cells is 5: use a list"),
        ({"stage": 0, "cells": []}, "0 rows of cells: use 1 to 256"),
        ({"stage": 0, "cells": ["0000"]}, "use 1 cells of six digits each"),
        ({"stage": 0, "cells": ["GG0000"]}, "use 1 cells of six digits each"),
        ({"stage": -1, "cells": ["000000"]}, "stage is -1: use 0 or more"),
        ({"stage": 0.5, "cells": ["000000"]}, "stage is 0.5"),
        ({"stage": 0, "cells": ["000000"] * 10**4}, "10000 rows of cells"),
    ],
)
def test_a_painting_that_is_none_is_one_sentence(painted, words):
    with pytest.raises(EcarError) as refusal:
        Settings.from_json({**SOUND, "painted": painted})
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("seed", -5, "seed -5 is out of range"),
        ("seed", 2**31, "seed 2147483648 is out of range"),
        ("seed", 3.7, "seed is '3.7': give a whole number"),
        ("seed", math.nan, "seed is 'nan': give a whole number"),
        ("seed", "seven", "seed is 'seven': give a whole number"),
        ("steps", 2.5, "steps of stage 1 is '2.5': give a whole number"),
        ("steps", None, "steps of stage 1 is empty: give a whole number"),
        ("steps", 0, "0 flow steps"),
        ("steps", 10**6, "1000000 flow steps"),
        ("guidance", "much", "guidance of stage 1 is 'much': give a number"),
        ("guidance", -1, "guidance -1"),
        ("guidance", 1e308, "guidance 1e+308"),
        ("guidance", math.inf, "guidance inf"),
        ("begins", 1.5, "guidance_interval"),
        ("ends", None, "guidance until of stage 1 is empty: give a number"),
        ("powers", math.nan, "time_power nan"),
        ("powers", 1e9, "time_power 1e+09"),
    ],
)
def test_what_is_typed_into_a_field_is_refused_in_one_sentence(studio, field, value, words):
    """The fields hand on what was typed, whatever Gradio thinks of it."""
    with gr.Blocks():
        controls = RunControls(studio, "strict")
    own = {"seed": [controls.seed]}
    own |= {name: getattr(controls, name) for name in ("steps", "guidance", "powers")}
    own |= {"begins": controls.begins, "ends": controls.ends}
    values = [
        value if one is own[field][0] else one.preprocess(one.value) for one in controls.inputs
    ]
    assert own[field][0].preprocess(value) is value
    with pytest.raises(EcarError) as refusal:
        controls.settings(*values)
    assert words in str(refusal.value)


def test_gradio_judges_no_number_of_any_tab(tiny_checkpoint):
    fields = [
        one
        for one in demo.build(tiny_checkpoint, "cpu", "float32").blocks.values()
        if isinstance(one, gr.Number | gr.Slider)
    ]
    assert len(fields) > 30
    for field in fields:
        again = type(field)(minimum=0, maximum=1)  # as Gradio makes it anew when its range changes
        assert again.get_block_name() == field.get_block_name() in ("number", "slider")
        for value in (-1e9, 1e9, 0.123, None, "text"):
            assert field.preprocess(value) is again.preprocess(value) is value


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"solver": []}, "solver [] is unknown: use one of"),
        ({"solver": {}}, "is unknown: use one of"),
        ({"class_name": None}, "class_name is None"),
        ({"class_name": "²"}, "class '²' is unknown"),
        ({"class_name": "--5"}, "class '--5' is unknown"),
        ({"seed": float("nan")}, "seed is 'nan'"),
        ({"seed": [1]}, "seed is '[1]'"),
        ({"steps": [None, 2]}, "steps is empty"),
        ({"guidance": float("nan")}, "guidance nan"),
        ({"power": "2"}, "power is '2'"),
        ({"interval": [float("nan"), 1]}, "guidance_interval nan to 1"),
    ],
)
def test_a_program_that_asks_for_junk_is_told_in_one_sentence(studio, asked, words):
    usual = dict.fromkeys(("steps", "guidance", "solver", "interval", "power"))
    with pytest.raises(EcarError) as refusal:
        Programs(studio)._settings(**{**usual, "class_name": "cat", "seed": 0, **asked})
    assert words in str(refusal.value)
