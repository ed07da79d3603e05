"""One image of a data set, however it was stored, as RGB of 0 ... 255.

Rules for numbers that are not 8 bits wide: 16 bits are divided by 257. A 32-bit integer or a float
image goes by its own range: whole numbers up to 255 are taken as they are, up to 65535 divided by
257; floats from 0 to 1 are multiplied by 255, up to 255 taken as they are. Anything else is
refused. Of several frames the first is taken.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from ecar_lab.data.places import is_regular, picture_endings

LONGEST_NAME = 80  # letters of a path that a message repeats


class Unreadable(ValueError):
    """Why one image cannot be used; the image is skipped and the reason said."""


def open_image(value: Any, size: int | None = None) -> PIL.Image.Image:
    """The image as it was stored, upright, not yet RGB.

    Args:
        value: ``{"bytes": ..., "path": ...}`` as `datasets` holds an encoded image, or pixels as
            nested lists (H, W), (H, W, C) or (C, H, W).
        size: a JPEG much larger than this is scaled down while it is decoded.

    Raises:
        Unreadable: there is no such file, or it is no image of a form that is understood.
    """
    if value is None:
        raise Unreadable("no image in this row")
    if not isinstance(value, dict):
        return _from_pixels(np.asarray(value))
    data, path = value.get("bytes"), value.get("path")
    if data is None and path is None:
        raise Unreadable("no image in this row")
    picture_endings()  # registers what Pillow can read
    if data is None and "://" in path:
        import datasets

        return datasets.Image().decode_example(value)  # a remote path of a stream
    if data is None and not is_regular(Path(path)):
        raise Unreadable(f"the path {shorten(path)!r} was not found as a file")
    with PIL.Image.open(path if data is None else io.BytesIO(data)) as image:
        pixels = image.width * image.height
        if PIL.Image.MAX_IMAGE_PIXELS and pixels > PIL.Image.MAX_IMAGE_PIXELS:
            raise Unreadable(f"{image.width} x {image.height} pixels are too many")
        kind, frames = image.format, getattr(image, "n_frames", 1)
        if size:
            image.draft("RGB", (2 * size, 2 * size))
        image.load()
        upright = PIL.ImageOps.exif_transpose(image)
    upright.info["frames"] = 1 if kind == "MPO" else frames
    upright.info["form"] = kind
    return upright


def shorten(path: str) -> str:
    """A path, or what was taken for one, of which a message holds both ends."""
    half = LONGEST_NAME // 2
    return path if len(path) <= LONGEST_NAME else f"{path[:half]}...{path[-half:]}"


def square_pixels(image: PIL.Image.Image, size: int) -> np.ndarray:
    """(size, size, 3) uint8: on white where transparent, shorter side scaled, centre cut out.

    Raises:
        Unreadable: numbers of a range that is not understood.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size != (size, size):
        image = PIL.ImageOps.fit(image, (size, size), PIL.Image.Resampling.BICUBIC)
    return np.array(image)


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.info.get("form") == "PPM"):
        values = values.astype(np.uint16)  # a PGM of more than 8 bits
    return PIL.Image.fromarray(to_bytes(values))


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Numbers of any type -> uint8; see the rules above.

    Raises:
        Unreadable: not finite, negative or too large.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "iuf" or not values.size:
        raise Unreadable(f"pixels of the type {values.dtype}")
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise Unreadable(f"pixels from {low:.4g} to {high:.4g}: use 0 ... 1 or 0 ... 255")
    if values.dtype == np.uint16:
        factor = 1 / 257
    elif values.dtype.kind == "f" and high <= 1:
        factor = 255.0
    elif high <= 255:
        factor = 1.0
    elif values.dtype.kind in "iu" and high <= 65535:
        factor = 1 / 257
    else:
        raise Unreadable(f"pixels up to {high:.6g}: use 0 ... 1, 0 ... 255 or 16 bits")
    return (values.astype(np.float64) * factor).round().astype(np.uint8)


def _from_pixels(values: np.ndarray) -> PIL.Image.Image:
    """Grey (H, W), or channels last or first: 1, 3 or 4 of them."""
    channels = (1, 3, 4)
    if values.ndim == 3 and values.shape[2] not in channels and values.shape[0] in channels:
        values = values.transpose(1, 2, 0)
    known = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in channels)
    if not known or not values.size or values.dtype == object:
        raise Unreadable(f"pixels of the shape {values.shape}: use (H, W), (H, W, 3) or (3, H, W)")
    values = to_bytes(values)
    return PIL.Image.fromarray(values[:, :, 0] if values.shape[2:] == (1,) else values)
