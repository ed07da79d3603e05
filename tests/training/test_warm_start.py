"""Beginning with the weights of a checkpoint: the same images, other classes, what does not fit."""

import inspect
import json
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ecar_lab import EcarError
from ecar_lab.baselines import CodeAR
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import load_tokenizer
from ecar_lab.training import model as training
from ecar_lab.training import warm_start as beginning
from ecar_lab.training.checkpoints import list_checkpoints
from ecar_lab.training.model import train_model
from ecar_lab.training.warm_start import warm_start
from tests.conftest import tiny_model
from tests.training.runs import TINY, config


@pytest.fixture
def checkpoint(tmp_path):
    """A saved tiny pipeline: classes cat, dog, frog; three latent channels."""
    pipeline = ECARPipeline(tiny_model(), load_tokenizer("identity"))
    pipeline.save_pretrained(tmp_path / "old", safe_serialization=True)
    return tmp_path / "old"


def test_the_same_model_has_the_same_weights(checkpoint):
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    warm_start(model, checkpoint)
    for name, tensor in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_classes_are_known_by_name(checkpoint):
    old = tiny_model()
    names = ["frog", "horse", "cat", "ship"]
    model = type(old)(**{**old.config, "num_classes": 4, "class_names": names})
    warm_start(model, checkpoint)
    for new, before in zip(model.class_embeddings, old.class_embeddings, strict=True):
        wanted = before.weight[[2, 3, 0, 3, 3]]  # 3: no class, also for classes not known yet
        assert torch.equal(new.weight, wanted)


def test_another_tokenizer_than_the_checkpoints_is_said(checkpoint, caplog):
    own, other = load_tokenizer("identity"), load_tokenizer("identity")
    other.fit_statistics([torch.rand(8, 3, 8, 8)])
    warm_start(tiny_model(), checkpoint, tokenizer=own)
    assert "another tokenizer" not in caplog.text
    warm_start(tiny_model(), checkpoint, tokenizer=other)
    assert "the weights of old know the latents of another tokenizer" in caplog.text


def test_a_part_that_begins_at_zero_may_be_new(checkpoint):
    old = tiny_model()
    model = type(old)(**{**old.config, "local_mixing": True})
    warm_start(model, checkpoint)
    assert torch.equal(model.head.out.weight, old.head.out.weight)
    assert not model.head.blocks[0].mix.conv.weight.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_channels": 5}, r"latents of 3 channels, this run's tokenizer gives 5: .*--tok"),
        ({"width": 64}, r"has the shape .* in the checkpoint 'old' .* train with the preset and"),
        ({"transformer_layers": 2}, r"transformer.blocks.1.* has the shape none"),
        ({"width": 64, "num_heads": 4}, r"has the shape .* train with the preset and"),
        ({"num_heads": 4}, r"has num_heads 2, this run's model 4, .* --model '{\"num_heads\": 2}'"),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(checkpoint, changes, words):
    old = tiny_model()
    model = type(old)(**{**old.config, **changes})
    with pytest.raises(EcarError, match=words):
        warm_start(model, checkpoint)


# Another value for every argument of an E-CAR that decides on what its weights mean.
OTHERS = dict(
    latent_size=16, latent_channels=5, patch_size=1, num_stages=1, window_ends=[0.3, 1.0],
    coupling="correlated", stage_ratio=4, history="none", width=64, num_heads=4,
    transformer_layers=2, head_layers=2, attention_window=2, mode="few-step", mlp="swiglu",
    norm="rms",
)  # fmt: skip
# Those of the classes, which are known by name; of sampling; and parts that begin at zero.
HARMLESS = {
    *("self", "num_classes", "class_names", "local_mixing", "long_skips"),
    *("num_inference_steps", "guidance_scale", "guidance_interval", "time_power"),
}


def test_no_argument_that_changes_what_the_weights_mean_is_taken_in_silence(
    checkpoint, monkeypatch, caplog
):
    assert set(OTHERS) == set(inspect.signature(ECAR.__init__).parameters) - HARMLESS
    old = tiny_model()
    pipeline = SimpleNamespace(model=old, tokenizer=None)
    monkeypatch.setattr(beginning, "load_pipeline", lambda folder, dtype: pipeline)
    for name, value in OTHERS.items():
        caplog.clear()
        try:
            warm_start(ECAR(**{**old.config, name: value}), checkpoint)
        except EcarError:
            continue
        assert f"{name} was {old.config[name]} in old, and is {value} now" in caplog.text


def test_a_model_over_codes_keeps_those_of_its_own_tokenizer(checkpoint, monkeypatch):
    def fresh() -> CodeAR:
        return CodeAR(
            latent_size=4, latent_channels=3, num_classes=3, codebook_size=8, width=32,
            num_heads=2, transformer_layers=1, head_width=16, head_layers=1,
        )  # fmt: skip

    old, new = fresh(), fresh()
    codes = new.codebook.bits.clone()
    pipeline = SimpleNamespace(model=old, tokenizer=None)
    monkeypatch.setattr(beginning, "load_pipeline", lambda folder, dtype: pipeline)
    warm_start(new, checkpoint)
    assert torch.equal(new.codebook.table.weight, old.codebook.table.weight)
    assert torch.equal(new.codebook.bits, codes)


def test_another_architecture_is_refused(checkpoint):
    from ecar_lab.baselines import build

    shape = {name: tiny_model().config[name] for name in ("latent_size", "latent_channels")}
    model = build("dit", {**TINY, **shape, "num_classes": 3})
    with pytest.raises(EcarError, match="is a ECAR, this run trains a DiT"):
        warm_start(model, checkpoint)


def test_a_run_begins_with_the_checkpoint_and_its_tokenizer(tmp_path):
    first = train_model(config(tmp_path / "first", steps=2))
    again = config(
        tmp_path / "again", steps=1, lr=1e-9, tokenizer="", init_from=str(first / "final")
    )
    run = train_model(again)
    before = load_file(first / "final" / "model" / "diffusion_pytorch_model.safetensors")
    after = load_file(list_checkpoints(run)[-1] / "model.safetensors")
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor.float(), atol=1e-6, rtol=0)
    names = [json.loads((r / "final/tokenizer/config.json").read_text()) for r in (first, run)]
    assert names[0] == names[1]


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(EcarError, match="there is no checkpoint 'nowhere'"):
        train_model(config(tmp_path / "run", init_from="nowhere"))


def refuse(*args, **kwargs):
    raise AssertionError("a run that goes on has weights of its own")


def test_a_run_that_goes_on_keeps_what_it_began_with(tmp_path, undisturbed, monkeypatch, caplog):
    source = str(undisturbed / "final")
    caplog.set_level("INFO")
    settings = dict(tokenizer="")  # the checkpoint's, which is not the preset's
    run = train_model(config(tmp_path / "run", steps=2, init_from=source, **settings))
    assert "the model begins with the weights of" in caplog.text
    monkeypatch.setattr(training, "warm_start", refuse)
    for number, init_from in enumerate(("", source)):
        train_model(config(run, steps=3 + number, init_from=init_from, **settings))
        for record in ("config.json", "final/training.json"):
            assert json.loads((run / record).read_text())["init_from"] == source
    with pytest.raises(EcarError, match=f"began with the weights of '{source}', .* of init_from"):
        train_model(config(run, init_from=str(undisturbed), **settings))


def test_a_run_that_began_without_a_checkpoint_takes_none_later(tmp_path, undisturbed, caplog):
    words = "step-00000008' began with random weights, .*: leave init_from out .* --resume none"
    source = undisturbed / "final"
    caplog.set_level("INFO")
    before = (source / "training.json").read_bytes()
    for where in (dict(output=str(undisturbed)), dict(resume=str(undisturbed))):
        settings = {"output": str(tmp_path / "run"), **where, "init_from": str(source)}
        with pytest.raises(EcarError, match=words):
            train_model(config(Path(settings.pop("output")), **settings))
    assert (source / "training.json").read_bytes() == before
    assert "the model begins with the weights of" not in caplog.text


def test_a_run_may_outlive_the_checkpoint_that_it_began_with(tmp_path, undisturbed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = copytree(undisturbed / "final", tmp_path / "source")
    copytree(source / "tokenizer", tmp_path / "runs/digits-tokenizer/final")
    settings = dict(steps=2, tokenizer="")
    run = train_model(config(tmp_path / "run", init_from=str(source), **settings))
    source.rename(tmp_path / "elsewhere")
    train_model(config(run, **settings))
    assert json.loads((run / "config.json").read_text())["init_from"] == str(source)


def test_what_no_checkpoint_can_say_is_left_to_the_resume(tmp_path, undisturbed):
    run = copytree(undisturbed, tmp_path / "run")
    for folder in list_checkpoints(run):
        (folder / "state.json").write_text("{")
    with pytest.raises(EcarError, match="none of the 4 checkpoints is sound"):
        train_model(config(run, init_from=str(undisturbed / "final")))
