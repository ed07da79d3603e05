"""`ecar doctor`: what this installation has, what is wrong with it, and how to put it right.

Every check returns a :class:`Finding`. Nothing here may raise: a doctor who faints at the sight of
a broken installation helps nobody, so heavy imports happen inside the checks.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import struct
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from ecar_lab.doctor.findings import Finding, Status
from ecar_lab.errors import EcarError
from ecar_lab.home import APP_CHECKPOINT, checkpoints_root, is_packed

MIN_PYTHON = (3, 11)
DEMO_PORT = 7860
# What the demo needs in memory and a training run needs on the disk, with room to spare.
MIN_FREE_MEMORY = 1.5 * 2**30
MIN_FREE_DISK = 2 * 2**30
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Path of a Chromium for the tests that click through the app, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def in_clone(remedy: str) -> str:
    """The remedy where the kit is a clone; from a wheel there is one for all."""
    return "run `pip install --force-reinstall ecar-lab`" if is_packed() else remedy


def check_python() -> Finding:
    version = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < MIN_PYTHON:
        return Finding(
            "python",
            "wrong",
            version,
            in_clone("install Python 3.11 and run `make PYTHON=python3.11 demo`"),
        )
    return Finding("python", "ok", version)


def check_packages() -> Finding:
    """Whether every package that pyproject.toml asks for is installed, in the range it asks for."""
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires("ecar-lab") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "packages",
            "wrong",
            "ecar-lab itself is not installed here",
            in_clone(
                "run `make install`, or `pip install -r requirements.lock && pip install -e .`"
            ),
        )
    missing, strangers, found = [], [], []
    for line in declared:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed_version(requirement.name)
        if version is None:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(version, prereleases=True):
            strangers.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
        else:
            found.append(f"{requirement.name} {version}")
    remedy = in_clone("run `pip install -r requirements.lock`")
    if missing:
        return Finding("packages", "wrong", f"not installed: {', '.join(missing)}", remedy)
    if strangers:
        return Finding("packages", "note", f"untested versions: {', '.join(strangers)}", remedy)
    return Finding("packages", "ok", ", ".join(found))


def check_torch() -> Finding:
    try:
        import torch
    except Exception as error:
        return Finding(
            "torch",
            "wrong",
            f"does not import: {first_line(error)}",
            in_clone("run `make install` again"),
        )
    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    return Finding("torch", "ok", f"{torch.__version__} (built with {kind})")


def check_torchvision() -> Finding:
    """Nothing here needs torchvision, but one that does not match torch breaks other imports."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("torchvision", "ok", "not installed, not needed")
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        return Finding(
            "torchvision",
            "wrong",
            f"does not fit this torch: {first_line(error)}",
            "run `pip uninstall torchvision`, or install the one built for this torch",
        )
    return Finding("torchvision", "ok", installed_version("torchvision") or "installed")


def check_device() -> Finding:
    import torch

    from ecar_lab.device import pick_device, pick_dtype

    device = pick_device()
    dtype = str(pick_dtype(device)).removeprefix("torch.")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        memory = size_text(properties.total_memory)
        return Finding("device", "ok", f"{properties.name}, {memory}, computes in {dtype}")
    if device.type == "cpu" and dtype == "float32":
        return Finding(
            "device",
            "note",
            "cpu without AMX tiles, computes in float32",
            "fine for the demo and the digits preset; larger presets want a GPU",
        )
    return Finding(
        "device", "ok", f"{device}{' with AMX tiles' * (device.type == 'cpu')}, computes in {dtype}"
    )


def check_threads() -> Finding:
    import torch

    threads, cores = torch.get_num_threads(), usable_cores()
    value = f"torch uses {threads}, this process may use {cores} cores"
    if threads > cores:
        remedy = f"set OMP_NUM_THREADS={cores}: more threads than cores only wait"
        return Finding("threads", "note", value, remedy)
    if threads < cores and "OMP_NUM_THREADS" in os.environ:
        return Finding("threads", "note", value, "unset OMP_NUM_THREADS for full speed")
    return Finding("threads", "ok", value)


def usable_cores() -> int:
    """Cores that this process may run on; fewer than the machine has inside many containers."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    value = f"{size_text(memory.available)} free of {size_text(memory.total)}"
    if memory.available < MIN_FREE_MEMORY:
        return Finding("memory", "note", value, "close other programs, or the demo may be killed")
    return Finding("memory", "ok", value)


def check_disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    value = f"{size_text(free)} free here"
    if free < MIN_FREE_DISK:
        return Finding(
            "disk",
            "note",
            value,
            f"a training run wants {size_text(MIN_FREE_DISK)}: free some space",
        )
    return Finding("disk", "ok", value)


def check_compiler() -> Finding:
    """torch.compile writes C++ for the CPU: it needs a compiler and Python's headers."""
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None
    )
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    remedy = (
        "only --compile needs it: `apt-get install g++ python3-dev` (macOS: xcode-select --install)"
    )
    if compiler is None:
        return Finding("C++ compiler", "note", "none found", remedy)
    if not headers.is_file():
        return Finding("C++ compiler", "note", f"{compiler}, but no Python.h", remedy)
    return Finding("C++ compiler", "ok", compiler)


def check_browser() -> Finding:
    browser = find_browser()
    if browser is None:
        return Finding(
            "chromium",
            "note",
            "none found: the tests of the app in a browser are skipped",
            "`apt-get install chromium`",
        )
    return Finding("chromium", "ok", browser)


def check_data(data: str | None = None) -> Finding:
    from ecar_lab.data import find_datasets
    from ecar_lab.files import data_root

    try:
        root = data_root(data)
    except EcarError as error:
        return Finding("data sets", "note", str(error), "the demo itself needs no data set")
    found = find_datasets(root) if root else {}
    value = ", ".join(["digits", "shapes", *found])
    if root is None:
        remedy = "to train on real images: export ECAR_DATA=<folder that holds cifar10/ and others>"
        return Finding("data sets", "note", f"{value}; no data root is set", remedy)
    empty = [name for name, splits in found.items() if not all(splits.values())]
    if empty:
        remedy = "copy these sets again: they hold files that cannot be read"
        return Finding("data sets", "note", f"{value}; damaged: {', '.join(empty)}", remedy)
    return Finding("data sets", "ok", f"{value} (in {root})")


def check_checkpoints() -> list[Finding]:
    """One finding per shipped checkpoint, and one more if the demo's own is missing."""
    root = checkpoints_root()
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    findings = [check_checkpoint(folder) for folder in folders if not folder.name.startswith(".")]
    if not any(folder.name == APP_CHECKPOINT for folder in folders):
        findings.append(
            Finding(
                f"checkpoint {APP_CHECKPOINT}",
                "wrong",
                f"not in {root}",
                in_clone(
                    "run `git checkout -- data/checkpoints`, or train it: `ecar train --help`"
                ),
            )
        )
    return findings


def check_checkpoint(folder: Path) -> Finding:
    """Whether every weight file of a checkpoint is as long as its own header says."""
    name, files = f"checkpoint {folder.name}", sorted(folder.rglob("*.safetensors"))
    status: Status = "wrong" if folder.name == APP_CHECKPOINT else "note"
    remedy = f"run `git checkout -- data/checkpoints/{folder.name}`, or copy it here again"
    remedy = in_clone(remedy)
    if not files:
        return Finding(name, status, "holds no weights", remedy)
    for file in files:
        fault = safetensors_fault(file)
        if fault:
            return Finding(name, status, f"{file.relative_to(folder)} {fault}", remedy)
    return Finding(name, "ok", size_text(sum(file.stat().st_size for file in files)))


NO_TENSORS = "is no safetensors file (a pointer of Git LFS, or cut off?)"


def safetensors_fault(file: Path) -> str:
    """What is wrong with a safetensors file, judged by its header alone; empty if nothing is.

    The file is 8 bytes header length (little endian), the header (JSON), the tensors.
    """
    if not file.is_file():
        return "is no regular file"
    try:
        with open(file, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (struct.error, ValueError, OverflowError, MemoryError, RecursionError):
        return NO_TENSORS
    except (KeyError, AttributeError, TypeError, IndexError):
        return NO_TENSORS
    missing = 8 + length + max(ends, default=0) - file.stat().st_size
    return f"is cut off: {missing} bytes are missing" if missing > 0 else ""


def check_port() -> Finding:
    """Whether the demo can open its port."""
    named = os.environ.get("GRADIO_SERVER_PORT", str(DEMO_PORT))
    other = f"choose another: `GRADIO_SERVER_PORT={DEMO_PORT + 1} ecar demo`"
    if not (named.isascii() and named.isdigit()) or not 0 < int(named) < 65536:
        return Finding("port", "wrong", f"GRADIO_SERVER_PORT={named} is no port number", other)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(named)))
        except OSError as error:
            value = f"{named} cannot be opened ({error.strerror}): perhaps the demo runs already"
            return Finding("port", "wrong", value, other)
    return Finding("port", "ok", f"{named} is free")


def examine(data: str | None = None) -> list[Finding]:
    """Runs every check; one that itself fails becomes a finding."""
    checks: list[tuple[str, Callable[[], Finding | list[Finding]]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("torch", check_torch),
        ("torchvision", check_torchvision),
        ("device", check_device),
        ("threads", check_threads),
        ("memory", check_memory),
        ("disk", check_disk),
        ("C++ compiler", check_compiler),
        ("chromium", check_browser),
        ("port", check_port),
        ("checkpoints", check_checkpoints),
        ("data sets", lambda: check_data(data)),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            found = check()
        except Exception as error:
            # What the demo cannot do without has a check of its own that says so.
            remedy = "see what is marked wrong; else " + in_clone("run `make install` again")
            found = Finding(name, "note", f"cannot be checked: {first_line(error)}", remedy)
        findings.extend([found] if isinstance(found, Finding) else found)
    return findings


def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def size_text(size: float) -> str:
    """Bytes in binary units, e.g. ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
