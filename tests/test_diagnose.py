"""Diagnostics: silent on what is sound, loud on each kind of sickness, on made-up numbers; and the
doctor on a real run and on a checkpoint."""

import json
import math
import random
import shutil
from collections.abc import Sequence

import pytest
import torch
from conftest import tiny_model
from torch.nn import functional as F

from ecar_lab.cli.main import main
from ecar_lab.doctor import diagnose, probe
from ecar_lab.doctor import run as checkup
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.metrics import boundary_score
from ecar_lab.flow import upsample

SEEDS = range(5)


def falling(seed: int, rows: int = 20, noise: float = 0.02, floor: float = 0.2) -> list[float]:
    """A healthy curve: exponential decay from 1 to ``floor``, with relative noise."""
    draw = random.Random(seed)
    return [
        (floor + (1 - floor) * math.exp(-6 * row / rows)) * (1 + draw.gauss(0, noise))
        for row in range(rows)
    ]


def flat(seed: int, rows: int = 20, noise: float = 0.02) -> list[float]:
    """The curve of a model that learns nothing."""
    draw = random.Random(seed)
    return [1 + draw.gauss(0, noise) for _ in range(rows)]


def value_of(found: diagnose.Diagnosis) -> float:
    assert found.value is not None
    return found.value


def fired(diagnoses: list[diagnose.Diagnosis]) -> list[str]:
    return [found.name for found in diagnoses if found.fired]


def log_rows(losses: Sequence[float | None], **more: float) -> list[dict]:
    """Rows as the trainer writes them."""
    return [
        {
            "step": row,
            "images": 256 * row,
            "loss": loss,
            "loss_stage": [loss, loss],
            "gradient_norm": 0.3,
            "data_wait": 0.003,
            "mfu": 0.1,
            **more,
        }
        for row, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rows", "noise"), [(8, 0.02), (20, 0.02), (60, 0.05)])
def test_a_healthy_log_raises_nothing(seed, rows, noise):
    assert fired(diagnose.from_log(log_rows(falling(seed, rows, noise)), {})) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows", [6, 20, 60])
def test_a_loss_that_does_not_fall_is_seen(seed, rows):
    found = diagnose.from_log(log_rows(flat(seed, rows)), {})
    assert fired(found) == ["loss_not_falling"]


def test_a_fall_has_to_exceed_the_noise():
    # A tenth less is enough in a quiet curve, and not in one that scatters by a third.
    def judge(noise: float) -> list[diagnose.Diagnosis]:
        levels = [1.0] * 10 + [0.9] * 10
        curves = [[a * b for a, b in zip(levels, flat(s, 20, noise), strict=True)] for s in SEEDS]
        return [diagnose.loss_not_falling(curve) for curve in curves]

    assert {found.threshold for found in judge(0.005)} == {0.05}
    assert not any(found.fired for found in judge(0.005))
    needed = [found.threshold for found in judge(0.3)]
    assert sum(needed) / len(needed) == pytest.approx(3 * 0.3 * math.sqrt(2 / 4), rel=0.4)
    assert sum(found.fired for found in judge(0.3)) >= 4
    quiet = diagnose.loss_not_falling([1.0] * 10 + [0.94] * 10)
    assert quiet.value == pytest.approx(0.06)
    assert not quiet.fired
    assert diagnose.loss_not_falling([1.0] * 10 + [0.96] * 10).fired


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_swings_is_seen(seed):
    swinging = [loss * (1.4 if row % 2 else 0.6) for row, loss in enumerate(falling(seed))]
    assert diagnose.loss_oscillating(swinging).fired
    spiked = falling(seed, 20)
    spiked[15] *= 2
    assert diagnose.loss_oscillating(spiked).fired
    assert "diverged" not in fired(diagnose.from_log(log_rows(spiked), {}))


def test_the_swing_is_the_noise_whatever_the_slope():
    for noise in (0.03, 0.2):
        draw = random.Random(0)
        line = [5 - 0.001 * row + draw.gauss(0, noise) for row in range(2000)]
        value = value_of(diagnose.loss_oscillating(line))
        assert value == pytest.approx(noise / 3.5, rel=0.1)
    straight = [5 - 0.01 * row for row in range(100)]
    assert value_of(diagnose.loss_oscillating(straight)) < 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_explodes_is_seen(seed):
    curve = falling(seed, 10)
    assert value_of(diagnose.diverged([*curve, 1.0, 2.0, 8.0])) > 10
    assert diagnose.diverged([*curve, None]).fired
    assert diagnose.diverged([*curve, math.nan]).fired
    recovered = [*curve, 4.0, *curve]
    assert diagnose.diverged(recovered).fired
    # Exploded before the first log and falling ever since: only the model's zero tells.
    late = [3e4, 1e4, 5e3, 2e3, 1e3]
    assert not diagnose.diverged(late).fired
    assert fired(diagnose.from_log(log_rows(late), {})) == ["diverged"]
    assert fired(diagnose.from_log(log_rows(late), {"kind": "tokenizer"})) == []


def test_divergence_is_judged_against_the_lowest_level_so_far():
    assert diagnose.diverged([1.0, 0.5, 1.4]).value == pytest.approx(2.8)
    assert not diagnose.diverged([1.0, 0.5, 1.4]).fired
    assert diagnose.diverged([1.0, 0.5, 1.6]).fired


def test_clipped_gradients_waiting_and_slowness_are_notes():
    rows = log_rows(falling(0), gradient_norm=5.0, data_wait=0.5, mfu=0.002)
    found = diagnose.from_log(rows, {"grad_clip": 1.0})
    assert fired(found) == ["gradients_clipped_always", "data_starved", "training_slow"]
    assert {checkup.finding(one).status for one in found if one.fired} == {"note"}
    assert fired(diagnose.from_log(rows, {"grad_clip": 10.0})) == ["data_starved", "training_slow"]


def test_gradients_that_are_clipped_at_the_start_only_are_no_sign():
    norms = [9.0] * 5 + [0.5] * 15
    assert not diagnose.gradients_clipped_always(norms, 1.0).fired
    assert diagnose.gradients_clipped_always(norms, 0.4).fired


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stage_that_lags_is_named(seed):
    rows = list(zip(falling(seed), flat(seed), falling(seed + 9), strict=True))
    found = diagnose.stage_lagging(rows)
    assert found.fired
    assert "stage 1 the least" in found.found
    both = list(zip(falling(seed), falling(seed + 9, floor=0.6), strict=True))
    assert not diagnose.stage_lagging(both).fired
    neither = list(zip(flat(seed), flat(seed + 9), strict=True))
    assert not diagnose.stage_lagging(neither).fired


def test_what_cannot_be_measured_is_said_and_never_fires():
    for rows in ([], log_rows([1.0, 0.9])):
        found = diagnose.from_log(rows, {})
        assert fired(found) == []
        short = next(one for one in found if one.name == "loss_not_falling")
        assert short.value is None
        assert checkup.finding(short).status == "note"
        assert "not measured" in checkup.finding(short).value


# -- latents ---------------------------------------------------------------------------------------


def picture(seed: int, count: int = 64, side: int = 8) -> torch.Tensor:
    """Smooth latents of unit variance that do not know a grid."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 4, side + 2, side + 2, generator=generator)
    return 3 * F.avg_pool2d(white, kernel_size=3, stride=1)


def judged(made: torch.Tensor, real: torch.Tensor) -> list[diagnose.Diagnosis]:
    model = tiny_model(latent_channels=4)
    return [
        diagnose.flat_samples(probe.bands(model, made), probe.bands(model, real)),
        diagnose.boundary_artefacts(
            probe.boundary_scores(model, made), probe.boundary_scores(model, real)
        ),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_sound_latents_raise_nothing(seed):
    assert fired(judged(picture(seed), picture(seed + 50))) == []
    # A little less detail and a little too much of all is no failure yet.
    assert fired(judged(0.8 * picture(seed), picture(seed + 50))) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_latents_without_their_detail_are_flat(seed):
    made, real = picture(seed), picture(seed + 50)
    assert "flat_samples" in fired(judged(0.5 * made, real))
    coarse = upsample(F.avg_pool2d(made, 2))
    found = judged(coarse + 0.4 * (made - coarse), real)
    assert "flat_samples" in fired(found)
    assert "band 1" in found[0].found


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_that_stand_apart_and_blocks_that_are_too_busy_are_seen(seed):
    made, real = picture(seed), picture(seed + 50)
    coarse = upsample(F.avg_pool2d(made, 2))
    apart = coarse + 0.8 * (made - coarse) + 0.5 * upsample(torch.randn(64, 4, 4, 4))
    assert "boundary_artefacts" in fired(judged(apart, real))
    inside = made - coarse
    busy = 0.3 * coarse + 1.4 * inside
    assert "boundary_artefacts" in fired(judged(busy, real))


def test_the_bar_is_higher_where_no_real_latents_are_at_hand():
    assert diagnose.boundary_artefacts({1: 1.3}, {1: 1.0}).fired
    assert not diagnose.boundary_artefacts({1: 1.3}).fired
    assert not diagnose.boundary_artefacts({1: 1.3}, {1: 1.2}).fired
    assert diagnose.boundary_artefacts({1: 1.6}).fired
    assert diagnose.boundary_artefacts({1: 0.6}).fired
    assert diagnose.boundary_artefacts({1: 0.0}).fired


def test_bands_add_up_and_the_score_is_that_of_the_finest_blocks():
    model, latent = tiny_model(latent_channels=4), picture(0)
    low, high = probe.bands(model, latent)
    assert low**2 + high**2 == pytest.approx(latent.square().mean().item(), rel=1e-5)
    assert probe.boundary_scores(model, latent) == {1: boundary_score(latent, 2)}
    single = tiny_model(latent_channels=4, num_stages=1)
    assert len(probe.bands(single, latent)) == 1
    assert diagnose.boundary_artefacts(probe.boundary_scores(single, latent), {}).value is None


# -- the leak --------------------------------------------------------------------------------------


def test_the_leak_is_a_matter_of_the_ratio_of_bands():
    assert not diagnose.leak({1: (0.3, 0.3), 2: (0.2, 0.25)}).fired
    found = diagnose.leak({1: (0.3, 0.3), 2: (0.02, 0.3)})
    assert found.fired
    assert "stage 2" in found.found
    assert diagnose.leak({}).value is None


@pytest.mark.parametrize(("coupling", "honest"), [("independent", True), ("correlated", False)])
def test_an_ideal_model_that_sees_the_history_leaks_only_under_correlated(coupling, honest):
    """The best linear estimate of the velocity from state and history, for white latents, leaves
    the error that a trained transformer would: none in the block means exactly where both share
    their noise."""
    from ecar_lab.flow import block_mean, endpoints
    from ecar_lab.schedule import StageSchedule

    schedule = StageSchedule(2, 2, (0.5, 1.0), coupling)
    draw = torch.Generator().manual_seed(0)
    latent = torch.randn(40_000, 1, 2, 2, generator=draw)
    noise = [torch.randn(40_000, 1, side, side, generator=draw) for side in (1, 2)]
    starts, ends = endpoints(schedule, latent, noise)
    tau = 0.875
    state = (1 - tau) * starts[1] + tau * ends[1]
    seen = torch.cat([state.flatten(1), ends[0].flatten(1)], dim=1).double()
    target = (ends[1] - starts[1]).flatten(1).double()
    error = target - seen @ torch.linalg.lstsq(seen, target, driver="gelsd").solution
    error = error.reshape(-1, 1, 2, 2)
    rest = error - upsample(block_mean(error))
    low = 4 * block_mean(error).square().mean().item()
    found = diagnose.leak({1: (low, rest.square().mean().item() * 4 / 3)})
    assert found.fired is not honest
    if honest:
        assert value_of(found) > 0.9


def test_band_errors_are_the_models_velocity_error_taken_apart():
    model = tiny_model(latent_channels=4)
    for parameter in model.head.out.parameters():  # a velocity of zero
        parameter.data.zero_()
    real = probe.RealLatents(picture(0), torch.arange(64) % 3)
    ((low, high),) = probe.band_errors(model, real).values()
    from ecar_lab.flow import endpoints

    draws = model.draw(64, torch.Generator().manual_seed(0))
    starts, ends = endpoints(model.schedule, real.latents, draws.noise)
    total = (ends[1] - starts[1]).square().mean().item()
    assert low / 4 + 3 * high / 4 == pytest.approx(total, rel=1e-4)
    clean_history = tiny_model(latent_channels=4, coupling="restart")
    assert probe.band_errors(clean_history, real) == {}


# -- efficiency ------------------------------------------------------------------------------------


def test_efficiency_is_time_saved_over_flops_saved():
    found = diagnose.efficiency_not_realised([1.0, 3.0], [1.0, 1.0], 40.0, 10.0)
    assert found.value == pytest.approx((10 / 2) / (40 / 4))
    assert not found.fired
    slow = diagnose.efficiency_not_realised([1.0, 3.0], [5.0, 1.0], 40.0, 10.0)
    assert slow.fired
    assert "stage 0 takes 83% of the time for 25% of the FLOPs" in slow.found


def test_timing_knows_the_flops_of_both_models():
    model = tiny_model(width=64, latent_size=16, transformer_layers=2, head_layers=2)
    timing = probe.time_sampling(model, 2, [3, 1], repeats=1)
    assert sum(timing.flops) == 2 * sum(map(sum, model.flops([3, 1], 1.0).values()))
    assert len(timing.seconds) == 2
    assert min(timing.seconds) > 0
    assert timing.baseline_seconds > 0
    assert timing.judge().name == "efficiency_not_realised"


# -- the doctor ------------------------------------------------------------------------------------


def write_run(folder, losses, kind="model"):
    folder.mkdir()
    config = {"kind": kind, "preset": "digits"}
    (folder / "config.json").write_text(json.dumps(config))
    rows = "".join(json.dumps(row) + "\n" for row in log_rows(losses))
    (folder / "metrics.jsonl").write_text(rows)
    return folder


def test_the_doctor_names_what_is_wrong_with_a_run_and_how_to_mend_it(tmp_path, capsys):
    run = write_run(tmp_path / "run", [*falling(0), None])
    assert main(["doctor", str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("wrong  diverged"))
    assert "-> train again with a lower lr" in lines[at + 1]
    assert any("left none so far" in line for line in lines)
    assert lines[-1].startswith("1 wrong")


def test_the_doctor_calls_a_sound_run_sound(tmp_path, capsys):
    run = write_run(tmp_path / "run", falling(0), kind="tokenizer")
    assert main(["doctor", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {entry["status"] for entry in report["findings"]} == {"ok"}
    assert main(["doctor", str(run)]) == 0
    assert "nothing is wrong with it" in capsys.readouterr().out


def test_the_doctor_refuses_what_is_no_run(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "gone")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    assert main(["doctor", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path), "--images", "0"]) == 2


def test_the_shipped_digits_are_sound_and_flat_ones_are_not(monkeypatch):
    found = {one.name: one for one in checkup.examine("digits", images=48)}
    assert set(found) == {"leak", "flat_samples", "boundary_artefacts", "efficiency_not_realised"}
    assert all(found[name].status == "ok" for name in list(found)[:3])  # timing may be disturbed
    sampler, silent = probe.sample_latents, diagnose.unmeasured("efficiency_not_realised", "")
    monkeypatch.setattr(checkup, "judge_time", lambda *args: silent)
    monkeypatch.setattr(probe, "sample_latents", lambda *a, **options: 0.3 * sampler(*a, **options))
    sick = {one.name: one for one in checkup.examine("digits", images=48)}
    assert sick["flat_samples"].status == "wrong"
    assert "renoise" in sick["flat_samples"].remedy


def test_without_the_data_set_what_holds_for_any_data_is_the_measure(tiny_pipeline, monkeypatch):
    found = {one.name: one for one in checkup.diagnose_model(tiny_pipeline, None, images=8)}
    assert found["leak"].value is None
    assert "not known" in found["leak"].found
    assert "the latent" in found["flat_samples"].found
    monkeypatch.delenv("ECAR_DATA", raising=False)
    hub = checkup.real_or_why(tiny_pipeline, "cifar10", None)
    assert hub == (None, "cifar10 is not here: name its folder with --data")
    gone = checkup.diagnose_model(tiny_pipeline, "no-such-set", "/nowhere", images=8)
    assert "/nowhere" in gone[0].found


def test_an_unfinished_run_is_judged_by_its_newest_checkpoint(tmp_path):
    from ecar_lab.training.config import ModelTrainConfig
    from ecar_lab.training.model import train_model

    config = ModelTrainConfig.from_preset(
        "digits", steps=2, batch_size=16, save_every=1, sample_every=0, log_every=1,
        model={"width": 32, "num_heads": 2, "head_layers": 1}, output=str(tmp_path / "run"),
        device="cpu", dtype="float32", ema_decay=0.0,
    )  # fmt: skip
    run = train_model(config)
    finished = checkup.open_result(run, config, None)
    shutil.rmtree(run / "final")
    unfinished = checkup.open_result(run, config, None)
    assert finished is not None
    assert unfinished is not None
    for (name, a), (_, b) in zip(finished.tensors(), unfinished.tensors(), strict=True):
        assert torch.allclose(a, b, atol=1e-2), name  # the final one is stored in bfloat16
    shutil.rmtree(run / "checkpoints")
    assert checkup.open_result(run, config, None) is None
    names = [one.name for one in checkup.examine(str(run))]
    assert names[0] == "run"
    assert names[-1] == "model"


def test_a_damaged_model_is_a_finding(tmp_path):
    run = write_run(tmp_path / "run", falling(0))
    (run / "final").mkdir()
    (run / "final" / "model_index.json").write_text("{}")
    last = checkup.examine(str(run))[-1]
    assert (last.name, last.status) == ("model", "wrong")
    with pytest.raises(EcarError):
        checkup.examine(str(run / "final"))
