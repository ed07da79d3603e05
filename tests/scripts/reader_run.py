"""A reader's run: every notebook from top to bottom in JupyterLab, in a real browser, timed.

    python tests/scripts/reader_run.py         all, full profile; the times into times.json
    python tests/scripts/reader_run.py 03 --shots /tmp/shots --dark

Not a test by itself: it takes as long as the notebooks do. ``test_jupyterlab.py`` uses its parts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for apps/ and notebooks/

from notebooks import build
from tests.browsing import PATIENCE, chromium, free_port

TOKEN = "reader"
# Every cell in the page, so that nothing has to be scrolled to; and a theme.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


def write_settings(folder: Path, dark: bool) -> None:
    """JupyterLab's own settings files."""
    theme = {"apputils-extension/themes": {"theme": f"JupyterLab {'Dark' if dark else 'Light'}"}}
    for name, values in {**SETTINGS, **theme}.items():
        path = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), "utf-8")


@contextlib.contextmanager
def jupyterlab(folder: Path, profile: str, dark: bool = False) -> Iterator[str]:
    """JupyterLab serving ``folder``; yields its address."""
    port = free_port()
    settings = folder / ".settings"
    write_settings(settings, dark)
    environment = {
        **build.kernel_environment(profile, static=False, strict=True),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
    }
    flags = ["--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    flags += ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    log = (folder / "server.log").open("w", encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *flags], env=environment, stdout=log, stderr=log
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5)
                break
            if server.poll() is not None:
                raise RuntimeError((folder / "server.log").read_text("utf-8")[-2000:])
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


KERNEL = "window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status"


def open_notebook(page: Any, address: str, name: str) -> None:
    """Opens a notebook and waits for its kernel."""
    page.goto(f"{address}/lab/tree/{name}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE)
    page.wait_for_function(f"() => {KERNEL} === 'idle'", timeout=PATIENCE)


def run_all(page: Any, timeout: float = PATIENCE / 1000) -> float:
    """Runs all cells; the seconds until the last one is through."""
    started = time.perf_counter()
    page.evaluate(
        "() => { window.through = false; window.jupyterapp.commands"
        ".execute('notebook:run-all-cells').finally(() => { window.through = true; }); }"
    )
    page.wait_for_function("() => window.through", timeout=timeout * 1000, polling=200)
    return time.perf_counter() - started


def troubles(page: Any) -> list[str]:
    """What went wrong on the page: errors, complaints, widgets that did not come up."""
    wrong = (
        "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type*='vnd.jupyter.error']"
    )
    found = page.eval_on_selector_all(wrong, "all => all.map(x => x.innerText.slice(0, 500))")
    for sentence in ("Error displaying widget", "Error creating widget", "Loading widget"):
        if page.get_by_text(sentence).count():
            found.append(sentence)
    return found


def copy_notebook(source: Path, folder: Path) -> None:
    """The learner's notebook without outputs, as after "Restart and clear all"."""
    notebook = nbformat.read(build.target(source, False), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / f"{source.stem}.ipynb")


def shoot(page: Any, folder: Path, name: str) -> None:
    """The whole notebook as pictures of one screen each."""
    folder.mkdir(parents=True, exist_ok=True)
    count = page.eval_on_selector(
        ".jp-WindowedPanel-outer",
        "x => Math.ceil(x.scrollHeight / x.clientHeight)",
    )
    for number in range(count):
        page.eval_on_selector(
            ".jp-WindowedPanel-outer", f"x => x.scrollTop = {number} * x.clientHeight"
        )
        page.wait_for_timeout(150)
        page.screenshot(path=str(folder / f"{name}_{number:02d}.png"))


def shut_down_kernels(address: str) -> None:
    """Ends the kernels, so that the next notebook has the machine to itself."""
    with urllib.request.urlopen(f"{address}/api/kernels?token={TOKEN}", timeout=30) as reply:
        kernels = json.load(reply)
    for kernel in kernels:
        place = f"{address}/api/kernels/{kernel['id']}?token={TOKEN}"
        urllib.request.urlopen(urllib.request.Request(place, method="DELETE"), timeout=30).close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="which notebooks, e.g. 03; all by default")
    parser.add_argument("--profile", default="full", choices=("full", "fast"))
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one notebook")
    chosen = parser.parse_args()
    wanted = [s for s in build.sources() if not chosen.numbers or s.stem[:2] in chosen.numbers]
    with tempfile.TemporaryDirectory() as folder_name, chromium() as browser:
        folder = Path(folder_name)
        with jupyterlab(folder, chosen.profile, chosen.dark) as address:
            for source in wanted:
                copy_notebook(source, folder)
                page = browser.new_page(viewport={"width": chosen.width, "height": 1000})
                open_notebook(page, address, f"{source.stem}.ipynb")
                seconds = run_all(page, chosen.timeout)
                found = troubles(page)
                print(f"{source.stem}: {seconds:.1f} s, {found or 'no trouble'}", flush=True)
                if chosen.shots:
                    shoot(page, chosen.shots, source.stem)
                page.close()
                shut_down_kernels(address)
                shutil.rmtree(folder / "runs", ignore_errors=True)
                if chosen.profile == "full" and not found:
                    record(source.stem, seconds)


def record(name: str, seconds: float) -> None:
    """Keeps a measured time; ``build.py`` writes it into the notebook's header.

    ``elsewhere`` names the machine of each notebook that was not measured on the common one; once
    all were measured on another, that is the common one.
    """
    from ecar_lab.machine import machine

    times = json.loads(build.TIMES.read_text("utf-8"))
    times["seconds"][name] = round(seconds, 1)
    times["seconds"] = dict(sorted(times["seconds"].items()))
    elsewhere = {**times.get("elsewhere", {}), name: machine()}
    if set(elsewhere) == set(times["seconds"]) and len(set(elsewhere.values())) == 1:
        times["machine"] = machine()
    times["elsewhere"] = {n: m for n, m in elsewhere.items() if m != times["machine"]}
    build.TIMES.write_text(json.dumps(times, indent=1) + os.linesep, "utf-8")


if __name__ == "__main__":
    main()
