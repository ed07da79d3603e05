"""Settings of the app from values of any kind, as JSON or a program may hold them."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.shared.programs import Programs
from apps.shared.settings import Settings
from ecar_lab.errors import EcarError

NAMES = ("class_name", "seed", "steps", "guidance", "solver", "intervals", "powers", "seeds",
         "classes", "renoise", "edits", "mix_class", "mix", "walk_seed", "walk")  # fmt: skip
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
        ({"steps": [None, 2]}, "steps is 'None'"),
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
