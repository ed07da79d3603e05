"""Set-up, figures, quiz, checks and controls of the notebooks: what they have in common."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ecar_lab.teaching.check as core
from ecar_lab import EcarError
from ecar_lab.teaching import explore, figures, place, question, session

TOPICS = sorted(
    path.stem for path in (Path(core.__file__).parent).glob("*.py") if not path.stem.startswith("_")
)


def exercises(topic: str) -> dict[str, core.Exercise]:
    module = import_module(f"ecar_lab.teaching.check.{topic}")
    return {name: item for name, item in vars(module).items() if isinstance(item, core.Exercise)}


CASES = [
    pytest.param(topic, name, index, id=f"{topic}-{name}-{index}")
    for topic in TOPICS
    for name in exercises(topic)
    for index in range(len(import_module(f"tests.teaching.wrong.{topic}").WRONG[name]))
]


@pytest.mark.parametrize("topic", TOPICS)
def test_every_exercise_has_two_wrong_solutions_and_accepts_the_right_one(topic):
    wrong = import_module(f"tests.teaching.wrong.{topic}")
    assert set(wrong.WRONG) == set(exercises(topic))
    for name, check in exercises(topic).items():
        assert len(wrong.WRONG[name]) >= 2, name
        context = getattr(wrong, "CONTEXT", {}).get(name, lambda: ())()
        verdict = core.judge(check.diagnose, check.reference, *context)
        assert verdict.state == "right", (name, verdict.sentence)
        sentences = [words for _, words in wrong.WRONG[name]]
        assert len(set(sentences)) == len(sentences), f"{name}: one diagnosis for two mistakes"


@pytest.mark.parametrize(("topic", "name", "index"), CASES)
def test_a_typical_mistake_gets_its_own_diagnosis(topic, name, index):
    wrong = import_module(f"tests.teaching.wrong.{topic}")
    attempt, words = wrong.WRONG[name][index]
    context = getattr(wrong, "CONTEXT", {}).get(name, lambda: ())()
    verdict = core.judge(exercises(topic)[name].diagnose, attempt, *context)
    assert verdict.state == "wrong"
    assert words in verdict.sentence


@core.exercise("9.9 double", lambda x: 2 * x)
def double(attempt):
    value = torch.tensor([1.0, 3.0])
    core.expect_close(attempt(value), 2 * value, {"it squares": value**2}, "double")


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda x: x**2, "it squares"),
        (lambda x: None, "is None: is a return missing?"),
        (lambda x: 3, "is a int: return a tensor"),
        (lambda x: x[:1], "has shape (1,): it should be (2,)"),
        (lambda x: x / 0, "NaN or infinity"),
        (lambda x: 3 * x, "differs by up to 3"),
        (lambda x: x.nonsense, "it raised AttributeError"),
        (lambda x, y: x, "it raised TypeError"),
    ],
)
def test_whatever_an_attempt_does_ends_in_a_sentence(attempt, words, capsys, monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STRICT", raising=False)
    assert words in core.judge(double.diagnose, attempt).sentence
    assert double(attempt) is double.reference


def test_a_right_attempt_is_gone_on_with_and_a_missing_one_replaced(monkeypatch):
    def missing(x):
        raise NotImplementedError

    def right(x):
        return x + x

    monkeypatch.setenv("ECAR_LAB_STRICT", "1")
    assert double(right) is right
    assert double(missing) is double.reference
    with pytest.raises(AssertionError, match=r"9\.9 double: it squares"):
        double(lambda x: x**2)


def test_numbers_are_compared_as_numbers():
    core.expect_close(3, 3.0, {})
    with pytest.raises(core.Wrong, match="upside down"):
        core.expect_close(2.0, 0.5, {"it is upside down": 2.0})
    with pytest.raises(core.Wrong, match="is 7, it should be 3"):
        core.expect_close(7, 3.0, {})
    with pytest.raises(core.Wrong, match="return a number"):
        core.expect_close("3", 3.0, {})
    with pytest.raises(core.Wrong, match="is a return missing"):
        core.expect_close(None, 3.0, {})
    core.expect_close(np.int64(3), 3.0, {})


def test_a_check_leaves_the_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    core.judge(lambda attempt: attempt(), lambda: torch.rand(5))
    torch.testing.assert_close(torch.rand(3), expected)


def test_setup_says_where_it_runs(capsys, monkeypatch):
    monkeypatch.setenv("ECAR_LAB_PROFILE", "fast")
    lab = session.setup(3, seed=5)
    said = capsys.readouterr().out
    assert "profile fast, seed 5" in said
    assert torch.__version__ in said
    assert lab.pick(7, 2) == 2
    assert torch.equal(
        torch.rand(2, generator=lab.generator()), torch.rand(2, generator=lab.generator(5))
    )
    assert lab.workspace.is_dir()
    monkeypatch.setenv("ECAR_LAB_PROFILE", "full")
    assert session.setup(3).workspace == Path("runs/notebook-3")


def test_an_unknown_profile_is_refused(monkeypatch):
    monkeypatch.setenv("ECAR_LAB_PROFILE", "quick")
    with pytest.raises(EcarError, match="'quick': use full or fast"):
        session.setup(0)


def test_results_are_read_by_name(monkeypatch):
    lab = session.setup(8)
    assert lab.result("quality-cpu")
    with pytest.raises(EcarError, match=r"no result 'nonsense'.*quality-cpu"):
        lab.result("nonsense")


def test_a_notebook_s_pipeline_samples_the_plain_way_unless_told_otherwise():
    lab = session.setup(7)
    pipe = lab.pipeline("digits")
    plain = {"solver": "euler", "time_power": 1, "guidance_interval": (0, 1)}
    runs = [
        list(pipe.trace(["3"], 3, 2.0, lab.generator(), **options))[-1].latent
        for options in ({}, plain, {"solver": "ab2"})
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def test_real_data_is_there_or_not(tmp_path, monkeypatch):
    lab = session.setup(1)
    monkeypatch.delenv("ECAR_DATA", raising=False)
    assert not lab.has_data("cifar10")
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train.parquet").touch()
    monkeypatch.setenv("ECAR_DATA", str(tmp_path))
    assert lab.has_data("cifar10")
    assert not lab.has_data("imagenette")


@pytest.mark.parametrize("number", range(10))
def test_every_notebook_has_its_place(number):
    drawn = place.place(number)
    lit = [patch for patch in drawn.axes[0].patches if patch.get_facecolor()[2] > 0.6]
    assert lit
    assert "Lit: " in place.describe(number)


def test_there_is_no_tenth_place():
    with pytest.raises(EcarError, match="no notebook 10: use 0 to 9"):
        place.place(10)


def test_a_picture_is_white_opaque_and_not_too_wide(tmp_path):
    wide = figures.picture(Image.new("RGBA", (4000, 10), (255, 0, 0, 255)))
    assert (wide.mode, wide.width) == ("RGB", figures.WIDEST)
    assert figures.png(torch.zeros(2, 3, 8, 8)).startswith(b"\x89PNG")


def test_a_quiz_answers_back(monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    options = {"two": "One and one.", "three": "One too many."}
    box = question.quiz("1 + 1?", options, "two")
    radio, reply = box.children
    radio.value = "three"
    assert "Not quite" in reply.value
    assert "One too many." in reply.value
    radio.value = "two"
    assert "Right" in reply.value
    with pytest.raises(EcarError, match="'four' is not among"):
        question.quiz("1 + 1?", options, "four")


def squares(side: int, dark: bool) -> Image.Image:
    if side == 13:
        raise EcarError("13 is unlucky: use 12")
    return Image.new("RGB", (side, side), "black" if dark else "white")


CONTROLS = ("side", "dark")


def controls():
    return {"side": explore.whole("side", 8, 32, 16), "dark": explore.flag("dark")}


def test_controls_redraw_and_tell_what_is_wrong(monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STATIC", raising=False)
    box = explore.explorer(squares, controls(), {"small": {"side": 8}}, "caption", "alt text")
    side, dark, trouble, view = box.children
    before = view.value
    side.value = 20
    assert view.value != before
    before = view.value
    side.value = 13
    assert "13 is unlucky" in trouble.value
    assert view.value == before
    dark.value, side.value = True, 9
    assert trouble.value == ""


def test_without_controls_the_examples_stay(monkeypatch, capsys):
    monkeypatch.setenv("ECAR_LAB_STATIC", "1")
    assert explore.explorer(squares, controls(), {"small": {"side": 8}}, "c", "alt") is None
    with pytest.raises(EcarError, match=r"example 'odd' sets \['width'\]"):
        explore.explorer(squares, controls(), {"odd": {"width": 1}}, "c", "alt")


def test_times_are_known_of_this_machine_only():
    times = json.loads((Path(__file__).parents[2] / "notebooks" / "times.json").read_text("utf-8"))
    assert times["machine"]
    assert all(seconds > 0 for seconds in times["seconds"].values())
