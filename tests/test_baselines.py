"""The baselines: DiT with both objectives, matched in size, trained and sampled like E-CAR."""

import pytest
import torch

from ecar_lab import EcarError, ECARPipeline
from ecar_lab.baselines import ARCHITECTURES, DiT, build, load_pipeline, make_pipeline
from ecar_lab.baselines.build import closest
from ecar_lab.baselines.objective import EpsilonObjective, FlowObjective, make_objective
from ecar_lab.machine import count_flops
from ecar_lab.presets import get_preset
from ecar_lab.tokenizers.makers import ConvTokenizer, IdentityTokenizer

SHAPE = get_preset("digits").model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_dit(objective="flow"):
    """All weights random: a fresh DiT predicts zero."""
    torch.manual_seed(0)
    dit = DiT(8, 3, 2, 4, num_layers=1, num_heads=2, head_dim=8, objective=objective)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return dit.eval()


@pytest.fixture(scope="module")
def dit():
    return make_dit()


def test_sampling_follows_the_velocity_from_noise(dit):
    noise = torch.randn(2, 3, 8, 8, generator=generator())
    labels = torch.tensor([0, 3])
    with torch.no_grad():
        half = noise + dit(noise, torch.zeros(2), labels) / 2
        full = half + dit(half, torch.full((2,), 500.0), labels) / 2
    torch.testing.assert_close(dit.sample([0, 3], 2, 1.0, generator()), full)


def test_guidance_moves_away_from_the_null_class(dit):
    noise = torch.randn(1, 3, 8, 8, generator=generator())
    with torch.no_grad():
        v = dit(noise, torch.zeros(1), torch.tensor([1]))
        v_none = dit(noise, torch.zeros(1), torch.tensor([dit.null_class]))
    expected = noise + v_none + 3 * (v - v_none)
    torch.testing.assert_close(dit.sample([1], 1, 3.0, generator()), expected, atol=1e-5, rtol=1e-5)


def test_the_clean_estimate_of_the_true_noise_is_the_clean_latent():
    """Both objectives: a network that knows the answer is at the data after any step."""
    clean = torch.randn(4, 3, 8, 8, generator=generator(1))
    noise = torch.randn(4, 3, 8, 8, generator=generator(2))
    for objective, answer in ((FlowObjective(), clean - noise), (EpsilonObjective(), noise)):
        for walked in objective.walk(lambda state, time, a=answer: a, noise, 5, "euler"):
            error = (walked.clean_estimate - clean).abs().max()
            # DDIM starts at the noisiest level, where sqrt(abar) is 0.006, not at pure noise.
            assert isinstance(objective, EpsilonObjective) or error < 1e-5
        if isinstance(objective, FlowObjective):
            torch.testing.assert_close(walked.state, clean, atol=1e-5, rtol=1e-5)


def test_ddim_recovers_the_data_from_a_state_of_the_noisiest_level():
    objective = EpsilonObjective()
    clean = torch.randn(4, 3, 8, 8, generator=generator(1))
    noise = torch.randn(4, 3, 8, 8, generator=generator(2))
    start, target, level = objective.corrupt(clean, noise, torch.full((4,), 0.9995))
    assert torch.equal(target, noise)
    assert level.tolist() == [999.0] * 4
    *_, last = objective.walk(lambda state, time: noise, start, 10, "euler")
    torch.testing.assert_close(last.state, clean, atol=2e-3, rtol=2e-3)


def test_noise_prediction_knows_no_heun():
    with pytest.raises(EcarError, match="solver 'heun' is not made for noise prediction"):
        make_dit("epsilon").sample([0], 2, 1.0, generator(), solver="heun")


def test_an_unknown_objective_is_named():
    with pytest.raises(EcarError, match="objective 'score' is unknown: use flow or epsilon"):
        make_objective("score")


@pytest.mark.parametrize("objective", ["flow", "epsilon"])
def test_the_loss_teaches(objective):
    """Some steps on one batch bring the error down, and nothing in it is left to chance."""
    torch.manual_seed(0)
    dit = DiT(8, 3, 2, 4, num_layers=2, num_heads=2, head_dim=16, objective=objective)
    latent = torch.randn(16, 3, 8, 8, generator=generator(1))
    labels, draw = torch.arange(16) % 4, dit.draw(16, generator(2))
    assert dit.loss(latent, labels, draw, 0.5).loss == dit.loss(latent, labels, draw, 0.5).loss
    optimizer = torch.optim.AdamW(dit.parameters(), lr=3e-3)
    first = dit.loss(latent, labels, draw)
    assert first.per_stage.shape == (1,)
    for _ in range(30):
        loss = dit.loss(latent, labels, draw).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * first.loss.item()


def test_a_dropped_class_is_dropped_in_every_block(dit):
    latent = torch.randn(8, 3, 8, 8, generator=generator(1))
    draw = dit.draw(8, generator(2))
    null = torch.full((8,), dit.null_class)
    dropped = dit.loss(latent, torch.zeros(8, dtype=torch.long), draw, class_dropout=1.1).loss
    torch.testing.assert_close(dropped, dit.loss(latent, null, draw).loss)
    assert dropped != dit.loss(latent, torch.zeros(8, dtype=torch.long), draw).loss


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("objective", ["flow", "epsilon"])
def test_flops_agree_with_the_counter(objective, guidance):
    dit = make_dit(objective)
    counted = count_flops(lambda: dit.sample([1], 3, guidance, generator()))
    assert dit.flops(3, guidance) == {"network": [counted]}


def test_the_events_tell_the_whole_run(dit):
    events = list(dit.trace([1, 2], 4, 2.0, generator()))
    assert [event.step for event in events] == [0, 1, 2, 3, 4]
    assert [event.t for event in events] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert events[-1].is_final
    assert sum(event.flops for event in events) == dit.flops(4, 2.0)["network"][0]
    torch.testing.assert_close(events[-1].clean_estimate, events[-1].latent)


def test_an_image_does_not_depend_on_its_batch(dit):
    both = dit.sample([1, 2], 3, 2.0, [generator(5), generator(6)])
    alone = dit.sample([2], 3, 2.0, [generator(6)])
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_baseline_is_as_large_as_e_car(architecture):
    with torch.device("meta"):
        target = build("ecar", SHAPE).num_parameters()
        count = build(architecture, SHAPE).num_parameters()
    assert count == pytest.approx(target, rel=0.03)


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"code-ar"}))
def test_every_architecture_of_continuous_latents_trains_samples_and_is_saved(
    architecture, tmp_path
):
    shape = {**SHAPE, "width": 64, "transformer_layers": 1, "head_layers": 1}
    torch.manual_seed(0)
    model = build(architecture, shape)
    latent = torch.randn(8, 4, 4, 4, generator=generator(1))
    loss = model.loss(latent, torch.arange(8), model.draw(8, generator(2)), 0.1).loss
    loss.backward()
    assert loss.isfinite()
    pipe = make_pipeline(
        model.eval(), ConvTokenizer(downsample_factor=2, latent_channels=4, width=16)
    )
    pipe.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    assert type(again) is type(pipe)
    images = [
        p([1], 2, 1.0, generator(), output_type="latent").images for p in (pipe, again)
    ]  # fmt: skip
    assert torch.equal(*images)
    assert images[0].shape == (1, 4, 4, 4)


def test_e_car_s_pipeline_refuses_a_baseline(tmp_path, dit):
    make_pipeline(dit, IdentityTokenizer()).save_pretrained(tmp_path)
    with pytest.raises(EcarError, match="holds a DiT, which ECARPipeline does not run"):
        ECARPipeline.from_pretrained(tmp_path)


def test_the_small_size_is_that_of_the_paper():
    with torch.device("meta"):
        dit = DiT.from_size("S")
    blocks = sum(
        p.numel()
        for name, p in dit.named_parameters()
        if "attn" in name or "ff" in name or "norm1.linear" in name
    )
    assert blocks == pytest.approx(12 * 18 * 384**2, rel=0.01)


def test_an_unknown_size_or_architecture_is_named():
    with pytest.raises(EcarError, match="size 'M' is unknown: use S, B, XL"):
        DiT.from_size("M")
    with pytest.raises(EcarError, match=r"architecture 'unet' is unknown: use one of .*dit"):
        build("unet", SHAPE)


def test_a_size_that_nothing_matches_is_refused():
    with pytest.raises(EcarError, match="no baseline comes within 3% of 10 parameters"):
        closest(10, [{"num_layers": 1}], lambda num_layers: torch.nn.Linear(9, 9))


def test_a_dit_has_one_stage(dit):
    draw = dit.draw(4, generator())
    with pytest.raises(EcarError, match="a DiT has one stage"):
        dit.loss(torch.zeros(4, 3, 8, 8), torch.zeros(4).long(), draw, 0.0, [1, 4])
