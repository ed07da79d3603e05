"""What sets two runs apart, in words and numbers."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from apps.runs.differences import differing_settings, distance, distance_in_words
from apps.shared.settings import Edit
from tests.app.examples import CHANGED, HALF, PLAIN
from tests.app.page import QUIET

pytestmark = QUIET


def test_only_what_differs_is_named():
    assert differing_settings(PLAIN, PLAIN) == []
    other = replace(
        PLAIN,
        seed=5,
        guidance=(1.5, 3.0),
        steps=(3, 8),
        solver="heun",
        intervals=((0.0, 1.0), (0.2, 0.5)),
        powers=(1.0, 1.5),
    )
    assert differing_settings(PLAIN, other) == [
        ("Solver", "ab2", "heun"),
        ("Seed", "4", "5"),
        ("Flow steps in stage 2", "2", "8"),
        ("Time power in stage 2", "1", "1.5"),
        ("Guidance in stage 2", "2", "3"),
        ("Local times of guidance in stage 2", "0–1", "0.2–0.5"),
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
