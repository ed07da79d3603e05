"""The doctor on real runs and checkpoints: findings, remedies, refusals."""

import json
import shutil

import pytest
import torch

from ecar_lab.cli.main import main
from ecar_lab.doctor import diagnose, probe
from ecar_lab.doctor import run as checkup
from ecar_lab.errors import EcarError
from tests.doctor.examples import falling, log_rows


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
