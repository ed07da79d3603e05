"""The depthwise convolution before the MLP: the identity at first, inside one stage ever after."""

import pytest
import torch

from ecar_lab import ECAR, trace
from ecar_lab.layers import LocalMixing
from ecar_lab.machine import count_flops
from tests.conftest import tiny_model


@pytest.fixture
def mixing():
    """A model whose convolutions do something."""
    model = tiny_model(local_mixing=True)
    for module in model.modules():
        if isinstance(module, LocalMixing):
            torch.nn.init.normal_(module.conv.weight, std=0.3)
    return model


def states(model, count=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    channels = model.config.latent_channels
    return [torch.randn(count, channels, r, r, generator=random) for r in model.sides]


def test_a_new_one_changes_nothing():
    plain = tiny_model()
    mixing = ECAR(**{**plain.config, "local_mixing": True})
    mixing.load_state_dict(plain.state_dict(), strict=False)
    ends, labels = states(plain)[:-1], torch.tensor([0, 1])
    for one, other in zip(
        plain.transformer(ends, labels), mixing.transformer(ends, labels), strict=True
    ):
        assert torch.equal(one, other)


def test_it_is_a_convolution_over_each_map():
    mix = LocalMixing(4)
    torch.nn.init.normal_(mix.conv.weight)
    x = torch.randn(2, 4 + 9, 4)
    found = mix(x, (2, 3))
    for tokens, result, side in ((x[:, :4], found[:, :4], 2), (x[:, 4:], found[:, 4:], 3)):
        image = tokens.transpose(1, 2).reshape(2, 4, side, side)
        wanted = image + mix.conv(image)
        torch.testing.assert_close(result, wanted.flatten(2).transpose(1, 2))


def test_cached_steps_equal_the_masked_full_forward(mixing):
    ends, labels = states(mixing)[:-1], torch.tensor([0, 2])
    cache = mixing.transformer.new_cache()
    for stage, wanted in enumerate(mixing.transformer(ends, labels)):
        previous = ends[stage - 1] if stage else None
        found, _ = mixing.transformer.step(stage, previous, labels, cache)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_token_never_sees_a_later_stage(mixing):
    ends, labels = states(mixing)[:-1], torch.tensor([0, 2])
    before = mixing.transformer(ends, labels)
    ends[-1] = ends[-1] + 1
    after = mixing.transformer(ends, labels)
    for stage in range(len(before) - 1):
        assert torch.equal(before[stage], after[stage])
    assert not torch.equal(before[-1], after[-1])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_its_flops_in_closed_form_equal_the_counter(mixing, guidance):
    plain = tiny_model()

    def counted(model):
        random = torch.Generator().manual_seed(0)
        return count_flops(lambda: list(trace(model, [1], 3, guidance, random)))

    def planned(model):
        return sum(map(sum, model.flops(3, guidance).values()))

    more = counted(mixing) - counted(plain)
    assert more == planned(mixing) - planned(plain) > 0


def test_a_checkpoint_remembers_it_and_an_old_one_has_none(mixing, tmp_path):
    mixing.save_pretrained(tmp_path)
    again = ECAR.from_pretrained(tmp_path)
    assert again.config.local_mixing
    for name, tensor in mixing.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert tiny_model().transformer.blocks[0].mix is None
