"""A guide's commands, as they stand there, from class folders to a page."""

import functools
import io
import re
import shlex
import urllib.request
from pathlib import Path

import PIL.Image
import pytest

from apps import demo
from ecar_lab.cli import main as cli
from ecar_lab.data import open_dataset
from tests.browsing import free_port

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SIZES = [(64, 64), (90, 71), (300, 200), (66, 240), (500, 375)]
MODES = ["RGB", "L", "RGBA", "P", "CMYK"]
SMALL = [*("--steps", "2", "--warmup-steps", "1", "--batch-size", "4", "--sample-every", "0")]


def photograph(number: int, kind: str) -> bytes:
    """A picture of some size and mode, as a file."""
    size, mode = SIZES[number % len(SIZES)], MODES[number % len(MODES)]
    if kind == "JPEG" and mode in ("RGBA", "P"):
        mode = "RGB"
    if kind == "PNG" and mode == "CMYK":
        mode = "RGB"
    stream = io.BytesIO()
    PIL.Image.linear_gradient("L").resize(size).rotate(40 * number).convert(mode).save(stream, kind)
    return stream.getvalue()


def write_photographs(root: Path) -> None:
    """Three classes, each with a file in both splits that is no image and one that ends early."""
    number = 0
    for split, count in (("train", 6), ("validation", 3)):
        for name in ("chain saw", "golf ball", "tench"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for _ in range(count):
                kind, ending = (("JPEG", "JPEG"), ("PNG", "png"))[number % 2]
                (folder / f"{number:03d}.{ending}").write_bytes(photograph(number, kind))
                number += 1
            (folder / "broken.jpg").write_bytes(b"<html>not found</html>")
            whole = photograph(number, "JPEG")
            (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])


def test_three_commands_lead_from_an_imagenet_subset_to_a_page(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_photographs(Path("photos"))
    page = (GUIDES / "imagenet_subset.md").read_text("utf-8")
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)
    assert block is not None
    *trainings, app = [shlex.split(line)[1:] for line in block[1].splitlines()]
    assert len(trainings) == 2
    for command in trainings:
        with pytest.warns(UserWarning, match="broken.jpg is no readable image"):
            assert cli.main([*command, *SMALL, "--dtype", "float32"]) == 0
    assert "2 splits, 3 classes, 39 images" in caplog.text
    assert "2 splits, labels not read" in caplog.text
    with pytest.warns(UserWarning, match="no readable image"):
        assert open_dataset("photos", image_size=64).arrays()[0].shape == (18, 3, 64, 64)

    served = []
    launch = functools.partial(demo.launch, block=False)
    monkeypatch.setattr(demo, "launch", lambda **switches: served.append(launch(**switches)))
    assert cli.main([*app, "--port", str(free_port())]) == 0
    (blocks, address), *_ = served
    try:
        with urllib.request.urlopen(address) as answer:
            text = answer.read().decode("utf-8")
        assert all(name in text for name in ("chain saw", "golf ball", "tench"))
    finally:
        blocks.close()
