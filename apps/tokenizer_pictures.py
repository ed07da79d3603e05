"""Pictures for the Tokenizer tab: those that the kit draws, and uploads, opened with care."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ecar_lab.data.shapes import SHAPES, draw_shapes
from ecar_lab.data.sources import square_pixels
from ecar_lab.errors import EcarError

MAX_BYTES = 5 * 2**20
MAX_SIDE = 4096
FORMATS = ("PNG", "JPEG", "WEBP")


def _shape(name: str) -> Callable[[int], Tensor]:
    def draw(size: int) -> Tensor:
        index = torch.tensor([list(SHAPES).index(name)])
        return draw_shapes(7, index, size)[0].float() / 127.5 - 1

    return draw


def _gradient(size: int) -> Tensor:
    across = torch.linspace(-1, 1, size).expand(size, size)
    return torch.stack((across, across.T, -(across + across.T) / 2))[None]


def _checks(size: int) -> Tensor:
    cells = torch.arange(size)
    return (2.0 * ((cells + cells[:, None]) % 2) - 1).expand(1, 3, size, size).clone()


def _noise(size: int) -> Tensor:
    return 2 * torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) - 1


# What the kit draws by itself at any size (1, 3, size, size); the last two are hard on purpose.
PICTURES: dict[str, Callable[[int], Tensor]] = {
    **{name: _shape(name) for name in ("star", "ring", "crescent", "cross")},
    "colour gradient": _gradient,
    "one-pixel checks": _checks,
    "coloured noise": _noise,
}


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
    return EcarError(f"the picture has {has}: use at most {MAX_SIDE} px a side")


def picture_of(image: Image.Image, size: int) -> Tensor:
    """(1, 3, size, size) in [-1, 1]: the middle square, scaled."""
    pixels = torch.from_numpy(square_pixels(image, size))
    return pixels.movedim(-1, 0)[None].float() / 127.5 - 1
