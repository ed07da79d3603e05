"""What the environment asks of Accelerate never overrides the configuration in silence."""

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, DynamoBackend

from ecar_lab.errors import EcarError
from ecar_lab.training import loop, processes
from ecar_lab.training.log import read_metrics
from ecar_lab.training.model import train_model
from tests.training.runs import assert_same, config, curve, weights


@pytest.fixture
def fresh() -> Generator[None]:
    """Accelerate as in a process that has not used it yet; after the test, too."""

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield
    reset()


def test_the_environment_changes_no_step(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None
):
    for name, value in {
        "GRADIENT_ACCUMULATION_STEPS": "3",
        "MIXED_PRECISION": "bf16",
        "DYNAMO_BACKEND": "inductor",
        "USE_CPU": "true",
    }.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    run = train_model(config(tmp_path / "run"))
    assert_same(weights(run), weights(undisturbed))
    assert curve(run) == curve(undisturbed)


def test_every_step_of_a_log_has_its_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None
):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    rows = read_metrics(train_model(config(tmp_path / "run", steps=2, log_every=1)))
    assert all(row["gradient_norm"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("USE_FSDP", "true", "ACCELERATE_USE_FSDP is set"),
        ("USE_DEEPSPEED", "1", "ACCELERATE_USE_DEEPSPEED is set"),
        ("USE_MEGATRON_LM", "true", "ACCELERATE_USE_MEGATRON_LM is set"),
        ("TORCH_DEVICE", "meta", "the device, meta instead of cpu"),
        ("TORCH_DEVICE", "nonsense", "Accelerate cannot start"),
        ("USE_CPU", "perhaps", "Accelerate cannot start"),
    ],
)
def test_what_cannot_be_overruled_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh: None,
    name: str,
    value: str,
    words: str,
):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(EcarError, match=words):
        train_model(config(tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mixed_precision", "fp16"),
        ("gradient_accumulation_steps", 3),
        ("distributed_type", DistributedType.FSDP),
        ("device", torch.device("cuda:0")),
        ("state", SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=DynamoBackend.INDUCTOR))),
    ],
)
def test_every_effective_value_is_compared(tmp_path: Path, name: str, value: object):
    usual = dict(
        mixed_precision="no", gradient_accumulation_steps=1, distributed_type=DistributedType.NO,
        device=torch.device("cpu"),
        state=SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=DynamoBackend.NO)),
    )  # fmt: skip
    cfg = config(tmp_path / "run")
    processes.check_effective(SimpleNamespace(**usual), cfg, torch.device("cpu"))  # ty: ignore
    with pytest.raises(EcarError, match="Accelerate would train with another value"):
        processes.check_effective(
            SimpleNamespace(**{**usual, name: value}),
            cfg,
            torch.device("cpu"),  # ty: ignore
        )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def full(self, batches, rate):
        raise error

    monkeypatch.setattr(loop.Trainer, "_optimizer_step", full)
    with pytest.raises(EcarError, match="ran out of memory: use a --batch-size below 8"):
        train_model(config(tmp_path / "run"))


def test_another_runtime_error_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def wrong(self, batches, rate):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(loop.Trainer, "_optimizer_step", wrong)
    with pytest.raises(RuntimeError, match="mat1"):
        train_model(config(tmp_path / "run"))
