"""Being told to stop: what is saved, how the run ends, and that it does not look finished."""

import io
import logging
import os
import signal
from pathlib import Path

import pytest

from ecar_lab.training import launch, loop
from ecar_lab.training.checkpoints import list_checkpoints
from ecar_lab.training.model import train_model
from ecar_lab.training.signals import StopSignal
from tests.training.runs import assert_same, config, curve, weights

ENDS = {signal.SIGTERM: SystemExit, signal.SIGHUP: SystemExit, signal.SIGINT: KeyboardInterrupt}


def signalled(monkeypatch: pytest.MonkeyPatch, at: int, *numbers: int) -> None:
    """The process gets signals while it makes the step after ``at``."""
    step_once = loop.Trainer._optimizer_step

    def interrupted(self, batches, rate):
        step_once(self, batches, rate)
        if self.step == at:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(loop.Trainer, "_optimizer_step", interrupted)


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ((signal.SIGTERM,), 143),
        ((signal.SIGHUP,), 129),
        ((signal.SIGINT,), None),
        ((signal.SIGINT, signal.SIGINT), None),
        ((signal.SIGTERM, signal.SIGINT), 143),
    ],
    ids=str,
)
def test_a_signal_saves_and_leaves_no_result(
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    numbers: tuple[int, ...],
    status: int | None,
):
    signalled(monkeypatch, 4, *numbers)
    run = tmp_path / "run"
    # Whoever started the tests may have it ignored, as nohup does, which a run respects.
    ignored = signal.signal(numbers[0], signal.default_int_handler)
    before = signal.getsignal(numbers[0])
    with pytest.raises(ENDS[numbers[0]]) as ended:
        train_model(config(run))
    monkeypatch.undo()
    assert getattr(ended.value, "code", None) == status
    assert list_checkpoints(run)[-1].name == "step-00000005"
    assert not (run / "final").exists()
    assert signal.getsignal(numbers[0]) == before
    signal.signal(numbers[0], ignored)
    train_model(config(run))
    assert_same(weights(run), weights(undisturbed))
    assert curve(run) == curve(undisturbed)


def test_the_third_interrupt_ends_at_once_with_the_last_checkpoint_whole(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    signalled(monkeypatch, 4, *[signal.SIGINT] * 3)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_model(config(run))
    monkeypatch.undo()
    assert list_checkpoints(run)[-1].name == "step-00000004"
    train_model(config(run))
    assert_same(weights(run), weights(undisturbed))


def test_an_interrupt_inside_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ecar_lab import files

    save = files.save_file

    def interrupted(named, path, metadata=None):
        save(named, path, metadata)
        if "step-00000004" in str(path) and "ema" in str(path):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(files, "save_file", interrupted)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_model(config(run))
    names = {file.name for file in list_checkpoints(run)[-1].iterdir()}
    assert names >= {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}
    assert list_checkpoints(run)[-1].name == "step-00000004"


def test_before_the_first_step_there_is_nothing_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(
        "ecar_lab.training.model.training_images",
        lambda *arguments: os.kill(os.getpid(), signal.SIGTERM),
    )
    with pytest.raises(SystemExit) as ended, caplog.at_level(logging.WARNING):
        train_model(config(tmp_path / "run"))
    assert ended.value.code == 143
    assert "before the first step: there was nothing to save" in caplog.text
    assert not list_checkpoints(tmp_path / "run")


def test_a_signal_while_the_result_is_written_leaves_none(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    export = loop.Trainer._export

    def interrupted(self, log):
        os.kill(os.getpid(), signal.SIGTERM)
        export(self, log)

    monkeypatch.setattr(loop.Trainer, "_export", interrupted)
    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        train_model(config(run))
    monkeypatch.undo()
    assert not (run / "final").exists()
    assert not list(run.glob(".final-*"))
    train_model(config(run))
    assert (run / "final" / "README.md").is_file()


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop, stop.patient():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_tokenizer_that_was_interrupted_stops_the_commands_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ecar_lab.cli.main import main

    signalled(monkeypatch, 0, signal.SIGINT)
    switches = "--dataset shapes --limit 16 --batch-size 4 --steps 9 --sample-every 0 --device cpu"
    output = ["--output", str(tmp_path / "run")]
    assert main(["train", "tokenizer", "--preset", "cifar10", *switches.split(), *output]) == 130
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-00000001"
    assert not (tmp_path / "run" / "final").exists()


def test_a_bar_that_nobody_reads_does_not_end_the_run(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As behind ``ecar train model 2>&1 | head -1``, which would look finished."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stderr", Closed())
    run = train_model(config(tmp_path / "run"))
    monkeypatch.undo()
    assert_same(weights(run), weights(undisturbed))
    assert (run / "final").is_dir()


def test_time_box_still_ends_in_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    moments = iter(range(10**6))
    monkeypatch.setattr(launch, "clock", lambda: float(next(moments)))
    run = train_model(config(tmp_path / "run", steps=100, max_minutes=2.0))
    assert (run / "final" / "README.md").is_file()
    assert int(list_checkpoints(run)[-1].name.split("-")[1]) < 100
