"""Devices, folders, and files that are whole or not there."""

import errno
import json
import os
import platform

import pytest
import torch

from ecar_lab import EcarError
from ecar_lab.device import autocast, keep_freed_memory, pick_device, pick_dtype
from ecar_lab.files import atomic_directory, data_root, resolve_checkpoint, write_json


def test_auto_picks_a_device_that_is_there():
    device = pick_device()
    assert torch.zeros(1, device=device).device.type == device.type
    assert pick_device("cpu").type == "cpu"


def test_an_unknown_device_or_dtype_is_named():
    with pytest.raises(EcarError, match="device 'tpu' is unknown: use auto, cuda, mps, cpu"):
        pick_device("tpu")
    with pytest.raises(EcarError, match="dtype 'int8' is unknown"):
        pick_dtype(torch.device("cpu"), "int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_missing_is_named():
    with pytest.raises(EcarError, match="'cuda' is not available on this machine"):
        pick_device("cuda")


@pytest.mark.parametrize("name", ["cpu:x", "cpu:", "cpu:-1", "cpu:1", "cpu:00", "cpu:256"])
def test_a_device_with_a_number_that_is_none_of_this_machine_is_named(name):
    with pytest.raises(EcarError, match=f"device '{name}' is not available on this machine: use"):
        pick_device(name)
    assert pick_device("cpu:0").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "cuda:2", "cuda:258", "mps", "mps:1"])
def test_a_gpu_is_there_by_its_number(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == "cuda"
    if name in ("cuda:2", "cuda:258", "mps:1"):
        with pytest.raises(EcarError, match="not available on this machine"):
            pick_device(name)
    else:
        assert str(pick_device(name)) == name


def test_autocast_is_off_for_float32_and_on_for_bfloat16():
    cpu, x = torch.device("cpu"), torch.randn(4, 4)
    with autocast(cpu, torch.float32):
        assert (x @ x).dtype == torch.float32
    with autocast(cpu, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16


def test_the_data_root_is_argument_then_variable_then_none(tmp_path, monkeypatch):
    monkeypatch.delenv("ECAR_DATA", raising=False)
    assert data_root() is None
    monkeypatch.setenv("ECAR_DATA", str(tmp_path))
    assert data_root() == tmp_path
    (tmp_path / "other").mkdir()
    assert data_root(tmp_path / "other") == tmp_path / "other"
    with pytest.raises(EcarError, match=r"\(from --data\) is no folder: point --data"):
        data_root(tmp_path / "missing")
    monkeypatch.setenv("ECAR_DATA", str(tmp_path / "missing"))
    with pytest.raises(EcarError, match=r"\(from ECAR_DATA\) is no folder"):
        data_root()


def test_a_checkpoint_is_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model_index.json").write_text("{}")
    assert resolve_checkpoint("mine") == tmp_path / "mine"
    assert resolve_checkpoint(tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(EcarError, match="no checkpoint 'yours': give a folder or one of mine"):
        resolve_checkpoint("yours")


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "run"
    with atomic_directory(target) as fresh:
        (fresh / "a").write_text("1")
    with atomic_directory(target) as fresh:
        (fresh / "b").write_text("2")
        assert (target / "a").exists()  # the old one stands until the new one is whole
    assert sorted(p.name for p in target.iterdir()) == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyError()])
def test_a_failure_while_writing_keeps_the_old_folder(tmp_path, error):
    target = tmp_path / "run"
    with atomic_directory(target) as fresh:
        (fresh / "a").write_text("1")

    def replace():
        with atomic_directory(target) as fresh:
            (fresh / "a").write_text("half")
            raise error

    with pytest.raises(EcarError if isinstance(error, OSError) else KeyError):
        replace()
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "result.json"
    write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EcarError, match=r"No space left on device.*free some space"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EcarError, match="cannot write"):
        write_json(tmp_path / "file" / "x.json", {})
    with (
        pytest.raises(EcarError, match="cannot write"),
        atomic_directory(tmp_path / "file" / "x"),
    ):
        pass


def test_a_full_disk_while_weights_are_saved_is_one_sentence(tmp_path):
    from safetensors import SafetensorError

    def save():
        with atomic_directory(tmp_path / "weights"):
            raise SafetensorError("Error while serializing: No space left on device")

    with pytest.raises(EcarError, match=r"No space left on device.*free some space"):
        save()
    assert not list(tmp_path.iterdir())


def test_freed_memory_is_kept_on_linux_cpus_alone():
    assert not keep_freed_memory(torch.device("cuda"))
    on_glibc = platform.libc_ver()[0] == "glibc"
    assert keep_freed_memory(torch.device("cpu")) == on_glibc
    assert torch.ones(2**22).sum() == 2**22  # 16 MiB from the heap, where a block of its own was


@pytest.mark.parametrize(
    ("allowed", "dtype"),
    [
        (None, torch.bfloat16),
        ("AVX512_CORE_AMX", torch.bfloat16),
        ("avx512_core_bf16", torch.bfloat16),
        ("AVX512_CORE", torch.float32),
        ("AVX2", torch.float32),
    ],
)
def test_a_cpu_kept_from_its_fast_bfloat16_computes_in_float32(monkeypatch, allowed, dtype):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    if allowed:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert pick_dtype(torch.device("cpu")) == dtype
