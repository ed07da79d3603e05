"""The `shapes` set: coloured shapes drawn on the fly, at any resolution, without a file.

Image ``index`` of a set is a pure function of (key, index): its random numbers come from a hash of
both, not from a generator's state, so any subset can be drawn, in any order, in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

PARAMETERS = 9  # random numbers per image: centre 2, radius, angle, hue, brightness, background 3


def _star(x: Tensor, y: Tensor, points: int, inner: float) -> Tensor:
    """Distance to the edge of a star of outer radius 1; ``inner = cos(pi / n)`` is the polygon."""
    half = math.pi / points
    angle = torch.remainder(torch.atan2(y, x) + half, 2 * half) - half  # fold onto one point
    radius = torch.hypot(x, y)
    along, across = radius * torch.cos(angle), radius * torch.sin(angle).abs()
    edge_x, edge_y = inner * math.cos(half) - 1, inner * math.sin(half)  # from the tip inwards
    return ((along - 1) * edge_y - across * edge_x) / math.hypot(edge_x, edge_y)


def _polygon(x: Tensor, y: Tensor, corners: int) -> Tensor:
    return _star(x, y, corners, math.cos(math.pi / corners))


# (x, y) in units of the shape's radius -> signed distance to its edge, negative inside
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 1,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.75).abs() - 0.25,
    "crescent": lambda x, y: torch.maximum(torch.hypot(x, y) - 1, 0.8 - torch.hypot(x - 0.5, y)),
    "triangle": lambda x, y: _polygon(x, y, 3),
    "square": lambda x, y: _polygon(x, y, 4),
    "hexagon": lambda x, y: _polygon(x, y, 6),
    "star": lambda x, y: _star(x, y, 5, 0.42),
    "cross": lambda x, y: torch.maximum(
        torch.minimum(x.abs(), y.abs()) - 0.3, torch.maximum(x.abs(), y.abs()) - 1
    ),
}


def _uniform(key: int, indices: Tensor) -> Tensor:
    """``PARAMETERS`` numbers in [0, 1) per index: (B,) -> (B, PARAMETERS), by splitmix64."""
    counter = indices.numpy().astype(np.uint64)[:, None] * np.uint64(PARAMETERS)
    state = counter + np.arange(1, PARAMETERS + 1, dtype=np.uint64)
    state = state * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
    return torch.from_numpy((state >> np.uint64(40)).astype(np.float32) / 2**24)


def draw_shapes(key: int, indices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Draws the images ``indices`` (B,) of the set ``key`` at ``size`` pixels, anti-aliased.

    Labels go round the classes with the index, so every run of ``len(SHAPES)`` images holds each
    class once.

    Returns:
        images (B, 3, size, size) uint8 and labels (B,) int64.
    """
    labels = indices % len(SHAPES)
    u = _uniform(key, indices)[:, :, None, None]  # (B, PARAMETERS, 1, 1)
    radius = 0.2 + 0.18 * u[:, 2]
    axis = (torch.arange(size) + 0.5) / size  # pixel centres, the image is [0, 1]²
    x = (axis - 0.5 - 0.24 * (u[:, 0] - 0.5)) / radius  # (B, 1, W)
    y = (axis[:, None] - 0.5 - 0.24 * (u[:, 1] - 0.5)) / radius  # (B, H, 1)
    angle = 2 * math.pi * u[:, 3]
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()  # (B, H, W)
    distance = torch.empty_like(x)
    for label, shape in enumerate(SHAPES.values()):
        chosen = labels == label
        distance[chosen] = shape(x[chosen], y[chosen])
    cover = (0.5 - distance * radius * size).clamp(0, 1)[:, None]  # (B, 1, H, W)

    phase = torch.arange(3)[:, None, None] / 3  # red, green, blue stand 120 degrees apart
    hue = (2.5 * torch.cos(2 * math.pi * (u[:, 4:5] - phase)) + 0.5).clamp(0, 1)
    colour = hue * (0.45 + 0.4 * u[:, 5:6])  # (B, 3, 1, 1)
    background = 0.75 + 0.25 * u[:, 6:9]
    images = background + cover * (colour - background)
    return (images * 255).round().to(torch.uint8), labels
