"""The few-step head: what it is taught, and that teaching works."""

import json
import shutil
from itertools import pairwise

import pytest
import torch

from ecar_lab import EcarError, trace
from ecar_lab.flow import FEW_STEPS, GUIDANCE_RANGE
from ecar_lab.layers import Block
from ecar_lab.machine import count_flops
from ecar_lab.training import turbo as turbo_training
from ecar_lab.training.config import TurboTrainConfig
from ecar_lab.training.model import train_model
from ecar_lab.training.turbo import (
    QUARTERS,
    SPANS,
    Guide,
    TurboObjective,
    draw_guidance,
    few_step_student,
    train_turbo,
)
from tests.conftest import tiny_model
from tests.training.runs import TINY, config, cut_back, weights


def few_step(**overrides):
    return tiny_model(mode="few-step", **overrides)


def conditions(model, *rest):
    times, labels = torch.tensor([0.1, 0.6]), torch.tensor([0, 2])
    return model.head.modulations(0, times, labels, *rest)


def test_a_new_span_and_guidance_change_nothing():
    plain = tiny_model()
    student = type(plain)(**{**plain.config, "mode": "few-step"})
    student.load_state_dict(plain.state_dict(), strict=False)
    asked = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 3.0])
    for one, other in zip(conditions(plain), conditions(student, *asked), strict=True):
        assert torch.equal(one, other)


def test_span_0_and_guidance_1_are_the_velocity():
    model = few_step()
    explicit = conditions(model, torch.zeros(2), torch.ones(2))
    for one, other in zip(conditions(model), explicit, strict=True):
        assert torch.equal(one, other)
    for changed in (torch.full((2,), 0.5), torch.ones(2)), (torch.zeros(2), torch.full((2,), 3.0)):
        assert not torch.equal(conditions(model)[0], conditions(model, *changed)[0])


def test_spans_are_those_of_one_two_and_four_steps():
    assert [(b - a) / QUARTERS for a, b in SPANS] == [1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    for count in FEW_STEPS:
        edges = sorted(pair for pair in SPANS if pair[1] - pair[0] == QUARTERS // count)
        assert edges[0][0] == 0
        assert edges[-1][1] == QUARTERS
        assert all(one[1] == next_one[0] for one, next_one in pairwise(edges))


class LinearHead:
    """v = -x + (1 with class, 0 without): a field whose flow is known."""

    def modulations(self, stage, times, labels):
        return [torch.zeros(len(times), 1)]

    def read(self, token_map):
        return token_map

    def __call__(self, stage, state, read_map, modulations):
        return -state + read_map[:, 0, 0, None, None, None]


def guide_of(head, count=2):
    guide = Guide.__new__(Guide)
    guide.head, guide.stage = head, 0
    guide.labels = torch.zeros(count, dtype=torch.long)
    guide.both = guide.labels.repeat(2)
    guide.read_map = torch.cat((torch.ones(count, 1, 1), torch.zeros(count, 1, 1)))
    return guide


def test_the_teacher_walks_the_guided_flow():
    guide, start = guide_of(LinearHead()), torch.full((2, 1, 2, 2), 3.0)
    guidance = torch.tensor([1.0, 2.5])
    states = guide.walk(start, guidance, 64)
    assert len(states) == QUARTERS + 1
    for quarter, state in enumerate(states):
        t = torch.tensor(quarter / QUARTERS)
        exact = guidance + (3 - guidance) * (-t).exp()  # x' = w - x
        torch.testing.assert_close(state[:, 0, 0, 0], exact, atol=2e-4, rtol=0)
    torch.testing.assert_close(guide.push(start, guidance), torch.ones_like(start))


def test_spans_compose_on_a_linear_field():
    """Half after half is the whole, and quarter after quarter: what the head is asked to learn."""
    states = guide_of(LinearHead()).walk(torch.full((2, 1, 2, 2), 3.0), torch.ones(2), 8)

    def move(first, last):
        return (states[last] - states[first]) * (QUARTERS / (last - first))

    for first, last in SPANS:
        if last - first > 1:
            half = (first + last) // 2
            torch.testing.assert_close(
                (move(first, half) + move(half, last)) / 2, move(first, last)
            )


def test_guidance_is_drawn_within_its_range():
    found = draw_guidance(4000, torch.Generator().manual_seed(0))
    assert found.min() >= GUIDANCE_RANGE[0]
    assert found.max() <= GUIDANCE_RANGE[1]
    assert 0.15 < (found == 1).float().mean() < 0.25


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = train_model(config(tmp_path_factory.mktemp("teacher") / "run", steps=4))
    return run / "final"


def turbo(folder, source, **overrides):
    settings = dict(
        teacher=str(source), output=str(folder), steps=6, batch_size=8, limit=64, save_every=2,
        keep=9, log_every=2, sample_every=0, warmup_steps=1, dtype="float32", device="cpu",
        flip=False, lr=1e-3,
    )  # fmt: skip
    return TurboTrainConfig.from_preset("digits", **{**settings, **overrides})


def test_the_student_learns_the_teacher_s_spans():
    """From weights that do something: the error of every span falls well below where it began."""
    teacher = tiny_model()
    student = type(teacher)(**{**teacher.config, "mode": "few-step"}).train()
    student.load_state_dict(teacher.state_dict(), strict=False)
    objective = TurboObjective(student, teacher, class_dropout=0.1, teacher_steps=8)
    optimizer = torch.optim.AdamW(student.head.parameters(), lr=3e-3)
    from ecar_lab.training.turbo import TurboDraw

    def one(step):
        random = torch.Generator().manual_seed(step)
        latent = torch.randn(16, 3, 8, 8, generator=random)
        labels = torch.randint(3, (16,), generator=random)
        draw = TurboDraw(student.draw(16, random), draw_guidance(16, random))
        return objective(latent, torch.zeros(16, 1, 1, 1), labels, draw)

    first, last = [], []
    for step in range(80):
        loss, parts = one(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        spans = torch.stack([parts[f"error_span_1_{count}"] for count in FEW_STEPS])
        (first if step < 8 else last).append(spans)
    before, after = torch.stack(first).mean(dim=0), torch.stack(last[-8:]).mean(dim=0)
    assert (after < 0.6 * before).all()


def test_a_run_ends_in_a_pipeline_and_leaves_the_transformer_alone(tmp_path, teacher):
    run = train_turbo(turbo(tmp_path / "run", teacher))
    from ecar_lab.pipeline import ECARPipeline

    pipeline = ECARPipeline.from_pretrained(run / "final")
    assert pipeline.model.config.mode == "few-step"
    before = ECARPipeline.from_pretrained(teacher).model.transformer.state_dict()
    after = pipeline.model.transformer.state_dict()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name].float(), tensor.float(), atol=1e-6, rtol=1e-2)
    assert "few-step E-CAR" in (run / "final" / "README.md").read_text()


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, teacher):
    whole = train_turbo(turbo(tmp_path / "whole", teacher))
    cut = cut_back(whole, tmp_path / "cut", 2)
    train_turbo(turbo(cut, teacher))
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(cut)[name], tensor)


def test_a_run_that_goes_on_does_not_begin_with_the_teacher_again(tmp_path, teacher, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a run that goes on has weights of its own")

    run = train_turbo(turbo(tmp_path / "run", teacher, steps=2))
    before = weights(run)
    monkeypatch.setattr(turbo_training, "warm_start", refuse)
    train_turbo(turbo(run, teacher, steps=3))
    for name, tensor in before.items():
        if name.startswith("transformer."):
            assert torch.equal(weights(run)[name], tensor)


def test_student_and_teacher_are_compiled(tmp_path, teacher, monkeypatch):
    compiled = []
    monkeypatch.setattr(Block, "compile", lambda self, **_: compiled.append(self))
    run = train_turbo(turbo(tmp_path / "run", teacher, steps=1, compile=True))
    from ecar_lab.pipeline import ECARPipeline

    model = ECARPipeline.from_pretrained(run / "final").model
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(set(map(id, compiled))) == 2 * len(blocks)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"teacher_steps": 6}, "teacher_steps is 6: .* use 4, 8, 12"),
        ({"teacher": "cifar10-dit"}, "'cifar10-dit' is a DiT: a few-step head belongs to an E-CAR"),
        ({"dataset": "shapes"}, "knows the classes 0, 1.* the data set 'shapes' has"),
        ({"sample_every": 9, "sample_steps": 3}, "sample_steps: 3 steps in .* 1, 2 and 4, use 2"),
        ({"sample_every": 9, "sample_guidance": 4.0}, "sample_guidance: guidance 4 is outside .*"),
    ],
)
def test_what_cannot_teach_is_refused(tmp_path, teacher, overrides, words):
    with pytest.raises(EcarError, match=words):
        train_turbo(turbo(tmp_path / "run", teacher, **overrides))


def test_a_student_is_its_teacher_at_first(teacher):
    from ecar_lab.baselines import load_pipeline

    model = load_pipeline(teacher, dtype=torch.float32).model
    student = few_step_student(model, teacher)
    for name, tensor in model.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor)
    assert TINY["width"] == student.config.width


@pytest.mark.parametrize(
    ("own", "students"),
    [(4.0, [3.5, 3.5]), ([0.5, 2.0], [1.0, 2.0]), (500.0, [3.5, 3.5]), ([1.0, 3.5], [1.0, 3.5])],
)
def test_a_student_has_a_default_guidance_that_it_is_trained_with(own, students, caplog):
    student = few_step_student(tiny_model(guidance_scale=own), None)
    trace(student, [0])  # which refuses what the head was not trained on
    assert student.guidance() == students
    said = f"default guidance is {own}, and the head is trained with 1 to 3.5: its default will be"
    assert (said in caplog.text) == (own != students)


def test_a_teacher_s_defaults_that_nobody_can_sample_with_are_named(tmp_path, teacher):
    spoiled = shutil.copytree(teacher, tmp_path / "spoiled")
    file = spoiled / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "guidance_interval": [0.5, 0.1]}))
    words = r"are its teacher's \(model/config.json\): guidance_interval 0.5 to 0.1 ends before"
    with pytest.raises(EcarError, match=words):
        train_turbo(turbo(tmp_path / "run", spoiled))


# -- sampling with a few-step head --


def run(model, steps, guidance=1.0, **options):
    random = torch.Generator().manual_seed(0)
    return list(trace(model, [0, 2], steps, guidance, random, **options))


def test_a_few_step_head_walks_with_its_flow_map_by_default():
    model = few_step()
    found, named = run(model, 2)[-1].latent, run(model, 2, solver="flow-map")[-1].latent
    assert torch.equal(found, named)
    assert not torch.equal(found, run(model, 2, solver="euler")[-1].latent)  # velocities, span 0


def test_one_step_is_the_span_of_the_whole_stage():
    model = few_step(num_stages=1)
    start, end = run(model, 1, 2.0)
    head, labels = model.head, torch.tensor([0, 2])
    token_map, _ = model.transformer.step(0, None, labels, model.transformer.new_cache())
    asked = torch.zeros(2), labels, torch.ones(2), torch.full((2,), 2.0)
    mean = head(0, start.latent, head.read(token_map), head.modulations(0, *asked))
    torch.testing.assert_close(end.latent, start.latent + mean, atol=1e-6, rtol=0)


def test_guidance_costs_no_second_half():
    model = few_step()
    assert model.flops(2, 1.0) == model.flops(2, 3.0)
    guided, plain = run(model, 2, 3.0), run(model, 2, 1.0)
    assert sum(e.flops for e in guided) == sum(e.flops for e in plain)
    assert not torch.equal(guided[-1].latent, plain[-1].latent)
    random = torch.Generator().manual_seed(0)
    counted = count_flops(lambda: list(trace(model, [0], [4, 2], 3.0, random)))
    assert sum(map(sum, model.flops([4, 2], 3.0).values())) == pytest.approx(counted, rel=0.02)


def test_guidance_acts_in_its_interval_only():
    model = few_step()
    inside = run(model, 4, 3.0, guidance_interval=(0.0, 0.25))
    whole, none = run(model, 4, 3.0), run(model, 4, 1.0)
    assert torch.equal(inside[1].latent, whole[1].latent)  # the first step begins in it
    assert not torch.equal(inside[2].latent, whole[2].latent)
    assert not torch.equal(inside[-1].latent, none[-1].latent)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, 1.0), "3 steps in a stage: .* trained on 1, 2 and 4, use 2, or solver ab2"),
        (([4, 7], 1.0), "7 steps in a stage: .* use 4, or solver ab2"),
        ((2, 5.0), r"guidance 5 is outside .*: use 1 to 3.5"),
        ((2, 0.0), r"guidance 0 is outside .*: use 1 to 3.5"),
    ],
)
def test_what_the_head_was_not_trained_on_is_refused(arguments, words):
    with pytest.raises(EcarError, match=words):
        trace(few_step(), [0], *arguments)


def test_any_number_of_steps_goes_with_velocities():
    assert run(few_step(), 3, 2.0, solver="ab2")[-1].is_final


def test_a_head_without_spans_has_no_flow_map():
    with pytest.raises(EcarError, match=r"'flow-map' needs a few-step head, .* use ab2"):
        trace(tiny_model(), [0], solver="flow-map")
