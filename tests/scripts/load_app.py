"""Many clients at once, on a real server.

    python tests/scripts/load_app.py --clients 20 --kill 3
    python tests/scripts/load_app.py --flood 200

Not a test of ``make test``: it takes minutes. It starts the app, lets every client generate images
of its own classes and seeds, kills some clients in the middle of a run, compares every image with
the one that the pipeline makes by itself, and tells how long clients waited and what memory the
server held before, at its peak, and after everybody had left. Exit status 1 if an image was wrong,
a request failed, files were left behind, a client to be killed had not begun, somebody waited far
longer than the others, or the memory did not come back. ``--clients 1 --runs 200 --kill 0`` looks
for memory that one run after the other leaves behind. ``--flood`` is another story: one visitor
measures how long an image takes, alone and beside one who posts so many jobs at once and, whenever
one of them is taken off the queue, the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import tyro
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600  # a machine may have other things to do
# A client that has gone is noticed at its next heartbeat, 15 seconds apart.
SETTLE_SECONDS = 20
# Nobody should wait longer than so many of their usual waits because of somebody's flood.
FLOODED = 3.0
# Nobody should wait longer than so many medians, and memory come back to within so many MiB.
FAIR, SLACK_MIB, OF_A_CLIENT_MIB = 4.0, 48, 8
# What a client does that will be killed: it follows a long run until it is told of the first event.
VICTIM = """
import sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False, analytics_enabled=False, download_files=False)
job = client.submit(sys.argv[2], seed=1, steps=32, solver="ab2", api_name="/trace")
for _ in job:
    print("running", flush=True)
"""


@dataclass
class Switches:
    """Load the app with many clients at once."""

    clients: int = 20
    """Clients at the same time."""
    runs: int = 10
    """Images that each of them asks for, one after the other."""
    kill: int = 3
    """Further clients that are killed (SIGKILL) in the middle of a run."""
    checkpoint: str = "cifar10"
    """A checkpoint folder, or the name of one that ships."""
    flood: int = 0
    """Jobs that one visitor posts at once beside another one; 0 = the story above."""
    out: Path | None = None
    """JSON file to write."""


@dataclass
class Watch:
    """Resident memory of the server, sampled until told to stop."""

    process: psutil.Process
    samples: list[float] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(0.25):
            self.samples.append(mebibytes(self.process))


def mebibytes(process: psutil.Process) -> float:
    """Resident memory of a process and its children."""
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_info().rss for member in family) / 2**20


def start_server(checkpoint: str, scratch: Path) -> tuple[subprocess.Popen, str]:
    """The app as a process of its own, with its temporary files in ``scratch``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ecar_lab.cli",
            "app",
            "--checkpoint",
            checkpoint,
            "--port",
            str(port),
        ],
        env={**os.environ, "TMPDIR": str(scratch), "GRADIO_TEMP_DIR": str(scratch / "gradio")},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"error: the server ended with status {server.returncode}")
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return server, address
        except OSError:
            time.sleep(0.3)
    server.kill()
    raise SystemExit(f"error: the server did not answer within {START_SECONDS} seconds")


def visit(address: str, number: int, runs: int, classes: list[str], results: list) -> None:
    """One client: asks for its images, and notes what it got and how long that took."""
    from gradio_client import Client

    with tempfile.TemporaryDirectory() as folder:
        client = Client(address, verbose=False, analytics_enabled=False, download_files=folder)
        for run in range(runs):
            name, seed = classes[(number + run) % len(classes)], 1000 * number + run
            began = time.perf_counter()
            try:
                path, record = client.predict(name, seed=seed, api_name="/generate")
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB")).copy()
                right = (record["class_name"], record["seed"]) == (name, seed)
                entry = {"pixels": pixels if right else None, "error": None}
            except Exception as error:  # whatever it is, it is a finding
                entry = {"pixels": None, "error": f"{type(error).__name__}: {error}"}
            seconds = time.perf_counter() - began
            results.append(
                {"client": number, "class": name, "seed": seed, "seconds": seconds, **entry}
            )


def kill_one(address: str, class_name: str, killed: list[bool]) -> None:
    """A client in a process of its own that dies after the first event of its run; notes whether
    it had come so far."""
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, address, class_name], stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout is not None
    killed.append(victim.stdout.readline().strip() == "running" and victim.poll() is None)
    victim.send_signal(signal.SIGKILL)
    victim.wait()


def expected_images(checkpoint: str, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], Any]:
    """The same images by the pipeline itself, as the app loads it."""
    from apps.shared.settings import Settings
    from apps.shared.studio import Studio
    from ecar_lab.viz.colours import decode
    from ecar_lab.viz.pictures import to_pil

    studio, made = Studio(checkpoint), {}
    for name, seed in wanted:
        *_, event = studio.trace(Settings.of(studio.pipeline.model, name, seed))
        picture = to_pil(decode(studio.pipeline.tokenizer, event.latent))[0]
        made[name, seed] = np.asarray(picture.convert("RGB"))
    return made


def load(switches: Switches) -> dict[str, Any]:
    """The whole story; see the module."""
    from ecar_lab.pipeline import ECARPipeline

    classes = ECARPipeline.from_pretrained(switches.checkpoint).class_names
    results: list[dict[str, Any]] = []
    killed: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        server, address = start_server(switches.checkpoint, scratch)
        try:
            process = psutil.Process(server.pid)
            visit(address, 999, 1, classes, warm := [])
            assert warm[0]["error"] is None, warm[0]["error"]
            time.sleep(SETTLE_SECONDS)
            files_before = count_files(scratch)
            idle, watch = mebibytes(process), Watch(process)
            threading.Thread(target=watch.run, daemon=True).start()
            began = time.perf_counter()
            visitors = [
                threading.Thread(
                    target=visit, args=(address, number, switches.runs, classes, results)
                )
                for number in range(switches.clients)
            ]
            visitors += [
                threading.Thread(target=kill_one, args=(address, classes[0], killed))
                for _ in range(switches.kill)
            ]
            for thread in visitors:
                thread.start()
            for thread in visitors:
                thread.join()
            seconds = time.perf_counter() - began
            time.sleep(SETTLE_SECONDS)
            after, left = mebibytes(process), count_files(scratch) - files_before
            watch.stop.set()
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
        left_at_end = count_files(scratch)
    made = expected_images(
        switches.checkpoint, [(result["class"], result["seed"]) for result in results]
    )
    wrong = [
        (result["class"], result["seed"], result["error"])
        for result in results
        if result["pixels"] is None
        or not np.array_equal(result["pixels"], made[result["class"], result["seed"]])
    ]
    waits = [result["seconds"] for result in results]
    per_client = [
        statistics.median(r["seconds"] for r in results if r["client"] == number)
        for number in range(switches.clients)
    ]
    return {
        "checkpoint": switches.checkpoint,
        "clients": switches.clients,
        "runs": switches.runs,
        "killed": sum(killed),
        "images": len(results),
        "wrong": wrong,
        "seconds": round(seconds, 1),
        "images_per_second": round(len(results) / seconds, 2),
        "wait_median": round(statistics.median(waits), 2),
        "wait_longest": round(max(waits), 2),
        "client_medians": [round(min(per_client), 2), round(max(per_client), 2)],
        "memory_mib": {
            "idle": round(idle),
            "peak": round(max([*watch.samples, after])),
            "after": round(after),
        },
        "files_left_while_serving": left,
        "files_left_at_the_end": left_at_end,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


# -- a flood beside a visitor ----------------------------------------------------------------------


def post_flood(address: str, jobs: int, class_name: str, over: threading.Event) -> Counter[int]:
    """Posts jobs of one session until told to stop, at first all at once, and counts the answers;
    takes the session's messages, as a page does."""
    session, answers = "flooder", Counter[int]()
    body = {
        "data": [class_name, 1, None, None, None, None, None, None, None],
        "session_hash": session,
        "fn_index": fn_index(address),
    }

    def post() -> None:
        answers[post_json(f"{address}gradio_api/queue/join", body)] += 1

    def listen() -> None:
        while not over.is_set():
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(
                    f"{address}gradio_api/queue/data?session_hash={session}", timeout=60
                ) as messages,
            ):
                while not over.is_set() and messages.readline():
                    pass
            time.sleep(0.05)

    for _ in range(jobs):
        post()
    threading.Thread(target=listen, daemon=True).start()
    while not over.wait(0.05):
        post()
    return answers


def post_json(address: str, body: dict[str, Any]) -> int:
    """The status of the answer."""
    asked = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def fn_index(address: str) -> int:
    """The number under which the page calls /generate."""
    with urllib.request.urlopen(f"{address}config", timeout=60) as answer:
        config = json.load(answer)
    return next(one["id"] for one in config["dependencies"] if one["api_name"] == "generate")


def flood(switches: Switches) -> dict[str, Any]:
    """A visitor's waits without and with a flood beside them."""
    from ecar_lab.pipeline import ECARPipeline

    classes = ECARPipeline.from_pretrained(switches.checkpoint).class_names
    usual: list[dict[str, Any]] = []
    beside: list[dict[str, Any]] = []
    answers: list[Counter[int]] = []
    with tempfile.TemporaryDirectory() as folder:
        server, address = start_server(switches.checkpoint, Path(folder))
        try:
            visit(address, 999, 3, classes, [])
            visit(address, 1, switches.runs, classes, usual)
            over = threading.Event()
            flooder = threading.Thread(
                target=lambda: answers.append(post_flood(address, switches.flood, classes[0], over))
            )
            flooder.start()
            time.sleep(2)  # until the queue is as full as it gets
            visit(address, 2, switches.runs, classes, beside)
            over.set()
            flooder.join()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    waits = [statistics.median(one["seconds"] for one in story) for story in (usual, beside)]
    return {
        "checkpoint": switches.checkpoint,
        "flood": switches.flood,
        "runs": switches.runs,
        "failed": [one["error"] for one in (*usual, *beside) if one["error"]],
        "posted": dict(answers[0]),
        "wait_usual": round(waits[0], 3),
        "wait_beside": round(waits[1], 3),
        "ratio": round(waits[1] / waits[0], 2),
        "cores": os.cpu_count(),
    }


def complaints(result: dict[str, Any], switches: Switches) -> list[str]:
    """What is not as it should be, a sentence each."""
    found = [
        f"{name}, seed {seed}: {error or 'wrong image'}" for name, seed, error in result["wrong"]
    ]
    if result["killed"] < switches.kill:
        found.append(f"only {result['killed']} of {switches.kill} clients were killed in a run")
    if switches.clients > 1 and result["wait_longest"] > FAIR * result["wait_median"]:
        found.append(f"somebody waited longer than {FAIR:g} medians")
    memory = result["memory_mib"]
    if memory["after"] > memory["idle"] + SLACK_MIB + OF_A_CLIENT_MIB * switches.clients:
        found.append(f"{memory['after'] - memory['idle']} MiB did not come back")
    for name in ("files_left_while_serving", "files_left_at_the_end"):
        if result[name] > 0:
            found.append(f"{result[name]} {name.replace('_', ' ')}")
    return found


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    memory = result["memory_mib"]
    rows = {
        "images, of which wrong": f"{result['images']}, {len(result['wrong'])}",
        "clients, killed besides": f"{result['clients']}, {result['killed']}",
        "images per second": f"{result['images_per_second']:.2f}",
        "wait, median and longest": "{wait_median:.2f} s, {wait_longest:.2f} s".format(**result),
        "clients' medians": "{:.2f} s to {:.2f} s".format(*result["client_medians"]),
        "memory idle, peak, after": "{idle}, {peak}, {after} MiB".format(**memory),
        "files left": f"{result['files_left_while_serving']}",
    }
    return "\n".join(f"{name:26} {value}" for name, value in rows.items())


def count_files(folder: Path) -> int:
    """Files in the folders of a folder; onnxruntime puts a note of its own beside them."""
    return sum(path.is_file() for path in folder.rglob("*/*"))


def main() -> None:
    sys.path.insert(0, str(ROOT))
    switches = tyro.cli(Switches, prog="python tests/scripts/load_app.py")
    from apps.demo import leave_a_core

    leave_a_core()  # images are the server's to the last bit with as many threads only
    result = flood(switches) if switches.flood else load(switches)
    print(json.dumps(result, indent=2))
    if switches.out is not None:
        switches.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if switches.flood:
        found = [f"the visitor waited {result['ratio']} times as long as usual"]
        found = (found if result["ratio"] > FLOODED else []) + result["failed"]
    else:
        print(table(result))
        found = complaints(result, switches)
    for complaint in found:
        print(f"error: {complaint}", file=sys.stderr)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
