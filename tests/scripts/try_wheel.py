"""Builds the wheel, installs it into a fresh environment and uses it far from the repository.

    python tests/scripts/try_wheel.py

takes minutes, most of them pip's. In a temporary folder: doctor, images, the page over HTTP, the
notebooks, one of them executed, a Space; and what the wheel leaves behind is one sentence. Exits
with 0 only if all of it works. ``--wheel FILE`` takes one that is built, ``--keep`` leaves the
folder, ``--venv FOLDER`` takes an environment in which a wheel was tried before.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "00_start_here.ipynb"
PATIENCE = 300  # seconds until a page must answer
# What a build reads; it is copied first, so that a build leaves nothing in the tree.
SOURCES = ("ecar_lab", "apps", "data", "notebooks", "setup.py", "pyproject.toml", "README.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ecar-wheel-"))
    try:
        wheel = options.wheel or timed("build", build_wheel, folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB")
        venv = (options.venv or folder / "venv").absolute()
        timed("install", install, wheel.absolute(), venv)
        place = folder / "elsewhere"
        place.mkdir()
        for check in (nothing_of_the_clone, doctor, sample, refused, demo, serve, notebooks, space):
            timed(check.__name__.replace("_", " "), check, Kit(venv, place))
    finally:
        print(f"kept: {folder}") if options.keep else shutil.rmtree(folder, ignore_errors=True)
    print("the wheel works")
    return 0


def timed(name: str, work, *arguments):
    start = time.perf_counter()
    result = work(*arguments)
    print(f"{name}: ok, {time.perf_counter() - start:.0f} s", flush=True)
    return result


def build_wheel(folder: Path) -> Path:
    source, wheels = folder / "source", folder / "wheels"
    source.mkdir()
    leave_out = shutil.ignore_patterns("__pycache__")
    for name in (*SOURCES, "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=leave_out)
        else:
            shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    subprocess.run(command, check=True)
    shutil.rmtree(source)
    return next(wheels.glob("*.whl"))


def install(wheel: Path, venv: Path) -> None:
    """The wheel with the locked versions of what it needs, into a fresh environment."""
    if not (venv / "bin" / "python").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    lock = str(ROOT / "requirements.lock")
    subprocess.run([*pip, "--quiet", "--constraint", lock, str(wheel)], check=True)
    again = ["--quiet", "--no-deps", "--force-reinstall", str(wheel)]
    subprocess.run([*pip, *again], check=True)  # of an environment that was tried before


class Kit:
    """The installed command, run in a folder that knows nothing of the repository."""

    def __init__(self, venv: Path, place: Path) -> None:
        self.venv, self.place = venv, place
        kept = ("PYTHONPATH", "PYTHONHOME", "ECAR_CHECKPOINTS", "ECAR_HUB")
        self.environment = {k: v for k, v in os.environ.items() if k not in kept}
        self.environment |= {
            "ECAR_CACHE": str(place / "cache"),
            "ECAR_LAB_PROFILE": "fast",
            "HF_HUB_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def run(self, *words: str, status: int = 0) -> str:
        """What a command of the environment said.

        Raises:
            AssertionError: it ended with another status.
        """
        command = [str(self.venv / "bin" / words[0]), *words[1:]]
        done = subprocess.run(
            command, cwd=self.place, env=self.environment, capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, f"{words}: status {done.returncode}\n{said}"
        assert "Traceback" not in said, said
        return said


def nothing_of_the_clone(kit: Kit) -> None:
    said = kit.run("python", "-c", "import ecar_lab; print(ecar_lab.__file__)")
    assert Path(said.strip()).is_relative_to(kit.venv), said
    said = kit.run("python", "-c", "import importlib.util as u; print(u.find_spec('apps'))")
    assert said.strip() == "None", f"the wheel puts a package `apps` beside everybody's: {said}"


def doctor(kit: Kit) -> None:
    said = kit.run("ecar", "doctor")
    assert "checkpoint cifar10-turbo" in said, said
    assert "make " not in said, f"a remedy for clones only:\n{said}"


def sample(kit: Kit) -> None:
    for checkpoint in ("cifar10-turbo", "digits"):
        picture = f"{checkpoint}.png"
        kit.run("ecar", "sample", "--checkpoint", checkpoint, "--seed", "0", "--out", picture)
        assert (kit.place / picture).stat().st_size > 1000


def refused(kit: Kit) -> None:
    """What the wheel leaves behind, and nobody keeps on the Hub, is one sentence."""
    said = kit.run("ecar", "sample", "--checkpoint", "cifar10-dit", status=2)
    assert said.count("\n") == 1, said
    assert said.startswith("error: the checkpoint 'cifar10-dit' is not part of"), said


def demo(kit: Kit) -> None:
    port = str(free_port())
    answers(kit, [str(kit.venv / "bin" / "ecar"), "demo", "--port", port], port, kit.place)


def serve(kit: Kit) -> None:
    port = str(free_port())
    command = [str(kit.venv / "bin" / "ecar"), "serve", "--checkpoint", "digits", "--port", port]
    answers(kit, command, port, kit.place, "health", '"status": "ok"')


def notebooks(kit: Kit) -> None:
    kit.run("ecar", "notebooks", "course", "--solutions")
    kit.run("jupyter", "execute", f"course/solutions/{NOTEBOOK}")
    (kit.place / "course" / NOTEBOOK).write_text("mine")
    said = kit.run("ecar", "notebooks", "course", status=2)
    assert "not overwritten" in said, said
    assert (kit.place / "course" / NOTEBOOK).read_text() == "mine"


def space(kit: Kit) -> None:
    """The app.py of a Space in this environment, as the host would start it."""
    kit.run("ecar", "space", "space", "--checkpoint", "digits")
    port = str(free_port())
    kit.environment |= {"GRADIO_SERVER_PORT": port, "SPACE_HOST": "someone-digits.hf.space"}
    answers(kit, [str(kit.venv / "bin" / "python"), "app.py"], port, kit.place / "space")


def answers(
    kit: Kit, command: list[str], port: str, place: Path, page: str = "", words: str = "gradio"
) -> None:
    """Starts a server, waits until its page is there and has the words, and ends it."""
    log = kit.place / "server.log"
    with open(log, "w") as out:
        server = subprocess.Popen(command, cwd=place, env=kit.environment, stdout=out, stderr=out)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/{page}", timeout=30
                ) as answer:
                    text = answer.read().decode()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        assert words in text.lower(), text
    finally:
        server.terminate()
        server.wait(60)
    assert "Traceback" not in log.read_text(), log.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
