"""What comes out of a data set: sizes, ranges, colours, orientation."""

import io

import numpy as np
import PIL.Image
import pytest
import torch

from ecar_lab.data import open_dataset
from tests.data.pictures import (
    picture,
    write_parquet,
)


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_offline_sets_give_rgb_floats_between_minus_one_and_one(name):
    data = open_dataset(name)
    images, labels = next(data.batches(40))
    size = data.info.image_size
    assert images.shape == (40, 3, size, size)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0.2
    assert 0 <= labels.min() <= labels.max() < data.info.num_classes


def test_arrays_of_digits_hold_every_digit_once_in_either_split():
    train, test = (open_dataset("digits", split=split) for split in ("train", "test"))
    (images, labels), (held_out, _) = train.arrays(), test.arrays()
    assert images.dtype == torch.uint8
    assert images.shape == (1437, 3, 8, 8)
    assert len(held_out) == 360
    assert labels.bincount().min() >= 139
    both = torch.cat([images, held_out])[:, 0].flatten(1)
    assert len(both.unique(dim=0)) == 1797
    assert torch.equal(images[:, 0], images[:, 2])
    assert train.info.class_names == tuple("0123456789")


def test_digits_scale_to_any_size():
    images, _ = open_dataset("digits", image_size=16, limit=20).arrays()
    assert images.shape == (20, 3, 16, 16)


def test_images_are_scaled_by_the_shorter_side_and_cropped_at_the_centre(tmp_path):
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 200  # the middle square
    folder = tmp_path / "set" / "cat"
    folder.mkdir(parents=True)
    PIL.Image.fromarray(wide).save(folder / "wide.png")
    data = open_dataset(str(tmp_path / "set"), image_size=10)
    assert (data.arrays()[0].float() - 200).abs().max() < 20
    assert open_dataset(str(tmp_path / "set")).info.image_size == 20


def test_large_jpeg_keeps_its_content_when_scaled_while_decoding(tmp_path):
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(np.tile(ramp, (640, 1))).save(stream, "JPEG", quality=95)
    path = write_parquet(tmp_path / "a.parquet", [{"bytes": stream.getvalue(), "path": None}])
    images, _ = open_dataset(str(path), image_size=32).arrays()
    expected = torch.from_numpy(ramp.astype(np.float32).reshape(32, 20).mean(1))
    assert (images[0, 0].float() - expected).abs().max() < 4


def test_grey_transparent_palette_and_16_bit_images_become_rgb(tmp_path):
    folder = tmp_path / "set" / "cat"
    folder.mkdir(parents=True)
    PIL.Image.new("L", (8, 8), 100).save(folder / "a.png")
    PIL.Image.new("RGBA", (8, 8), (100, 100, 100, 0)).save(folder / "b.png")
    picture(100).quantize().save(folder / "c.gif")
    PIL.Image.fromarray(np.full((8, 8), 100 * 256, dtype=np.uint16)).save(folder / "d.png")
    images, _ = open_dataset(str(tmp_path / "set")).arrays()
    assert images.shape == (4, 3, 8, 8)
    assert images[:, :, 0, 0].tolist() == [[100] * 3, [255] * 3, [100] * 3, [100] * 3]


def test_photo_is_turned_upright(tmp_path):
    folder = tmp_path / "set" / "cat"
    folder.mkdir(parents=True)
    half = np.zeros((8, 8, 3), dtype=np.uint8)
    half[:, :4] = 255  # white on the left
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    PIL.Image.fromarray(half).save(folder / "a.png", exif=exif)
    images, _ = open_dataset(str(tmp_path / "set")).arrays()
    assert images[0, 0, 0].tolist() == [0] * 4 + [255] * 4
