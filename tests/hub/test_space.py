"""`ecar space`: a folder that serves the app. tests/scripts/try_wheel.py runs it from a wheel."""

import importlib.metadata
import re
import runpy
from pathlib import Path

import pytest
import yaml

from apps.demo import LARGEST_UPLOAD
from apps.server.queue import JOBS, JOBS_EACH, JOBS_PER_NETWORK
from ecar_lab.cli import main as cli
from ecar_lab.hub.space import README, requirements
from ecar_lab.pipeline import ECARPipeline
from tests.cli.commands import complaint, files


def space(*words: object) -> int:
    return cli.main(["space", *map(str, words)])


def head(readme: Path) -> dict:
    return yaml.safe_load(readme.read_text("utf-8").split("---\n")[1])


def test_a_space_holds_all_that_its_host_asks_for(tiny_checkpoint, capsys):
    assert space("space", "--checkpoint", tiny_checkpoint) == 0
    assert {"README.md", "app.py", "requirements.txt"} <= files(Path("space"))
    said = head(Path("space/README.md"))
    assert said["sdk"] == "gradio"
    assert said["sdk_version"] == importlib.metadata.version("gradio")
    assert said["app_file"] == "app.py"
    assert len(said["short_description"]) <= 60
    pins = Path("space/requirements.txt").read_text().splitlines()
    assert pins[0] == f"ecar-lab=={importlib.metadata.version('ecar-lab')}"
    torch = importlib.metadata.version("torch").partition("+")[0]
    assert f"torch=={torch}" in pins
    assert ECARPipeline.from_pretrained("space/tiny").class_names == ["cat", "dog", "frog"]


@pytest.mark.parametrize(
    ("variables", "host"), [({}, "127.0.0.1"), ({"SPACE_HOST": "me-tiny.hf.space"}, "0.0.0.0")]
)
def test_its_app_serves_the_copy_and_listens_to_others_on_a_space_only(
    tiny_checkpoint, monkeypatch, variables, host
):
    import apps.demo

    assert space("space", "--checkpoint", tiny_checkpoint) == 0
    served = {}
    monkeypatch.setattr(apps.demo, "launch", lambda **switches: served.update(switches))
    monkeypatch.delenv("SPACE_HOST", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path("space/app.py", run_name="__main__")
    assert stop.value.code == 0
    assert served["host"] == host
    assert Path(served["checkpoint"]) == Path("space/tiny").resolve()


def test_a_checkpoint_of_the_hub_is_copied(hub, kept):
    assert space("space", "--checkpoint", "me/tiny") == 0
    assert (Path("space/tiny/model/config.json")).is_file()


def test_its_words_on_limits_are_the_apps():
    words = re.sub(r"\s+", " ", README)
    jobs = f"{JOBS_EACH} of one visitor, {JOBS_PER_NETWORK} of one network, {JOBS} of all"
    assert jobs in words
    assert f"An upload has {LARGEST_UPLOAD.removesuffix('mb')} MB" in words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--checkpoint", "nothing"], "there is no checkpoint 'nothing'"),
        (["--checkpoint", "cifar10-dit"], "is a baseline, and the app shows E-CAR"),
        (["--checkpoint", "digits", "--kit", "torch==1"], "kit 'torch==1' is nothing that pip"),
        (["--checkpoint", "digits", "--kit", "ecar lab !"], "is nothing that pip installs"),
    ],
)
def test_what_cannot_be_a_space_is_one_sentence_and_no_folder(capsys, words, said):
    assert said in complaint(capsys, space("space", *words))
    assert not Path("space").exists()


def test_a_folder_with_something_in_it_stays(capsys, tiny_checkpoint):
    Path("space").mkdir()
    Path("space/mine").write_text("x")
    assert "holds something" in complaint(capsys, space("space", "--checkpoint", tiny_checkpoint))
    assert files(Path("space")) == {"mine"}


def test_a_wheel_of_ones_own_can_be_named():
    kit = "ecar-lab @ https://example.org/ecar_lab-0.1.0-py3-none-any.whl"
    assert requirements(kit)[0] == kit
