"""The pipeline: the words of diffusers, the images of the trace."""

import json
import shutil

import numpy as np
import pytest
import torch

from ecar_lab import EcarError, ECARPipeline


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_trace_and_pipeline_agree_bit_for_bit(tiny_pipeline):
    latent = tiny_pipeline(["cat", 2], 3, 2.0, generator(), output_type="latent").images
    *_, last = tiny_pipeline.trace(["cat", 2], 3, 2.0, generator())
    assert torch.equal(latent, last.latent)


def test_output_types_show_the_same_images(tiny_pipeline):
    pil, array, tensor = (
        tiny_pipeline(["cat", 2], 2, generator=generator(), output_type=kind).images
        for kind in ("pil", "np", "pt")
    )
    assert tensor.shape == (2, 3, 8, 8)
    assert 0 <= tensor.min() <= tensor.max() <= 1
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(np.asarray(pil[1]) / 255, array[1], atol=1 / 255)
    assert isinstance(tiny_pipeline("cat", 1, return_dict=False), tuple)


def test_the_callback_sees_every_flow_step_and_can_stop(tiny_pipeline):
    seen = []

    def watch(pipe, index, t, kwargs):
        seen.append((index, round(t, 3), tuple(kwargs["latents"].shape)))
        pipe._interrupt = index == 3
        return kwargs

    tiny_pipeline("cat", [2, 3], generator=generator(), callback_on_step_end=watch)
    assert [s[0] for s in seen] == [0, 1, 2, 3]
    assert seen[1][2] == (1, 3, 4, 4)
    assert seen[2][2] == (1, 3, 8, 8)


def test_what_a_callback_returns_goes_on_to_the_next_step(tiny_pipeline):
    def blank(pipe, index, t, kwargs):
        return {"latents": torch.zeros_like(kwargs["latents"])} if index == 4 else kwargs

    latent = tiny_pipeline(
        "cat", [2, 3], generator=generator(), output_type="latent", callback_on_step_end=blank
    ).images
    assert not latent.any()


def test_save_and_load_give_the_same_images_and_pickle_nothing(tiny_pipeline, tmp_path):
    before = tiny_pipeline(["cat"], 2, generator=generator(), output_type="pt").images
    tiny_pipeline.save_pretrained(tmp_path / "again")
    files = {p.suffix for p in (tmp_path / "again").rglob("*") if p.is_file()}
    assert files <= {".json", ".safetensors"}
    again = ECARPipeline.from_pretrained(tmp_path / "again")
    assert torch.equal(before, again(["cat"], 2, generator=generator(), output_type="pt").images)


def test_a_checkpoint_from_before_a_class_moved_still_loads(
    tiny_pipeline, tiny_checkpoint, tmp_path
):
    shutil.copytree(tiny_checkpoint, tmp_path / "old")
    file = tmp_path / "old" / "model_index.json"
    index = json.loads(file.read_text("utf-8"))
    index["tokenizer"] = ["ecar_lab.tokenizer", index["tokenizer"][1]]
    file.write_text(json.dumps(index), "utf-8")
    old = ECARPipeline.from_pretrained(tmp_path / "old")
    a, b = (pipe([1], 2, generator=generator(), output_type="pt") for pipe in (old, tiny_pipeline))
    assert torch.equal(a.images, b.images)


def test_defaults_come_from_the_checkpoint(tiny_pipeline):
    *_, last = tiny_pipeline.trace("cat")
    assert last.num_steps == tiny_pipeline.model.config.num_inference_steps


def test_bfloat16_weights_give_nearly_the_same_image(tiny_checkpoint, tiny_pipeline):
    half = ECARPipeline.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    a = tiny_pipeline(["cat"], 2, 2.0, generator(), output_type="latent").images
    b = half(["cat"], 2, 2.0, generator(), output_type="latent").images
    assert b.dtype == torch.float32
    assert (a - b).abs().mean() / a.abs().mean() < 0.05


@pytest.fixture
def broken(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "broken")


def test_a_truncated_file_is_one_sentence(broken):
    file = next((broken / "model").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(EcarError, match=r"cannot be loaded .*: fetch or train it again"):
        ECARPipeline.from_pretrained(broken)


def test_weights_of_another_shape_are_one_sentence(broken):
    file = broken / "model" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "width": 64}))
    with pytest.raises(EcarError, match="cannot be loaded"):
        ECARPipeline.from_pretrained(broken)


def test_a_missing_checkpoint_lists_those_there_are():
    with pytest.raises(EcarError, match="there is no checkpoint 'nowhere'"):
        ECARPipeline.from_pretrained("nowhere")


def test_an_unknown_output_type_is_named(tiny_pipeline):
    with pytest.raises(EcarError, match="output_type 'jpg' is unknown"):
        tiny_pipeline("cat", output_type="jpg")
    with pytest.raises(EcarError, match="only latents are offered"):
        tiny_pipeline("cat", callback_on_step_end_tensor_inputs=["prompt"])


def test_model_and_tokenizer_have_to_fit(tiny_pipeline):
    from ecar_lab import ConvTokenizer

    with pytest.raises(EcarError, match="4 latent channels, the model 3"):
        ECARPipeline(tiny_pipeline.model, ConvTokenizer(latent_channels=4, width=16))


def test_a_file_that_lacks_a_weight_is_one_sentence(broken):
    from safetensors.torch import load_file, save_file

    file = next((broken / "model").glob("*.safetensors"))
    weights = load_file(file)
    weights.pop("head.out.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(EcarError, match=r"head.out.weight.*: fetch or train it again"):
        ECARPipeline.from_pretrained(broken)
