"""What a model will be sampled with is checked before its first step, as sampling checks it."""

from pathlib import Path

import pytest

from ecar_lab import EcarError, trace
from ecar_lab.baselines import DiT
from ecar_lab.training.checkpoints import list_checkpoints
from ecar_lab.training.model import train_model
from tests.conftest import tiny_model
from tests.training.runs import TINY, config, cut_back

OWN = "the model's own defaults of sampling: "


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ({"guidance_interval": [0.5, 0.1]}, "guidance_interval 0.5 to 0.1 ends before it begins"),
        ({"time_power": [1, 2, 3]}, "time_power has 3 values for 2 stages"),
        ({"time_power": 100.0}, "time_power 100: use 1 for even steps"),
        ({"guidance_scale": 500}, "guidance 500 leaves nothing of the image"),
        ({"num_inference_steps": [0, 4]}, "0 flow steps: every stage needs"),
        ({"mode": "few-step"}, "8 steps in a stage: the few-step head was trained on 1, 2 and 4"),
    ],
)
def test_defaults_that_nobody_can_sample_with_are_refused(tmp_path: Path, defaults, words):
    run = tmp_path / "run"
    with pytest.raises(EcarError, match=OWN + words):
        train_model(config(run, model={**TINY, **defaults}))
    assert not run.exists()


def test_settings_of_pictures_that_cannot_be_made_are_refused(tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(EcarError, match="sample_guidance: guidance 101 leaves nothing of the im"):
        train_model(config(run, sample_every=4, sample_guidance=101.0))
    assert not run.exists()
    train_model(config(run, sample_every=0, sample_guidance=101.0, steps=1))  # there are none


def test_noise_prediction_refuses_at_the_call_what_it_is_not_made_for():
    model = DiT(4, 3, 2, 3, num_layers=1, num_heads=2, head_dim=8, objective="epsilon")
    for asked, words in (
        ({"time_power": 2.0}, "time_power 2 is not made for noise prediction"),
        ({"solver": "heun"}, "solver 'heun' is not made for noise prediction"),
        ({"num_inference_steps": 2000}, "2000 steps of DDIM: there are 1000 levels"),
    ):
        with pytest.raises(EcarError, match=words):
            model.trace([0], **asked)
    model.trace([0], 1000)


def test_an_old_model_with_such_defaults_is_still_loaded_and_sampled_with_others(tmp_path: Path):
    tiny_model(guidance_scale=500.0, time_power=[1.0, 2.0, 3.0]).save_pretrained(tmp_path)
    model = type(tiny_model()).from_pretrained(tmp_path)
    assert list(trace(model, [0], 1, 1.0, time_power=1.0))[-1].is_final


def test_defaults_of_sampling_may_be_mended_on_the_way(undisturbed: Path, tmp_path: Path):
    run = cut_back(undisturbed, tmp_path / "run", 6)
    with pytest.raises(EcarError, match=r"trained with model .*, this run has"):
        train_model(config(run, model={**TINY, "history": "none"}))
    train_model(config(run, model={**TINY, "guidance_scale": 2.0, "time_power": 1.5}))
    assert list_checkpoints(run)[-1].name == "step-00000008"
