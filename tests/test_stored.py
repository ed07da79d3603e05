"""What is loaded is what was saved, or one sentence says what lies there and what to do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file, save_file

import ecar_lab
from ecar_lab import ECAR, ConvTokenizer, EcarError, ECARPipeline, IdentityTokenizer, load_tokenizer
from ecar_lab.baselines import DiT, load_pipeline, make_pipeline
from ecar_lab.home import checkpoints_root
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.model import find_tokenizer
from tests.conftest import tiny_model

WEIGHTS = "diffusion_pytorch_model.safetensors"


def seed(number):
    return torch.Generator().manual_seed(number)


def latent(pipe):
    return pipe([0], 1, generator=seed(0), output_type="latent").images


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "final")


def change_weights(folder, change):
    """Writes the weights anew; the checksums go, as if somebody had meant it."""
    (folder.parent / "SHA256SUMS").unlink(missing_ok=True)
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder, **entries):
    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8")) | entries
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}), "utf-8")


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_a_flipped_bit_is_noticed_however_the_weights_are_loaded(folder, part):
    content = bytearray((folder / part / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (folder / part / WEIGHTS).write_bytes(content)
    loaders = [lambda: ECARPipeline.from_pretrained(folder), lambda: load_pipeline(folder)]
    if part == "model":
        loaders.append(lambda: ECAR.from_pretrained(folder, subfolder="model"))
    else:
        loaders.append(lambda: load_tokenizer(folder))
    for load in loaders:
        with pytest.raises(EcarError, match=r"not the file that was saved: .* delete SHA256SUMS"):
            load()


def test_a_checkpoint_without_checksums_and_hash_still_loads(folder, tiny_pipeline):
    (folder / "SHA256SUMS").unlink()
    change_config(folder / "model", _tokenizer_hash="gone")
    assert torch.equal(latent(ECARPipeline.from_pretrained(folder)), latent(tiny_pipeline))


@pytest.mark.parametrize(
    "name",
    [
        *("cifar10", "cifar10-dit", "cifar10-turbo", "digits"),
        *("imagenette64", "imagenette128", "imagenette128-turbo"),
    ],
)
def test_shipped_weights_have_their_checksums(name):
    lines = (checkpoints_root() / name / "SHA256SUMS").read_text("utf-8").splitlines()
    listed = {line[66:] for line in lines}
    assert {f"model/{WEIGHTS}", f"tokenizer/{WEIGHTS}", "model_index.json"} <= listed


@pytest.mark.parametrize(
    ("name", "factor", "channels"), [("imagenette64", 4, 8), ("imagenette128", 8, 16)]
)
def test_a_shipped_tokenizer_is_what_its_preset_trains_on(name: str, factor: int, channels: int):
    tokenizer = load_tokenizer(name)
    assert (tokenizer.downsample_factor, tokenizer.latent_channels) == (factor, channels)
    found = find_tokenizer(ModelTrainConfig.from_preset(name))
    assert Path(found) == checkpoints_root() / name / "tokenizer"


def test_a_folder_with_a_tokenizer_and_no_model_is_said_to_be_one(folder):
    shutil.rmtree(folder / "model")
    (folder / "model_index.json").unlink()
    with pytest.raises(EcarError, match="holds a tokenizer and no model"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda old: torch.full_like(old, torch.nan), "holds numbers that are not finite"),
        (lambda old: old / 0, "holds numbers that are not finite"),
        (lambda old: old.to(torch.int8), r"is stored in whole numbers \(I8\)"),
        (lambda old: old > 0, r"is stored in whole numbers \(BOOL\)"),
    ],
)
def test_weights_that_are_not_finite_or_not_floating_are_refused(folder, value, words):
    change_weights(
        folder / "model", lambda all_: all_.update({"head.out.bias": value(all_["head.out.bias"])})
    )
    with pytest.raises(EcarError, match=rf"head.out.bias {words}"):
        ECARPipeline.from_pretrained(folder)


@pytest.mark.parametrize("options", [{}, {"low_cpu_mem_usage": False}])
def test_a_missing_weight_is_never_made_up_and_an_unknown_one_never_dropped(folder, options):
    change_weights(folder / "model", lambda all_: all_.pop("head.out.bias"))
    with pytest.raises(EcarError, match=r"head.out.bias is missing"):
        ECARPipeline.from_pretrained(folder, **options)
    change_weights(
        folder / "model",
        lambda all_: all_.update({"head.out.bias": torch.zeros(12), "more": torch.ones(1)}),
    )
    with pytest.raises(EcarError, match="more is too much"):
        ECARPipeline.from_pretrained(folder, **options)


@pytest.mark.parametrize("field", ["coupling", "window_ends", "history", "guidance_scale"])
def test_a_config_that_leaves_the_images_open_is_refused(folder, field):
    change_config(folder / "model", **{field: "gone"})
    with pytest.raises(EcarError, match=f"does not say {field}, which the images depend on"):
        ECARPipeline.from_pretrained(folder)


def small(number):
    torch.manual_seed(number)
    return ConvTokenizer(width=16, depth=1, latent_channels=3).eval()


def test_the_tokenizer_of_another_training_is_refused(tmp_path):
    own, other = small(0), small(1)
    ECARPipeline(tiny_model(), own).save_pretrained(tmp_path / "own")
    model = ECAR.from_pretrained(tmp_path / "own", subfolder="model")
    with pytest.raises(EcarError, match=r"not the tokenizer that the model was saved with .*: use"):
        ECARPipeline(model, other)
    with pytest.raises(EcarError, match="pass check_tokenizer=False if you mean it"):
        ECARPipeline.from_pretrained(tmp_path / "own", tokenizer=other)
    meant = ECARPipeline.from_pretrained(tmp_path / "own", tokenizer=other, check_tokenizer=False)
    meant.save_pretrained(tmp_path / "meant")
    assert ECARPipeline.from_pretrained(tmp_path / "meant").tokenizer.content_hash() == (
        other.content_hash()
    )
    (tmp_path / "own" / "SHA256SUMS").unlink()
    shutil.copy(tmp_path / "meant/tokenizer" / WEIGHTS, tmp_path / "own/tokenizer" / WEIGHTS)
    with pytest.raises(EcarError, match="not the tokenizer that the model was saved with"):
        load_pipeline(tmp_path / "own")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_tokenizer_is_itself_in_every_precision(tmp_path, dtype):
    ECARPipeline(tiny_model(), small(0)).save_pretrained(tmp_path / "first")
    pipe = ECARPipeline.from_pretrained(tmp_path / "first", dtype=dtype)
    assert str(pipe.tokenizer.dtype) == f"torch.{dtype}"
    assert pipe.tokenizer.latent_scale.dtype == torch.float32
    pipe.save_pretrained(tmp_path / "second")
    for again in ("float32", dtype):
        ECARPipeline.from_pretrained(tmp_path / "second", dtype=again)


def test_the_only_variant_need_not_be_named(tiny_pipeline, tmp_path, folder):
    tiny_pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    for options in ({}, {"variant": "fp16"}):
        half = ECARPipeline.from_pretrained(tmp_path / "half", **options)
        assert torch.equal(latent(half), latent(tiny_pipeline))
    with pytest.raises(EcarError, match=r"there is no variant 'fp16' .*: leave variant out"):
        ECARPipeline.from_pretrained(folder, variant="fp16")


def test_a_run_folder_stands_for_its_result(folder, tiny_pipeline):
    assert torch.equal(latent(load_pipeline(folder.parent)), latent(tiny_pipeline))
    assert isinstance(load_tokenizer(folder.parent), IdentityTokenizer)


def test_a_wrong_folder_is_answered_with_the_right_one(folder, tmp_path):
    run = tmp_path / "unfinished"
    step = run / "checkpoints" / "step-00000010"
    step.mkdir(parents=True)
    (step / "state.json").write_text("{}", "utf-8")
    shutil.copytree(folder / "model", tmp_path / "alone")
    shutil.copytree(folder, tmp_path / "several" / "one")
    (tmp_path / "empty").mkdir()
    shutil.copytree(folder / "tokenizer", tmp_path / "without_model" / "tokenizer")
    answers = {
        folder / "model": rf"one part of a checkpoint: use '{folder}'",
        folder / "tokenizer": rf"one part of a checkpoint: use '{folder}'",
        folder / "model_index.json": "is a file: give the folder",
        tmp_path / "alone": r"holds one network: .* ECARPipeline\(model=",
        run: "has not finished: run it again",
        tmp_path / "without_model": "tokenizer and no model: train one .* --tokenizer .*final/",
        step: r"use the final/ of its run",
        tmp_path / "several": "use one, e.g. 'one' in it",
        tmp_path / "empty": "it has no model_index.json: give the folder that",
        "": "there is no checkpoint ''",
        None: "a checkpoint None: give a folder",
    }
    for place, words in answers.items():
        with pytest.raises(EcarError, match=words) as caught:
            load_pipeline(place)
        assert "train it again" not in str(caught.value)
    with pytest.raises(EcarError, match="is a whole checkpoint: use subfolder='model'"):
        ECAR.from_pretrained(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"low_cpu_mem_usage": False},
        {"device_map": "auto"},
        {"device_map": "balanced"},
        {"device_map": "cpu"},
        {"dtype": "float32"},
        {"torch_dtype": "float32"},
        {"dtype": {"default": "float32"}},
        {"use_safetensors": False},
        {"local_files_only": True},
    ],
)
def test_the_options_of_diffusers_load_the_same_pipeline(folder, tiny_pipeline, options):
    assert torch.equal(
        latent(ECARPipeline.from_pretrained(folder, **options)), latent(tiny_pipeline)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device_map": {"": "cpu"}}, "device_map .* use balanced, cpu"),
        ({"device_map": "sequential"}, "device_map 'sequential' .* use balanced, cpu"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
        ({"custom_pipeline": "mine"}, "custom_pipeline is for DiffusionPipeline.from_pretrained"),
        ({"dytpe": "bf16"}, "takes no 'dytpe': use dtype"),
        ({"check_tokeniser": False}, "takes no 'check_tokeniser': use check_tokenizer"),
        ({"dtype": {"modle": "bf16"}}, "dtype takes no 'modle': use model"),
        ({"dtype": "bf16", "torch_dtype": "bf16"}, "give dtype alone"),
        ({"variant": "*"}, r"there is no variant '\*'"),
        ({"subfolder": "model"}, "is one part of a checkpoint: use"),
        ({"subfolder": "nowhere"}, "there is no checkpoint .*nowhere'"),
        ({"offload_state_dict": True}, "takes no 'offload_state_dict'"),
        ({"model": None}, r"the model is NoneType: give ECARPipeline\(model=..., tokenizer=...\)"),
        ({"tokenizer": "sd"}, "leave out tokenizer"),
    ],
)
def test_an_option_that_cannot_be_says_so(folder, options, words):
    with pytest.raises(EcarError, match=words):
        ECARPipeline.from_pretrained(folder, **options)


def test_a_subfolder_is_looked_into(folder, tiny_pipeline):
    loaded = ECARPipeline.from_pretrained(folder.parent, subfolder=folder.name, safety_checker=None)
    assert torch.equal(latent(loaded), latent(tiny_pipeline))


@pytest.mark.parametrize(
    ("place", "options", "words"),
    [
        ("nowhere", {}, "there is no checkpoint 'nowhere'"),
        ("owner/name", {}, "'owner/name' is no folder, and the Hub gives no network of that name"),
        ("digits", {}, "is a whole checkpoint: use subfolder='model'"),
        (None, {}, "a checkpoint None: give a folder"),
        ("digits", {"subfolder": "model", "device_map": "auto"}, "leave out the argument that it"),
    ],
)
def test_a_network_that_cannot_be_loaded_says_so(place, options, words):
    with pytest.raises(EcarError, match=words):
        ECAR.from_pretrained(place, **options)


def test_weights_of_another_network_say_so(folder):
    for kind, options in [(ConvTokenizer, {}), (ECAR, {"low_cpu_mem_usage": False})]:
        part = folder / ("tokenizer" if kind is ConvTokenizer else "model")
        change_weights(part, lambda weights: weights.update(
            {name: torch.zeros(7, *tensor.shape) for name, tensor in weights.items()}
        ))  # fmt: skip
        with pytest.raises(EcarError, match="have another shape than its config"):
            kind.from_pretrained(part, **options)


def test_a_network_of_a_shipped_checkpoint_goes_by_its_name():
    assert ECAR.from_pretrained("digits", subfolder="model").config.num_classes == 10


def test_parts_that_are_none_are_named(tiny_pipeline):
    with pytest.raises(EcarError, match=r"the tokenizer is str: use ecar_lab.load_tokenizer"):
        ECARPipeline(tiny_pipeline.model, "sd")
    with pytest.raises(EcarError, match=r"the model is IdentityTokenizer: give ECARPipeline\("):
        ECARPipeline(tiny_pipeline.tokenizer, tiny_pipeline.model)


def test_diffusers_own_loader_finds_the_class(folder, tiny_pipeline):
    loaded = DiffusionPipeline.from_pretrained(str(folder))
    assert type(loaded) is ECARPipeline
    assert torch.equal(latent(loaded), latent(tiny_pipeline))


@pytest.mark.parametrize("name", ["cifar10-dit", "digits"])
def test_diffusers_own_loader_takes_shipped_checkpoints(name):
    loaded = DiffusionPipeline.from_pretrained(checkpoints_root() / name)
    assert torch.equal(latent(loaded), latent(load_pipeline(name)))


FRESH = """
import sys, diffusers
from diffusers import DiffusionPipeline
for folder, custom in zip(sys.argv[1::2], sys.argv[2::2]):
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=custom, trust_remote_code=True)
    print(type(pipe).__name__, len(pipe([0, 1], 1).images))
"""


def test_a_process_that_knows_only_diffusers_loads_what_ships_and_what_was_saved(folder, tmp_path):
    shipped = {name: str(checkpoints_root() / name) for name in ("digits", "cifar10-dit")}
    places = [
        *(shipped["digits"], "pipeline"),
        *(shipped["cifar10-dit"], shipped["cifar10-dit"]),
        *(str(folder), str(folder / "pipeline.py")),
    ]
    paths = os.pathsep.join([str(Path(ecar_lab.__file__).parents[1]), *sys.path[1:]])
    ran = subprocess.run(
        [sys.executable, "-c", FRESH, *places], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": paths},
    )  # fmt: skip
    kinds = ["ECARPipeline 2", "BaselinePipeline 2", "ECARPipeline 2"]
    assert ran.stdout.splitlines() == kinds, ran.stderr[-2000:]


def test_a_pipeline_py_of_somebody_else_stays(tiny_pipeline, tmp_path):
    (tmp_path / "pipeline.py").write_text("mine = 1", "utf-8")
    tiny_pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "pipeline.py").read_text("utf-8") == "mine = 1"
    assert "pipeline.py" not in (tmp_path / "SHA256SUMS").read_text("utf-8")


def test_pickles_are_not_written_and_a_file_in_the_way_is_named(tiny_pipeline, tmp_path):
    with pytest.raises(EcarError, match="neither writes nor reads pickles"):
        tiny_pipeline.save_pretrained(tmp_path / "new", safe_serialization=False)
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises(EcarError, match=r"cannot write .*file"):
        tiny_pipeline.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize(
    ("place", "options", "words"),
    [
        (None, {}, "a folder None: give a path"),
        ("", {}, "a folder '': give a path"),
        ("new", {"max_shard_size": "junk"}, "max_shard_size 'junk': use bytes"),
        ("new", {"max_shard_size": 0}, "max_shard_size 0: use bytes"),
        ("new", {"variant": ""}, "variant '': use letters"),
        ("new", {"variant": "a/b"}, "variant 'a/b': use letters"),
        ("new", {"variant": 3}, "variant 3: use letters"),
        ("new", {"varient": "fp16"}, "saving takes no 'varient': use variant"),
    ],
)
def test_saving_refuses_what_could_not_be_loaded(
    tiny_pipeline, tmp_path, monkeypatch, place, options, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EcarError, match=words):
        tiny_pipeline.save_pretrained(place, **options)
    assert not list(tmp_path.iterdir())


def test_a_network_alone_is_saved_without_pickles_too(tiny_pipeline, tmp_path):
    with pytest.raises(EcarError, match="neither writes nor reads pickles"):
        tiny_pipeline.model.save_pretrained(tmp_path, safe_serialization=False)


def test_a_saved_pipeline_goes_to_the_home_of_its_user(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    tiny_pipeline.save_pretrained("~/mine")
    assert torch.equal(
        latent(ECARPipeline.from_pretrained(tmp_path / "mine")), latent(tiny_pipeline)
    )


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_the_last_save_is_what_is_loaded(tiny_pipeline, tmp_path, variant):
    for size in ("2KB", None, "4KB"):
        torch.nn.init.normal_(tiny_pipeline.model.head.out.bias)
        tiny_pipeline.save_pretrained(tmp_path, max_shard_size=size, variant=variant)
        loaded = ECARPipeline.from_pretrained(tmp_path)
        assert torch.equal(latent(loaded), latent(tiny_pipeline))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda pipe: ECARPipeline.from_pipe(None), "None is no pipeline"),
        (lambda pipe: ECARPipeline.from_pipe("digits"), "'digits' is no pipeline"),
        (lambda pipe: ECARPipeline.from_pipe(pipe, modle=3), "takes no 'modle': use model"),
        (lambda pipe: pipe.to(divice="cpu"), "takes no 'divice': use device"),
        (lambda pipe: pipe.to(torch.float8_e4m3fn), "dtype torch.float8_e4m3fn is unknown"),
        (lambda pipe: pipe.to(torch.complex64), "dtype torch.complex64 is unknown"),
    ],
)
def test_other_ways_of_a_pipeline_refuse_what_they_do_not_know(tiny_pipeline, wrong, words):
    with pytest.raises(EcarError, match=words):
        wrong(tiny_pipeline)


def test_files_beside_a_saved_pipeline_are_not_its_own(tiny_pipeline, tmp_path):
    (tmp_path / "diary.txt").write_text("mine", "utf-8")
    tiny_pipeline.save_pretrained(tmp_path)
    assert "diary" not in (tmp_path / "SHA256SUMS").read_text("utf-8")
    tiny_pipeline.save_pretrained(tmp_path, max_shard_size="10KB")
    assert torch.equal(latent(ECARPipeline.from_pretrained(tmp_path)), latent(tiny_pipeline))


def test_weights_in_memory_that_are_not_finite_make_no_image(tiny_pipeline):
    torch.nn.init.constant_(tiny_pipeline.model.head.out.bias, torch.nan)
    with pytest.raises(EcarError, match="the latent at the end of stage 0 reaches nan"):
        latent(tiny_pipeline)
    dit = DiT(8, 3, num_layers=1, num_heads=1, head_dim=8, num_classes=3, num_inference_steps=1)
    for parameter in dit.parameters():
        torch.nn.init.constant_(parameter, 1e30)
    with pytest.raises(EcarError, match="the latent at the end of stage 0 reaches"):
        latent(make_pipeline(dit, IdentityTokenizer()))


def test_a_tokenizer_that_is_not_finite_makes_no_image(tiny_pipeline):
    tiny_pipeline.tokenizer.latent_shift.fill_(torch.nan)
    with pytest.raises(EcarError, match="the images are not finite"):
        tiny_pipeline([0], 1)


def test_a_fresh_process_finds_every_class_that_a_checkpoint_names(tiny_checkpoint):
    """diffusers knows a module only where it was imported, as these tests all have."""
    code = (
        "import sys; from ecar_lab import ECARPipeline; ECARPipeline.from_pretrained(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tiny_checkpoint)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
