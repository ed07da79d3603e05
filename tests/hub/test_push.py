"""`ecar push`: what is sent of a checkpoint, in one commit, and what is not."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
from huggingface_hub import ModelCard

from ecar_lab.cli import main as cli
from ecar_lab.home import checkpoints_root
from ecar_lab.hub.card import of_table
from ecar_lab.hub.push import PATH, last_part, without_paths
from ecar_lab.stored import StoredNetwork, fingerprint
from tests.cli.commands import complaint, files

PARTS = {"model/config.json", "model/diffusion_pytorch_model.safetensors", "tokenizer/config.json"}
OPTIONAL = {"tokenizer/diffusion_pytorch_model.safetensors"}  # a tokenizer may have no weights
WHOLE = PARTS | {"README.md", "SHA256SUMS", "model_index.json", "pipeline.py"}


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def push(*words: object) -> int:
    return cli.main(["push", *map(str, words)])


def test_a_checkpoint_arrives_in_one_commit_and_comes_back_the_same(hub, checkpoint, capsys):
    assert push(checkpoint, "me/tiny", "--private") == 0
    assert f"{hub.address}/me/tiny" in capsys.readouterr().out
    assert hub.commits == 1
    assert hub.private["me/tiny"]
    assert hub.repositories["me/tiny"].keys() >= WHOLE
    assert cli.main(["pull", "me/tiny", "back"]) == 0
    for name in PARTS - {"tokenizer/config.json"}:
        assert Path("back", name).read_bytes() == (checkpoint / name).read_bytes()
    assert fingerprint(Path("back")) == fingerprint(checkpoint)


def test_a_second_push_leaves_no_weights_of_the_first_and_all_else(hub, checkpoint):
    assert push(checkpoint, "me/tiny") == 0
    hub.repositories["me/tiny"]["model/diffusion_pytorch_model-00001-of-00002.safetensors"] = b"x"
    hub.repositories["me/tiny"] |= {"grid.png": b"x", "LICENSE": b"x"}
    assert push(checkpoint, "me/tiny") == 0
    names = hub.repositories["me/tiny"].keys()
    assert not [name for name in names if "00001" in name]
    assert {".gitattributes", "grid.png", "LICENSE"} <= names


def test_only_the_checkpoint_is_sent_and_no_place_of_this_machine(checkpoint):
    others = ("weights.bin", "notes.txt", "model/secret.pt", "run.py", ".env", "tokens.json")
    (checkpoint / "other").mkdir()
    for name in (*others, "latents.safetensors", "other/data.json", "model/.hidden.json"):
        (checkpoint / name).write_text("mine")
    config = json.loads((checkpoint / "model" / "config.json").read_text())
    config |= {"_name_or_path": "/home/somebody/runs/best/model"}
    (checkpoint / "model" / "config.json").write_text(json.dumps(config))
    record = {"dataset": "digits", "data": "/mnt/disk/sets", "output": "C:\\Users\\me\\run"}
    record |= {"resume": "~/old/run", "note": "begun in /srv/data/one, see a/b", "steps": 3}
    (checkpoint / "training.json").write_text(json.dumps(record))
    words = (
        "# Mine\n\n`ecar train --data /mnt/disk/sets`, 3/4 of https://a.org/b/c in `docs/x.md`\n"
    )
    (checkpoint / "README.md").write_text(words)
    before = {name: (checkpoint / name).read_bytes() for name in files(checkpoint)}
    assert push(checkpoint, "me/tiny", "--into", "sent") == 0
    sent = Path("sent")
    assert files(sent) - OPTIONAL == WHOLE | {"training.json"}
    text = "".join(file.read_text() for file in sent.rglob("*") if file.suffix in (".json", ".md"))
    for place in ("/home", "/mnt", "/srv", "Users", "~", "_name_or_path"):
        assert place not in text, place
    assert json.loads((sent / "training.json").read_text())["output"] == "run"
    assert (
        "--data sets`, 3/4 of https://a.org/b/c in `docs/x.md`" in (sent / "README.md").read_text()
    )
    assert before == {name: (checkpoint / name).read_bytes() for name in files(checkpoint)}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"a": ["/x/y", {"_name_or_path": "z"}], "b": 1}, {"a": ["y", {}], "b": 1}),
        ("/one", "one"),
        ("cat/dog", "cat/dog"),
        ("hub:owner/name", "hub:owner/name"),
        ("https://a.org/b/c", "https://a.org/b/c"),
        ("D:\\a b\\c", "c"),
        ("file:///home/me/sets", "sets"),
        ("from file:///home/me/sets on", "from sets on"),
        ("data:/home/me/sets", "data:sets"),
        ("~bob/runs/one", "one"),
        ("--data=~/sets/one", "--data=one"),
    ],
)
def test_of_a_path_its_last_part_is_sent(given, sent):
    assert without_paths(given) == sent


def test_formulas_and_fractions_are_no_paths():
    for text in (
        r"\frac{a}{b} \alpha\beta",
        "1/2 and 3/4/5",
        "`a/b/c`",
        "s / t / u",
        "http://h/i/j",
    ):
        assert PATH.sub(lambda found: last_part(found[0]), text) == text


def results_for(checkpoint: Path, **changes) -> Path:
    record = {
        "checkpoint": "tiny",
        "checkpoint_hash": fingerprint(checkpoint),
        "dataset": "cifar10",
        "sampling": {"num_samples": 8, "seed": 0, "solver": "euler"},
        "reference": {"split": "test"},
        "metrics": {"frechet_distance[features-cifar10]": 1.25, "images": 8},
        "class_accuracy": {"classifier": "features-cifar10", "generated": 0.5},
        **changes,
    }
    Path("results.json").write_text(json.dumps(record))
    return Path("results.json")


def test_the_card_holds_what_was_measured_for_machines_and_keeps_its_words(checkpoint, capsys):
    (checkpoint / "README.md").write_text(
        "---\nlicense: apache-2.0\ntags: [own]\n---\n# Mine\n\nWords.\n"
    )
    switches = ["--results", results_for(checkpoint), "--into", "sent"]
    assert push(checkpoint, "me/tiny", *switches) == 0
    assert "2 metrics" in capsys.readouterr().out
    card = ModelCard.load(Path("sent/README.md"))
    found = {one.metric_type: one for one in card.data.eval_results}
    assert found["frechet_distance"].metric_value == 1.25
    assert "not FID" in found["frechet_distance"].metric_name
    assert found["frechet_distance"].dataset_type == "uoft-cs/cifar10"
    assert found["frechet_distance"].metric_args["num_samples"] == 8
    assert found["accuracy"].metric_value == 0.5
    assert card.data.license == "apache-2.0"
    assert {"own", "e-car"} <= set(card.data.tags)
    assert card.text.count("# Mine") == 1
    assert 'custom_pipeline="me/tiny"' in card.text


def test_a_card_that_comes_back_keeps_its_metrics_and_names_the_new_place(checkpoint):
    assert push(checkpoint, "me/tiny", "--results", results_for(checkpoint), "--into", "one") == 0
    assert push("one", "you/other", "--into", "two") == 0
    card = ModelCard.load(Path("two/README.md"))
    assert [one.metric_value for one in card.data.eval_results] == [1.25, 0.5]
    assert card.text.count("## With diffusers") == 1
    assert card.text.count("you/other") == 3
    assert "me/tiny" not in card.text


@pytest.mark.parametrize(
    "head",
    [
        "tags: [a",
        "- a\n- b",
        "1: 2",
        "eval_results: 3",
        "license: [1, 2",
        "tags: 3",
        "a: !!python/x 1",
    ],
)
def test_metadata_that_is_none_is_one_sentence(checkpoint, capsys, head):
    (checkpoint / "README.md").write_text(f"---\n{head}\n---\n# Mine\n")
    words = complaint(capsys, push(checkpoint, "me/tiny", "--into", "sent"))
    assert "metadata at the head of README.md" in words
    assert not Path("sent").exists()


def test_a_card_in_another_encoding_is_one_sentence(checkpoint, capsys):
    (checkpoint / "README.md").write_bytes(b"# caf\xe9\n")
    assert "is not UTF-8" in complaint(capsys, push(checkpoint, "me/tiny", "--into", "sent"))


def test_a_card_without_measurements_makes_none_up(checkpoint, capsys):
    assert push(checkpoint, "me/tiny", "--into", "sent") == 0
    assert "no metrics" in capsys.readouterr().out
    assert "model-index" not in Path("sent/README.md").read_text()


def test_a_trainers_own_table_is_read(tmp_path):
    rows = "| loss | 0.25 |\n| images | 1,024 |\n| teacher | `cifar10` |\n| a | 1 | 2 |\n"
    (tmp_path / "README.md").write_text(
        f"# T\n\n| steps | 7 |\n\n## Measured\n| | |\n|---|---|\n{rows}"
    )
    found = {one.metric_type: one.metric_value for one in of_table(tmp_path)}
    assert found == {"loss": 0.25, "images": 1024.0}


def test_what_ships_is_measured_under_its_own_settings(capsys):
    assert push("cifar10-turbo", "me/turbo", "--into", "sent") == 0
    distance = ModelCard.load(Path("sent/README.md")).data.eval_results[0]
    assert distance.metric_args["num_inference_steps"] == [4, 2, 2]
    record = json.loads(
        (Path(__file__).parents[2] / "data/results/evaluate-cifar10-turbo.json").read_text()
    )
    assert distance.metric_value == pytest.approx(
        record["metrics"]["frechet_distance[features-cifar10]"]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint_hash": "0" * 16}, "was measured on another checkpoint"),
        ({"metrics": None}, "holds no metrics"),
    ],
)
def test_results_of_something_else_are_refused(checkpoint, capsys, changes, words):
    switches = ["--results", results_for(checkpoint, **changes), "--into", "sent"]
    assert words in complaint(capsys, push(checkpoint, "me/tiny", *switches))
    assert not Path("sent").exists()


def test_without_a_token_nothing_is_asked(hub, checkpoint, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "log in with `hf auth login`" in complaint(capsys, push(checkpoint, "me/tiny"))
    assert hub.calls == []


def test_a_wrong_token_and_no_network_are_one_sentence(hub, checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "me/tiny" in complaint(capsys, push(checkpoint, "me/tiny"))
    assert hub.commits == 0
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "check the network" in complaint(capsys, push(checkpoint, "me/tiny"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in complaint(capsys, push(checkpoint, "me/tiny"))


def test_a_hub_that_takes_nothing_leaves_what_was_there(hub, checkpoint, capsys):
    hub.full = True
    assert "it is there, and empty" in complaint(capsys, push(checkpoint, "me/tiny"))
    hub.full = False
    assert push(checkpoint, "me/tiny") == 0
    hub.full, before = True, dict(hub.repositories["me/tiny"])
    (checkpoint / "README.md").write_text("# Other words\n")
    assert "is there, and empty" not in complaint(capsys, push(checkpoint, "me/tiny"))
    assert hub.repositories["me/tiny"] == before


def test_every_network_of_the_kit_is_found_where_the_hub_looks():
    import ecar_lab.baselines  # noqa: F401  all that a checkpoint may hold

    kinds = {kind for kind in below(StoredNetwork) if kind.__module__.startswith("ecar_lab.")}
    assert len(kinds) > 8
    for kind in kinds:
        assert getattr(diffusers, kind.__name__) is kind


def below(kind: type) -> set[type]:
    return {kind}.union(*map(below, kind.__subclasses__())) - {StoredNetwork}


@pytest.mark.parametrize("name", ["cifar10-dit", "digits"])
def test_what_ships_comes_back_as_it_was(hub, name):
    assert push(name, f"me/{name}") == 0
    assert cli.main(["pull", f"me/{name}"]) == 0
    assert fingerprint(Path(name)) == fingerprint(checkpoints_root() / name)


def test_what_others_keep_there_is_not_overwritten(hub, checkpoint, capsys):
    hub.repositories["me/bert"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    hub.repositories["me/sd"] = {"model_index.json": json.dumps(index).encode(), "unet/x": b"x"}
    hub.repositories["me/odd"] = {"model_index.json": b"{", "x.safetensors": b"x"}
    for name in ("me/bert", "me/sd", "me/odd"):
        assert "holds something else" in complaint(capsys, push(checkpoint, name))
    hub.repositories["me/new"] = {".gitattributes": b"", "README.md": b"# Soon\n"}
    assert hub.commits == 0
    assert push(checkpoint, "me/new") == 0


@pytest.mark.parametrize(
    "name", ["tiny", "a/b/c", "../x", "me/", "me/ti ny", ".me/x", "me/a--b", "ü/x"]
)
def test_a_name_that_is_no_repository_is_named(checkpoint, capsys, name):
    assert "no repository of the Hub" in complaint(capsys, push(checkpoint, name, "--into", "sent"))


def test_a_damaged_checkpoint_is_not_sent(hub, checkpoint, capsys):
    weights = checkpoint / "model" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9] + b"x" * 9)
    assert "not the file that was saved" in complaint(capsys, push(checkpoint, "me/tiny"))
    assert hub.commits == 0
    assert "me/tiny" not in hub.repositories


def test_a_folder_that_holds_something_is_not_written_into(checkpoint, capsys):
    Path("sent").mkdir()
    Path("sent/mine").write_text("x")
    words = complaint(capsys, push(checkpoint, "me/tiny", "--into", "sent"))
    assert "holds something already" in words
    assert files(Path("sent")) == {"mine"}
