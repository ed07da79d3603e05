"""How the built page fares in a browser: the numbers of docs/browser.md.

python -m docs.build_lab && python -m tests.scripts.measure_lab build/lab

Ten seeds against PyTorch, what comes over the wire, how long the first picture takes with nothing
kept and one thread, and how long an image takes then.
"""

import contextlib
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from docs.serve_lab import Handler
from ecar_lab.files import resolve_checkpoint
from ecar_lab.onnx.export import load_ecar
from ecar_lab.onnx.exported import Manifest
from tests.browsing import chromium
from tests.site.conftest import arrive, serving, visit
from tests.site.test_page import MAKE, SEEDS, psnr

REPEATS = 5


def main(folder: Path) -> None:
    with chromium() as browser, serving(folder) as address:
        compare(browser, address, folder)
        first_picture(browser, address)
        wire(browser, folder)


def compare(browser: Any, address: str, folder: Path) -> None:
    """Ten seeds, each another class."""
    manifest = Manifest.read(folder / "model")
    pipe = load_ecar(resolve_checkpoint(manifest.checkpoint))
    labels = [seed % pipe.model.num_classes for seed in SEEDS]
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    *_, wanted = pipe.trace(labels, generator=generators)
    with visit(browser, address) as page:
        made = page.evaluate(MAKE, [{"labels": labels, "seeds": SEEDS}, {"backend": "wasm"}])
    latent = np.reshape(made["latents"][-1], wanted.latent.shape)
    distance = np.abs(latent - wanted.latent.numpy()).max()
    least = psnr(made["picture"], pipe.tokenizer.decode(wanted.latent))
    print(f"{manifest.weights}: latent {distance:.1e}, least PSNR {least:.1f} dB")
    print(f"{len(SEEDS)} images in one batch: {made['seconds']:.2f} s")


def first_picture(browser: Any, address: str) -> None:
    """Seconds from the visit to the first image that is made, nothing kept; and of images after."""
    first, images, spent = [], [], []
    for _ in range(REPEATS):
        before = worker_seconds()
        with visit(browser, f"{address}?backend=wasm&threads=1") as page:
            arrive(page)
            page.wait_for_selector(".result button:enabled")
            first.append(page.evaluate("performance.getEntriesByName('image')[0].startTime") / 1000)
            after = worker_seconds()
            spent.append(sum(after[thread] - before.get(thread, 0) for thread in after))
            for _ in range(3):
                page.click("#go")
                arrive(page)
                images.append(float(page.inner_text(".caption").split(" in ")[1].split()[0]))
    print(f"first image of a visit: {spread(first)}")
    print(f"  of which its worker's thread computes (Linux): {spread(spent)}")
    print(f"an image: {spread(images)}")


def worker_seconds() -> dict[str, float]:
    """Processor time of each thread on which a page's worker runs, without those that compile
    beside it; what other programs do at the time does not count."""
    seconds = {}
    for process in psutil.Process().children(recursive=True):
        for thread in Path(f"/proc/{process.pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                if (thread / "comm").read_text().startswith("DedicatedWorker"):
                    fields = (thread / "stat").read_text().rsplit(")", 1)[1].split()
                    ticks = int(fields[11]) + int(fields[12])
                    seconds[str(thread)] = ticks / os.sysconf("SC_CLK_TCK")
    return seconds


def spread(seconds: list[float]) -> str:
    middle = statistics.median(seconds)
    return f"{middle:.2f} s, of {len(seconds)} from {min(seconds):.2f} to {max(seconds):.2f} s"


def wire(browser: Any, folder: Path) -> None:
    """Bytes that a first visit takes from a server that packs with gzip."""
    sent: dict[str, int] = {}

    class Counting(Handler):
        def taken(self) -> Iterator[tuple[str, str]]:
            return (one for one in super().taken() if one[0] == "gzip")

        def copyfile(self, source: Any, outputfile: Any) -> None:
            sent[self.path] = sent.get(self.path, 0) + os.fstat(source.fileno()).st_size
            super().copyfile(source, outputfile)

    with serving(folder, kind=Counting) as address, visit(browser, address) as page:
        page.wait_for_selector("body[data-offline=yes]")
    weights = sum(size for path, size in sent.items() if path.startswith("/model/"))
    rest = {path: size for path, size in sent.items() if not path.startswith("/model/")}
    total = sum(rest.values())
    print(f"over the wire with gzip: {total / 1e6:.2f} MB, and the model {weights / 1e6:.2f} MB")
    for path, size in sorted(rest.items(), key=lambda each: -each[1])[:6]:
        print(f"  {size / 1e3:8.1f} kB {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
