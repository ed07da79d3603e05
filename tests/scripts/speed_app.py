"""How fast the page is: ``python tests/scripts/speed_app.py --checkpoint cifar10``.

Three ways to the same image, taken in turns in one run: the bare trace with its decoder, the stream
that draws every frame, and a click in a real browser (chromium, Playwright) against a real server.

With ``--live`` the Live tab instead (``--checkpoint cifar10-turbo --live``): a slider is moved
without a pause in the browser, and what counts is the time from a wish to its picture, and pictures
a second. The server shares the machine with the browser; the bare model is measured alone, before
and after. ``--visit``: the first visit of a fresh browser.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for apps/, which is not installed

from apps import demo
from apps.live.runs import draw, first_wish
from apps.live.runs import settings_of as live_settings
from apps.shared.parts import preset_steps
from apps.shared.stream import stream
from apps.shared.studio import Studio
from ecar_lab.machine import machine
from ecar_lab.viz.colours import decode

# Notes when the first frame of the new run is in sight, and when the finished image is there.
WATCH = """() => {
  const player = document.querySelector("#generate-player .player");
  const picture = document.querySelector("#generate-player-picture");
  document.querySelector("#generate").addEventListener("click", () => {
    window.ecarTimes = { click: performance.now() };
  }, true);
  new MutationObserver(() => {
    const times = window.ecarTimes;
    if (!times || times.first || !player.querySelector(".tile img")) return;
    times.first = performance.now();
  }).observe(player, { childList: true, subtree: true });
  new MutationObserver(() => {
    const times = window.ecarTimes;
    if (times?.first && !times.done && !picture.classList.contains("stale"))
      times.done = performance.now();
  }).observe(picture, { attributes: true, subtree: true, attributeFilter: ["class"] });
}"""


@dataclass
class Switches:
    """Time the page on this machine."""

    checkpoint: str = "cifar10"
    """A checkpoint folder, or the name of one that ships."""
    repeats: int = 10
    """Runs of each kind; medians are reported."""
    preset: str = "balanced"
    """fast, balanced or best."""
    live: bool = False
    """Measure the Live tab."""
    visit: bool = False
    """Measure a first visit."""
    out: Path | None = None
    """JSON file to write."""


def measure(switches: Switches) -> dict[str, Any]:
    """Median milliseconds of each way, and their ratios."""
    studio = Studio(switches.checkpoint)
    if studio.problem:
        raise SystemExit(f"error: {studio.problem}")
    steps = preset_steps(studio.defaults().steps, switches.preset)
    settings = dataclasses.replace(studio.defaults(), steps=tuple(steps))

    def bare() -> float:
        *_, event = studio.trace(settings)
        decode(studio.pipeline.tokenizer, event.latent)
        return 0.0

    def streamed() -> float:
        with tempfile.TemporaryDirectory() as folder:
            views = stream(
                studio.pipeline, settings, Path(folder), studio.colours, dtype=studio.dtype
            )
            started = time.perf_counter()
            next(views)
            first = time.perf_counter() - started
            for _ in views:
                pass
        return first

    for way in (bare, streamed):
        way()
    rows: dict[str, list[float]] = {"bare": [], "streamed": [], "first_view": []}
    for _ in range(switches.repeats):
        rows["bare"].append(timed(bare)[0])
        seconds, first = timed(streamed)
        rows["streamed"].append(seconds)
        rows["first_view"].append(first)
    rows.update(clicks(switches))
    medians = {name: 1000 * statistics.median(values) for name, values in rows.items()}
    return {
        "checkpoint": switches.checkpoint,
        "steps": steps,
        "milliseconds": {name: round(value, 1) for name, value in medians.items()},
        "streamed_to_bare": round(medians["streamed"] / medians["bare"], 2),
        "machine": machine(torch.device("cpu")),
    }


# Moves a slider at every frame of the screen, as a finger does, and notes when a picture is wished
# that is then shown, and when it is in sight.
DRAG = """(pictures) => new Promise((done) => {
  const root = document.querySelector(".live");
  const slider = root.querySelector("input[aria-label='Share of it']");
  const asked = new Map(), times = [], shown = [];
  const send = window.fetch;
  window.fetch = (...call) => {
    if (String(call[0]).includes("component_server"))
      asked.set(JSON.parse(call[1].body).data.number, performance.now());
    return send(...call);
  };
  new MutationObserver(() => {
    const now = performance.now(), began = asked.get(Number(root.dataset.number));
    if (began === undefined) return;
    times.push(now - began);
    shown.push(now);
    if (times.length === pictures) {
      window.fetch = send;
      done({ times, shown });
    }
  }).observe(root, { attributes: true, attributeFilter: ["data-number"] });
  let place = 0;
  const move = () => {
    if (times.length >= pictures) return;
    slider.value = (place = (place + 0.02) % 1);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    requestAnimationFrame(move);
  };
  move();
})"""


def measure_live(switches: Switches) -> dict[str, Any]:
    """Median milliseconds of the bare model with its decoder, of a wish in the server alone, and
    from a wish to its picture in the browser; pictures a second while a slider is dragged."""
    studio = Studio(switches.checkpoint)
    if studio.problem:
        raise SystemExit(f"error: {studio.problem}")
    wish = {**first_wish(studio.defaults(), studio.class_names), "mix": 0.3}
    settings = live_settings(studio.pipeline.model, wish)

    def bare() -> float:
        *_, event = studio.trace(settings)
        decode(studio.pipeline.tokenizer, event.latent)
        return 0.0

    def drawn() -> float:
        draw(studio, settings)
        return 0.0

    bare(), drawn()
    rows: dict[str, list[float]] = {"bare": [], "drawn": []}
    for _ in range(switches.repeats):
        rows["bare"].append(timed(bare)[0])
        rows["drawn"].append(timed(drawn)[0])
    found = drag(switches)
    for _ in range(switches.repeats):
        rows["bare"].append(timed(bare)[0])
    rows["wish_to_picture"] = [time / 1000 for time in found["times"]]
    spans = found["shown"][-1] - found["shown"][0]
    medians = {name: 1000 * statistics.median(values) for name, values in rows.items()}
    return {
        "checkpoint": switches.checkpoint,
        "milliseconds": {name: round(value, 1) for name, value in medians.items()},
        "aim": round(1.5 * medians["bare"] + 60, 1),
        "pictures_per_second": round(1000 * (len(found["shown"]) - 1) / spans, 1),
        "drawn_to_bare": round(medians["drawn"] / medians["bare"], 2),
        "machine": machine(torch.device("cpu")),
    }


def drag(switches: Switches) -> dict[str, list[float]]:
    """Moves a slider of the Live tab until enough pictures were shown."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    page, address = demo.launch(switches.checkpoint, port=demo.port_of_environment(), block=False)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.set_default_timeout(180_000)
        tab.add_init_script("localStorage.setItem('ecar-tour-seen', 'yes')")
        tab.goto(address)
        tab.get_by_role("tab", name="Live", exact=True).click()
        tab.wait_for_selector(".live[data-number]:not(.behind)")
        tab.evaluate(DRAG, 5)  # warms up
        found = tab.evaluate(DRAG, 4 * switches.repeats)
        browser.close()
    page.close()
    return found


# The images of all classes are in sight.
USABLE = """() => {
  const overview = document.querySelector(".overview");
  return overview?.querySelector(".status")?.textContent.includes(", in ")
    && [...overview.querySelectorAll("img")].every((image) => image.naturalWidth);
}"""


def measure_visit(switches: Switches) -> dict[str, Any]:
    """Medians over visits of fresh browsers to a server that has its opening images: milliseconds
    until the images of all classes are in sight, requests until nothing more is asked for, and
    kilobytes on the wire."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    page, address = demo.launch(switches.checkpoint, port=demo.port_of_environment(), block=False)
    rows: dict[str, list[float]] = {"milliseconds": [], "requests": [], "kilobytes": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for number in range(switches.repeats + 1):
            context = browser.new_context()
            tab = context.new_page()
            asked: list[Any] = []
            tab.on("requestfinished", lambda request, asked=asked: asked.append(request))
            started = time.perf_counter()
            tab.goto(address)
            tab.wait_for_function(USABLE)
            seconds = time.perf_counter() - started
            tab.wait_for_timeout(1500)  # what the page still fetches when it is usable counts, too
            if number:  # the first one warms up
                asked = [request for request in asked if request.url.startswith("http")]
                sizes = [request.sizes() for request in asked]
                wire = sum(s["responseBodySize"] + s["responseHeadersSize"] for s in sizes)
                rows["milliseconds"].append(1000 * seconds)
                rows["requests"].append(len(asked))
                rows["kilobytes"].append(wire / 1000)
            context.close()
        browser.close()
    page.close()
    return {
        "checkpoint": switches.checkpoint,
        **{name: round(statistics.median(values)) for name, values in rows.items()},
        "machine": machine(torch.device("cpu")),
    }


def timed(call: Callable[[], float]) -> tuple[float, float]:
    """Seconds that a call takes, and what it returns."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def clicks(switches: Switches) -> dict[str, list[float]]:
    """From the click to the first frame in sight and to the image; nothing without a browser."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        return {}
    from playwright.sync_api import sync_playwright

    page, address = demo.launch(switches.checkpoint, port=demo.port_of_environment(), block=False)
    rows: dict[str, list[float]] = {"click_to_first_frame": [], "click_to_image": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.add_init_script("localStorage.setItem('ecar-tour-seen', 'yes')")
        tab.goto(address)
        tab.get_by_role("tab", name="Generate", exact=True).click()
        done = "document.querySelector('#generate-player .status')?.textContent.startsWith('Done')"
        tab.wait_for_function(done)
        tab.get_by_label(switches.preset, exact=True).click()
        tab.evaluate(WATCH)
        for number in range(switches.repeats + 1):
            tab.get_by_role("button", name="Generate", exact=True).click()
            tab.wait_for_function("window.ecarTimes?.done")
            tab.wait_for_function(done)
            times = tab.evaluate("window.ecarTimes")
            if number:  # the first one warms up
                rows["click_to_first_frame"].append((times["first"] - times["click"]) / 1000)
                rows["click_to_image"].append((times["done"] - times["click"]) / 1000)
        browser.close()
    page.close()
    return rows


def main() -> None:
    switches = tyro.cli(Switches, prog="python tests/scripts/speed_app.py")
    demo.leave_a_core()  # as the app computes
    way = measure_live if switches.live else measure_visit if switches.visit else measure
    result = way(switches)
    text = json.dumps(result, indent=2)
    print(text)
    if switches.out is not None:
        switches.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
