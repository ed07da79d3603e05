"""Pictures: colours of latents, grids, the strip of stages, the figure, GIFs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from PIL import Image

from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.tokenizers.makers import IdentityTokenizer
from ecar_lab.viz import pictures
from ecar_lab.viz.colours import STAGE_HUES, LatentColours, latent_to_rgb
from ecar_lab.viz.overview import stage_overview

RED = LatentColours(torch.zeros(3, 3), torch.tensor([1.0, -1.0, -1.0]))


@pytest.fixture(scope="module")
def events() -> list[TraceEvent]:
    from ecar_lab.trace import trace

    generator = torch.Generator().manual_seed(0)
    return list(trace(tiny_model(), ["cat", "dog"], [2, 3], generator=generator))


@pytest.fixture(scope="module")
def tokenizer() -> IdentityTokenizer:
    return IdentityTokenizer()


def random_latent(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_minus_one_is_black_and_one_is_white():
    images = torch.stack([torch.full((3, 2, 2), value) for value in (-1.0, 0.0, 1.0, 7.0)])
    assert [image.getpixel((0, 0))[0] for image in pictures.to_pil(images)] == [0, 128, 255, 255]


def test_an_image_of_four_channels_is_refused():
    with pytest.raises(EcarError, match=r"\(1, 4, 2, 2\)"):
        pictures.to_pil(torch.zeros(1, 4, 2, 2))


def test_a_grid_enlarges_by_nearest_neighbour():
    image = pictures.to_pil(random_latent(1, 3, 2, 2))[0]
    grid = pictures.image_grid([image], scale=5, gap=3)
    inner = np.asarray(grid)[3:13, 3:13]
    assert grid.size == (16, 16)
    np.testing.assert_array_equal(inner, np.asarray(image).repeat(5, 0).repeat(5, 1))


def test_a_grid_gives_every_image_its_own_cell_and_label():
    images = torch.stack([torch.full((3, 4, 4), value) for value in (-1.0, 0.0, 0.5)])
    plain = pictures.image_grid(images, 2, gap=1)
    assert plain.size == (11, 11)
    assert [plain.getpixel(at)[0] for at in ((1, 1), (6, 1), (1, 6), (6, 6))] == [0, 128, 191, 255]
    labelled = pictures.image_grid(images, 2, gap=1, labels=["a", "a long name", "c"])
    assert labelled.width > plain.width, "a label wider than its image must not be cut"
    with pytest.raises(EcarError, match="2 labels for 3 images"):
        pictures.image_grid(images, labels=["a", "b"])


def test_no_image_makes_no_grid():
    with pytest.raises(EcarError, match="at least one"):
        pictures.image_grid([])


def test_colours_by_pca_do_not_depend_on_luck():
    latent = random_latent(2, 6, 8, 8)
    torch.testing.assert_close(latent_to_rgb(latent), latent_to_rgb(latent.clone()))
    shown = latent_to_rgb(latent)
    assert shown.shape == (2, 3, 8, 8)
    assert shown.min() == -1
    assert shown.max() == 1


def test_one_outlier_does_not_flatten_the_colours():
    latent = random_latent(1, 4, 16, 16)
    latent[0, :, 0, 0] = 1000.0
    assert latent_to_rgb(latent)[:, :, 1:].std() > 0.3


def test_a_fit_finds_the_map_that_made_the_images():
    latent = random_latent(4, 5, 8, 8)
    weight, bias = 0.05 * random_latent(5, 3), torch.tensor([0.1, -0.2, 0.0])
    images = torch.einsum("bchw,ck->bkhw", latent, weight) + bias.view(1, 3, 1, 1)
    colours = LatentColours.fit(latent, images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(colours.weight, weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(colours.bias, bias, atol=1e-3, rtol=0)


def test_pixels_as_latents_keep_their_own_colours(tokenizer):
    image = 0.9 * torch.tanh(random_latent(1, 3, 8, 8))
    shown = LatentColours.of(tokenizer)(tokenizer.encode(image))
    torch.testing.assert_close(shown, image, atol=0.2, rtol=0)


def test_stages_stand_at_true_relative_size(events, tokenizer):
    strip = pictures.stage_strip(events, tokenizer, side=64, colours=RED)
    red = (np.asarray(strip) == (255, 0, 0)).all(axis=2)
    starts = np.flatnonzero(np.diff(red.any(axis=0).astype(int), prepend=0) == 1)
    ends = np.flatnonzero(np.diff(red.any(axis=0).astype(int), append=0) == -1)
    assert (ends - starts + 1).tolist() == [32, 64]


def test_a_strip_shows_the_latent_the_estimate_and_its_picture(events, tokenizer):
    final = events[-1]
    colours = LatentColours.of(tokenizer)
    tiles = pictures.stage_tiles(final, tokenizer, colours, index=1)
    assert [tile.size for tile in tiles] == [(8, 8)] * 3
    np.testing.assert_array_equal(
        np.asarray(tiles[2]), np.asarray(pictures.to_pil(tokenizer.decode(final.clean_estimate))[1])
    )
    first = pictures.stage_strip(events, tokenizer, index=0)
    second = pictures.stage_strip(events, tokenizer, index=1)
    assert first.tobytes() != second.tobytes(), "the batch holds two different images"


def test_an_unfinished_run_leaves_room_for_what_is_to_come(events, tokenizer):
    whole = pictures.stage_strip(events, tokenizer)
    begun = pictures.stage_strip(events[:1], tokenizer, num_stages=2)
    assert begun.size == whole.size
    frames = pictures.strip_frames(events, tokenizer)
    assert len(frames) == len(events)
    assert len({frame.tobytes() for frame in frames}) == len(events), (
        "every event changes the strip"
    )
    assert frames[-1].tobytes() == whole.tobytes()


def test_nothing_to_draw_is_said_so(tokenizer):
    with pytest.raises(EcarError, match="run the trace first"):
        pictures.stage_strip([], tokenizer)
    with pytest.raises(EcarError, match="run the trace first"):
        stage_overview([], tokenizer)


def test_the_figure_names_every_stage_and_brings_its_background(events, tokenizer, tmp_path):
    figure = stage_overview(events, tokenizer, title="A cat")
    texts = [text.get_text() for text in figure.texts]
    assert {"A cat", "Stage 1: 4×4 latent", "Stage 2: 8×8 latent"} <= set(texts)
    assert {"flow head: 2 steps", "flow head: 3 steps", "decoded: the image"} <= set(texts)
    assert min(text.get_fontsize() for text in figure.texts) >= 9
    figure.savefig(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_hues_of_stages_differ():
    assert len(set(STAGE_HUES)) == 5


def test_a_gif_plays_every_frame_for_ever_and_holds_the_last(tmp_path: Path):
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 120, 240)]
    path = pictures.save_gif(frames, tmp_path / "new" / "run.gif", seconds=0.1, hold=2)
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        assert gif.n_frames == 3
        times = []
        for index in range(3):
            gif.seek(index)
            times.append(gif.info["duration"])
    assert times == [100, 100, 2000]


def test_a_gif_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EcarError, match="cannot write"):
        pictures.save_gif([Image.new("RGB", (4, 4))], tmp_path / "file" / "run.gif")
    with pytest.raises(EcarError, match="at least one"):
        pictures.save_gif([], tmp_path / "run.gif")
