"""Stored work is trusted for what it is, not for its name: data, checksums, states of a run."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ecar_lab.data import open_dataset
from ecar_lab.data.feeds import cache_latents
from ecar_lab.data.identity import difference, identity_of
from ecar_lab.errors import EcarError
from ecar_lab.files import load_metadata, write_checksums
from ecar_lab.tokenizers.makers import load_tokenizer
from ecar_lab.training.checkpoints import list_checkpoints, load_checkpoint
from ecar_lab.training.loop import Trainer
from ecar_lab.training.model import train_model
from tests.training.runs import assert_same, config, curve, cut_back, weights


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of two classes of four pictures, and a run of two steps on it."""
    root = tmp_path_factory.mktemp("own")
    for number, name in enumerate(("ant", "bee")):
        (root / "set" / name).mkdir(parents=True)
        for index in range(4):
            picture = Image.new("RGB", (8, 8), (80 * number, 20 * index, 7))
            picture.save(root / "set" / name / f"{index}.png")
    return root / "set", train_model(on(root / "set", root / "run"))


def on(data: Path, run: Path, **settings):
    """Two steps on a folder of pictures, wherever it lies."""
    usual = dict(dataset=data.name, data=str(data.parent), limit=None, steps=2, batch_size=4)
    return config(run, **{**usual, **settings})


def swap(data: Path) -> None:
    (data / "ant").rename(data / "was")
    (data / "bee").rename(data / "ant")
    (data / "was").rename(data / "bee")


def repaint(data: Path) -> None:
    Image.new("RGB", (8, 8), "white").save(data / "ant" / "2.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap, "the 8 pictures or their classes are no longer the same"),
        (repaint, "the 8 pictures or their classes are no longer the same"),
        (lambda data: (data / "bee").rename(data / "wasp"), "class 1 is 'wasp' now, and was 'bee'"),
        (lambda data: (data / "bee" / "0.png").unlink(), "has 7 images now, and had 8"),
        (lambda data: shutil.copytree(data / "bee", data / "cow"), "has 3 classes now, and had 2"),
    ],
    ids=["swapped", "repainted", "renamed", "fewer", "another class"],
)
def test_data_that_changed_under_a_run_is_named(
    own: tuple[Path, Path], tmp_path: Path, change: Callable[[Path], object], words: str
):
    data, run = shutil.copytree(own[0], tmp_path / "set"), cut_back(own[1], tmp_path / "run", 2)
    change(data)
    with pytest.raises(EcarError, match=rf"{words}.* --new-data"):
        train_model(on(data, run, steps=4))


def test_new_data_goes_on_with_the_data_that_is_there(
    own: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    data, run = shutil.copytree(own[0], tmp_path / "set"), cut_back(own[1], tmp_path / "run", 2)
    repaint(data)
    train_model(on(data, run, steps=4, new_data=True))
    assert "are made anew: the 8 pictures or their classes are no longer the same" in caplog.text
    assert "the run goes on with that" in caplog.text
    (file,) = run.glob("latents-*.safetensors")
    images = open_dataset(str(data), image_size=8).arrays()[0]
    assert torch.equal(load_file(file)["mean"][:, 0], (images / 127.5 - 1).half())


def test_a_run_without_an_identity_goes_on_with_a_warning(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    for folder in list_checkpoints(run):
        (folder / "SHA256SUMS").unlink()
        state = json.loads((folder / "state.json").read_text())
        del state["identity"], state["config"]["new_data"]
        (folder / "state.json").write_text(json.dumps(state))
    train_model(config(run))
    assert "does not say which images it was trained on" in caplog.text
    assert_same(weights(run), weights(undisturbed))


def test_every_part_of_an_identity_is_compared():
    data = open_dataset("digits", limit=4)
    now = identity_of(data, tokenizer="one", teacher="two")
    assert difference(now, now) is None
    assert difference({}, now) is None  # from before there were identities
    assert difference({**now, "pictures": ""}, now) is None  # a stream that cannot tell
    assert difference({**now, "tokenizer": "other"}, now) == "the tokenizer is another one now"
    assert difference({**now, "teacher": "other"}, now) == "the teacher is another one now"
    order = {**now, "classes": now["classes"][::-1]}
    assert difference(order, now) == "the classes come in another order now"


# -- latents ---------------------------------------------------------------------------------------


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def relabel(file: Path) -> None:
    named, metadata = load_file(file), load_metadata(file)
    save_file({**named, "labels": named["labels"].roll(1)}, file, metadata)


def shorten(file: Path) -> None:
    named, metadata = load_file(file), load_metadata(file)
    save_file({**named, "labels": named["labels"][:-1].clone()}, file, metadata)


def test_an_identity_of_another_form_is_a_difference(own):
    now = identity_of(open_dataset(str(own[0])))
    assert difference({**now, "classes": 5}, now) == "the classes are not those that were noted"


def forget(file: Path) -> None:
    save_file(load_file(file), file)


@pytest.mark.parametrize("damage", [flip_bit, relabel, shorten, forget])
def test_latents_that_are_not_what_was_written_are_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
):
    tokenizer, data = load_tokenizer("identity"), open_dataset("digits", limit=8)
    file, identity = tmp_path / "latents.safetensors", identity_of(data)

    def latents():
        return cache_latents(tokenizer, data, False, file, torch.no_grad, identity, quiet=False)

    good = latents()
    assert "anew" not in caplog.text
    damage(file)
    again = latents()
    assert "are made anew: they are damaged" in caplog.text
    assert torch.equal(again.mean, good.mean)
    assert torch.equal(again.labels, good.labels)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def without_identity(file: Path) -> None:
    save_file(load_file(file), file, {**load_metadata(file), "identity": "[1]"})


def test_latents_that_do_not_say_what_they_were_made_from_are_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    tokenizer, data = load_tokenizer("identity"), open_dataset("digits", limit=8)
    file, identity = tmp_path / "latents.safetensors", identity_of(data)
    cache_latents(tokenizer, data, False, file, torch.no_grad, identity)
    without_identity(file)
    cache_latents(tokenizer, data, False, file, torch.no_grad, identity)
    assert "are made anew: they do not say which images" in caplog.text


def test_what_a_killed_process_left_of_latents_is_cleared(tmp_path: Path):
    tokenizer, data = load_tokenizer("identity"), open_dataset("digits", limit=8)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    alive = os.getppid()
    for process in (ended.pid, alive):
        (tmp_path / f".latents-0a-{process}.safetensors").write_bytes(b"half")
    file, identity = tmp_path / "latents-0b.safetensors", identity_of(data)
    cache_latents(tokenizer, data, False, file, torch.no_grad, identity)
    left = sorted(entry.name for entry in tmp_path.iterdir())
    assert left == [f".latents-0a-{alive}.safetensors", file.name]


def test_latents_of_other_images_of_the_same_name_and_number_are_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    tokenizer, file = load_tokenizer("identity"), tmp_path / "latents.safetensors"
    stores = []
    for split in ("train", "test"):
        data = open_dataset("digits", split=split, limit=8)
        identity = identity_of(data)
        stores.append(cache_latents(tokenizer, data, False, file, torch.no_grad, identity))
    assert "the 8 pictures or their classes are no longer the same" in caplog.text
    assert not torch.equal(stores[0].mean, stores[1].mean)


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "ema", "optimizer"])
def test_a_flipped_bit_in_the_newest_checkpoint_falls_back_to_the_one_before(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
):
    run = cut_back(undisturbed, tmp_path / "run", 6)
    flip_bit(list_checkpoints(run)[-1] / f"{name}.safetensors")
    with caplog.at_level(logging.INFO):
        train_model(config(run))
    assert f"{name}.safetensors' cannot be loaded, it is not the file that was saved" in caplog.text
    assert "it is kept as checkpoints/step-00000006.unsound" in caplog.text
    assert "resumed from" in caplog.text
    assert_same(weights(run), weights(undisturbed))
    assert curve(run) == curve(undisturbed)


def test_where_no_checkpoint_is_sound_nothing_begins_anew(undisturbed: Path, tmp_path: Path):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    for folder in list_checkpoints(run):
        (folder / "model.safetensors").write_bytes(b"")
    for _ in range(2):  # the second time, too
        with pytest.raises(EcarError, match=r"none of the 2 .*step-00000004.* --resume none"):
            train_model(config(run))


def test_a_damaged_checkpoint_that_was_named_is_refused(undisturbed: Path, tmp_path: Path):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    flip_bit(list_checkpoints(run)[-1] / "model.safetensors")
    for named in (run, list_checkpoints(run)[-1]):
        with pytest.raises(EcarError, match=r"step-00000004.* is damaged .*delete the folder"):
            train_model(config(tmp_path / "other", resume=str(named)))
    assert len(list_checkpoints(run)) == 2


@pytest.mark.parametrize("stem", ["model", "ema", "optimizer"])
@pytest.mark.parametrize("change", ["lost", "reshaped", "not finite"])
def test_tensors_that_do_not_fit_are_passed_over(
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stem: str,
    change: str,
):
    run = cut_back(undisturbed, tmp_path / "run", 4)
    file = list_checkpoints(run)[-1] / f"{stem}.safetensors"
    named = load_file(file)
    name = next(name for name, tensor in named.items() if tensor.ndim == 2)
    if change == "lost":
        del named[name]
    else:
        named[name] = named[name][1:].clone() if change == "reshaped" else named[name] * torch.nan
    save_file(named, file)
    write_checksums(file.parent)
    monkeypatch.setattr(Trainer, "_loop", lambda self, *rest: (self.step, False))  # no step
    monkeypatch.setattr(Trainer, "_export", lambda self, log: None)
    with caplog.at_level(logging.INFO):
        train_model(config(run))
    assert "it is kept as checkpoints/step-00000004.unsound" in caplog.text
    assert f"resumed from {list_checkpoints(run)[-1]}" in caplog.text
    assert list_checkpoints(run)[-1].name == "step-00000002"


STATES = {
    "list": lambda state: [],
    "null": lambda state: None,
    "nearly nothing": lambda state: {"format": 1},
    "another format": lambda state: {**state, "format": 2},
    "missing": lambda state: {k: v for k, v in state.items() if k != "seconds"},
    "extra": lambda state: {**state, "more": 1},
    "step as text": lambda state: {**state, "step": "2"},
    "step as float": lambda state: {**state, "step": 2.5},
    "step below zero": lambda state: {**state, "step": -4},
    "step far away": lambda state: {**state, "step": 10**12, "ema_steps": 10**12},
    "step of another": lambda state: {**state, "step": 3, "ema_steps": 3},
    "averages": lambda state: {**state, "ema_steps": 1},
    "plan": lambda state: {**state, "plan": {**state["plan"], "progress": 7}},
    "position": lambda state: {**state, "position": {"epoch": "one"}},
    "guard": lambda state: {**state, "guard": {"recent": ["x"], "strikes": 0}},
    "meter": lambda state: {**state, "meter": {"loss": 1}},
    "seconds": lambda state: {**state, "seconds": float("nan")},
    "row": lambda state: {**state, "last_row": []},
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES.keys())
def test_a_state_that_no_run_wrote_is_refused(
    undisturbed: Path, tmp_path: Path, change: Callable[[dict], object]
):
    folder = shutil.copytree(list_checkpoints(undisturbed)[0], tmp_path / "step-00000002")
    load_checkpoint(folder)
    file = folder / "state.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    write_checksums(folder)
    with pytest.raises(EcarError, match=r"step-00000002' is damaged \(.*\): delete the folder"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=len)
def test_a_state_that_is_no_json_is_refused(undisturbed: Path, tmp_path: Path, content: bytes):
    folder = shutil.copytree(list_checkpoints(undisturbed)[0], tmp_path / "step-00000002")
    (folder / "state.json").write_bytes(content)
    write_checksums(folder)
    with pytest.raises(EcarError, match="is damaged"):
        load_checkpoint(folder)
