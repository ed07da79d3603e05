"""The Tokenizer tab: uploads, the views and their numbers; then the page on tiny weights."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apps.shared.studio import Studio
from apps.tokenizer.tab import GENERATED, TokenizerTab
from apps.tokenizer.uploads import MAX_BYTES, open_upload
from apps.tokenizer.views import BITS, Views, decibels, trained_result
from ecar_lab.data.shapes import PICTURES
from ecar_lab.data.sources import picture_of
from ecar_lab.errors import EcarError
from ecar_lab.flow import block_mean
from ecar_lab.home import checkpoints_root
from ecar_lab.tokenizers.base import psnr
from ecar_lab.tokenizers.study import error_map, without_channel
from ecar_lab.viz.colours import decode
from ecar_lab.viz.pictures import to_pil
from tests.app.page import QUIET, served
from tests.browsing import PATIENCE

pytestmark = QUIET


@pytest.fixture(scope="module")
def studio(tiny_checkpoint: Path) -> Studio:
    studio = Studio(tiny_checkpoint, device="cpu", dtype="float32")
    studio.open_in_background()
    return studio


@pytest.fixture(scope="module")
def digits() -> Studio:
    """The smallest checkpoint that ships with a trained tokenizer."""
    if not (checkpoints_root() / "digits").is_dir():
        pytest.skip("the checkpoint digits is not here")
    return Studio("digits", device="cpu", dtype="float32")


def views(studio: Studio, picture: torch.Tensor, folder: Path) -> dict:
    return Views(studio.pipeline, studio.colours, picture, "a test", folder).to_json()


def shown(folder: Path, file: str) -> np.ndarray:
    with Image.open(folder / file) as image:
        return np.array(image)


# ------------------------------------------------------------------------------------------ uploads


def saved(folder: Path, image: Image.Image, kind: str, **options) -> Path:
    path = folder / f"picture.{kind}"
    image.save(path, kind, **options)
    return path


def bomb(folder: Path, side: int) -> Path:
    """A small PNG whose header promises side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = b""
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + name + data
        chunks += struct.pack(">I", zlib.crc32(name + data))
    path = folder / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_three_kinds_of_pictures_are_read(tmp_path, kind):
    image = open_upload(saved(tmp_path, Image.new("RGB", (40, 20), "red"), kind))
    picture = picture_of(image, 8)
    assert picture.shape == (1, 3, 8, 8)
    assert torch.allclose(picture.mean((0, 2, 3)), torch.tensor([1.0, -1.0, -1.0]), atol=0.05)


def test_a_picture_is_turned_upright_and_its_middle_square_is_taken(tmp_path):
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, :2], pixels[:, 4:8] = (255, 0, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image = open_upload(saved(tmp_path, Image.fromarray(pixels), "png", exif=exif))
    assert image.size == (4, 12)
    assert torch.equal(picture_of(image, 4)[0, 2], torch.ones(4, 4))


def test_what_is_transparent_becomes_white(tmp_path):
    image = open_upload(saved(tmp_path, Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "png"))
    assert torch.equal(picture_of(image, 8), torch.ones(1, 3, 8, 8))


def test_files_that_are_too_large_or_no_pictures_are_refused_in_a_sentence(tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(EcarError, match=r"the file has 5\.0 MB: use one of at most 5 MB"):
        open_upload(large)
    with pytest.raises(EcarError, match="4097 by 1 px: use at most 4096 px per side"):
        open_upload(saved(tmp_path, Image.new("L", (4097, 1)), "png"))
    gif = saved(tmp_path, Image.new("L", (4, 4)), "gif")
    with pytest.raises(EcarError, match="not a picture that is read here: use a PNG, JPEG or WebP"):
        open_upload(gif.rename(tmp_path / "renamed.png"))
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(EcarError, match="not a picture"):
        open_upload(text)
    cut = saved(tmp_path, Image.effect_noise((64, 64), 50), "png")
    cut.write_bytes(cut.read_bytes()[:900])
    with pytest.raises(EcarError, match="damaged"):
        open_upload(cut)


@pytest.mark.parametrize(
    ("side", "says"), [(10_000, "10000 by 10000"), (60_000, "far more pixels")]
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, side, says):
    def unpack(self):
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(Image.Image, "load", unpack)
    with pytest.raises(EcarError, match=rf"{says}.*: use at most 4096 px per side"):
        open_upload(bomb(tmp_path, side))


# -------------------------------------------------------------------------------------------- views


def test_an_identity_loses_nothing_and_says_so(studio, tmp_path):
    view = views(studio, PICTURES["star"](8), tmp_path)
    assert json.loads(json.dumps(view)) == view
    first, latent, channels, stages = view["sections"]
    assert "no difference" in first["text"]
    assert (shown(tmp_path, "error.png") == shown(tmp_path, "error.png")[0, 0]).all()
    assert len(latent["table"]["rows"]) == 3 + 1
    assert len(channels["figures"]) == 3
    assert [figure["share"] for figure in stages["figures"]] == [0.5, 1.0] * 2
    figures = [figure for section in view["sections"] for figure in section["figures"]]
    figures += view["rounding"]["steps"]
    assert all((tmp_path / figure["file"]).is_file() and figure["alt"] for figure in figures)


def test_the_numbers_are_those_of_the_tokenizer(digits, tmp_path):
    tokenizer, picture = digits.pipeline.tokenizer, PICTURES["cross"](8)
    with torch.no_grad():
        latent = tokenizer.encode(picture)
    view = views(digits, picture, tmp_path)
    rebuilt = decode(tokenizer, latent)
    first, statistics, channels, stages = view["sections"]
    assert first["text"].startswith(decibels(psnr(picture, rebuilt)))
    assert (shown(tmp_path, "rebuilt.png") == np.array(to_pil(rebuilt)[0])).all()
    largest = 255 * error_map(picture, rebuilt).max().item()
    assert f"{largest:.0f} of 255" in first["text"]
    assert statistics["table"]["rows"][1] == [
        "2",
        *(
            f"{value:.2f}"
            for value in (
                latent[0, 1].mean(),
                latent[0, 1].std(correction=0),
                latent[0, 1].min(),
                latent[0, 1].max(),
            )
        ),
    ]
    without = psnr(picture, decode(tokenizer, without_channel(latent, 2)))
    assert channels["figures"][2]["note"].startswith(decibels(without))
    small = decode(tokenizer, block_mean(latent))
    assert stages["columns"] == 2
    decoded = [figure["caption"] for figure in stages["figures"][2:]]
    assert decoded == [
        f"Decoded: {decibels(psnr(block_mean(picture), small))}",
        f"Decoded: {decibels(psnr(picture, rebuilt))}",
    ]


def test_rounding_tells_bits_a_token_and_more_bits_come_closer(digits, tmp_path):
    # A picture that this tokenizer can draw: of its own making.
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    picture = decode(digits.pipeline.tokenizer, latent)
    rounding = views(digits, picture, tmp_path)["rounding"]
    assert [step["bits"] for step in rounding["steps"]] == list(BITS)
    # digits: 4 channels, patches of one latent pixel, a latent of 4x4
    words = "3 bits per number: 8 levels per channel, 12 bits per token, 192 bits per image"
    assert words in rounding["steps"][2]["caption"]
    assert "not a trained VQ" in rounding["text"]
    values = [step["psnr"] for step in rounding["steps"]]
    assert values[0] < values[2] < values[4]
    assert values[-1] == pytest.approx(rounding["continuous"]["psnr"], abs=0.5)


def test_the_trained_result_is_quoted_with_its_path(tmp_path):
    assert trained_result(tmp_path) is None
    folder = tmp_path / "data" / "results"
    folder.mkdir(parents=True)

    def write(size: str, mean: float) -> None:
        number = {"mean": mean, "std": 0.25, "values": [1, 2, 3]}
        row = {"name": "continuous", "psnr": number, "frechet_generated": number}
        row |= {"bits": {**number, "std": 0.0}, "named_right": {**number, "mean": 0.5, "std": 0}}
        result = {"size": {"preset": "digits"}, "rows": [row]}
        path = folder / f"continuous-vs-quantized-{size}.json"
        path.write_text(json.dumps(result), encoding="utf-8")

    write("cpu", 12.34)
    quoted = trained_result(tmp_path)
    assert "data/results/continuous-vs-quantized-cpu.json" in quoted["text"]
    assert "3 runs" in quoted["text"]
    assert quoted["table"]["rows"] == [["continuous", "12", "12.3 ± 0.2", "12.3 ± 0.2", "50"]]
    write("gpu", 45.6)  # the larger experiment goes first
    assert "quantized-gpu.json" in trained_result(tmp_path)["text"]
    (folder / "continuous-vs-quantized-gpu.json").write_text("{}", encoding="utf-8")
    assert "quantized-cpu.json" in trained_result(tmp_path)["text"]


# ------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def page_and_tab(studio: Studio):
    with served(studio, TokenizerTab) as (address, tab):
        yield address, tab


@pytest.fixture(scope="module")
def page(browser, page_and_tab):
    """One page for all tests, each of which leaves a drawn picture chosen."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(page_and_tab[0])
    page.wait_for_selector("#tokenizer-views .rounding img")
    yield page
    context.close()


def title(page, text: str) -> None:
    page.locator("#tokenizer-views .title", has_text=text).wait_for()


def test_pictures_are_chosen_and_looked_at_once_for_all(page, page_and_tab, monkeypatch):
    tab = page_and_tab[1]
    title(page, "star, 8×8 px, drawn by the kit")
    page.get_by_label("one-pixel checks").check()
    title(page, "one-pixel checks")
    page.get_by_label(GENERATED).check()
    title(page, "generated: cat, seed 0")
    page.wait_for_function(
        "[...document.querySelectorAll('.views img')].every(one => one.naturalWidth && one.alt)"
    )
    monkeypatch.setattr(tab, "_make", None)  # nothing is left to be made
    page.get_by_label("star").check()
    title(page, "star, 8×8 px")


def test_bits_are_changed_by_keyboard_without_the_server(page):
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    slider = page.get_by_label("Bits per number")
    slider.focus()
    page.keyboard.press("Home")
    caption = page.locator(".rounding .figures figure figcaption").nth(1)
    assert caption.inner_text().startswith(
        "1 bit per number: 2 levels per channel, 12 bits per token"
    )
    page.keyboard.press("ArrowRight")
    assert caption.inner_text().startswith("2 bits per number")
    assert page.locator(".curve td.now").inner_text() in caption.inner_text()
    assert slider.get_attribute("aria-valuetext") == caption.inner_text()
    assert [url for url in requests if "queue" in url] == []


def test_an_upload_is_shown_and_a_bad_one_is_a_sentence(page, page_and_tab, studio, tmp_path):
    picture = saved(tmp_path, Image.effect_noise((30, 20), 80).convert("RGB"), "png")
    upload = page.locator("input[type=file]")
    upload.set_input_files(picture)
    title(page, "your picture, 30×20 px, its middle square scaled to 8×8")
    assert page.locator("#tokenizer-picture input:checked").count() == 0
    source = page.locator("#tokenizer-views img").first.get_attribute("src")
    folder = Path(source.split("file=", 1)[1]).parent
    assert folder.is_relative_to(studio.folders.root)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(picture.read_bytes()[:80])
    upload.set_input_files(damaged)
    page.wait_for_selector("#tokenizer-banner [role=alert]")
    assert page.inner_text("#tokenizer-banner").startswith("The file is damaged")
    title(page, "your picture")
    page.get_by_label("ring").check()
    title(page, "ring")
    page.wait_for_function("!document.querySelector('#tokenizer-banner [role=alert]')")


def test_a_phone_needs_no_sideways_scrolling(browser, page_and_tab):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE)
    page.goto(page_and_tab[0])
    page.wait_for_selector("#tokenizer-views .rounding img")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    beyond = "[...document.querySelectorAll('.views *')]"
    beyond += ".filter(e => e.getBoundingClientRect().right > 390.5).length"
    assert page.evaluate(beyond) == 0
    page.close()
