"""The vector-quantised twin: codes, gradients, codes that come back to life."""

import torch
import torch.nn.functional as F

from ecar_lab.tokenizers.networks import VectorQuantiser, nearest_pairs
from tests.tokenizers.examples import small, smooth_images


@torch.no_grad()
def test_vq_latents_are_codes_and_decode_snaps_to_them():
    tokenizer = small(kind="vq")
    images = smooth_images(4)
    latent, std = tokenizer.moments(images)  # statistics are still 0 and 1
    vectors = latent.movedim(1, -1).flatten(0, -2)
    book = tokenizer.quantiser.codebook
    assert (vectors[:, None] == book).all(-1).any(1).all()
    assert std.eq(0).all()
    gap = torch.cdist(book, book).fill_diagonal_(torch.inf).min()
    push = F.normalize(torch.randn_like(latent), dim=1) * gap * 0.4
    assert torch.equal(tokenizer.decode(latent + push), tokenizer.decode(latent))


def test_nearest_pairs_in_chunks_equal_the_full_table():
    rows, book = torch.randn(50, 3), torch.randn(11, 3)
    table = (rows[:, None] - book[None]).square().sum(-1)
    code_of_row, row_of_code = nearest_pairs(rows, book, chunk=7)
    assert torch.equal(code_of_row, table.argmin(1))
    assert torch.equal(row_of_code, table.argmin(0))


def test_gradient_passes_straight_through_the_quantiser():
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    weight = torch.randn(2, 4, 3, 3)
    (VectorQuantiser(8, 4)(z).codes * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)


def test_reach_loss_revives_codes_far_from_every_latent():
    torch.manual_seed(0)
    quantiser = VectorQuantiser(16, 4)
    quantiser.codebook.data[1:] += 50
    z = torch.randn(8, 4, 8, 8)
    assert quantiser(z).used == 1 / 16
    optimizer = torch.optim.Adam(quantiser.parameters(), lr=1.0)
    for _ in range(200):
        out = quantiser(z)
        optimizer.zero_grad()
        (out.codebook_loss + 0.1 * out.reach_loss).backward()
        optimizer.step()
    assert quantiser(z).used > 0.9
