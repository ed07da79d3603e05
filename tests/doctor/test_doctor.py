"""`ecar doctor` sees what is missing or broken and judges whether the demo runs."""

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from ecar_lab.cli import main as cli
from ecar_lab.doctor import installation
from ecar_lab.home import APP_CHECKPOINT


@pytest.fixture
def checkpoints(tmp_path: Path, tiny_checkpoint: Path, monkeypatch) -> Path:
    """A folder of checkpoints in which the demo's own is a tiny one."""
    root = tmp_path / "checkpoints"
    shutil.copytree(tiny_checkpoint, root / APP_CHECKPOINT)
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(root))
    return root


@pytest.fixture
def free_port(monkeypatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(probe.getsockname()[1]))


def finding(name: str) -> installation.Finding:
    return next(entry for entry in installation.examine() if entry.name == name)


def test_a_sound_installation_is_called_sound(checkpoints, free_port, capsys):
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    names = {entry["name"] for entry in report["findings"]}
    assert names >= {"python", "packages", "torch", "device", "threads", "disk", "C++ compiler"}
    assert names >= {"chromium", "port", f"checkpoint {APP_CHECKPOINT}", "data sets"}


def test_the_report_names_what_is_wrong_and_the_remedy(checkpoints, free_port, capsys):
    shutil.rmtree(checkpoints / APP_CHECKPOINT)
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(
        n for n, line in enumerate(lines) if line.startswith(f"wrong  checkpoint {APP_CHECKPOINT}")
    )
    assert "-> run `git checkout -- data/checkpoints`" in lines[at + 1]
    assert lines[-1].startswith("1 wrong")


def test_a_cut_off_weight_file_is_found_without_loading_it(checkpoints):
    file = next((checkpoints / APP_CHECKPOINT / "model").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    found = finding(f"checkpoint {APP_CHECKPOINT}")
    assert found.status == "wrong"
    assert "100 bytes are missing" in found.value


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", b"\xff" * 64])
def test_a_file_that_holds_no_tensors_is_recognised(tmp_path, content):
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert "no safetensors file" in installation.safetensors_fault(tmp_path / "weights.safetensors")


def test_a_whole_file_has_no_fault(tmp_path):
    import torch

    save_file({"a": torch.zeros(3), "b": torch.ones(2, 2)}, tmp_path / "weights.safetensors")
    assert installation.safetensors_fault(tmp_path / "weights.safetensors") == ""


def test_a_damaged_checkpoint_that_the_demo_does_not_use_is_only_a_note(checkpoints):
    (checkpoints / "other").mkdir()
    assert finding("checkpoint other").status == "note"


def test_a_port_in_use_stops_the_demo(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(other.getsockname()[1]))
        assert installation.check_port().status == "wrong"


@pytest.mark.parametrize("port", ["many", "0", "70000", "-1"])
def test_a_port_that_is_no_port_is_named(monkeypatch, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    found = installation.check_port()
    assert found.status == "wrong"
    assert port in found.value


def test_a_missing_data_root_is_named_but_does_not_stop_the_demo(monkeypatch, tmp_path):
    monkeypatch.setenv("ECAR_DATA", str(tmp_path / "gone"))
    found = installation.check_data()
    assert found.status == "note"
    assert str(tmp_path / "gone") in found.value


def test_the_real_data_sets_are_found(data_root):
    found = installation.check_data(str(data_root))
    assert found.status == "ok"
    assert "cifar10" in found.value
    assert "digits" in found.value


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert installation.check_python().status == "wrong"


def test_a_package_outside_its_range_or_missing_is_named(monkeypatch):
    versions = {"torch": "1.0", "gradio": None}
    installed = installation.installed_version
    monkeypatch.setattr(installation, "installed_version", lambda n: versions.get(n, installed(n)))
    assert installation.check_packages().value == "not installed: gradio"
    del versions["gradio"]
    found = installation.check_packages()
    assert found.status == "note"
    assert "torch 1.0 (wanted" in found.value


def test_no_browser_and_no_compiler_are_notes(monkeypatch):
    monkeypatch.setattr(installation.shutil, "which", lambda name: None)
    assert installation.check_browser().status == "note"
    assert installation.check_compiler().status == "note"


def test_too_many_threads_are_noted(monkeypatch):
    monkeypatch.setattr(installation, "usable_cores", lambda: 0)
    assert installation.check_threads().status == "note"


def test_a_check_that_fails_becomes_a_finding(monkeypatch):
    def faint() -> installation.Finding:
        raise RuntimeError("out of order\nwith details")

    monkeypatch.setattr(installation, "check_memory", faint)
    found = finding("memory")
    assert found.status == "note"
    assert found.value == "cannot be checked: out of order"
