"""A person's way through the app on the checkpoints that ship.

    python tests/scripts/drive_app.py --checkpoint cifar10-turbo

Not a test of ``make test``, which does the same on a tiny model: it takes minutes. In chromium it
paints a coarse stage and keeps one of the images that complete it, opens the link of a run in a
fresh browser and compares the pixels, and presses Compare and Stop twenty times with random gaps
before a comparison is left to end. Exit status 1 if any of it went wrong.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for apps/, which is not installed

from apps import demo
from tests.app.page import NO_TOUR, open_generate, open_tab
from tests.app.test_compare import PRESSES

PATIENCE = 120_000  # milliseconds
PAINTED = "#9ecbf0 " * 4 + "#9ecbf0 #c22626 #c22626 #9ecbf0 " + "#c22626 " * 4 + "#6b6b6b " * 4
LIKE_DONE = (
    "/^Done.*seed 4711/.test(document.querySelector('#generate-player .status')?.textContent)"
)
PICTURE = "#generate-player-picture img"


@dataclass
class Switches:
    """Drive the app as a visitor does."""

    checkpoint: str = "cifar10"
    """A checkpoint folder, or the name of one that ships."""
    presses: int = 20
    """Times that Compare and Stop are pressed."""
    longest_gap: int = 1500
    """Milliseconds between the two, at most."""


def pixels(tab: Any) -> str:
    """Hash of the finished image's pixels."""
    answer = tab.context.request.get(tab.get_attribute(PICTURE, "src"))
    with Image.open(io.BytesIO(answer.body())) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def paint(tab: Any) -> str:
    """What the page says of an image that completes a painting and is kept."""
    open_tab(tab, "Paint a stage")
    tab.wait_for_function(
        "/ in \\d/.test(document.querySelector('#paint-results .status')?.textContent)"
    )
    for cell, colour in enumerate(PAINTED.split()):
        tab.locator("#paint-canvas input[type=color]").fill(colour)
        tab.locator("#paint-canvas .cell").nth(cell).click()
    tab.wait_for_function("!document.querySelector('#paint-results [aria-busy]')")
    tab.wait_for_timeout(1000)
    tab.wait_for_function("!document.querySelector('#paint-results [aria-busy]')")
    before = tab.url
    tab.locator("#paint-results .tile").first.click()
    tab.wait_for_function("before => location.href !== before", arg=before)
    return tab.locator("#paint-results .status").inner_text()


def share(tab: Any, browser: Any) -> tuple[str, str]:
    """Hashes of an image here and in a fresh browser that was given its link."""
    open_tab(tab, "Generate")
    tab.locator("#generate-seed input").fill("4711")
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(LIKE_DONE)
    tab.wait_for_selector(f"{PICTURE}[alt*='seed 4711']")
    tab.wait_for_function("location.search.includes('seed=4711')")
    fresh = visitor(browser)
    fresh.goto(tab.url)
    fresh.wait_for_function(LIKE_DONE)
    fresh.wait_for_selector(f"{PICTURE}[alt*='seed 4711']")
    found = pixels(tab), pixels(fresh)
    fresh.context.close()
    return found


def compare(tab: Any, switches: Switches) -> list[list[str | None]]:
    """What the page said after each press of Stop, and when Compare could be pressed again."""
    open_tab(tab, "Compare")
    tab.wait_for_selector("#compare:not([disabled])")
    gaps = random.Random(0)
    wanted = [gaps.uniform(0, switches.longest_gap) for _ in range(switches.presses)]
    said = tab.evaluate(PRESSES, wanted)
    tab.locator("#compare").click()
    tab.wait_for_selector("table:has-text('Parameters')")
    return said


def visitor(browser: Any) -> Any:
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    return context.new_page()


def main() -> None:
    from playwright.sync_api import sync_playwright

    switches = tyro.cli(Switches, prog="python tests/scripts/drive_app.py")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    page, address = demo.launch(switches.checkpoint, port=demo.port_of_environment(), block=False)
    errors: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = visitor(browser)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        open_generate(tab, address)
        here, there = share(tab, browser)
        painted = paint(tab)
        said = compare(tab, switches)
        browser.close()
    page.close()
    # A comparison may be done before Stop is pressed.
    lost = [words for words, _ in said[1::2] if words != "Stopped." and "done" not in words]
    found = {
        "checkpoint": switches.checkpoint,
        "painted": painted,
        "link gives the same pixels": here == there,
        "presses of Stop": len(said) // 2,
        "of which the page neither stopped nor was done": lost,
        "errors on the page": errors,
    }
    print(json.dumps(found, indent=2))
    raise SystemExit(1 if here != there or lost or errors else 0)


if __name__ == "__main__":
    main()
