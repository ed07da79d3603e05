"""The pipeline: the words of diffusers, the images of the trace."""

import copy
import json
import pickle
import shutil
import threading
from types import SimpleNamespace

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


@pytest.mark.parametrize("solver", ["ab2", "euler"])
def test_a_change_in_place_is_one_that_was_returned(tiny_pipeline, solver):
    """Also for a solver with a memory, which knows nothing of the changed latent."""

    def returned(pipe, index, t, kwargs):
        return {"latents": kwargs["latents"] * 0.5}

    def in_place(pipe, index, t, kwargs):
        kwargs["latents"].mul_(0.5)

    options = dict(output_type="latent", solver=solver)
    ends = [
        tiny_pipeline("cat", 3, generator=generator(), callback_on_step_end=act, **options).images
        for act in (returned, in_place)
    ]
    assert torch.equal(*ends)


def test_save_and_load_give_the_same_images_and_pickle_nothing(tiny_pipeline, tmp_path):
    before = tiny_pipeline(["cat"], 2, generator=generator(), output_type="pt").images
    tiny_pipeline.save_pretrained(tmp_path / "again")
    files = {p.suffix or p.name for p in (tmp_path / "again").rglob("*") if p.is_file()}
    assert files == {".json", ".safetensors", "SHA256SUMS", ".py"}
    code = [p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*.py")]
    assert list(map(str, code)) == ["pipeline.py"]  # for diffusers; the kit never reads it
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
    """A copy without checksums, which would notice the damage before anything else does."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    (folder / "SHA256SUMS").unlink()
    return folder


def test_a_truncated_file_is_one_sentence(broken):
    file = next((broken / "model").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(EcarError, match="cannot be loaded, they are missing, cut short"):
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


def test_a_callback_stops_its_own_call_and_no_other_thread(tiny_pipeline):
    """Both calls are under way when one of them stops."""
    tiny_pipeline.set_progress_bar_config(disable=True)
    both_run, one_stopped, results = threading.Barrier(2), threading.Event(), {}

    def watch(name):
        def callback(pipe, index, t, kwargs):
            if index == 0:
                both_run.wait(timeout=60)
            if name == "stopped":
                pipe._interrupt = True
                one_stopped.set()
            else:
                one_stopped.wait(timeout=60)

        return callback

    def call(name):
        options = dict(output_type="latent", callback_on_step_end=watch(name))
        results[name] = tiny_pipeline("cat", 2, generator=generator(), **options).images

    threads = [threading.Thread(target=call, args=(name,)) for name in ("stopped", "whole")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results["stopped"].shape == (1, 3, 4, 4)
    alone = tiny_pipeline("cat", 2, generator=generator(), output_type="latent").images
    assert torch.equal(results["whole"], alone)
    assert not tiny_pipeline._interrupt


def test_another_thread_stops_the_only_call_and_a_call_in_a_callback_is_its_own(tiny_pipeline):
    tiny_pipeline.set_progress_bar_config(disable=True)
    inner = []

    def from_elsewhere(pipe, index, t, kwargs):
        stop = threading.Thread(target=setattr, args=(pipe, "_interrupt", True))
        stop.start()
        stop.join()

    def nested(pipe, index, t, kwargs):
        options = dict(output_type="latent", callback_on_step_end=stop_at_once)
        inner.append(pipe("dog", 1, **options).images.shape)

    def stop_at_once(pipe, index, t, kwargs):
        pipe._interrupt = True

    options = dict(output_type="latent", callback_on_step_end=from_elsewhere)
    assert tiny_pipeline("cat", 2, **options).images.shape == (1, 3, 4, 4)
    options["callback_on_step_end"] = nested
    assert tiny_pipeline("cat", 1, **options).images.shape == (1, 3, 8, 8)
    assert inner == [(1, 3, 4, 4)] * 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda latents: True, "the callback returned True: return the dict"),
        (lambda latents: latents, r"the callback returned tensor\(.*: return the dict"),
        (lambda latents: {"latent": latents}, "return the dict that it was given"),
        (lambda latents: {"latents": latents.numpy()}, "is ndarray: it must be a float tensor"),
        (lambda latents: {"latents": latents[:1]}, r"is \(1, 3, 4, 4\): it must be \(2, 3, 4, 4\)"),
        (lambda latents: {"latents": latents.long()}, "is torch.int64: it must be a float"),
        (lambda latents: {"latents": latents * torch.nan}, "sent back is not finite"),
    ],
)
def test_what_a_callback_must_not_return_is_one_sentence(tiny_pipeline, reply, words):
    with pytest.raises(EcarError, match=words):
        tiny_pipeline(
            ["cat", 1], 1, callback_on_step_end=lambda pipe, i, t, kwargs: reply(kwargs["latents"])
        )


def test_a_callback_may_return_nothing_or_the_same_in_any_float_type(tiny_pipeline):
    def run(reply):
        callback = lambda pipe, i, t, kwargs: reply(kwargs)  # noqa: E731
        options = dict(generator=generator(), output_type="latent", callback_on_step_end=callback)
        return tiny_pipeline("cat", 1, **options).images

    plain = run(lambda kwargs: None)
    assert torch.equal(plain, run(lambda kwargs: kwargs))
    assert torch.equal(plain, run(lambda kwargs: {"latents": kwargs["latents"].double()}))
    assert plain.dtype == torch.float32


@pytest.mark.parametrize("inputs", [None, "latents", ["latents"], ()])
def test_the_inputs_of_a_callback_may_be_left_open(tiny_pipeline, inputs):
    seen = []
    tiny_pipeline(
        "cat",
        1,
        callback_on_step_end=lambda pipe, i, t, kwargs: seen.append(sorted(kwargs)),
        callback_on_step_end_tensor_inputs=inputs,
    )
    assert seen == [[] if inputs == () else ["latents"]] * 2


def test_several_images_per_label_and_a_start_of_ones_own(tiny_pipeline):
    def images(labels, **options):
        return tiny_pipeline(labels, 1, output_type="latent", **options).images

    seeds = [generator(number) for number in range(4)]
    several = images(["cat", "dog"], num_images_per_prompt=np.int64(2), generator=seeds)
    alone = images("dog", generator=generator(2))
    torch.testing.assert_close(several[2:3], alone, atol=1e-4, rtol=0)
    start = torch.randn(1, 3, 4, 4, generator=generator(5))
    mine = images("cat", latents=start, generator=generator(0), height=8, width=8)
    noise = {0: start}
    assert torch.equal(mine, images("cat", noise=noise, generator=generator(0)))
    with pytest.raises(EcarError, match="latents and noise of stage 0 are the same"):
        images("cat", latents=start, noise=noise)
    with pytest.raises(EcarError, match=r"noise of stage 0 is \(1, 3, 8, 8\): it must be"):
        images("cat", latents=torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"height": 16}, "height: this model makes images of 8 px"),
        ({"prompt": "cat"}, "'prompt': name classes with class_labels"),
        ({"negative_prompt": "dog"}, "'negative_prompt': guidance_scale leads away"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt 0: use a whole number"),
        ({"guidance": 2.0}, "'guidance': use guidance_scale"),
        ({"num_inference_step": 2}, "'num_inference_step': use num_inference_steps"),
        ({"seed": 1}, r"'seed': use generator=torch.Generator\(\).manual_seed\(seed\)"),
        ({"generator": 0}, r"generator 0 is no torch.Generator: use .*manual_seed\(0\)"),
        ({"guidance_scale": 1e30}, "guidance 1e\\+30 leaves nothing of the image"),
        ({"output_type": "numpy"}, "output_type 'numpy' is unknown: use pil, np"),
        ({"output_type": None}, "output_type None is unknown"),
        ({"callback_on_step_end": 5}, "callback_on_step_end is 5: give a function"),
        ({"callback_on_step_end_tensor_inputs": 5}, "cannot have 5: only latents"),
        ({"class_labels": None}, r"no class was given: name at least one, class_labels="),
    ],
)
def test_arguments_of_other_pipelines_are_answered(tiny_pipeline, options, words):
    with pytest.raises(EcarError, match=words):
        tiny_pipeline(**{"class_labels": "cat", "num_inference_steps": 1, **options})


def test_a_neutral_argument_of_another_pipeline_changes_nothing(tiny_pipeline):
    out = tiny_pipeline("cat", 1, output_type="PIL", negative_prompt=None, clip_skip=None)
    assert out.images[0].size == (8, 8)


def test_a_pipeline_from_a_pipeline_shares_its_parts_and_casts_nothing(tiny_checkpoint):
    for kind in (torch.float32, torch.bfloat16):
        pipe = ECARPipeline.from_pretrained(tiny_checkpoint, dtype=kind)
        for again in (ECARPipeline.from_pipe(pipe), ECARPipeline(**pipe.components)):
            assert again.model is pipe.model
            assert again.model.dtype == kind
    with pytest.raises(EcarError, match=r"is no pipeline: load it with from_pretrained first"):
        ECARPipeline.from_pipe(SimpleNamespace(config={}, components={}, dtype=None))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_weights_kept_in_eight_bits_compute_nearly_the_same(tiny_pipeline, compute):
    whole = tiny_pipeline("cat", 2, generator=generator(), output_type="latent").images
    tiny_pipeline.model.enable_layerwise_casting(torch.float8_e4m3fn, compute)
    stored = {parameter.dtype for parameter in tiny_pipeline.model.parameters()}
    assert torch.float8_e4m3fn in stored
    near = tiny_pipeline("cat", 2, generator=generator(), output_type="latent").images
    assert (near - whole).abs().mean() < 0.2 * whole.abs().mean()


@pytest.mark.parametrize("move", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_a_copy_of_a_pipeline_makes_the_same_images(tiny_pipeline, move):
    a, b = (
        pipe("cat", 1, generator=generator(), output_type="latent").images
        for pipe in (tiny_pipeline, move(tiny_pipeline))
    )
    assert torch.equal(a, b)


def test_moving_works_by_name_or_says_what_there_is(tiny_pipeline):
    assert tiny_pipeline.to("bfloat16").dtype == torch.bfloat16
    assert tiny_pipeline.to(dtype="float16", device="cpu").dtype == torch.float16
    assert tiny_pipeline("cat", 1, output_type="pt").images.isfinite().all()
    for place in ("abacus", torch.int8):
        with pytest.raises(EcarError, match=r"the pipeline cannot go to .*: use cpu, a GPU"):
            tiny_pipeline.to(place)
    with pytest.raises(EcarError, match="enable_model_cpu_offload"):
        tiny_pipeline.enable_sequential_cpu_offload(device="cpu")
    tiny_pipeline.enable_model_cpu_offload(device="cpu")
    assert tiny_pipeline("cat", 1, output_type="pt").images.isfinite().all()
    with pytest.raises(EcarError, match="the device meta holds no weights"):
        tiny_pipeline.model.to("meta").class_ids("cat")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory"), None])
def test_memory_that_runs_out_is_one_sentence(tiny_pipeline, monkeypatch, error):
    def full(*_args, **_options):
        raise error or RuntimeError("something else")

    monkeypatch.setattr(type(tiny_pipeline.tokenizer), "decode", full)
    if error is None:
        with pytest.raises(RuntimeError, match="something else"):
            tiny_pipeline([0], 1)
    else:
        with pytest.raises(EcarError, match="ran out of memory: ask for fewer images at a time"):
            tiny_pipeline([0], 1)
