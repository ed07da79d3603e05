"""Draws docs/app.png, the moving picture of the README: four scenes of the app in a browser.

    make showreel     (python -m docs.draw_app)

The app runs on a shipped checkpoint, chromium visits it in the mode for talks, and what it shows
becomes the frames of an animated PNG.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from apps import demo
from ecar_lab.home import APP_CHECKPOINT

PICTURE = Path(__file__).parent / "app.png"
WIDTH, HEIGHT = 1280, 720
SHRUNK = (960, 540)
COLOURS = 240  # one palette for all frames keeps the file small
# Milliseconds that a frame stays: on the way, and at the end of a scene.
STEP, REST = 260, 1500
LARGEST = 3_000_000  # bytes
PATIENCE = 120_000  # milliseconds
# A picture that is painted cell by cell, as rows of colours: sky, a red thing, grass.
PAINTED = (
    "#9ecbf0 #9ecbf0 #9ecbf0 #9ecbf0",
    "#9ecbf0 #c22626 #c22626 #9ecbf0",
    "#c22626 #c22626 #c22626 #c22626",
    "#6b6b6b #6b6b6b #6b6b6b #6b6b6b",
)

Frames = Iterator[int]  # yields how long what is on the page now is to be seen


def all_classes(page: Any) -> Frames:
    """Every class grows from one seed."""
    slider = page.get_by_label("Moment of all runs")
    page.wait_for_function(
        "document.querySelector('.overview .status')?.textContent.includes(', in ')",
        timeout=PATIENCE,
    )
    last = int(slider.get_attribute("max"))
    for moment in range(last + 1):
        slider.fill(str(moment))
        yield REST if moment == last else STEP


def one_image(page: Any) -> Frames:
    """Stage by stage, step by step."""
    open_tab(page, "Generate")
    page.wait_for_function(
        "/^Done|flow step/.test(document.querySelector('#generate-player .status')?.textContent)",
        timeout=PATIENCE,
    )
    slider = page.get_by_label("Step of the run")
    last = int(slider.get_attribute("max"))
    for moment in range(last + 1):
        slider.fill(str(moment))
        yield REST if moment == last else STEP


def painted(page: Any) -> Frames:
    """A person paints the coarse stage, the later ones complete it."""
    open_tab(page, "Paint a stage")
    done = "document.querySelector('#paint-results .status')?.textContent"
    page.wait_for_function(f"/ in \\d/.test({done})", timeout=PATIENCE)
    yield REST
    for row, colours in enumerate(PAINTED):
        for column, colour in enumerate(colours.split()):
            page.locator("#paint-canvas input[type=color]").fill(colour)
            page.locator("#paint-canvas .cell").nth(4 * row + column).click()
        settle(page)
        yield REST if row == len(PAINTED) - 1 else 2 * STEP


def live(page: Any) -> Frames:
    """A slider, and the image that follows it."""
    open_tab(page, "Live")
    page.wait_for_function(
        "document.querySelector('#live .live')?.dataset.number", timeout=PATIENCE
    )
    slider = page.get_by_role("slider", name="All stages").last  # the walk from seed to seed
    for share in range(0, 101, 10):
        slider.fill(str(share / 100))
        page.wait_for_function("!document.querySelector('#live .live.behind')", timeout=PATIENCE)
        yield REST if share == 100 else STEP


SCENES: tuple[Callable[[Any], Frames], ...] = (all_classes, one_image, painted, live)


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    page.mouse.move(2, 2)


def settle(page: Any) -> None:
    """Until the results are those of the last stroke."""
    page.wait_for_function(
        "!document.querySelector('#paint-results [aria-busy]')", timeout=PATIENCE
    )
    page.wait_for_timeout(300)


def photograph(page: Any) -> list[tuple[Image.Image, int]]:
    """The frames of all scenes with their times in milliseconds."""
    frames = []
    for scene in SCENES:
        for stay in scene(page):
            shot = Image.open(io.BytesIO(page.screenshot()))
            frames.append((shot.convert("RGB").resize(SHRUNK, Image.Resampling.LANCZOS), stay))
    return frames


def save(frames: list[tuple[Image.Image, int]], file: Path) -> None:
    """Writes the frames as an animated PNG, in colours that all of them share.

    Raises:
        SystemExit: it would be too large for a README.
    """
    sheet = Image.new("RGB", (SHRUNK[0], SHRUNK[1] * len(frames)))
    for number, (frame, _) in enumerate(frames):
        sheet.paste(frame, (0, SHRUNK[1] * number))
    palette = sheet.quantize(COLOURS, dither=Image.Dither.NONE)
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in frames]
    times = [stay for _, stay in frames]
    drawn[0].save(
        file, save_all=True, append_images=drawn[1:], duration=times, loop=0, optimize=True
    )
    if file.stat().st_size > LARGEST:
        raise SystemExit(f"{file} has {file.stat().st_size:,} bytes: take fewer frames or colours")


def main() -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    page_of_app, address = demo.launch(APP_CHECKPOINT, port=7879, block=False)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce"
        )
        page.add_init_script("localStorage.setItem('ecar-tour-seen', 'yes')")
        page.goto(f"{address}?present")
        save(photograph(page), PICTURE)
        browser.close()
    page_of_app.close()
    print(PICTURE.relative_to(Path.cwd()), f"{PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
