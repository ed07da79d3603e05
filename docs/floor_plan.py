"""How the floors are drawn: which arrows, where everything lies, and the SVG.

``draw`` knows nothing of the code that it draws: ``draw_architecture.py`` reads that.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Floors = list[list[str]]
Arrow = tuple[str, str]  # who imports, who is imported


@dataclass(frozen=True)
class Box:
    """A module of the hall, or a wing.

    Attributes:
        name: dotted. purpose: the first sentence of its docstring. modules: how many files.
        lines: of all its files together.
    """

    name: str
    purpose: str
    modules: int
    lines: int

    @property
    def is_wing(self) -> bool:
        return self.modules > 1

    @property
    def title(self) -> str:
        """The name as readers say it: without the package that it is part of."""
        return self.name.split(".")[-1]

    @property
    def size(self) -> str:
        """How large it is, to the hundred: the picture need not change with every line."""
        hundreds = round(self.lines / 100) * 100
        lines = f"{hundreds:,} lines" if hundreds else "under 50 lines"
        return f"{self.modules} files · {lines}" if self.is_wing else lines


def levels(floors: Floors) -> dict[str, int]:
    """How far below the highest floor each box lies."""
    return {name: index for index, floor in enumerate(floors) for name in floor}


def essential(arrows: set[Arrow]) -> set[Arrow]:
    """The arrows that no longer way replaces: if a needs b and b needs c, a -> c goes unsaid.

    The arrows must form no circle.
    """
    below: dict[str, set[str]] = {}
    for importer, imported in arrows:
        below.setdefault(importer, set()).add(imported)

    def reached(start: str) -> set[str]:
        found, waiting = set(), list(below.get(start, ()))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(below.get(name, ()))
        return found

    reach = {name: reached(name) for name in below}
    return {
        (importer, imported)
        for importer, imported in arrows
        if not any(imported in reach.get(other, ()) for other in below[importer] - {imported})
    }


WIDTH, MARGIN, GAP, ROW_GAP = 1120, 20, 24, 34
LANE = 7  # between arrows side by side
BOX_WIDTH = 330  # at most
PADDING, TITLE_HEIGHT, LINE_HEIGHT = 8, 19, 14
LETTER = 6.4  # width of an average letter of the small print, with room to spare
MOST_LINES = 4
STYLE = """
  .paper { fill: #ffffff }
  .box { fill: #f6f8fa; stroke: #8c959f }
  .wing { fill: #eef5ff; stroke: #4878b0 }
  text { font: 11px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328 }
  .name { font-size: 13px; font-weight: 600 }
  .size { font-size: 10px; fill: #59636e }
  .arrow { fill: none; stroke: #8c959f; stroke-width: 1.2 }
  .tip { fill: #8c959f }
  .up { stroke: #d1242f; stroke-width: 2 }
  .tip-up { fill: #d1242f }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 }
    .box { fill: #161b22; stroke: #6e7681 }
    .wing { fill: #10233d; stroke: #5f94d4 }
    text { fill: #e6edf3 }
    .size { fill: #9da7b3 }
    .up { stroke: #ff7b72 }
    .tip-up { fill: #ff7b72 }
  }
"""


@dataclass(frozen=True)
class Place:
    """Where a box is drawn, in pixels, and its purpose cut into lines."""

    left: float
    top: float
    width: float
    height: float
    lines: tuple[str, ...]

    @property
    def centre(self) -> float:
        return self.left + self.width / 2

    @property
    def bottom(self) -> float:
        return self.top + self.height


def place(floors: Floors, boxes: Mapping[str, Box]) -> dict[str, Place]:
    """Every floor a row, highest first, its boxes side by side and equally large."""
    places, top = {}, float(MARGIN)
    for floor in floors:
        count = len(floor)
        width = min(BOX_WIDTH, (WIDTH - 2 * MARGIN - GAP * (count - 1)) / count)
        letters = int((width - 2 * PADDING) / LETTER)
        texts = [
            tuple(
                textwrap.wrap(boxes[name].purpose, letters, max_lines=MOST_LINES, placeholder=" …")
            )
            for name in floor
        ]
        height = 2 * PADDING + TITLE_HEIGHT + LINE_HEIGHT * (max(map(len, texts)) + 1) - 4
        left = (WIDTH - count * width - GAP * (count - 1)) / 2
        for index, (name, lines) in enumerate(zip(floor, texts, strict=True)):
            places[name] = Place(left + index * (width + GAP), top, width, height, lines)
        top += height + ROW_GAP
    return places


def attach(arrows: Iterable[Arrow], places: Mapping[str, Place], end: int) -> dict[Arrow, float]:
    """Where along a box's edge each arrow begins (end 0) or arrives (end 1): spread evenly, in the
    order of the other ends, so that arrows of one box do not cross."""
    spots = {}
    ordered = sorted(arrows, key=lambda arrow: (arrow[end], places[arrow[1 - end]].centre, arrow))
    for name, group in itertools.groupby(ordered, key=lambda arrow: arrow[end]):
        box, members = places[name], list(group)
        for index, arrow in enumerate(members, 1):
            spots[arrow] = box.left + box.width * index / (len(members) + 1)
    return spots


def lanes(row: Sequence[Place]) -> list[tuple[float, float]]:
    """The free stretches of a row, left to right: beside its boxes and between them."""
    edges = [MARGIN / 2]
    for box in row:
        edges += [box.left - LANE, box.left + box.width + LANE]
    edges.append(WIDTH - MARGIN / 2)
    return list(zip(edges[::2], edges[1::2], strict=True))


def bypass(
    arrows: Iterable[Arrow],
    floors: Floors,
    places: Mapping[str, Place],
    leaving: Mapping[Arrow, float],
    arriving: Mapping[Arrow, float],
) -> dict[Arrow, list[tuple[float, float]]]:
    """How arrows pass the rows between their ends without going behind a box: where they come to
    and leave each of those rows, in the lane nearest to the straight way, as far straight down as
    the lanes allow. Arrows in one lane keep apart.
    """
    level = levels(floors)
    taken: list[set[float]] = [set() for _ in floors]  # where arrows pass each row
    ways: dict[Arrow, list[tuple[float, float]]] = {}
    for arrow in sorted(arrows, key=lambda arrow: (level[arrow[1]] - level[arrow[0]], arrow)):
        first, last = level[arrow[0]], level[arrow[1]]
        x, ways[arrow] = leaving[arrow], []
        for index in range(first + 1, last):
            row = [places[name] for name in floors[index]]
            straight = x + (arriving[arrow] - x) / (last - index + 1)
            low, high = min(lanes(row), key=lambda lane: distance(straight, lane))
            x = min(max(x, low), high)
            inwards = LANE if x <= (low + high) / 2 else -LANE
            while any(abs(x - other) < LANE for other in taken[index]) and low <= x <= high:
                x += inwards
            x = min(max(x, low), high)
            taken[index].add(x)
            ways[arrow] += [(x, row[0].top), (x, row[0].bottom)]
    return ways


def distance(x: float, lane: tuple[float, float]) -> float:
    """From a point to the nearest of a stretch."""
    return max(lane[0] - x, x - lane[1], 0.0)


def draw(floors: Floors, boxes: Mapping[str, Box], arrows: set[Arrow]) -> str:
    """The picture as SVG: arrows, boxes, and what it means. What goes up lies on top, in red."""
    places, level = place(floors, boxes), levels(floors)
    upward = {arrow for arrow in arrows if level[arrow[1]] < level[arrow[0]]}
    shown = essential(arrows - upward)
    sideways = {arrow for arrow in shown if level[arrow[1]] == level[arrow[0]]}
    downward = shown - sideways
    leaving, arriving = attach(downward, places, 0), attach(downward, places, 1)
    ways = bypass(downward, floors, places, leaving, arriving)
    bottom = max(box.bottom for box in places.values())
    height = bottom + 2 * MARGIN + LINE_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img" aria-labelledby="title">',
        '<title id="title">The floors of ecar_lab, drawn from its imports</title>',
        f"<style>{STYLE}</style>",
        marker("tip"),
        marker("tip-up"),
        f'<rect class="paper" width="{WIDTH}" height="{height:.0f}" rx="8"/>',
    ]
    for arrow in sorted(downward):
        importer, imported = places[arrow[0]], places[arrow[1]]
        start, end = (leaving[arrow], importer.bottom), (arriving[arrow], imported.top)
        parts.append(path(descent([start, *ways[arrow], end])))
    for name in itertools.chain.from_iterable(floors):
        parts += box_parts(boxes[name], places[name])
    for arrow in sorted(sideways):
        parts.append(path(beside(places[arrow[0]], places[arrow[1]])))
    for arrow in sorted(upward):
        start, end = places[arrow[0]], places[arrow[1]]
        line = f"M{start.centre:.1f} {start.top:.1f}L{end.centre:.1f} {end.bottom:.1f}"
        parts.append(path(line, up=True))
    legend = (
        "An arrow goes from who imports to who is imported. "
        f"Of {len(arrows)} pairs the {len(shown)} are drawn that no longer way implies."
    ) + (f" {len(upward)} in red: up, which none may." if upward else "")
    parts.append(f'<text x="{MARGIN}" y="{bottom + MARGIN + LINE_HEIGHT:.0f}">{legend}</text>')
    return "\n".join([*parts, "</svg>\n"])


def marker(tip: str) -> str:
    """An arrow head."""
    return (
        f'<marker id="{tip}" class="{tip}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0.5L8 4L0 7.5z"/></marker>'
    )


def path(line: str, up: bool = False) -> str:
    """An arrow along a line."""
    kind, tip = ("arrow up", "tip-up") if up else ("arrow", "tip")
    return f'<path class="{kind}" marker-end="url(#{tip})" d="{line}"/>'


def descent(points: Sequence[tuple[float, float]]) -> str:
    """A line down through points: straight beside a row of boxes, a bend between two rows."""
    (x, y), *rest = points
    line = f"M{x:.1f} {y:.1f}"
    for index, (to_x, to_y) in enumerate(rest):
        if index % 2:  # along a row
            line += f"V{to_y:.1f}"
        else:
            middle = (y + to_y) / 2
            line += f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
        x, y = to_x, to_y
    return line


def beside(importer: Place, imported: Place) -> str:
    """A line to a box of the same row, below the boxes between them."""
    sag = importer.bottom + ROW_GAP / 2
    return (
        f"M{importer.centre:.1f} {importer.bottom:.1f}C{importer.centre:.1f} {sag:.1f} "
        f"{imported.centre:.1f} {sag:.1f} {imported.centre:.1f} {imported.bottom:.1f}"
    )


def box_parts(box: Box, at: Place) -> list[str]:
    """A box with its name, its purpose and its size."""
    x, y = at.left + PADDING, at.top + PADDING + 12
    texts = [f'<text class="name" x="{x:.1f}" y="{y:.1f}">{escape(box.title)}</text>']
    y += TITLE_HEIGHT - 2
    for line in at.lines:
        texts.append(f'<text x="{x:.1f}" y="{y:.1f}">{escape(line, quote=False)}</text>')
        y += LINE_HEIGHT
    last = at.top + at.height - PADDING
    texts.append(f'<text class="size" x="{x:.1f}" y="{last:.1f}">{box.size}</text>')
    return [
        f'<rect class="{"wing" if box.is_wing else "box"}" x="{at.left:.1f}" y="{at.top:.1f}" '
        f'width="{at.width:.1f}" height="{at.height:.1f}" rx="5"/>',
        *texts,
    ]
