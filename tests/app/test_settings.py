"""Settings of the app from values of any kind, as JSON or a program may hold them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.shared.programs import Programs
from apps.shared.settings import Settings
from ecar_lab.errors import EcarError

NAMES = ("class_name", "seed", "steps", "guidance", "solver", "intervals", "powers", "seeds",
         "classes", "renoise", "edits")  # fmt: skip
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
