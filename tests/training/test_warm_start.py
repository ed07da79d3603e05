"""Beginning with the weights of a checkpoint: the same images, other classes, what does not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ecar_lab import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import load_tokenizer
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
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(checkpoint, changes, words):
    old = tiny_model()
    model = type(old)(**{**old.config, **changes})
    with pytest.raises(EcarError, match=words):
        warm_start(model, checkpoint)


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
