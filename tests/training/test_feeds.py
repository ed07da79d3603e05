"""Feeds: which images a step shows, in memory, encoded, streamed, prefetched."""

import pytest
import torch

from ecar_lab.data import open_dataset
from ecar_lab.data.feeds import (
    ImageStore,
    IndexedFeed,
    LatentStore,
    Prefetcher,
    Share,
    StreamFeed,
    encode_all,
    generator,
    to_float,
)
from ecar_lab.errors import EcarError
from ecar_lab.tokenizers.makers import ConvTokenizer


def numbered(count: int) -> ImageStore:
    """Images whose every pixel is their number, with their number as label."""
    numbers = torch.arange(count, dtype=torch.uint8)
    return ImageStore(numbers.view(-1, 1, 1, 1).expand(-1, 3, 4, 4), numbers.long())


def test_every_pass_shows_each_image_once_in_another_order():
    feed = IndexedFeed(numbered(10), Share(4), seed=0, flip=False)
    labels = torch.cat([feed(step)[0][1] for step in range(10)])  # four passes, no batch cut short
    passes = labels.view(4, 10)
    assert all(sorted(order.tolist()) == list(range(10)) for order in passes)
    assert len({tuple(order.tolist()) for order in passes}) == 4


def test_batch_depends_on_seed_and_step_alone():
    first, second = (IndexedFeed(numbered(10), Share(4), seed=3, flip=True) for _ in range(2))
    for step in (7, 0, 2, 7):  # in any order
        assert torch.equal(first(step)[0][1], second(step)[0][1])
    other = IndexedFeed(numbered(10), Share(4), seed=4, flip=True)
    assert not torch.equal(first(7)[0][1], other(7)[0][1])


@pytest.mark.parametrize("flip", [False, True])
def test_processes_and_micro_batches_cut_the_global_batch(flip: bool):
    store = ImageStore(torch.randint(0, 255, (32, 3, 4, 4), dtype=torch.uint8), torch.arange(32))
    (whole,) = IndexedFeed(store, Share(8), 0, flip)(5)
    parts = [
        batch
        for process in range(2)
        for batch in IndexedFeed(store, Share(2, 2, 2, process), 0, flip)(5)
    ]
    assert len(parts) == 4
    for index in range(2):
        assert torch.equal(torch.cat([part[index] for part in parts]), whole[index])


def test_about_half_of_the_images_are_mirrored():
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    images[..., 0] = 255
    feed = IndexedFeed(ImageStore(images, torch.zeros(1).long()), Share(400), 0, flip=True)
    mirrored = feed(0)[0][0][:, 0, 0, 0] < 0
    assert 150 < mirrored.sum() < 250


def test_latent_store_gives_the_mirror_image_where_asked():
    mean = torch.arange(8.0).view(2, 2, 2, 1, 1).half()
    store = LatentStore(mean, None, torch.tensor([5, 6]))
    taken, std, labels = store.take(torch.tensor([1, 1]), torch.tensor([False, True]))
    assert taken.flatten(1).tolist() == [[4, 5], [6, 7]]
    assert labels.tolist() == [6, 6]
    assert std.abs().max() == 0


def test_encoding_stores_moments_of_image_and_mirror_image():
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(downsample_factor=2, latent_channels=4, width=16, depth=1).eval()
    images = torch.randint(0, 255, (5, 3, 8, 8), dtype=torch.uint8)
    mean, std = encode_all(tokenizer, images, True, torch.no_grad, batch_size=2, quiet=True)
    assert mean.shape == (5, 2, 4, 4, 4)
    assert std is not None
    expected = tokenizer.moments(to_float(images).flip(-1))
    torch.testing.assert_close(mean[:, 1].float(), expected[0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(std[:, 1].float(), expected[1], rtol=2e-3, atol=2e-3)


def test_stream_goes_on_at_a_stored_position_and_into_the_next_epoch():
    def feed() -> StreamFeed:
        data = open_dataset("shapes", image_size=16, streaming=True, limit=20)
        return StreamFeed(data, Share(8), seed=0, flip=True)

    first = feed()
    batches = [first(step)[0] for step in range(3)]  # two batches per epoch
    place = first.position(3)
    assert place["epoch"] == 1
    batches += [first(step)[0] for step in (3, 4)]
    second = feed()
    second.restore(place)
    for step in (3, 4):
        again = second(step)[0]
        assert torch.equal(again[0], batches[step][0])
        assert torch.equal(again[1], batches[step][1])


def test_stream_position_ignores_what_was_only_prefetched():
    data = open_dataset("shapes", image_size=16, streaming=True, limit=40)
    feed = StreamFeed(data, Share(8), seed=0, flip=False)
    load = Prefetcher(feed)
    load(0)
    load(1)
    load(2)  # by now step 3 is loading
    load.close()
    fresh = StreamFeed(data, Share(8), seed=0, flip=False)
    for step in range(3):
        fresh(step)
    assert feed.position(3) == fresh.position(3)


def test_stream_shorter_than_a_batch_is_refused():
    data = open_dataset("shapes", image_size=16, streaming=True, limit=4)
    with pytest.raises(EcarError, match=r"batch of 8 .*use a smaller"):
        StreamFeed(data, Share(8), seed=0, flip=False)(0)


def test_prefetcher_passes_errors_on():
    def broken(step: int) -> None:
        raise EcarError(f"step {step}")

    load = Prefetcher(broken)
    with pytest.raises(EcarError, match="step 0"):
        load(0)
    load.close()


def test_random_streams_differ_by_purpose_seed_and_step():
    keys = [(0, "draw", 0), (0, "draw", 1), (1, "draw", 0), (0, "noise", 0)]
    values = {torch.rand(1, generator=generator(*key)).item() for key in keys}
    assert len(values) == len(keys)
    again = torch.rand(1, generator=generator(0, "draw", 0)).item()
    assert again in values
