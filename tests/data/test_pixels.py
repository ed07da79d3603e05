"""Pixels: of every form of image the right values, or a reason why not."""

import warnings

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecar_lab.data import open_dataset
from ecar_lab.data.pixels import Unreadable, Unscaled, open_image, square_pixels, to_bytes
from ecar_lab.errors import EcarError
from tests.data.pictures import encoded, picture, put


def value_of(path) -> list[int]:
    """The colour in the corner of a picture, as the kit reads it."""
    return square_pixels(open_image({"bytes": None, "path": str(path)}), 8)[0, 0].tolist()


def saved(tmp_path, pixels, ending, mode=None, **options):
    image = PIL.Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    path = tmp_path / f"a{ending}"
    image.save(path, **options)
    return path


def full(value, kind):
    return np.full((8, 8), value, dtype=kind)


@pytest.mark.parametrize(
    ("pixels", "ending", "value"),
    [
        (full(0.5, np.float32), ".tiff", 128),
        (full(100, np.float32), ".tiff", 100),
        (full(100, np.int32), ".tiff", 100),
        (full(100 * 257, np.int32), ".tiff", 100),
        (full(100 * 257, np.uint16), ".tiff", 100),
        (full(100 * 257, np.uint16), ".png", 100),
        (full(100 * 257, np.uint16), ".pgm", 100),
        (full(100, np.uint16), ".pgm", 0),
        (full(65535, np.uint16), ".png", 255),
        (full(100, np.uint8), ".pgm", 100),
        (full(0.5, np.float32), ".pfm", 128),
    ],
)
def test_wide_numbers_keep_their_value(tmp_path, pixels, ending, value):
    assert value_of(saved(tmp_path, pixels, ending)) == [value] * 3


@pytest.mark.parametrize(
    "values", [[-0.5, 0.5], [0, 300.0], [0, float("nan")], [0, float("inf")], [0, 70000], [-1, 5]]
)
def test_numbers_of_no_known_range_are_refused(values):
    with pytest.raises((Unreadable, Unscaled), match="use 0"):
        to_bytes(np.asarray(values))


def colour(mode, values):
    return PIL.Image.new(mode, (8, 8), values)


@pytest.mark.parametrize(
    ("image", "ending", "expected"),
    [
        (colour("LA", (100, 0)), ".png", [255] * 3),
        (colour("LA", (100, 255)), ".png", [100] * 3),
        (colour("RGBA", (200, 0, 0, 255)), ".webp", [200, 0, 0]),
        (colour("CMYK", (255, 0, 0, 0)), ".tiff", [0, 255, 255]),
        (colour("CMYK", (0, 0, 0, 255)), ".jpg", [0, 0, 0]),
        (colour("1", 1), ".bmp", [255] * 3),
        (colour("RGB", (1, 200, 3)), ".ppm", [1, 200, 3]),
        (colour("RGB", (1, 200, 3)), ".jp2", [1, 200, 3]),
    ],
)
def test_colours_keep_their_value(tmp_path, image, ending, expected):
    options = {"lossless": True} if ending == ".webp" else {}
    found = value_of(saved(tmp_path, image, ending, **options))
    assert found == pytest.approx(expected, abs=2)


def test_palette_with_a_transparent_colour_stands_on_white(tmp_path):
    image = PIL.Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    image.save(tmp_path / "b.png")
    assert value_of(tmp_path / "a.png") == [255] * 3
    assert value_of(tmp_path / "b.png") == [10, 20, 30]


@pytest.mark.parametrize(
    "ending", [".jfif", ".jpe", ".avif", ".jp2", ".heic", ".bmp", ".tiff", ".gif", ".ppm", ".webp"]
)
def test_pictures_of_every_ending_make_up_a_class(tmp_path, ending):
    from ecar_lab.data.places import picture_endings

    if ending not in picture_endings():
        pytest.skip(f"{ending} needs an extra")
    form = {".jfif": "JPEG", ".jpe": "JPEG", ".heic": "HEIF"}.get(ending)
    (tmp_path / "cat").mkdir()
    put(tmp_path, "dog/1.png")
    image = PIL.Image.new("RGB", (16, 16), (100, 100, 100))
    image.save(tmp_path / "cat" / f"1{ending.upper()}", format=form)
    data = open_dataset(str(tmp_path), image_size=8)
    assert data.layout.splits == {"train": 2}
    assert (data.arrays()[0][0].float() - 100).abs().max() < 6


def test_picture_without_its_reader_is_counted_with_the_remedy(tmp_path, monkeypatch):
    put(tmp_path, "cat/1.png", "dog/1.png", "elk/1.heic")
    endings = frozenset({".png"})
    monkeypatch.setattr("ecar_lab.data.places.picture_endings", lambda: endings)
    data = open_dataset(str(tmp_path))
    assert data.info.class_names == ("cat", "dog", "elk")
    assert "pip install 'ecar-lab[heif]'" in data.layout.line()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("pixels", "kind", "value"),
    [
        (np.full((8, 8), 100), "uint8", 100),
        (np.full((8, 8, 3), 100), "int64", 100),
        (np.full((3, 8, 8), 100), "int32", 100),
        (np.full((8, 8), 25700), "uint16", 100),
        (np.full((8, 8), 100), "uint16", 0),
        (np.full((8, 8, 1), 0.5), "float32", 128),
    ],
)
def test_nested_lists_of_pixels_are_images(tmp_path, pixels, kind, value, streaming):
    nested = pa.type_for_alias(kind)
    for _ in pixels.shape:
        nested = pa.list_(nested)
    images = pa.array([pixels.tolist()] * 2, nested)
    pq.write_table(pa.table({"image": images, "label": ["a", "b"]}), tmp_path / "a.parquet")
    batch, _ = next(open_dataset(str(tmp_path), streaming=streaming).batches(2))
    assert ((batch + 1) * 127.5).round().unique().tolist() == [value]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("image", [[0] * 64], "1-dimensional lists of numbers"),
        ("image", [7], "holds int64, no images"),
        ("images", [[encoded(1), encoded(2)]], "holds lists of images"),
        ("image", [{"a": 1}], "records without bytes or path"),
        ("image", ["cat/1.png"], "the path 'cat/1.png' was not found as a file"),
        ("image", ["iVBORw0KGgo" * 20], "the path 'iVBORw0KGgo.*' was not found as a file"),
        ("image", [[[1, 2], [3]]], "no image of .* can be read"),
        ("image", [[[[1, 2], [3, 4]]]], r"pixels of the shape \(1, 2, 2\)|are 2 px"),
        ("image", [None], "no images|no image of"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no readable image")
def test_columns_that_hold_no_images_are_refused(tmp_path, column, values, words, streaming):
    table = pa.table({column: values, "label": ["a"] * len(values)})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(EcarError, match=words) as caught:
        open_dataset(str(tmp_path), streaming=streaming)
    assert "\n" not in str(caught.value)


def test_size_of_a_set_is_not_that_of_one_odd_picture(tmp_path):
    for n in range(5):
        put(tmp_path, f"cat/{n}.png", f"dog/{n}.png")
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "cat" / "0.png")
    with pytest.raises(EcarError, match=r"are 1 to 8 px: choose the size with image_size"):
        open_dataset(str(tmp_path))
    assert len(open_dataset(str(tmp_path), image_size=8).arrays()[0]) == 10
    PIL.Image.new("RGB", (20, 12)).save(tmp_path / "cat" / "0.png")
    assert open_dataset(str(tmp_path)).info.image_size == 8


def test_first_frame_of_a_moving_picture_is_taken_and_said(tmp_path):
    put(tmp_path, "cat/1.png")
    (tmp_path / "dog").mkdir()
    frames = [picture(n) for n in (100, 200)]
    frames[0].save(tmp_path / "dog" / "1.gif", save_all=True, append_images=frames[1:])
    data = open_dataset(str(tmp_path))
    with pytest.warns(UserWarning, match=r"1\.gif has 2 frames, of which the first is taken"):
        images, _ = data.arrays()
    assert images[1, 0, 0, 0] == pytest.approx(100, abs=1)


def test_picture_of_too_many_pixels_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    put(tmp_path, "cat/1.png", "dog/1.png")
    PIL.Image.new("RGB", (11, 11)).save(tmp_path / "dog" / "2.png")
    data = open_dataset(str(tmp_path), image_size=8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(data.arrays()[0]) == 2
    assert any("11 x 11 pixels are too many" in str(w.message) for w in caught)
    assert data.skipped == 1


def write_floats(root, *values: float) -> None:
    """A picture of floats for each value, two classes."""
    for number, value in enumerate(values):
        place = root / ("cat" if number % 2 else "dog") / f"{number}.tif"
        place.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(full(value, np.float32)).save(place)


def test_set_with_negative_pixels_is_refused_as_a_whole(tmp_path):
    write_floats(tmp_path, 0.5, -0.5, 0.8, -1)
    with pytest.raises(EcarError, match=r"1.tif has pixels from -0.5 .* in all images alike"):
        open_dataset(str(tmp_path)).arrays()


def test_floats_of_two_ranges_in_one_set_are_refused(tmp_path):
    write_floats(tmp_path, 200, 100, 0)
    assert open_dataset(str(tmp_path)).arrays()[0].amax((1, 2, 3)).tolist() == [100, 200, 0]
    write_floats(tmp_path, 200, 100, 1)
    with pytest.raises(EcarError, match=r"numbers of two ranges, 0 \.\.\. 255 and 0 \.\.\. 1"):
        open_dataset(str(tmp_path)).arrays()


def test_addresses_are_not_fetched_and_said(tmp_path):
    rows = {"image": ["http://127.0.0.1:9/x.png"] * 2, "label": [0, 1]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(EcarError, match=r"'http://127.0.0.1:9/x.png' cannot be fetched: store"),
    ):
        open_dataset(str(tmp_path))
