"""Pictures inside a message: one for all images of a moment, not a file and a request each."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from ecar_lab.viz.pictures import to_pil


def side_by_side(pictures: Tensor) -> Image.Image:
    """(B, 3, H, W) in [-1, 1] -> one picture, B W wide."""
    return to_pil(torch.cat(list(pictures), dim=-1))[0]


def data_url(picture: Image.Image) -> str:
    """The picture as a PNG inside a message."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
