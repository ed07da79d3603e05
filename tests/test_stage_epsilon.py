"""E-CAR's network trained on DDPM's noise prediction, its flow twin, and the comparison of both."""

import json
from typing import NamedTuple

import pytest
import torch

from ecar_lab import EcarError
from ecar_lab.baselines import build, load_pipeline, make_pipeline
from ecar_lab.baselines.stage_epsilon import StageEpsilon
from ecar_lab.experiments import flow_vs_diffusion as study
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.sizes import SIZES
from ecar_lab.flow import endpoints
from ecar_lab.machine import count_flops
from ecar_lab.model import ECAR
from ecar_lab.tokenizers.makers import IdentityTokenizer
from ecar_lab.trace import trace

SHAPE = dict(
    latent_size=8,
    latent_channels=3,
    patch_size=2,
    num_stages=2,
    window_ends=[0.5, 1.0],
    num_classes=3,
    width=32,
    num_heads=2,
    transformer_layers=1,
    head_layers=1,
    num_inference_steps=2,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model():
    """All weights random, so that no part of the network is silent."""
    torch.manual_seed(0)
    made = build("stage-epsilon", SHAPE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def test_flow_and_noise_prediction_have_the_same_weights():
    sizes = [
        {name: tuple(tensor.shape) for name, tensor in build(kind, SHAPE).state_dict().items()}
        for kind in ("ecar", "full-denoise", "stage-epsilon")
    ]
    assert sizes[0] == sizes[1] == sizes[2]


def test_full_denoise_goes_from_noise_to_data_in_every_stage():
    schedule = build("full-denoise", SHAPE).schedule
    assert [schedule.window(stage) for stage in range(2)] == [(0.0, 1.0)] * 2


def test_the_target_is_the_noise():
    fresh = StageEpsilon(**SHAPE | {"window_ends": None})  # adaLN-zero: it predicts zero
    draw = fresh.draw(16, generator())
    loss = fresh.loss(torch.randn(16, 3, 8, 8), torch.zeros(16, dtype=torch.long), draw)
    expected = torch.stack([noise.square().mean() for noise in draw.noise])
    torch.testing.assert_close(loss.per_stage, expected)


def test_local_time_zero_is_the_noisiest_level_and_one_the_cleanest(model, monkeypatch):
    heard = []
    told = model.head.modulations

    def listen(stage, local_time, labels):
        heard.append(local_time)
        return told(stage, local_time, labels)

    monkeypatch.setattr(model.head, "modulations", listen)
    states = []
    corrupt = model.objective.corrupt
    monkeypatch.setattr(
        model.objective, "corrupt", lambda *given: states.append(corrupt(*given)) or states[-1]
    )
    noise, clean = torch.randn(3, 3, 4, 4), torch.ones(3, 3, 4, 4)
    model._stage_error(
        0, noise, clean, torch.zeros(3, 4, 32), torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0] * 3)
    )
    torch.testing.assert_close(heard[0], torch.tensor([0.001, 0.5, 1.0]))
    state = states[0][0]
    torch.testing.assert_close(state[0], noise[0], atol=0.02, rtol=0)
    torch.testing.assert_close(state[2], clean[2], atol=0.05, rtol=0)


def test_a_stage_takes_the_steps_of_ddim(model):
    events = list(trace(model, [1], [2, 1], generator=generator()))
    first = [event for event in events if event.stage == 0]
    abar = model.objective.scheduler.alphas_cumprod
    state = first[0].latent
    token_map = model.transformer.step(0, None, torch.tensor([1]), model.transformer.new_cache())[0]
    with torch.no_grad():
        for event, level, next_abar in zip(
            first[1:], (999, 499), (abar[499], torch.ones(())), strict=True
        ):
            time = torch.tensor([1 - level / 1000])
            modulations = model.head.modulations(0, time, torch.tensor([1]))
            noise = model.head(0, state, model.head.read(token_map), modulations)
            clean = (state - (1 - abar[level]).sqrt() * noise) / abar[level].sqrt()
            state = next_abar.sqrt() * clean + (1 - next_abar).sqrt() * noise
            torch.testing.assert_close(event.clean_estimate, clean, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(event.latent, state, rtol=1e-3, atol=1e-3)
    assert [event.local_time for event in first] == pytest.approx([0.001, 0.501, 1.0])
    assert events[-1].is_final


def test_a_later_stage_starts_from_noise_alone(model):
    noise = {1: torch.randn(1, 3, 8, 8)}
    events = list(trace(model, [0], 1, generator=generator(), noise=noise))
    start = next(event for event in events if event.stage == 1)
    torch.testing.assert_close(start.latent, noise[1])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_flops_are_those_that_pytorch_counts(model, guidance):
    told = sum(map(sum, model.flops([3, 2], guidance).values()))
    events = list(trace(model, [0], [3, 2], guidance))
    assert sum(event.flops for event in events) == told
    # As in E-CAR, the closed form counts the time embedding once for each guided half.
    counted = count_flops(lambda: list(trace(model, [0], [3, 2], guidance)))
    assert told == pytest.approx(counted, rel=0.03)


def test_guidance_moves_away_from_the_null_class(model):
    twin = StageEpsilon(**{**SHAPE, "window_ends": None}).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():  # its class 0 is the null class of the model
        for table in twin.class_embeddings:
            table.weight[0] = table.weight[twin.null_class]

    def predicted(of, label, scale):
        events = trace(of, [label], 1, scale, generator())
        start, end = next(events), next(events)
        abar = model.objective.scheduler.alphas_cumprod[999]
        return (start.latent - abar.sqrt() * end.clean_estimate) / (1 - abar).sqrt()

    with_class, without = predicted(model, 1, 1.0), predicted(twin, 0, 1.0)
    expected = without + 3 * (with_class - without)
    torch.testing.assert_close(predicted(model, 1, 3.0), expected, rtol=1e-2, atol=1e-2)


def test_a_pipeline_samples_it_by_ddim_before_and_after_it_is_saved(model, tmp_path):
    pipe = make_pipeline(model, IdentityTokenizer())
    pipe.set_progress_bar_config(disable=True)
    expected = list(trace(model, [0, 2], 2, generator=generator()))[-1].latent
    made = pipe(class_labels=[0, 2], num_inference_steps=2, generator=generator(),
                output_type="latent").images  # fmt: skip
    assert torch.equal(made, expected)
    pipe.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.model) is StageEpsilon
    made = again(class_labels=[0, 2], num_inference_steps=2, generator=generator(),
                 output_type="latent").images  # fmt: skip
    assert torch.equal(made, expected)


def test_it_differs_from_its_flow_twin_in_sampling(model):
    twin = ECAR(**{**SHAPE, "coupling": "restart", "window_ends": None}).eval()
    twin.load_state_dict(model.state_dict())
    by_flow = list(trace(twin, [0], 2, generator=generator()))[-1].latent
    by_noise = list(trace(model, [0], 2, generator=generator()))[-1].latent
    assert not torch.allclose(by_flow, by_noise, atol=0.1)


def test_what_does_not_fit_noise_prediction_is_refused(model):
    with pytest.raises(EcarError, match="solver 'heun' is not made for noise prediction"):
        trace(model, [0], 1, solver="heun")
    with pytest.raises(EcarError, match="coupling 'independent'"):
        StageEpsilon(**SHAPE, coupling="independent")
    with pytest.raises(EcarError, match="1001 steps of DDIM"):
        trace(model, [0], 1001)


@pytest.mark.parametrize("kind", ["ecar", "stage-epsilon"])
def test_a_stage_alone_goes_on_from_a_true_history_as_from_a_run_of_its_own(kind, model):
    torch.manual_seed(0)
    model = model if kind == "stage-epsilon" else build(kind, SHAPE).eval()
    labels = torch.tensor([0, 2])
    own = next(e for e in trace(model, labels, 2, generator=generator()) if e.is_stage_end)
    expected = list(trace(model, labels, 2, generator=generator(1), start_from=own))[-1].latent
    alone = study.sample_stage(model, 1, [own.latent], labels, 2, generator(1), torch.float32)
    assert alone.is_final
    assert torch.equal(alone.latent, expected)


class Made(NamedTuple):
    """What a sampler hands back, as far as it is compared."""

    latent: torch.Tensor
    clean_estimate: torch.Tensor


@pytest.mark.parametrize("kind", ["ecar", "full-denoise"])
def test_a_perfect_stage_has_no_distance_at_any_arm(kind, monkeypatch, tmp_path):
    model, levels = build(kind, SHAPE), (0.5, 1.0)
    latent = 3 + 2 * torch.randn(400, 3, 8, 8, generator=generator())
    _, ends = endpoints(model.schedule, latent, model.draw(400, generator(5)).noise)

    def perfect(_, stage, *rest):
        return Made(ends[stage], model.pyramid(latent)[stage])

    def without_noise(_, stage, *rest):  # right on average, without any variety
        return Made(*(part.mean(0, keepdim=True).expand_as(part) for part in perfect(_, stage)))

    def measured(sample):
        monkeypatch.setattr(study, "sample_stage", sample)
        lab = Lab(SIZES["smoke"], tmp_path)
        return study.measure_stages(lab, model, latent, torch.zeros(400), 1, levels)

    for good, bad in zip(measured(perfect), measured(without_noise), strict=True):
        assert good["clean"] < 1e-3
        assert good["at_level"] < 0.5 * bad["at_level"]


def test_the_comparison_runs_through(monkeypatch, tmp_path):
    monkeypatch.setitem(study.EXTENTS, "smoke", study.Extent((1,), 1, 20))
    result = json.loads(json.dumps(study.run(Lab(SIZES["smoke"], tmp_path / "lab"))))
    sizes = {name: arm["parameters"] for name, arm in result["arms"].items()}
    assert sizes["E-CAR"] == sizes[study.FULL] == sizes[study.NOISE]
    assert sizes["DiT"] == sizes[study.DIT_NOISE] == pytest.approx(sizes["E-CAR"], rel=0.03)
    assert len({arm["images"] for arm in result["arms"].values()}) == 1
    for rows in result["per_stage"].values():
        assert [len(row["stages"]) for row in rows] == [2]
    study.draw(result).savefig(tmp_path / "figure.png")
    assert len(study.table(result).splitlines()) == 2 + 5 + 1
