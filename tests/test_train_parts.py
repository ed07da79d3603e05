"""The parts of the trainer, each on its own: schedule, optimizers, feeds, logs, configuration."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

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
from ecar_lab.presets import PRESETS
from ecar_lab.tokenizers.makers import ConvTokenizer
from ecar_lab.training import config
from ecar_lab.training.checkpoints import load_optimizer_tensors, optimizer_tensors
from ecar_lab.training.config import ModelTrainConfig, TokenizerTrainConfig
from ecar_lab.training.launch import PLACED, processes_asked, start_missing_processes
from ecar_lab.training.log import DivergenceGuard, Meter, RunLog, read_metrics
from ecar_lab.training.optim import Plan, build_optimizers, lr_factor

# -- learning rate and optimizers --


def test_learning_rate_warms_up_and_falls_to_its_floor():
    plan = Plan(total=100)
    factors = [lr_factor(step, plan, warmup_steps=10, floor=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1, rel=1e-3)
    assert max(factors) == factors[9]
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[50] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[100] == pytest.approx(0.1)


def test_revised_plan_bends_the_curve_without_a_jump():
    plan = Plan(total=100)
    shorter = plan.revised(40, 60)
    assert shorter.at(40) == plan.at(40)
    assert shorter.at(50) == pytest.approx(0.7)
    assert shorter.at(60) == 1.0
    longer = shorter.revised(50, 1050)
    assert longer.at(50) == shorter.at(50)
    assert longer.at(1050) == 1.0


def test_unsettled_plan_stands_still():
    assert Plan().at(1000) == 0.0


def small_model() -> nn.Module:
    return nn.ModuleDict(
        {
            "embedding": nn.Embedding(10, 64),
            "patch": nn.Linear(16, 64),
            "hidden": nn.Linear(64, 64),
            "norm": nn.LayerNorm(64),
            "out": nn.Linear(64, 12),
        }
    )


def test_muon_takes_hidden_matrices_and_nothing_else():
    model = small_model()
    muon, adamw = build_optimizers(model, ModelTrainConfig(optimizer="muon"))
    assert isinstance(muon, torch.optim.Muon)
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [(64, 64)]
    assert muon.param_groups[0]["params"][0] is model["hidden"].weight
    both = [p for o in (muon, adamw) for g in o.param_groups for p in g["params"]]
    assert {id(p) for p in both} == {id(p) for p in model.parameters()}
    assert len(both) == len(list(model.parameters()))


def test_weight_decay_spares_biases_gains_and_embeddings():
    model = small_model()
    (adamw,) = build_optimizers(model, ModelTrainConfig(optimizer="adamw", weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in adamw.param_groups for p in g["params"]}
    assert decay[id(model["patch"].weight)] == 0.3
    for spared in (model["embedding"].weight, model["norm"].weight, model["out"].bias):
        assert decay[id(spared)] == 0.0


def test_optimizer_state_survives_another_memory_layout():
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)

    cfg = TokenizerTrainConfig(optimizer="adamw", lr=0.1)
    images = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))

    def step(net: nn.Module, optimizers: list) -> None:
        net.zero_grad()
        net(images).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()

    first = model()
    optimizers = build_optimizers(first, cfg)
    step(first, optimizers)
    stored = {n: t.contiguous().clone() for n, t in optimizer_tensors(optimizers).items()}
    second = model()
    second.load_state_dict({n: t.contiguous() for n, t in first.state_dict().items()})
    restored = build_optimizers(second, cfg)
    load_optimizer_tensors(restored, stored)
    step(first, optimizers)
    step(second, restored)
    assert torch.equal(first.weight, second.weight)


def test_optimizer_state_of_another_model_is_refused():
    cfg = ModelTrainConfig(optimizer="adamw")
    model = nn.Linear(8, 8)
    optimizers = build_optimizers(model, cfg)
    model(torch.ones(1, 8)).sum().backward()
    optimizers[0].step()
    other = build_optimizers(nn.Linear(8, 9), cfg)
    with pytest.raises(EcarError, match="fits no parameter of this model"):
        load_optimizer_tensors(other, optimizer_tensors(optimizers))


# -- feeds --


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
    batches = [first(step)[0] for step in range(3)]  # two batches an epoch
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


# -- logs --


def test_meter_averages_and_leaves_gaps_out():
    meter = Meter(torch.device("cpu"))
    meter.add(0, {"loss": torch.tensor(1.0), "bins": torch.tensor([1.0, math.nan, math.nan])})
    meter.add(1, {"loss": torch.tensor(3.0), "bins": torch.tensor([2.0, 5.0, math.nan])})
    means = meter.means()
    assert means["loss"] == 2.0
    assert means["bins"][:2] == [1.5, 5.0]
    assert math.isnan(means["bins"][2])
    assert math.isinf(float(meter.first_bad))


def test_meter_state_survives_json():
    meter, again = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    for step in range(3):
        meter.add(step, {"loss": torch.rand(()), "stage": torch.rand(2)})
    again.restore(json.loads(json.dumps(meter.state())))
    assert again.means() == meter.means()


def test_meter_finds_the_first_step_that_is_not_finite():
    meter = Meter(torch.device("cpu"))
    for step, loss in enumerate([1.0, math.inf, math.nan, 1.0]):
        meter.add(step, {"loss": torch.tensor(loss)})
    assert float(meter.first_bad) == 1


def test_guard_stops_a_loss_that_leaves_its_range():
    guard = DivergenceGuard(factor=4.0)
    for step in range(10):
        guard.check(step, 1.0, math.inf, 0.1, 1e-3)
    for step in range(2):
        guard.check(step, 5.0, math.inf, 0.1, 1e-3)
    guard.check(12, 1.1, math.inf, 0.1, 1e-3)  # two high values in a row are a spike
    for step in (13, 14):
        guard.check(step, 9.0, math.inf, 0.1, 1e-3)
    with pytest.raises(EcarError, match=r"loss 9 at step 15 is more than 4 times .* lower lr"):
        guard.check(15, 9.0, math.inf, 0.1, 1e-3)


def test_guard_lets_a_falling_loss_pass():
    guard = DivergenceGuard(factor=1.5)
    for step in range(100):
        guard.check(step, 1.0 / (1 + step), math.inf, 0.1, 1e-3)


def test_log_drops_rows_after_the_step_it_resumes_from(tmp_path: Path):
    log = RunLog(tmp_path, step=0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 1.0 / step, "loss_bin": [[0.5, math.nan]]})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    RunLog(tmp_path, step=2).close()
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["loss_bin"] == [[0.5, None]]  # NaN is no JSON


# -- configuration --


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", [TokenizerTrainConfig, ModelTrainConfig])
def test_every_preset_makes_a_sound_configuration(name: str, kind: type):
    cfg = kind.from_preset(name)
    cfg.check()
    assert cfg.preset == name
    assert str(cfg.run_folder) == str(Path("runs") / f"{name}-{cfg.kind}")


def test_configuration_survives_its_file(tmp_path: Path):
    cfg = ModelTrainConfig.from_preset("cifar10", lr=0.5, betas=(0.8, 0.9), model={"width": 64})
    (tmp_path / "config.json").write_text(json.dumps(cfg.to_dict()))
    assert ModelTrainConfig.from_json(tmp_path / "config.json") == cfg
    with pytest.raises(EcarError, match="training of a model, not of a tokenizer"):
        TokenizerTrainConfig.from_json(tmp_path / "config.json")


def test_unreadable_configuration_is_one_sentence(tmp_path: Path):
    with pytest.raises(EcarError, match="cannot read the configuration"):
        ModelTrainConfig.from_json(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(EcarError, match="is no JSON"):
        ModelTrainConfig.from_json(tmp_path / "broken.json")
    (tmp_path / "odd.json").write_text('{"kind": "model", "speed": 1}')
    with pytest.raises(EcarError, match="unknown field 'speed'"):
        ModelTrainConfig.from_json(tmp_path / "odd.json")


def test_every_field_explains_itself():
    """tyro takes the help of a switch from the string below its field."""
    lines = Path(config.__file__).read_text().splitlines()
    for kind in (TokenizerTrainConfig, ModelTrainConfig):
        for entry in dataclasses.fields(kind):
            index = next(i for i, line in enumerate(lines) if line.startswith(f"    {entry.name}:"))
            assert lines[index + 1].lstrip().startswith('"""'), entry.name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(steps=None), "give one of them"),
        (dict(steps=0), "steps is 0: use 1 or more"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(lr=math.nan), "lr is nan: use a finite number"),
        (dict(lr=-1.0), "lr is -1.0"),
        (dict(max_minutes=0.0), "max_minutes is 0.0"),
        (dict(ema_decay=1.5), "ema_decay is 1.5: use a number from 0 to 1"),
        (dict(class_dropout=2.0), "class_dropout is 2.0"),
        (
            dict(stage_strides=[1, 3]),
            "batch_size 256 is not divisible by the stage stride 3: use 258",
        ),
        (dict(optimizer="sgd"), "optimizer 'sgd' is unknown: use muon or adamw"),
        (dict(divergence_factor=1.0), "divergence_factor is 1.0"),
    ],
)
def test_bad_values_are_named(wrong: dict, message: str):
    with pytest.raises(EcarError, match=message):
        ModelTrainConfig.from_preset("digits", **{"max_minutes": None, **wrong}).check()


# -- processes --


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (["accelerate", "launch", "--cpu", "--num_processes", "2", "train.py"], 2),
        (["accelerate", "launch", "--num-processes=4", "--cpu", "train.py"], 4),
        (["accelerate", "launch", "--cpu", "train.py"], None),
    ],
)
def test_number_of_processes_is_read_off_the_launcher(command: list[str], count: int | None):
    assert processes_asked(command) == count


def test_launcher_without_a_number_is_no_silent_single_process(monkeypatch: pytest.MonkeyPatch):
    for name in PLACED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr("ecar_lab.training.launch.processes_asked", lambda command: None)
    with pytest.raises(EcarError, match="torchrun --standalone"):
        start_missing_processes()
