"""Asks `ecar serve` for images, first one after the other, then by many clients at once.

    python tests/scripts/load_serve.py

starts the server twice: with batches of one and a single client, then as it is by default with 50.
Prints images per second of both, their ratio, and how long the clients waited; exits with 0 only if
every image came and the ratio is at least --need.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
STARTING = 300.0  # seconds that a server may take until it answers
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@contextmanager
def served(checkpoint: str, *switches: str):
    """A server of its own process; ended by SIGTERM, which has to end it with status 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ecar_lab.cli", "serve", "--checkpoint", checkpoint]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--port", str(port), *switches], env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + STARTING
        while True:
            try:
                OPEN(f"{address}/health", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.2)
        yield address, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            raise SystemExit(f"the server ended with status {process.returncode}")


def ask(address: str, number: int) -> float:
    """Seconds that one image took."""
    body = json.dumps({"class": number % 10, "seed": number}).encode()
    request = urllib.request.Request(f"{address}/generate", data=body)
    started = time.monotonic()
    with OPEN(request, timeout=600) as answer:
        if not answer.read().startswith(b"\x89PNG"):
            raise SystemExit("an answer is no PNG")
    return time.monotonic() - started


def measure(
    server: tuple[str, psutil.Process], clients: int, images: int
) -> tuple[float, float, list[float]]:
    """Images per second, processor seconds of each, and what each took, asked by so many clients of
    so many images each."""
    address, process = server

    def client(number: int) -> list[float]:
        return [ask(address, number * images + n) for n in range(images)]

    started, used = time.monotonic(), sum(process.cpu_times()[:2])
    with ThreadPoolExecutor(clients) as pool:
        taken = [one for all_of in pool.map(client, range(clients)) for one in all_of]
    seconds, used = time.monotonic() - started, sum(process.cpu_times()[:2]) - used
    return len(taken) / seconds, used / len(taken), taken


def described(name: str, rate: float, used: float, taken: list[float]) -> str:
    half, most = statistics.median(taken), sorted(taken)[int(0.95 * (len(taken) - 1))]
    return (
        f"{name}: {rate:.2f} images/s, an image after {half:.2f} s (median), {most:.2f} s (95%), "
        f"{max(taken):.2f} s (longest); {used:.3f} processor seconds an image"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="cifar10")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--images", type=int, default=4, help="that each client asks for")
    parser.add_argument("--alone", type=int, default=20, help="images made one after the other")
    parser.add_argument("--need", type=float, default=2.5, help="the least ratio")
    options, further = parser.parse_known_args()
    with served(options.checkpoint, *further, "--batch", "1", "--wait", "0") as server:
        measure(server, 1, 3)  # not counted
        alone, used_alone, taken = measure(server, 1, options.alone)
    print(described("one by one", alone, used_alone, taken), flush=True)
    with served(options.checkpoint, *further) as server:
        measure(server, options.clients, 1)  # not counted
        many, used, taken = measure(server, options.clients, options.images)
    print(described(f"{options.clients} clients", many, used, taken))
    print(
        f"ratio {many / alone:.2f}, {options.need:g} are needed; of processor seconds an image "
        f"{used_alone / used:.2f}, whatever else the machine does"
    )
    if many / alone < options.need:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
