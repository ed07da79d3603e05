"""`ecar pull`: whole or not at all; nothing that could run is fetched."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ecar_lab
from ecar_lab.cli import main as cli
from ecar_lab.errors import EcarError
from ecar_lab.files import resolve_checkpoint
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.stored import fingerprint
from ecar_lab.stored_pipeline import CODE
from tests.cli.commands import complaint, files
from tests.hub.server import TOKEN

WEIGHTS = "model/diffusion_pytorch_model.safetensors"


def pull(*words: str) -> int:
    return cli.main(["pull", *words])


def refused(capsys, *words: str) -> str:
    """The sentence; and nothing, whole or half, has been left behind."""
    before = files(Path())
    sentence = complaint(capsys, pull(*words))
    assert files(Path()) == before
    return sentence


def test_a_checkpoint_is_fetched_without_its_code_and_loads(hub, kept, capsys):
    kept[CODE] = b"raise SystemExit('this ran')"
    kept["extra.py"], kept["old.bin"] = b"raise SystemExit('this ran')", b"pickle"
    assert pull("me/tiny") == 0
    said = capsys.readouterr().out
    assert "not fetched: extra.py, old.bin" in said
    assert hub.fetched() & {CODE, "extra.py", "old.bin"} == set()
    assert "this ran" not in Path("tiny", CODE).read_text()
    assert not Path("tiny", ".cache").exists()
    pipe = ECARPipeline.from_pretrained("tiny")
    assert pipe.class_names == ["cat", "dog", "frog"]
    assert "holds something already" in complaint(capsys, pull("me/tiny"))


def test_an_empty_folder_is_taken_and_a_revision_is_looked_for(hub, kept, capsys):
    Path("here").mkdir()
    assert "no revision 'v9'" in refused(capsys, "me/tiny", "here", "--revision", "v9")
    assert pull("me/tiny", "here", "--revision", "main") == 0
    assert Path("here", WEIGHTS).is_file()


@pytest.mark.parametrize("file", [WEIGHTS, "model_index.json", "tokenizer/config.json"])
def test_a_file_with_another_hash_than_listed_is_refused(hub, kept, capsys, file):
    hub.garble = file
    assert "its hash differs" in refused(capsys, "me/tiny")


def test_pickles_in_place_of_weights_are_never_fetched(hub, kept, capsys):
    kept["model/diffusion_pytorch_model.bin"] = pickle.dumps({"a": 1})
    del kept[WEIGHTS]
    kept.pop("tokenizer/diffusion_pytorch_model.safetensors", None)
    assert "as a pickle" in refused(capsys, "me/tiny")
    assert not [name for name in hub.fetched() if name.endswith(".bin")]


def test_a_pickle_that_calls_itself_safetensors_is_found_out(hub, kept, capsys):
    kept[WEIGHTS] = pickle.dumps({"weights": [1.0] * 100})
    assert "is no safetensors file" in refused(capsys, "me/tiny")


def test_weights_that_are_not_those_that_were_pushed_are_refused(hub, kept, capsys):
    changed = bytearray(kept[WEIGHTS])
    changed[-1] ^= 1
    kept[WEIGHTS] = bytes(changed)
    assert "SHA256SUMS" in refused(capsys, "me/tiny")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, "holds 'StableDiffusionPipeline'"),
        ({"_class_name": ["pipeline", "Mine"]}, "no ECARPipeline or BaselinePipeline"),
        ({"model": ["pipeline", "Mine"]}, "has a part 'model' of 'pipeline'"),
        ({"model": ["ecar_labs.model", "ECAR"]}, "has a part 'model' of 'ecar_labs.model'"),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "has a part 'vae'"),
        ({"tokenizer": None}, "has a part 'tokenizer'"),
    ],
)
def test_an_index_of_something_else_is_refused_before_its_weights(hub, kept, capsys, change, words):
    index = json.loads(kept["model_index.json"]) | change
    kept["model_index.json"] = json.dumps(index).encode()
    assert words in refused(capsys, "me/tiny")
    assert hub.fetched() == {"model_index.json"}


def test_what_is_no_checkpoint_or_not_there_is_said(hub, kept, capsys, monkeypatch):
    hub.repositories["me/bert"] = {"config.json": b"{}", "model.safetensors": b"x"}
    assert "has no model_index.json" in refused(capsys, "me/bert")
    assert "no repository 'me/none'" in refused(capsys, "me/none")
    assert "no repository of the Hub" in refused(capsys, "tiny")
    kept["model_index.json"] = b"{"
    assert "is no JSON" in refused(capsys, "me/tiny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(capsys, "me/tiny")


def test_names_that_lead_out_of_the_folder_are_not_fetched(hub, kept):
    kept["../outside.json"] = kept["model/../../up.json"] = kept[".hidden/x.json"] = b"{}"
    assert pull("me/tiny", "inner/tiny") == 0
    assert not [name for name in files(Path()) if "outside" in name or "up.json" in name]
    assert not Path("inner/tiny/.hidden").exists()


def test_what_a_wheel_leaves_behind_is_fetched_once_and_compared(
    hub, kept, tiny_checkpoint, tmp_path, monkeypatch
):
    packed = tmp_path / "packed"
    known = packed / "data" / "left_behind" / "tiny"
    known.mkdir(parents=True)
    for name in ("SHA256SUMS", "model_index.json"):
        shutil.copyfile(tiny_checkpoint / name, known / name)
    monkeypatch.setattr("ecar_lab.home.PACKED", packed)
    monkeypatch.setenv("ECAR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(EcarError, match="'tiny' is not part of the installed package"):
        resolve_checkpoint("tiny")
    monkeypatch.setenv("ECAR_HUB", "me")
    good = kept[WEIGHTS]
    kept[WEIGHTS] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(EcarError, match="is not the checkpoint 'tiny' that this version"):
        resolve_checkpoint("tiny")
    assert files(tmp_path / "cache") == set()
    kept[WEIGHTS], kept["README.md"] = good, b"other words"
    folder = resolve_checkpoint("tiny")
    assert fingerprint(folder) == fingerprint(tiny_checkpoint)
    assert (folder / WEIGHTS).read_bytes() == good
    count = len(hub.calls)
    assert resolve_checkpoint("tiny") == folder
    assert len(hub.calls) == count
    with pytest.raises(EcarError, match=r"there is no checkpoint 'tinny': .* tiny"):
        resolve_checkpoint("tinny")


def test_a_checkpoint_that_is_named_like_one_of_the_hub_is_told_how_to_come(capsys):
    status = cli.main(["sample", "--checkpoint", "me/tiny"])
    assert "fetch it from the Hub with `ecar pull me/tiny`" in complaint(capsys, status)


PROCESS = """
import sys
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(
    "me/tiny", custom_pipeline="me/tiny", trust_remote_code=True
)
print(type(pipe).__name__, len(pipe([0, 1], 1).images))
from ecar_lab.cli.main import main
sys.exit(main(["pull", "me/tiny", "pulled"]))
"""


def test_a_process_with_the_hubs_variables_loads_it_with_diffusers_and_pulls(hub, kept, tmp_path):
    variables = {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join([str(Path(ecar_lab.__file__).parents[1]), *sys.path[1:]]),
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", PROCESS], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith("ECARPipeline 2\n")
    assert (tmp_path / "pulled" / WEIGHTS).read_bytes() == kept[WEIGHTS]
