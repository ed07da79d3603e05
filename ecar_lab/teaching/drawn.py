"""A folder of little pictures for who has none at hand: four classes, many sizes, some broken.

Every picture is a pure function of its class and its number.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from ecar_lab.files import atomic_directory

FINE = 3  # drawn so many times larger: scaling it down softens the edges
SIDES = (48, 160)  # pixels, each side of a picture
BROKEN = ("cut-short.jpg", "empty.jpg", "no-picture.png", "notes.txt")
Pen = ImageDraw.ImageDraw
Colour = tuple[int, int, int]


class Canvas:
    """Draws in units of the shorter side, from the middle, y upwards."""

    def __init__(self, width: int, height: int, sky: Colour, ground: Colour, horizon: float):
        self.image = Image.new("RGB", (FINE * width, FINE * height), sky)
        self.pen = ImageDraw.Draw(self.image)
        self.unit = FINE * min(width, height)
        self.middle = FINE * width / 2, FINE * height / 2
        edge = self.at(0, horizon)[1]
        self.pen.rectangle((0, edge, *self.image.size), ground)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point in pixels."""
        return self.middle[0] + x * self.unit, self.middle[1] - y * self.unit

    def polygon(self, colour: Colour, *points: tuple[float, float]) -> None:
        self.pen.polygon([self.at(*point) for point in points], colour)

    def box(self, colour: Colour, left: float, bottom: float, width: float, height: float) -> None:
        right, top = left + width, bottom + height
        self.polygon(colour, (left, bottom), (right, bottom), (right, top), (left, top))

    def disc(self, colour: Colour, x: float, y: float, radius: float) -> None:
        (left, top), (right, bottom) = (
            self.at(x - radius, y + radius),
            self.at(x + radius, y - radius),
        )
        self.pen.ellipse((left, top, right, bottom), colour)

    def finished(self) -> Image.Image:
        """The picture at its own size."""
        width, height = self.image.size
        return self.image.resize((width // FINE, height // FINE), Image.Resampling.LANCZOS)


def colour(lot: random.Random, *ranges: tuple[int, int]) -> Colour:
    red, green, blue = (lot.randint(*each) for each in ranges)
    return red, green, blue


def bright(lot: random.Random) -> Colour:
    """A colour with something missing, so that it is none of the greys."""
    strong, weak = lot.randint(190, 250), lot.randint(20, 90)
    parts = [strong, weak, lot.randint(weak, strong)]
    lot.shuffle(parts)
    return parts[0], parts[1], parts[2]


def flower(canvas: Canvas, lot: random.Random) -> None:
    x, y = lot.uniform(-0.12, 0.12), lot.uniform(0.0, 0.15)
    canvas.box((40, 120, 50), x - 0.02, -0.5, 0.04, 0.5 + y)
    petals, reach, petal = lot.randint(5, 8), lot.uniform(0.13, 0.2), bright(lot)
    for k in range(petals):
        angle = 2 * math.pi * k / petals + lot.uniform(0, 0.2)
        canvas.disc(petal, x + reach * math.cos(angle), y + reach * math.sin(angle), reach * 0.62)
    canvas.disc((250, 210, 60), x, y, reach * 0.6)


def house(canvas: Canvas, lot: random.Random) -> None:
    width, height = lot.uniform(0.4, 0.62), lot.uniform(0.26, 0.38)
    left, bottom = lot.uniform(-0.42, 0.42 - width), lot.uniform(-0.36, -0.26)
    canvas.box(colour(lot, (190, 250), (170, 230), (130, 210)), left, bottom, width, height)
    peak = bottom + height + lot.uniform(0.16, 0.26)
    roof = (left - 0.05, bottom + height), (left + width + 0.05, bottom + height)
    canvas.polygon(colour(lot, (140, 200), (40, 80), (30, 60)), *roof, (left + width / 2, peak))
    canvas.box((100, 60, 40), left + width * 0.14, bottom, width * 0.22, height * 0.62)
    canvas.box(
        (70, 110, 170), left + width * 0.56, bottom + height * 0.4, width * 0.26, height * 0.36
    )


def ship(canvas: Canvas, lot: random.Random) -> None:
    x, y, half = lot.uniform(-0.1, 0.1), lot.uniform(-0.22, -0.12), lot.uniform(0.26, 0.38)
    canvas.box((90, 70, 50), x - 0.012, y, 0.024, 0.5)
    top, sail = y + 0.48, bright(lot)
    canvas.polygon(sail, (x + 0.03, y + 0.13), (x + half * 0.85, y + 0.13), (x + 0.03, top))
    canvas.polygon(
        (245, 245, 240), (x - 0.03, y + 0.13), (x - half * 0.6, y + 0.13), (x - 0.03, top - 0.08)
    )
    hull = colour(lot, (90, 180), (30, 90), (30, 70))
    canvas.polygon(
        hull,
        (x - half, y + 0.08),
        (x + half, y + 0.08),
        (x + half * 0.7, y - 0.08),
        (x - half * 0.7, y - 0.08),
    )


def tree(canvas: Canvas, lot: random.Random) -> None:
    x, foot = lot.uniform(-0.12, 0.12), lot.uniform(-0.4, -0.32)
    canvas.box(colour(lot, (90, 130), (60, 80), (30, 50)), x - 0.045, foot, 0.09, 0.36)
    green = colour(lot, (20, 80), (110, 170), (30, 80))
    if lot.random() < 0.5:
        for level in range(3):
            half, base = 0.28 - 0.07 * level, foot + 0.22 + 0.17 * level
            canvas.polygon(green, (x - half, base), (x + half, base), (x, base + 0.3))
    else:
        for _ in range(6):
            canvas.disc(green, x + lot.uniform(-0.14, 0.14), foot + lot.uniform(0.36, 0.62), 0.16)


# Class -> what is drawn; `ship` is a class that the shipped model knows, too.
CLASSES: dict[str, Callable[[Canvas, random.Random], None]] = {
    "flower": flower,
    "house": house,
    "ship": ship,
    "tree": tree,
}


def draw(name: str, number: int) -> Image.Image:
    """Picture ``number`` of a class, of a size of its own."""
    lot = random.Random(f"{name} {number}")
    width, height = lot.randint(*SIDES), lot.randint(*SIDES)
    sky = colour(lot, (150, 210), (190, 230), (225, 250))
    ground = colour(lot, (90, 160), (150, 200), (70, 120))
    if name == "ship":
        ground = colour(lot, (30, 80), (80, 140), (140, 200))
    canvas = Canvas(width, height, sky, ground, lot.uniform(-0.3, -0.15))
    CLASSES[name](canvas, lot)
    return canvas.finished()


def make_folder(folder: Path, train: int, test: int) -> Path:
    """Writes ``train`` and ``test`` pictures of each class, and four files that are none; what is
    there already stays."""
    if folder.is_dir():
        return folder
    with atomic_directory(folder) as fresh:
        for name in CLASSES:
            for split, first, count in (("train", 0, train), ("test", train, test)):
                place = fresh / split / name
                place.mkdir(parents=True)
                for number in range(first, first + count):
                    ending = "jpg" if number % 2 else "png"
                    draw(name, number).save(place / f"{number:04}.{ending}", quality=92)
        spoil(fresh / "train" / "house")
    return folder


def spoil(place: Path) -> None:
    """Four files of the kind that lie about in folders."""
    cut, empty, words, notes = (place / name for name in BROKEN)
    whole = (place / "0001.jpg").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    empty.write_bytes(b"")
    words.write_text("<html>404 Not Found</html>", "utf-8")
    notes.write_text("Pictures of houses, to be sorted.", "utf-8")
