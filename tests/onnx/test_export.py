"""What `ecar export onnx` writes, what `ecar sample --runtime onnx` makes of it, and refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from ecar_lab.cli import main as cli
from ecar_lab.errors import EcarError
from ecar_lab.files import hash_file
from ecar_lab.onnx import export as exporting
from ecar_lab.onnx import packages
from ecar_lab.onnx.exported import Exported
from ecar_lab.onnx.graphs import Decoder, Encoder, trace_graph
from ecar_lab.onnx.pipeline import OnnxPipeline
from ecar_lab.onnx.weights import quantised
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import ConvTokenizer
from tests.cli.commands import complaint
from tests.conftest import tiny_model


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A copy of an export that a test may damage, beside which commands write."""
    return Path(shutil.copytree(tiny.folder("float32"), tmp_path / "export"))


@pytest.fixture
def traced_before(tiny, monkeypatch) -> list[str]:
    """Checkpoints are not traced again: their graphs are those of the tiny one. What was asked
    for."""
    asked: list[str] = []

    def export(checkpoint: str, output: Path, weights: str = "float16") -> Path:
        asked.append(weights)
        return Path(shutil.copytree(tiny.folder(weights), output))

    monkeypatch.setattr(exporting, "export", export)
    return asked


def sample(checkpoint: Path | str, out: Path, *switches: str) -> int:
    common = ["--device=cpu", "--seed=3", "--out", str(out), *switches]
    return cli.main(["sample", "--checkpoint", str(checkpoint), *common])


def test_the_manifest_has_the_hash_of_every_file_and_the_numbers_of_the_schedule(tiny):
    place, model = tiny.folder("float16"), tiny.torch.model
    said = json.loads((place / "manifest.json").read_text())
    assert {file.name for file in place.iterdir()} == {"manifest.json", *said["files"]}
    for name, about in said["files"].items():
        assert about == {"sha256": hash_file(place / name), "bytes": (place / name).stat().st_size}
    assert said["class_names"] == ["cat", "dog", "frog"]
    assert said["null_class"] == 3
    assert (said["mode"], said["solver"], said["weights"]) == ("velocity", "ab2", "float16")
    for number, stage in enumerate(said["stages"]):
        assert stage["resolution"] == model.schedule.resolutions[number]
        assert tuple(stage["window"]) == model.schedule.window(number)
        assert tuple(stage["guidance_interval"]) == model.intervals()[number]
        assert stage["guidance_scale"] == model.guidance()[number]
        assert stage["num_inference_steps"] == model.inference_steps()[number]
        assert stage["time_power"] == model.powers()[number]
    into = model.schedule.transition(1)
    assert (said["stages"][1]["scale"], said["stages"][1]["sigma"]) == (into.scale, into.sigma)


def test_the_manifest_says_what_each_graph_takes_and_gives(tiny):
    place = tiny.folder("int8")
    graphs = json.loads((place / "manifest.json").read_text())["graphs"]
    second = graphs["transformer_1.onnx"]
    assert second["inputs"]["class_labels"] == {"type": "int64", "shape": ["batch"]}
    assert second["inputs"]["previous_end"]["shape"] == ["batch", 3, 4, 4]
    assert second["inputs"]["cache"]["shape"] == ["batch", 1, 2, 2, 4, 16]
    assert graphs["transformer_0.onnx"]["outputs"]["new_cache"]["shape"][4] == 4
    assert set(second["outputs"]) == {"token_map", "read_map"}
    assert set(graphs["head_0.onnx"]["inputs"]) == {
        "state",
        "read_map",
        "class_labels",
        "local_time",
    }
    assert graphs["decoder.onnx"]["inputs"]["latent"]["shape"] == ["batch", 3, "height", "width"]
    for name in graphs:
        onnx.checker.check_model(place / name)


def test_an_export_may_hold_the_encoder_too(tiny, tmp_path):
    """Of any tokenizer; an export without one is what it always was."""
    assert "encoder" not in json.loads((tiny.folder("float32") / "manifest.json").read_text())
    assert tiny.onnx("float32").exported.manifest.encoder is None
    tokenizer = ConvTokenizer(width=16, depth=1).eval()
    tokenizer.latent_shift.fill_(0.3)
    tokenizer.latent_scale.fill_(1.7)
    encoder = trace_graph("encoder.onnx", Encoder(tokenizer, 8))
    decoder = trace_graph("decoder.onnx", Decoder(tokenizer))
    pipe = ECARPipeline(model=tiny_model(latent_channels=4, latent_size=4), tokenizer=tokenizer)
    checkpoint = tiny.checkpoint
    graphs = {"encoder.onnx": encoder, "decoder.onnx": decoder}
    stages = [name for s in (0, 1) for name in (f"transformer_{s}.onnx", f"head_{s}.onnx")]
    graphs |= dict.fromkeys(stages, decoder)  # graphs that nobody runs here
    place = exporting.write_export(pipe, graphs, tmp_path / "export", "float32", checkpoint)
    opened = Exported(place)
    assert opened.manifest.encoder == "encoder.onnx"
    images = 2 * torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    ours = opened.graphs["encoder.onnx"].run({"images": images.numpy()})["latent"]
    with torch.no_grad():
        np.testing.assert_allclose(ours, tokenizer.encode(images), atol=1e-5)


def test_stages_share_their_weights_and_fewer_bits_take_less_room(tiny):
    sizes = {
        weights: (tiny.folder(weights) / "weights.bin").stat().st_size
        for weights in ("float32", "float16", "int8")
    }
    parameters = 4 * tiny.torch.model.num_parameters()
    assert parameters * 0.8 < sizes["float32"] < parameters * 1.1, "each weight is there once"
    assert sizes["int8"] < 0.7 * sizes["float16"] < 0.49 * sizes["float32"]


def test_no_graph_tells_of_the_machine_that_it_was_traced_on(tiny):
    for file in tiny.folder("float32").iterdir():
        content = file.read_bytes()
        for word in (b"site-packages", b"ecar_lab/", b'File "'):
            assert word not in content, (file.name, word)


def test_int8_is_off_by_half_a_step_at_most():
    array = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    array[:, 3] = 0
    for axis in (0, 1):
        numbers, scale = quantised(array, axis)
        restored = numbers * np.expand_dims(scale, 1 - axis)
        assert np.abs(numbers).max() == 127
        assert (np.abs(restored - array) <= np.expand_dims(scale, 1 - axis) * 0.5001).all()


def test_int8_has_a_scale_for_each_output_channel(tiny):
    for file in sorted(tiny.folder("int8").glob("[ht]*.onnx")):
        graph = onnx.load(file, load_external_data=False).graph
        sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        restored = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
        biased = [n for n in graph.node if n.op_type == "Gemm" and n.input[1] in restored]
        plain = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in restored]
        assert biased
        assert plain
        for node in biased:
            assert sizes[restored[node.input[1]].input[1]] == sizes[node.input[2]], node.name
        for node in plain:
            numbers, scale = restored[node.input[1]].input
            assert sizes[scale] == sizes[numbers][1:], node.name


def test_sample_makes_the_same_pictures_on_either_runtime(tiny, folder, tmp_path, capsys):
    checkpoint = tiny.checkpoint
    extra = ["--classes", "all", "--per-class", "2", "--batch-size", "4"]
    theirs, ours, strip = (tmp_path / name for name in ("torch.png", "onnx.png", "strip.png"))
    assert sample(checkpoint, theirs, "--dtype=float32", *extra) == 0
    assert sample(folder, ours, "--runtime=onnx", "--strip", str(strip), *extra) == 0
    assert "6 images of 8 px" in capsys.readouterr().out
    pictures = [np.asarray(Image.open(file)).astype(int) for file in (theirs, ours)]
    np.testing.assert_allclose(*pictures, atol=1)
    assert strip.is_file()


def test_an_export_is_made_once_and_again_if_it_was_damaged(tiny, traced_before, tmp_path):
    checkpoint = tiny.checkpoint
    switches = ["--runtime=onnx", "--classes=cat"]
    for _ in range(2):
        assert sample(checkpoint, tmp_path / "grid.png", *switches) == 0
    assert traced_before == ["float32"]
    (kept,) = (tmp_path / "cache" / "onnx").iterdir()
    (kept / "weights.bin").write_bytes(b"something else")
    assert sample(checkpoint, tmp_path / "grid.png", *switches) == 0
    assert traced_before == ["float32"] * 2


def spoil_manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        said = json.loads((folder / "manifest.json").read_text())
        change(said)
        (folder / "manifest.json").write_text(json.dumps(said))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"x"), "weights.bin"),
        (lambda folder: (folder / "head_0.onnx").unlink(), "head_0.onnx' is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is no JSON"),
        (spoil_manifest(lambda said: said.update(format=99)), "has format 99"),
        (spoil_manifest(lambda said: said.pop("stages")), "stages is absent"),
        (spoil_manifest(lambda said: said.update(ratio="two")), "ratio is 'two'"),
        (spoil_manifest(lambda said: said["stages"][0].update(sigma=None)), "sigma is None"),
        (spoil_manifest(lambda said: said["stages"].pop()), "disagrees with itself"),
        (spoil_manifest(lambda said: said["files"].pop("head_1.onnx")), "no sha256"),
        (spoil_manifest(lambda said: said["config"].update(width=-1)), "width"),
        (spoil_manifest(lambda said: said["config"].update(colour=3)), "colour"),
        (spoil_manifest(lambda said: said["config"].update(latent_channels=4)), "channels are not"),
        (spoil_manifest(lambda said: said["config"].update(num_stages=3)), "2 values for 3 stages"),
        (
            spoil_manifest(lambda said: said["stages"][1].update(window=[0.5, 0.0])),
            "stages are not",
        ),
        (spoil_manifest(lambda said: said["class_names"].pop()), "class_names are not"),
        (spoil_manifest(lambda said: said["files"].update({"../x": {}})), "missing"),
    ],
)
def test_a_folder_that_was_changed_is_refused_in_one_sentence(
    folder, tmp_path, spoil, words, capsys
):
    spoil(folder)
    said = complaint(capsys, sample(folder, tmp_path / "grid.png", "--runtime=onnx"))
    assert words in said
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--steps", "0"], "--steps is"),
        (["--steps", "1", "2", "3"], "3 values for 2 stages"),
        (["--classes", "unicorn"], "'unicorn' is unknown"),
        (["--dtype", "bfloat16"], "computes in float32"),
        (["--device", "cuda"], "computes on the cpu"),
        (["--interval", "0.5", "0.2"], "ends before it begins"),
        (["--power", "0"], "time_power 0"),
    ],
)
def test_what_an_export_cannot_do_is_said_in_one_sentence(
    folder, tmp_path, switches, words, capsys
):
    status = sample(folder, tmp_path / "grid.png", "--runtime=onnx", *switches)
    assert words in complaint(capsys, status)


def test_an_export_is_not_taken_for_a_checkpoint_of_torch(folder, tmp_path, capsys):
    said = complaint(capsys, sample(folder, tmp_path / "grid.png"))
    assert "use --runtime onnx" in said


def test_steps_that_a_few_step_head_does_not_take_are_refused(tiny, few_step):
    pipe = few_step.onnx("float32")
    for wanted, words in (
        (dict(num_inference_steps=3), "trained on 1, 2 and 4"),
        (dict(guidance_scale=9.0), "outside what the few-step head"),
        (dict(time_power=2.0), "even steps"),
        (dict(solver="rk4"), "'rk4' is unknown"),
        (dict(seeds=[0, 1]), "2 seeds for 1 images"),
    ):
        with pytest.raises(EcarError, match=words):
            pipe.trace([0], **{"seeds": [0], **wanted})
    with pytest.raises(EcarError, match="needs a few-step head"):
        tiny.onnx("float32").trace([0], seeds=[0], solver="flow-map")


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("cifar10-dit", "holds a DiT"),
        ("features-cifar10", "features-cifar10"),
        ("nowhere", "there is no checkpoint 'nowhere'"),
    ],
)
def test_a_checkpoint_without_ecar_is_refused(checkpoint, words, tmp_path, capsys):
    switches = ["--checkpoint", checkpoint, "--out", str(tmp_path / "export")]
    assert words in complaint(capsys, cli.main(["export", "onnx", *switches]))
    assert not (tmp_path / "export").exists()
    said = complaint(capsys, sample(checkpoint, tmp_path / "grid.png", "--runtime=onnx"))
    assert words in said


def test_a_folder_with_something_else_in_it_is_not_replaced(
    tiny, tiny_checkpoint, tmp_path, capsys
):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.md").write_text("mine")
    site, with_notes = tmp_path / "site", tmp_path / "with-notes"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "a page", "icons": []}')
    shutil.copytree(tiny.folder("int8"), with_notes)
    (with_notes / "notes.txt").write_text("mine, too")
    for place in (tmp_path / "thesis", tmp_path / "thesis" / "chapter.md", site, with_notes):
        switches = ["--checkpoint", str(tiny_checkpoint), "--out", str(place)]
        said = complaint(capsys, cli.main(["export", "onnx", *switches]))
        assert "something else than an export" in said
    assert (tmp_path / "thesis" / "chapter.md").read_text() == "mine"
    assert (with_notes / "notes.txt").is_file()
    assert exporting.replaceable(tiny.folder("int8")), "an earlier export may be"


def test_a_missing_package_is_one_sentence_with_the_remedy(folder, tmp_path, monkeypatch, capsys):
    def without(name: str):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(packages.importlib, "import_module", without)
    with pytest.raises(EcarError, match=r"onnxruntime is missing: .*ecar-lab\[onnx\]"):
        Exported(folder)
    with pytest.raises(EcarError, match=r"onnx is missing"):
        exporting.trace_graphs(None, None)  # ty: ignore[invalid-argument-type]


def test_an_export_knows_classes_and_defaults_without_weights(tiny):
    pipe = tiny.onnx("float32")
    assert isinstance(pipe, OnnxPipeline)
    assert pipe.model.class_names == ["cat", "dog", "frog"]
    asked = pipe.settings(["frog", 0], seeds=[1, 2])
    assert (asked.labels, asked.steps, asked.solver) == ([2, 0], [3, 4], "ab2")


def test_the_benchmark_has_both_runtimes_in_one_table(tiny, traced_before, capsys):
    checkpoint = tiny.checkpoint
    switches = ["--sections", "onnx", "--checkpoint", str(checkpoint), "--repeats", "1"]
    assert cli.main(["benchmark", *switches]) == 0
    assert traced_before == ["float32"]
    said = capsys.readouterr().out
    assert "| torch | onnx | torch / onnx |" in said
    assert "| batch of 16 |" in said
