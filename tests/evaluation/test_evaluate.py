"""Evaluation end to end on a tiny random pipeline, and what each result must say."""

import json
import shutil
import types

import pytest
import torch

from ecar_lab.cli.switches import parse_call
from ecar_lab.data import open_dataset
from ecar_lab.errors import EcarError
from ecar_lab.evaluation import judge
from ecar_lab.evaluation.evaluate import class_accuracies, evaluate, markdown, match_classes
from ecar_lab.evaluation.feature_net import FeatureNet, extract, load_features
from ecar_lab.evaluation.judge import INCEPTION, InceptionFeatures, Judge, fingerprint, pick_judge
from ecar_lab.evaluation.sampling import Sampling, generate, to_bytes
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import ConvTokenizer, IdentityTokenizer
from ecar_lab.training.features import train_features
from tests.conftest import tiny_model
from tests.data.pictures import put

NET = "features-digits"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder of checkpoints: a random pipeline for digits, and a feature net."""
    root = tmp_path_factory.mktemp("checkpoints")
    pipe = ECARPipeline(model=tiny_model(num_classes=10), tokenizer=IdentityTokenizer())
    pipe.save_pretrained(root / "tiny")
    (root / "tiny" / "training.json").write_text('{"dataset": "digits"}', encoding="utf-8")
    train_features("digits", epochs=6, width=8, dtype="float32", output=root / NET)
    return root


@pytest.fixture(autouse=True)
def shipped(checkpoints, monkeypatch):
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(checkpoints))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(checkpoints / "no-hub"))


@pytest.fixture(scope="module")
def result(checkpoints, tmp_path_factory):
    output = tmp_path_factory.mktemp("results") / "tiny.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECAR_CHECKPOINTS", str(checkpoints))
        patch.setattr(torch.hub, "get_dir", lambda: str(checkpoints / "no-hub"))
        returned = evaluate(
            "tiny", num_samples=60, guidance_scale=1.5, dtype="float32", output=output
        )
    assert json.loads(output.read_text("utf-8")) == returned
    return returned


def test_a_result_says_all_that_is_needed_to_repeat_it(result, checkpoints):
    assert result["checkpoint"] == "tiny"
    assert result["checkpoint_hash"] == fingerprint(checkpoints / "tiny")
    assert result["dataset"] == "digits"
    assert result["sampling"] == {
        "solver": "ab2",
        "num_inference_steps": [2, 2],
        "guidance_scale": [1.5, 1.5],
        "guidance_interval": [[0.0, 1.0], [0.0, 1.0]],
        "time_power": [1.0, 1.0],
        "num_samples": 60,
        "seed": 0,
        "batch_size": 64,
        "device": result["sampling"]["device"],
        "dtype": "float32",
        "renoise": True,
        "classes": "balanced",
    }
    assert result["reference"] == {"split": "test", "images": 360, "skipped": 0}
    assert result["feature_net"] == {"name": NET, "hash": fingerprint(checkpoints / NET)}
    assert {"torch", "diffusers", "ecar-lab"} <= set(result["versions"])
    assert result["seconds"]["sampling"] > 0
    assert "cores" in result["machine"]
    for part in (
        *("--checkpoint tiny", "--num-samples 60", "--num-inference-steps 2 2", "--seed 0"),
        *("--guidance-interval 0.0 1.0 0.0 1.0", "--time-power 1.0 1.0", "--solver ab2"),
    ):
        assert part in result["command"]


def test_the_command_line_takes_the_interval_as_the_result_says_it():
    words = ["--checkpoint", "tiny", "--guidance-interval", "0.0", "1.0", "0.0", "0.5"]
    options = parse_call(evaluate, "evaluate", words)
    assert options["guidance_interval"] == [(0.0, 1.0), (0.0, 0.5)]
    for one_for_all in (["--interval", "0", "0.5"], ["--guidance-interval", "0", "0.5"]):
        options = parse_call(evaluate, "evaluate", ["--checkpoint", "tiny", *one_for_all])
        assert options["guidance_interval"] == (0.0, 0.5)
    whole = evaluate("tiny", num_samples=8, dtype="float32", brief=True, guidance_scale=2.0)
    part = evaluate(
        "tiny",
        num_samples=8,
        dtype="float32",
        brief=True,
        guidance_scale=2.0,
        guidance_interval=((0.0, 1.0), (0.0, 0.5)),
    )
    assert part["sampling"]["guidance_interval"] == [[0.0, 1.0], [0.0, 0.5]]
    assert part["metrics"] != whole["metrics"]


def test_guidance_that_acts_in_no_step_is_said(caplog):
    options = dict(num_samples=8, dtype="float32", brief=True, num_inference_steps=2)
    evaluate("tiny", guidance_scale=[1.0, 3.0], guidance_interval=(0.6, 0.9), **options)
    assert "guidance 3 acts in no step of stage 1" in caplog.text
    caplog.clear()
    evaluate("tiny", guidance_scale=[1.0, 3.0], guidance_interval=(0.5, 0.9), **options)
    assert "acts in no step" not in caplog.text


def test_distances_carry_the_name_of_the_net_and_are_never_called_fid(result):
    assert f"frechet_distance[{NET}]" in result["metrics"]
    assert f"precision_k3[{NET}]" in result["metrics"]
    assert "fid" not in json.dumps(result).lower()


def test_noise_is_further_from_the_data_than_both_reference_points(result):
    key = f"frechet_distance[{NET}]"
    points = result["reference_points"]
    assert set(points) == {"real train images", "reconstructions"}
    assert result["metrics"][key] > 3 * points["real train images"][key]
    assert points["real train images"]["images"] == 60
    # Pixels are their own latents: only bytes are lost.
    assert points["reconstructions"]["psnr"] > 50


def test_class_accuracy_of_noise_is_low_and_that_of_real_images_high(result):
    shares = result["class_accuracy"]
    assert shares["classifier"] == NET
    assert shares["generated"] < 0.5
    assert shares["real"] > 0.85
    assert set(shares["per_class"]) == {str(digit) for digit in range(10)}
    mean = sum(row["generated"] for row in shares["per_class"].values()) / 10
    assert mean == pytest.approx(shares["generated"])  # classes are balanced


def test_losses_are_given_per_stage_and_per_time_bin(result):
    loss = result["loss"]
    assert loss["split"] == "test"
    assert loss["images"] == 360
    assert len(loss["per_stage"]) == 2
    assert [len(row) for row in loss["per_time_bin"]] == [8, 8]
    assert loss["mean"] == pytest.approx(sum(loss["per_stage"]) / 2)
    for stage, row in zip(loss["per_stage"], loss["per_time_bin"], strict=True):
        assert min(row) < stage < max(row)


def test_the_same_settings_give_the_same_numbers_whatever_the_batch(result):
    again = evaluate("tiny", num_samples=60, guidance_scale=1.5, dtype="float32", batch_size=7)
    assert again["loss"] == result["loss"]
    for name, value in result["metrics"].items():
        assert again["metrics"][name] == pytest.approx(value, rel=0.02, abs=0.02)


def test_the_train_split_as_reference_leaves_the_losses_on_held_out_images():
    result = evaluate("tiny", num_samples=16, dtype="float32", reference_split="train")
    assert result["reference"]["split"] == "train"
    assert result["loss"]["split"] == "test"
    assert "real test images" in result["reference_points"]


def test_images_have_their_own_noise_and_classes_take_turns(checkpoints):
    pipe = ECARPipeline.from_pretrained(checkpoints / "tiny")
    pipe.set_progress_bar_config(disable=True)

    def images(count, batch, seed=0):
        cpu = torch.device("cpu")
        settings = Sampling("euler", [2, 2], [1.0, 1.0], count, seed, batch, cpu, torch.float32)
        return generate(pipe, settings)

    together, labels, _ = images(12, 12)
    assert labels.tolist() == [*range(10), 0, 1]
    assert together.shape == (12, 3, 8, 8)
    assert together.dtype == torch.uint8
    apart = images(12, 5)[0]
    assert (together.int() - apart.int()).abs().max() <= 1
    assert not torch.equal(together[0], together[10])  # one class, other noise
    assert not torch.equal(images(12, 12, seed=1)[0], together)


def test_bytes_are_rounded_as_image_files_are():
    assert to_bytes(torch.tensor([-1.0, 0.0, 1.0, 2.0])).tolist() == [0, 128, 255, 255]


def test_the_card_shows_every_metric_and_class(result):
    text = markdown(result)
    for name in (f"frechet_distance[{NET}]", "| 9 |", "real train images", result["command"]):
        assert name in text
    assert f"{result['class_accuracy']['real']:.1%}" in text


def test_a_checkpoint_without_its_data_set_asks_for_one(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "tiny", tmp_path / "mute")
    (tmp_path / "mute" / "training.json").unlink()
    with pytest.raises(EcarError, match="--dataset"):
        evaluate(str(tmp_path / "mute"))


def test_a_data_set_of_other_classes_is_refused(tiny_checkpoint, checkpoints):
    with pytest.raises(EcarError, match="10 classes, the checkpoint 3"):
        evaluate(str(tiny_checkpoint), dataset="digits")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"num_samples": 2}, "num_samples 2 is too small"),
        ({"batch_size": 0}, "batch_size is 0: use 1 or more"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0: use 1 or more"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan: use a finite number"),
        ({"solver": "rk4"}, "rk4"),
        ({"time_power": -1.0}, "time_power -1: use 1 for even steps"),
        ({"guidance_interval": (0.9, 0.1)}, "0.9 to 0.1 ends before it begins"),
        ({"feature_net": "nobody"}, "no feature net for 'nobody'"),
        ({"reference_split": "moon"}, "moon"),
    ],
)
def test_a_setting_that_cannot_be_is_named(setting, sentence):
    with pytest.raises(EcarError, match=sentence):
        evaluate("tiny", dtype="float32", **setting)


def test_an_output_that_cannot_be_written_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ecar_lab.evaluation.evaluate.ECARPipeline", None
    )  # it must not come that far
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(EcarError, match="cannot write"):
        evaluate("tiny", output=tmp_path / "file" / "result.json")
    with pytest.raises(EcarError, match=r"\.json"):
        evaluate("tiny", output=tmp_path / "result.txt")


def test_inception_without_its_packages_names_the_extra(monkeypatch):
    monkeypatch.setattr(judge.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EcarError, match=r"ecar-lab\[fid\]"):
        pick_judge(INCEPTION, "digits", 8)
    assert pick_judge("auto", "digits", 8).name == NET


def test_inception_without_weights_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr(judge.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(EcarError, match="weights-inception"):
        pick_judge(INCEPTION, "digits", 8)
    with pytest.raises(EcarError, match=r"mine\.pth"):
        pick_judge(str(tmp_path / "mine.pth"), "digits", 8)
    assert pick_judge("auto", "digits", 8).name == NET


def test_inception_reads_the_bytes_of_an_image_and_names_no_class():
    seen = []
    net = InceptionFeatures(lambda images: seen.append(images) or torch.ones(len(images), 4))
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    output = extract(net, images)
    assert torch.equal(seen[0], images)
    assert output.features.shape == (5, 4)
    assert output.logits.shape == (5, 0)


def test_only_inception_measures_fid_and_kid():
    inception = Judge(INCEPTION, "0", torch.nn.Identity())
    assert inception.label("frechet_distance") == "fid"
    assert inception.label("kernel_distance") == "kid"
    assert (
        Judge(NET, "0", torch.nn.Identity()).label("kernel_distance") == f"kernel_distance[{NET}]"
    )


def test_a_net_for_the_exact_image_size_is_preferred(checkpoints, tmp_path, monkeypatch):
    shutil.copytree(checkpoints / NET, tmp_path / NET)
    shutil.copytree(checkpoints / NET, tmp_path / f"{NET}-16")
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(tmp_path))
    assert pick_judge("auto", "digits", 16).name == f"{NET}-16"
    assert pick_judge("auto", "digits", 8).name == NET


def test_a_fingerprint_follows_the_weights_and_not_the_card(checkpoints, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoints / NET, copy)
    before = fingerprint(copy)
    (copy / "README.md").write_text("another card", encoding="utf-8")
    assert fingerprint(copy) == before == fingerprint(checkpoints / NET)
    net = load_features(copy)
    with torch.no_grad():
        net.head.bias += 1
    net.save_pretrained(copy)
    assert fingerprint(copy) != before


def test_classes_of_a_set_are_those_of_the_model_by_name(tmp_path):
    for name in ("frog", "cat", "dog"):
        put(tmp_path, f"set/{name}/1.png", f"other/{name}s/1.png")
    model = tiny_model(class_names=["frog", "cat", "dog"])
    data = match_classes(open_dataset(str(tmp_path / "set")), model)
    assert data.arrays()[1].tolist() == [1, 2, 0]
    with pytest.raises(EcarError, match=r"has other classes than the checkpoint \(cats"):
        match_classes(open_dataset(str(tmp_path / "other")), model)


def test_net_of_other_classes_names_none_right():
    model = tiny_model(class_names=["frog", "cat", "dog"])
    pipe = types.SimpleNamespace(model=model)
    scores, truth = torch.eye(3), torch.arange(3)

    def shares(*names):
        net = FeatureNet(num_classes=3, width=2, class_names=list(names))
        judge = Judge("net", "", net)
        both = [torch.zeros(3)] * 2
        return class_accuracies(judge, "set", pipe, both, [truth] * 2, [scores] * 2)

    assert shares("frog", "cat", "dog")["real"] == 1
    assert shares("dog", "frog", "cat")["real"] == 0
    assert shares("a", "b", "c") is None


def test_a_net_that_the_tokenizer_learned_to_please_does_not_judge(checkpoints, tmp_path):
    tokenizer = ConvTokenizer(width=16, depth=1, perceptual_net=fingerprint(checkpoints / NET))
    model = tiny_model(num_classes=10, latent_channels=4, latent_size=4)
    pipe = ECARPipeline(model=model, tokenizer=tokenizer)
    pipe.save_pretrained(tmp_path / "pleased")
    settings = {"dataset": "digits", "num_samples": 8, "brief": True, "device": "cpu"}
    with pytest.raises(EcarError, match=f"'{NET}' was in the loss of this tokenizer"):
        evaluate(str(tmp_path / "pleased"), **settings)
