"""The same seed makes the same image without torch; what the loop is told and says is the same."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ecar_lab.cost import guided_halves, guided_steps
from ecar_lab.interventions import stage_end_of, stage_noise
from ecar_lab.onnx import runtime
from ecar_lab.schedule import time_grid
from tests.exports import Pair

SEEDS = list(range(10))
DISTANCE = {"float32": 1e-3, "float16": 2e-2}
LEAST_PSNR = 40  # dB


def both(pair: Pair, weights: str, labels, seeds=SEEDS, **options):
    """The events of a run of torch, and of the same on an export."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    theirs = list(pair.torch.trace(labels, generator=generators, **options))
    ours = list(pair.onnx(weights).trace(labels, seeds=seeds, **options))
    assert len(ours) == len(theirs)
    return ours, theirs


def furthest(ours, theirs, name: str = "latent") -> float:
    """The largest difference between two runs in what an event has under a name."""
    pairs = zip(ours, theirs, strict=True)
    return max((getattr(a, name) - getattr(b, name)).abs().max().item() for a, b in pairs)


def psnr(image, wanted) -> float:
    """In dB, of images in [-1, 1]; the worst of a batch."""
    error = (image - wanted).div(2).square().mean((1, 2, 3)).clamp(min=1e-12)
    return -10 * error.log10().max().item()


@pytest.fixture(params=["tiny", "few_step"])
def pair(request) -> Pair:
    """A head of velocities and a few-step head."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("weights", DISTANCE)
def test_ten_seeds_make_the_same_images(pair, weights):
    labels = [seed % len(pair.torch.class_names) for seed in SEEDS]
    ours, theirs = both(pair, weights, labels)
    assert furthest(ours, theirs) <= DISTANCE[weights]
    assert furthest(ours, theirs, "clean_estimate") <= 2 * DISTANCE[weights]
    assert furthest(ours, theirs, "token_map") <= 2 * DISTANCE[weights]
    images = pair.onnx(weights).tokenizer.decode(ours[-1].latent)
    assert psnr(images, pair.torch.tokenizer.decode(theirs[-1].latent)) >= LEAST_PSNR


def test_int8_makes_images_of_the_same_kind(pair):
    ours, theirs = both(pair, "int8", [0, 1, 2], [0, 1, 2])
    distance = furthest(ours, theirs)
    print(f"int8: the latent is {distance:.3f} from torch's")
    assert 1e-3 < distance < 1, "eight bits cost something, and not everything"


@pytest.mark.parametrize(
    "options",
    [
        dict(solver="euler"),
        dict(solver="heun", guidance_scale=1.0),
        dict(num_inference_steps=1, guidance_scale=[1.0, 2.0]),
        dict(guidance_interval=(0.3, 0.9), time_power=2.0, renoise=False),
    ],
)
def test_whatever_a_run_is_asked_for_it_goes_the_same_way(tiny, options):
    ours, theirs = both(tiny, "float32", ["cat", 2], [3, 4], **options)
    assert furthest(ours, theirs) <= DISTANCE["float32"]
    assert furthest(ours, theirs, "clean_estimate") <= DISTANCE["float32"]


@pytest.mark.parametrize(
    "options",
    [
        dict(num_inference_steps=[4, 1], guidance_scale=3.0),
        dict(solver="ab2", num_inference_steps=3, guidance_interval=(0.0, 0.5)),
        dict(solver="heun", guidance_scale=2.0),
    ],
)
def test_a_few_step_head_is_told_the_same_spans_and_guidance(few_step, options):
    ours, theirs = both(few_step, "float32", ["cat", 2], [3, 4], **options)
    assert furthest(ours, theirs) <= DISTANCE["float32"]


def test_an_event_says_what_that_of_trace_says(pair):
    ours, theirs = both(pair, "float32", [0, 1], [0, 1])
    for name in ("stage", "step", "num_steps", "local_time", "t", "guidance", "num_stages"):
        assert [getattr(a, name) for a in ours] == [getattr(b, name) for b in theirs], name
    for name in ("flops", "cache_bytes"):
        assert [getattr(a, name) for a in ours] == [getattr(b, name) for b in theirs], name
    for a, b in zip(ours, theirs, strict=True):
        assert (a.velocity_norm is None) == (b.velocity_norm is None)
        if a.velocity_norm is not None:
            torch.testing.assert_close(a.velocity_norm, b.velocity_norm, atol=1e-4, rtol=1e-4)
        assert [end.shape for end in a.history] == [end.shape for end in b.history]
        assert torch.equal(a.class_labels, b.class_labels)
        assert a.seconds > 0


def test_noise_that_is_given_takes_the_place_of_the_seeds(tiny):
    noise = {0: torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))}
    ours, theirs = both(tiny, "float32", [0], [0], noise=noise)
    assert furthest(ours, theirs) <= DISTANCE["float32"]
    assert torch.equal(ours[0].latent, noise[0])


def test_an_image_is_the_same_alone_and_in_a_crowd(few_step):
    pipe = few_step.onnx("float32")
    *_, crowd = pipe.trace([0, 1, 2, 0, 1], seeds=[0, 1, 2, 3, 4])
    *_, alone = pipe.trace([1], seeds=[4])
    torch.testing.assert_close(alone.latent[0], crowd.latent[4], atol=1e-4, rtol=0)


def test_a_run_goes_on_from_a_stage_that_a_picture_has_decided(pair):
    """As ``trace(start_from=stage_end_of(...))`` does, with the noise of the same seeds."""
    pipe, seeds, labels = pair.onnx("float32"), [3, 4], [2, 0]
    model = pair.torch.model
    drawn = [stage_noise(model, seed) for seed in seeds]
    noise = [torch.cat(stage) for stage in zip(*drawn, strict=True)]
    latent = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    start = stage_end_of(model, latent, 0, labels, noise)
    theirs = list(pair.torch.trace(labels, start_from=start, noise=dict(enumerate(noise))))
    settings = dataclasses.replace(
        pipe.settings(labels, seeds=seeds, noise=dict(enumerate(noise))),
        start_from=runtime.StageEnd((start.latent.numpy(),), start.clean_estimate.numpy()),
    )
    ours = list(runtime.Sampler(pipe.exported, settings).run())
    assert [(e.stage, e.step) for e in ours] == [(e.stage, e.step) for e in theirs]
    for mine, yours in zip(ours, theirs, strict=True):
        for name in ("latent", "clean_estimate"):
            distance = abs(getattr(mine, name) - getattr(yours, name).numpy()).max()
            assert distance <= DISTANCE["float32"], name


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.6)])
def test_the_formulas_that_the_loop_has_of_its_own_are_the_kits(steps, scale, interval):
    for power in (1.0, 1.7):
        assert runtime.time_grid(steps, power) == time_grid(steps, power)
        asked = (steps, scale, interval, power)
        assert runtime.guided_steps(*asked) == guided_steps(*asked)
        guided = [guided_steps(*asked), guided_steps(steps, 1.0, interval, power)]
        for turn in (guided, guided[::-1]):
            for mode in ("velocity", "few-step"):
                ours = runtime.guided_halves(mode == "few-step", turn)
                assert ours == guided_halves({"mode": mode}, turn)


def test_the_loop_runs_where_torch_cannot_be_imported(tiny):
    """In a process of its own, in which torch is forbidden."""
    folder = tiny.folder("float32")
    code = f"""
import sys
sys.modules["torch"] = None
from ecar_lab.onnx.exported import Exported
from ecar_lab.onnx.runtime import Sampler, Settings
settings = Settings([0], [5], [3, 4], [2.0, 3.0], [(0.0, 1.0), (0.0, 0.5)], [1.0, 1.3], "ab2")
*_, last = Sampler(Exported({str(folder)!r}, threads=1), settings).run()
print(last.latent.ravel().tolist())
"""
    root = Path(runtime.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    drawn = torch.tensor([float(number) for number in done.stdout.strip("[]\n ").split(",")])
    *_, last = tiny.torch.trace([0], generator=torch.Generator().manual_seed(5))
    assert (drawn - last.latent.ravel()).abs().max() <= DISTANCE["float32"]
