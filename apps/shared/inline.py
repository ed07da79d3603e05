"""Pictures inside a message: one for all images of a moment, not a file and a request each."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from ecar_lab.viz.pictures import to_pil

PREFIX = "data:image/png;base64,"


def side_by_side(pictures: Tensor) -> Image.Image:
    """(B, 3, H, W) in [-1, 1] -> one picture, B W wide."""
    return to_pil(torch.cat(list(pictures), dim=-1))[0]


def data_url(picture: Image.Image, compress_level: int = 6) -> str:
    """The picture as a PNG inside a message."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=compress_level)
    return PREFIX + base64.b64encode(buffer.getvalue()).decode()


def sketch_url(picture: Image.Image) -> str:
    """The picture as a WebP inside a message: a fifth of the bytes, and not exact."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_urls(pictures: Tensor) -> list[str]:
    """Each of the pictures (B, 3, h, w) in [-1, 1] at its native size; the page enlarges them."""
    # A frame should not wait for the compressor.
    return [data_url(picture, 1) for picture in to_pil(pictures)]


def png_of(url: str) -> bytes:
    """The PNG file that :func:`data_url` put into a message."""
    return base64.b64decode(url.removeprefix(PREFIX))
