"""A visitor's picture for the Tokenizer tab, opened with care."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from ecar_lab.errors import EcarError

MAX_BYTES = 5 * 2**20
MAX_SIDE = 4096
FORMATS = ("PNG", "JPEG", "WEBP")


def open_upload(path: Path) -> Image.Image:
    """A visitor's picture, decoded and upright.

    Its size is known before a pixel is unpacked, so a small file cannot fill the memory.

    Raises:
        EcarError: too many bytes or pixels, another kind of file, a damaged one.
    """
    kinds = "use a PNG, JPEG or WebP picture"
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise EcarError(f"the file has {size / 2**20:.1f} MB: use one of at most 5 MB")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if max(image.size) > MAX_SIDE:
                raise _too_many_pixels(image.size)
            image.load()
            return ImageOps.exif_transpose(image)
    except EcarError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(None) from error
    except UnidentifiedImageError as error:
        raise EcarError(f"the file is not a picture that is read here: {kinds}") from error
    except Exception as error:  # damaged files raise a dozen kinds
        raise EcarError(f"the file is damaged and cannot be read: {kinds}") from error


def _too_many_pixels(size: tuple[int, int] | None) -> EcarError:
    has = f"{size[0]} by {size[1]} px" if size else "far more pixels than a picture needs"
    return EcarError(f"the picture has {has}: use at most {MAX_SIDE} px per side")
