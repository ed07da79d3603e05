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


def listed(folder: str, topic: str) -> dict[str, list]:
    return getattr(import_module(f"tests.teaching.{folder}.{topic}"), folder.upper())


def cases(folder: str) -> list:
    return [
        pytest.param(topic, name, index, id=f"{topic}-{name}-{index}")
        for topic in TOPICS
        for name in exercises(topic)
        for index in range(len(listed(folder, topic)[name]))
    ]


def verdict_of(topic: str, name: str, attempt) -> core.Verdict:
    contexts = getattr(import_module(f"tests.teaching.wrong.{topic}"), "CONTEXT", {})
    return core.judge(exercises(topic)[name].diagnose, attempt, *contexts.get(name, lambda: ())())


@pytest.mark.parametrize("topic", TOPICS)
def test_every_exercise_has_four_wrong_solutions_and_three_right_ones_beside_the_kit_s(topic):
    assert set(listed("wrong", topic)) == set(listed("right", topic)) == set(exercises(topic))
    for name, check in exercises(topic).items():
        assert len(listed("right", topic)[name]) >= 3, name
        assert len(listed("wrong", topic)[name]) >= 4, name
        assert verdict_of(topic, name, check.reference).state == "right", name
        sentences = [words for _, words in listed("wrong", topic)[name]]
        assert len(set(sentences)) == len(sentences), f"{name}: one diagnosis for two mistakes"


@pytest.mark.parametrize(("topic", "name", "index"), cases("right"))
def test_another_right_solution_is_accepted(topic, name, index):
    assert verdict_of(topic, name, listed("right", topic)[name][index]).sentence == "right"


@pytest.mark.parametrize(("topic", "name", "index"), cases("wrong"))
def test_a_typical_mistake_gets_its_own_diagnosis(topic, name, index):
    attempt, words = listed("wrong", topic)[name][index]
    verdict = verdict_of(topic, name, attempt)
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
    assert double(right).attempt is right
    assert double(right)(4) == 8
    assert double(missing) is double.reference
    with pytest.raises(AssertionError, match=r"9\.9 double: it squares"):
        double(lambda x: x**2)


def fails_at_zero(x):
    """A docstring."""
    return x * 2 if x.any() else 1 / 0


def test_an_accepted_answer_that_raises_later_gives_way_to_the_kit_s(monkeypatch, capsys):
    monkeypatch.delenv("ECAR_LAB_STRICT", raising=False)
    answer = double(fails_at_zero)
    assert answer.__doc__ == "A docstring."
    assert answer(torch.ones(2)).sum() == 4
    assert answer.in_use
    assert answer(torch.zeros(2)).sum() == 0
    assert not answer.in_use
    monkeypatch.setenv("ECAR_LAB_STRICT", "1")
    with pytest.raises(ZeroDivisionError):
        double(fails_at_zero)(torch.zeros(2))


def test_beside_the_kit_a_wrong_answer_gives_way_and_a_fault_of_the_kit_is_raised(monkeypatch):
    monkeypatch.delenv("ECAR_LAB_STRICT", raising=False)
    answer, other = double(lambda x: 2 * x.clamp(max=3)), double(lambda x: x + x)
    with core.beside_the_kit(answer, double.reference):
        assert answer(torch.tensor([9.0])).item() == 18
    assert not answer.in_use
    assert answer(torch.tensor([9.0])).item() == 18
    assert other.in_use
    with core.beside_the_kit(answer):
        raise AssertionError("of numbers that it has left behind")
    with pytest.raises(AssertionError), core.beside_the_kit(double.reference):
        raise AssertionError("the kit's own")
    monkeypatch.setenv("ECAR_LAB_STRICT", "1")
    with pytest.raises(AssertionError), core.beside_the_kit(other):
        raise AssertionError


@core.exercise("9.8 in place", lambda values, by: values.add_(by), [(1,), (2,)], changes=0)
def moved(attempt, by):
    values = torch.zeros(2)
    attempt(values, torch.tensor(float(by)))
    core.expect_close(values, torch.full((2,), float(by)), {}, "the values")


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda values, by: values.add_(1), "differs by up to 1"),
        (lambda values, by: values.copy_(by.mul_(1.5)), "changed its argument by in place"),
        (lambda values, by: values.normal_(), "draws random numbers of its own"),
        (lambda values, by: torch.set_grad_enabled(False), "switches gradients off"),
        (lambda *both: both[0].add_(both[1].add_(1)), "changed its argument 2 in place"),
    ],
)
def test_an_attempt_sees_every_setting_and_may_change_only_what_it_should(attempt, words):
    assert words in core.judge(moved.diagnose, attempt).sentence
    assert torch.is_grad_enabled()


def test_gradients_are_asked_for_by_name():
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    leaves = {"a": a, "b": b}
    core.expect_gradients(a + b, a + b, leaves)
    for found, words in (
        (2.0, "no gradient comes back"),
        ((a + b).detach(), "no gradient comes back"),
        (a + b.detach(), "b gets no gradient"),
        (a + (2 * b) - b.detach(), "the gradient of b is not"),
    ):
        with pytest.raises(core.Wrong, match=words):
            core.expect_gradients(found, a + b, leaves)


def test_a_tensor_of_another_precision_is_named():
    with pytest.raises(core.Wrong, match=r"is torch\.float64: it should be torch\.float32"):
        core.expect_close(torch.ones(2).double(), torch.ones(2), {})
    core.expect_close(torch.ones(2).double(), torch.ones(2), {}, dtype=torch.float64)


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
    own = lab.pipeline("digits", plain=False).model
    assert (own.solver(), pipe.model.solver()) == ("ab2", "euler")


def test_real_data_is_there_or_not(tmp_path, monkeypatch):
    lab = session.setup(1)
    monkeypatch.delenv("ECAR_DATA", raising=False)
    assert not lab.has_data("cifar10")
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train.parquet").touch()
    monkeypatch.setenv("ECAR_DATA", str(tmp_path))
    assert lab.has_data("cifar10")
    assert not lab.has_data("imagenette")


@pytest.mark.parametrize("number", range(12))
def test_every_notebook_has_its_place(number):
    drawn = place.place(number)
    lit = [patch for patch in drawn.axes[0].patches if patch.get_facecolor()[2] > 0.6]
    assert lit
    assert "Lit: " in place.describe(number)


def test_there_is_no_twelfth_place():
    with pytest.raises(EcarError, match="no notebook 12: use 0 to 11"):
        place.place(12)


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
