"""Whatever is handed to a call: as many images as were asked for, or one sentence."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecar_lab import EcarError, trace
from ecar_lab.arguments import as_dtype, as_generators, check_keywords, plain, whole_number
from ecar_lab.baselines import DiT
from tests.conftest import tiny_model

CPU = torch.device("cpu")


class Jax(list):
    """An array of a library that is not here: it has ``tolist``, its numbers ``__index__``."""

    def tolist(self):
        return list(self)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        ("dog", [1]),
        ("1", [1]),
        (np.int64(2), [2]),
        (np.str_("cat"), [0]),
        (np.array(2), [2]),
        (np.array([2, 0], dtype=np.uint8), [2, 0]),
        (np.array(["frog", "cat"]), [2, 0]),
        (torch.tensor(1), [1]),
        (torch.tensor([1, 2]), [1, 2]),
        (Jax([2, 1]), [2, 1]),
        (range(3), [0, 1, 2]),
        (("cat", 1, torch.tensor(2), np.int8(0)), [0, 1, 2, 0]),
    ],
)
def test_labels_of_any_library_are_understood(model, labels, ids):
    assert model.class_ids(labels).tolist() == ids


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "class None is neither"),
        ([None], "class None is neither"),
        (True, "class True is neither"),
        ([float("nan")], "class nan is neither"),
        (1.0, r"class 1\.0 is neither"),
        (torch.tensor([1.0]), r"class 1\.0 is neither"),
        (np.float32(1), r"class 1\.0 is neither"),
        (b"cat", "class b'cat' is neither"),
        ({"cat", "dog"}, "is neither a name nor"),
        ({"cat": 1}, "is neither a name nor"),
        ([[0, 1]], r"class \[0, 1\] is a list in a list"),
        (torch.eye(10)[:2], r"of one-hot rows their argmax\(1\)"),
        (np.eye(3), r"of one-hot rows their argmax\(1\)"),
        ([], "no class was given"),
        (np.array([]), "no class was given"),
        ("²", "class '²' is unknown"),
        ("--1", "class '--1' is unknown"),
        ("1_0", "class '1_0' is unknown"),
        (" cat", "class ' cat' is unknown"),
        (10**30, "out of range: use 0 to 2"),
        ("-1", "class -1 is out of range"),
    ],
)
def test_labels_that_are_none_are_one_sentence(model, labels, words):
    with pytest.raises(EcarError, match=words):
        model.class_ids(labels)


@pytest.mark.parametrize("steps", [[2, 3], (2, 3), np.array([2, 3]), torch.tensor([2, 3])])
def test_steps_come_as_any_sequence(model, steps):
    assert model.inference_steps(steps) == [2, 3]


@pytest.mark.parametrize("steps", [3, 3.0, np.int64(3), torch.tensor(3), np.array(3)])
def test_steps_come_as_any_number(model, steps):
    assert model.inference_steps(steps) == [3, 3]


@pytest.mark.parametrize(
    "steps",
    [0, -1, 2.5, float("inf"), float("nan"), "2", True, {}, [1, None], [[1], [2]], 10**9, 1j],
)
def test_steps_that_are_none_are_one_sentence(model, steps):
    with pytest.raises(EcarError, match="flow steps: every stage needs a whole number"):
        model.inference_steps(steps)


@pytest.mark.parametrize("scale", [[1, 2.5], np.array([1, 2.5]), torch.tensor([1, 2.5])])
def test_guidance_comes_as_any_sequence(model, scale):
    assert model.guidance(scale) == [1.0, 2.5]


@pytest.mark.parametrize(
    "scale", [float("nan"), float("inf"), -1, 10**400, "2", True, {}, [1, None], [[1], [2]], 1j]
)
def test_guidance_that_is_none_is_one_sentence(model, scale):
    with pytest.raises(EcarError, match=r"guidance .* is not a finite number >= 0"):
        model.guidance(scale)


@pytest.mark.parametrize("scale", [1e30, 1e10, 101, [1, 1e5]])
def test_guidance_that_leaves_no_image_is_refused(model, scale):
    for generator in (model, DiT(8, 3, num_layers=1, num_heads=1, head_dim=8)):
        if isinstance(scale, list) and generator is not model:
            continue
        with pytest.raises(EcarError, match=r"leaves nothing of the image: use 1 \(none\)"):
            generator.guidance(scale)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guidance_interval", "x"),
        ("guidance_interval", (float("nan"), 1)),
        ("time_power", "1"),
        ("time_power", float("nan")),
        ("solver", []),
        ("noise", [torch.zeros(1, 3, 4, 4)]),
        ("noise", {"0": torch.zeros(1, 3, 4, 4)}),
        ("noise", {0: np.zeros((1, 3, 4, 4))}),
        ("noise", {0: torch.full((1, 3, 4, 4), torch.nan)}),
        ("edits", 5),
        ("edits", [5]),
        ("renoise", "no"),
        ("renoise", None),
        ("attention_layer", "0"),
        ("start_from", 5),
        ("class_labels_from", [1]),
        ("class_labels_from", {5: 1}),
        ("dtype", torch.int8),
        ("dtype", "float12"),
        ("generator", 0),
    ],
)
def test_every_other_argument_of_trace_is_checked_at_the_call(model, name, value):
    with pytest.raises(EcarError):
        trace(model, [0], 1, **{name: value})


@pytest.mark.parametrize("name", ["bfloat16", "torch.bfloat16", "bf16", torch.bfloat16])
def test_a_dtype_has_a_name(name):
    assert as_dtype(name) == torch.bfloat16


@pytest.mark.parametrize("name", ["auto", "int8", torch.int8, 3, np.float32])
def test_a_dtype_that_is_none_is_one_sentence(name):
    with pytest.raises(EcarError, match=r"is unknown: use float32, bfloat16 or float16"):
        as_dtype(name)


@pytest.mark.parametrize(
    ("generator", "words"),
    [
        (0, r"generator 0 is no torch.Generator: use torch.Generator\(\).manual_seed\(0\)"),
        (np.random.default_rng(0), r"is no torch.Generator: use .*manual_seed\(seed\)"),
        ([0], r"manual_seed\(0\)"),
        ("0", "is no torch.Generator"),
        ([], "0 generators for 1 images"),
        ([torch.Generator()] * 2, "2 generators for 1 images: give one, or one each"),
    ],
)
def test_a_generator_that_is_none_is_one_sentence(generator, words):
    with pytest.raises(EcarError, match=words):
        as_generators(generator, 1, CPU)


def test_an_unknown_keyword_is_answered_with_the_nearest_or_the_remedy():
    with pytest.raises(EcarError, match="a pipe takes no 'guidence': use guidance_scale"):
        check_keywords(["guidence"], ["guidance_scale", "solver"], {}, "a pipe")
    with pytest.raises(EcarError, match="a pipe takes no 'prompt': name classes"):
        check_keywords(["prompt"], ["solver"], {"prompt": "name classes"}, "a pipe")


@given(st.lists(st.integers(-(10**9), 10**9), max_size=5))
def test_plain_reads_lists_arrays_and_tensors_alike(numbers):
    forms = (tuple(numbers), np.array(numbers, dtype=np.int64), torch.tensor(numbers).long())
    assert all(plain(form) == numbers for form in forms)
    assert [whole_number(number) for number in plain(numbers)] == numbers


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 4)
    | st.floats()
    | st.sampled_from(["cat", "dog", "2", "²", "--1", "", "nan"])
    | st.complex_numbers()
    | st.binary(max_size=2)
    | st.sampled_from([np.int8(1), np.float64("nan"), np.array([0, 1]), torch.tensor([[1, 0]])]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 2), inner),
    max_leaves=4,
)
NAMES = (
    *("class_labels", "num_inference_steps", "guidance_scale", "generator", "dtype"),
    *("guidance_interval", "time_power", "solver", "renoise", "noise", "latents", "edits"),
    *("num_images_per_prompt", "height", "output_type", "attention_layer", "start_from"),
    *("class_labels_from", "callback_on_step_end_tensor_inputs", "prompt", "guidance"),
)
ASKED = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(NAMES, JUNK),
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ASKED)
def test_junk_is_refused_in_a_sentence_or_understood(tiny_pipeline, asked):
    tiny_pipeline.set_progress_bar_config(disable=True)
    asked = {"class_labels": ["cat"], "num_inference_steps": 1, **asked}
    try:
        images = tiny_pipeline(**asked).images
    except EcarError:
        return
    count = len(tiny_pipeline.model.class_ids(asked["class_labels"]))
    assert len(images) == count * plain(asked.get("num_images_per_prompt", 1))
    if isinstance(images, torch.Tensor):
        assert images.isfinite().all()
