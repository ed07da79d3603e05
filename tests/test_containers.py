"""Dockerfile, dev container, Binder and the hashed lock: they fit the kit and each other.

No daemon runs here: tests/scripts/replay_docker.py does the steps of the image in a fresh
environment. It reads the Dockerfile with what is tested here.
"""

import functools
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ecar_lab.doctor.installation import DEMO_PORT
from tests.scripts.replay_docker import context, let_through, read_stages, steps_of
from tests.test_packaging import locked_versions

ROOT = Path(__file__).resolve().parents[1]
HASHED = (ROOT / "requirements.hashes.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STAGES = read_stages(ROOT / "Dockerfile")
CUDA = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)")


@functools.cache
def hashed() -> dict[str, tuple[Requirement, list[str]]]:
    """Name -> (pin, hashes) of every entry of the hashed lock."""
    entries = {}
    for entry in re.split(r"\n(?=\w)", re.sub(r"(?m)^#.*\n", "", HASHED)):
        pin, *hashes = [part.strip() for part in entry.replace("\\\n", "\n").split("\n") if part]
        requirement = Requirement(pin)
        entries[canonicalize_name(requirement.name)] = (requirement, [one for one in hashes if one])
    return entries


def test_the_hashed_lock_is_the_lock():
    entries, locked = hashed(), locked_versions()
    assert locked.keys() <= entries.keys()
    for name, (requirement, hashes) in entries.items():
        assert hashes, name
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in hashes), name
        assert len(set(hashes)) == len(hashes)
        if name in locked:
            assert str(requirement.specifier) == f"=={locked[name]}", "run `make hashes`"
        else:  # of another system or Python than the lock's own
            assert requirement.marker is not None, name
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", HASHED)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_all_that_an_image_copies_is_there_and_sent(target):
    sent = context()
    copies = [words.split()[:-1] for word, words in steps_of(STAGES, target) if word == "COPY"]
    copied = {source for sources in copies for source in sources}
    for source in copied:
        assert [one for one in sent if one == source or one.startswith(f"{source}/")], source
    top = {place.split("/")[0] for place in sent}
    assert top == copied, "nothing is sent that is not copied"


def test_both_images_differ_in_their_packages_only():
    assert STAGES["cpu"].steps == STAGES["cuda"].steps
    assert STAGES["cpu-packages"].source == STAGES["cuda-packages"].source == "base"
    for target in ("cpu", "cuda"):
        words = [word for word, _ in steps_of(STAGES, target)]
        assert words[-1] == "CMD"
        assert ("USER", "1000:1000") in steps_of(STAGES, target), "the page is not served by root"


def test_every_package_of_an_image_has_a_hash_but_the_cpu_build_of_torch():
    installs = [
        words
        for name in ("cpu-packages", "cuda-packages")
        for word, words in STAGES[name].steps
        if word == "RUN" and "pip install" in words
    ]
    plain = [words for words in installs if "--require-hashes" not in words]
    assert len(installs) == 3
    assert len(plain) == 1
    assert "grep '^torch=='" in plain[0]


def test_the_cpu_image_takes_all_but_torch_and_what_cuda_needs(tmp_path):
    (line,) = [words for word, words in STAGES["cpu-packages"].steps if "awk" in words]
    for name in ("requirements.lock", "requirements.hashes.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    subprocess.run(["/bin/sh", "-ec", line], cwd=tmp_path, check=True)
    text = (tmp_path / "cpu.lock").read_text("utf-8")
    kept = {canonicalize_name(name) for name in re.findall(r"(?m)^([\w.-]+)==", text)}
    assert kept == {name for name in hashed() if not CUDA.fullmatch(name)}
    assert text.count("--hash") == sum(len(hashed()[name][1]) for name in kept)


@pytest.mark.parametrize(
    ("place", "sent"),
    [
        ("ecar_lab/cli/main.py", True),
        ("apps/runs/tab.py", True),
        ("notebooks/00_start_here.ipynb", True),
        ("notebooks/runs/notebook-6/final/x.safetensors", False),
        ("notebooks/solutions/runs/x", False),
        ("notebooks/my_ecar.py", False),
        ("apps/shell/__pycache__/shell.cpython-311.pyc", False),
        (".git/config", False),
        (".env", False),
        ("runs/mine/final/model_index.json", False),
        ("tests/conftest.py", False),
    ],
)
def test_a_build_is_sent_what_belongs_to_the_kit_only(place, sent):
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert let_through(place, [one for one in lines if one and one[0] != "#"]) == sent


def test_an_instruction_that_is_not_replayed_is_named(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch AS a\nADD x y\n")
    with pytest.raises(ValueError, match="ADD is not known here"):
        read_stages(tmp_path / "Dockerfile")


def test_all_of_them_take_a_python_that_the_kit_takes():
    python = Requirement(f"python{PROJECT['requires-python']}").specifier
    image = re.fullmatch(r"python:([\d.]+)-slim-bookworm", STAGES["base"].source)
    runtime = re.fullmatch(r"python-([\d.]+)\n", (ROOT / "binder" / "runtime.txt").read_text())
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    dev = re.search(r"python:1-([\d.]+)-", container["image"])
    for found in (image, runtime, dev):
        assert found is not None
        assert python.contains(found[1])


def test_the_dev_container_does_what_a_clone_does():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    word, target = container["postCreateCommand"].split()
    assert word == "make"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert DEMO_PORT in container["forwardPorts"]


def test_binder_takes_the_lock_and_the_kit():
    lines = (ROOT / "binder" / "requirements.txt").read_text("utf-8").splitlines()
    (lock,) = [line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    assert (ROOT / "binder" / lock).resolve() == ROOT / "requirements.lock"
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text("utf-8").splitlines()[-1].endswith("--no-build-isolation -e .")
