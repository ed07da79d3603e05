"""One image of a data set, however it was stored, as RGB of 0 ... 255.

Rules for numbers that are not 8 bits wide: 16 bits are divided by 257. A 32-bit integer or a float
image goes by its range: whole numbers up to 255 are taken as they are, up to 65535 divided by 257;
floats from 0 to 1 are multiplied by 255, up to 255 taken as they are. All images of a set must be
of one such range, and numbers below 0 or beyond refuse the whole set: its other images would be
taken wrongly, too. Of several frames the first is taken.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from ecar_lab.data.places import is_regular, picture_endings
from ecar_lab.errors import EcarError

LONGEST_NAME = 80  # letters of a path that a message repeats


class Unreadable(ValueError):
    """Why one image cannot be used; the image is skipped and the reason said."""


class Unscaled(EcarError):
    """Numbers of a range that is not understood: then the others of the set are not, either."""


def open_image(value: Any, size: int | None = None) -> PIL.Image.Image:
    """The image in 8 bits a channel, upright, not yet RGB.

    ``info["scale"]`` is what its numbers were multiplied by, where their range decided that.

    Args:
        value: ``{"bytes": ..., "path": ...}`` as `datasets` holds an encoded image, or pixels as
            nested lists (H, W), (H, W, C) or (C, H, W).
        size: a JPEG much larger than this is scaled down while it is decoded.

    Raises:
        Unreadable: there is no such file, or it is no image of a form that is understood.
        Unscaled: its numbers are of a range that is not understood.
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

        try:
            return datasets.Image().decode_example(value)  # a remote path of a stream
        except Exception as error:  # every kind of address has errors of its own
            raise Unreadable(f"{shorten(path)!r} cannot be fetched: store the image") from error
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
    upright.info["form"] = kind
    upright = _eight_bits(upright)
    upright.info["frames"] = 1 if kind == "MPO" else frames
    return upright


def shorten(path: str) -> str:
    """A path, or what was taken for one, of which a message holds both ends."""
    half = LONGEST_NAME // 2
    return path if len(path) <= LONGEST_NAME else f"{path[:half]}...{path[-half:]}"


def square_pixels(image: PIL.Image.Image, size: int) -> np.ndarray:
    """(size, size, 3) uint8: on white where transparent, shorter side scaled, centre cut out.

    Raises:
        Unscaled: numbers of a range that is not understood.
    """
    image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size != (size, size):
        image = PIL.ImageOps.fit(image, (size, size), PIL.Image.Resampling.BICUBIC)
    return np.array(image)


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.info.get("form") == "PPM"):
        values = values.astype(np.uint16)  # a PGM of more than 8 bits
    return _scaled(values)


def _scaled(values: np.ndarray) -> PIL.Image.Image:
    image = PIL.Image.fromarray(to_bytes(values))
    decided = values.dtype not in (np.uint8, np.uint16, bool) and values.any()
    if decided:  # all zero are black by any scale
        image.info["scale"] = _scale(values)
    return image


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Numbers of any type -> uint8; see the rules above.

    Raises:
        Unreadable: not numbers, or not finite.
        Unscaled: negative or too large.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "iuf" or not values.size:
        raise Unreadable(f"pixels of the type {values.dtype}")
    return (values.astype(np.float64) * _scale(values)).round().astype(np.uint8)


def _scale(values: np.ndarray) -> float:
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Unreadable("pixels that are not finite: use 0 ... 1 or 0 ... 255")
    if low < 0:
        raise Unscaled(f"pixels from {low:.4g} to {high:.4g}: use 0 ... 1 or 0 ... 255")
    if values.dtype == np.uint16:
        return 1 / 257
    if values.dtype.kind == "f" and high <= 1:
        return 255.0
    if high <= 255:
        return 1.0
    if values.dtype.kind in "iu" and high <= 65535:
        return 1 / 257
    raise Unscaled(f"pixels up to {high:.6g}: use 0 ... 1, 0 ... 255 or 16 bits")


def _from_pixels(values: np.ndarray) -> PIL.Image.Image:
    """Grey (H, W), or channels last or first: 1, 3 or 4 of them."""
    channels = (1, 3, 4)
    if values.ndim == 3 and values.shape[2] not in channels and values.shape[0] in channels:
        values = values.transpose(1, 2, 0)
    known = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in channels)
    if not known or not values.size or values.dtype == object:
        raise Unreadable(f"pixels of the shape {values.shape}: use (H, W), (H, W, 3) or (3, H, W)")
    return _scaled(values[:, :, 0] if values.shape[2:] == (1,) else values)
