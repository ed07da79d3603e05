"""What experiments work with: trainings and measurements that are made once and then remembered.

An experiment asks the lab for a trained model or for a number. The lab looks whether it has been
made already, under a key that holds every setting, and makes it otherwise. So an experiment that
was killed goes on where it was, and two experiments that need the same model train it once.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from tqdm.auto import tqdm

from ecar_lab.device import pick_device, pick_dtype
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.evaluate import evaluate
from ecar_lab.evaluation.judge import fingerprint
from ecar_lab.experiments.lab.records import (
    Trained,
    as_json,
    digest,
    is_finished,
    key_of,
    read_measured,
    read_run,
)
from ecar_lab.experiments.lab.sizes import Size
from ecar_lab.files import resolve_checkpoint, write_json
from ecar_lab.machine import machine, versions
from ecar_lab.model import ECAR
from ecar_lab.presets import get_preset
from ecar_lab.training.config import ModelTrainConfig

Item = TypeVar("Item")


class Named(Protocol):
    """What ``--only`` chooses from."""

    @property
    def name(self) -> str: ...


Arm = TypeVar("Arm", bound=Named)


@dataclass(frozen=True)
class Lab:
    """Where an experiment runs.

    Args:
        size: what ``--size`` names, perhaps changed by further switches.
        folder: where trainings and measurements are kept.
        data_root: folder of data sets; None means ``$ECAR_DATA``.
        only: where not empty, experiments with many arms keep to those whose name holds one of
            these texts.
    """

    size: Size
    folder: Path
    data_root: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    only: tuple[str, ...] = ()

    def wanted(self, arms: Iterable[Arm], default: str) -> list[Arm]:
        """The arms that are to be run, among them the ``default``, which the others are compared
        with.

        Raises:
            EcarError: a text of ``only`` that no arm's name contains.
        """
        arms = list(arms)
        for text in self.only:
            if not any(text in arm.name for arm in arms):
                names = ", ".join(arm.name for arm in arms)
                raise EcarError(f"--only {text!r} is in no arm's name: use a part of {names}")
        return [
            arm
            for arm in arms
            if not self.only or arm.name == default or any(text in arm.name for text in self.only)
        ]

    @property
    def torch_device(self) -> torch.device:
        return pick_device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        return pick_dtype(self.torch_device, self.dtype)

    def shape(self, **changes: Any) -> dict[str, Any]:
        """Arguments of the ECAR that this size trains, changed by ``changes``."""
        return {**get_preset(self.size.preset).model, **self.size.model, **changes}

    def each(self, items: Iterable[Item], description: str) -> Iterator[Item]:
        """The items, behind a progress bar."""
        return iter(tqdm(list(items), desc=description, unit="part"))

    def configuration(
        self,
        *,
        architecture: str = "ecar",
        seed: int = 0,
        steps: int | None = None,
        model: dict[str, Any] | None = None,
        **settings: Any,
    ) -> ModelTrainConfig:
        """How a model is trained at this size, and in which folder.

        Args:
            architecture: as of `ecar train model`. model: arguments of the model that differ.
            settings: fields of ``ModelTrainConfig`` that differ, e.g. ``stage_strides``.
        """
        size = self.size
        # A baseline takes its shape from the E-CAR of this size, see baselines.build.
        wanted = {
            **size.train,
            "architecture": architecture,
            "seed": seed,
            "steps": size.steps if steps is None else steps,
            "batch_size": size.batch_size,
            "shape": size.model,
            "model": self._differing(architecture, model or {}),
            "latents": str(self.folder / "latents"),
            "save_every": 10_000_000,  # a run of minutes starts anew rather than from its middle
            "sample_every": 0,
            **settings,
        }
        if "save_every" not in settings and wanted["steps"] > 2000:
            wanted["save_every"] = 1000
        config = ModelTrainConfig.from_preset(
            size.preset, **wanted, device=self.device, dtype=self.dtype, data=self.data_root
        )
        return replace(config, output=str(self.folder / f"{architecture}-{key_of(config)}"))

    def _differing(self, architecture: str, model: dict[str, Any]) -> dict[str, Any]:
        """E-CAR's arguments less those that it has anyway at this size, so that one model has one
        key, however it is asked for."""
        if architecture != "ecar":
            return model
        parameters = inspect.signature(ECAR.__init__).parameters
        usual = self.shape()
        return {
            name: value
            for name, value in model.items()
            if name not in parameters or value != usual.get(name, parameters[name].default)
        }

    def train(
        self,
        *,
        architecture: str = "ecar",
        seed: int = 0,
        steps: int | None = None,
        model: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Trained:
        """A model trained at this size, made now or remembered; arguments as of
        :meth:`configuration`.

        Raises:
            EcarError: the training diverged, or was stopped before its end.
        """
        from ecar_lab.training.model import train_model

        config = self.configuration(
            architecture=architecture, seed=seed, steps=steps, model=model, **settings
        )
        folder = Path(config.output)
        self._finish(folder, config.steps, lambda: train_model(config))
        return read_run(folder)

    @staticmethod
    def _finish(folder: Path, steps: int | None, train: Callable[[], Any]) -> None:
        """Trains unless that is done; a signal ends a training early, and that is no result."""
        if is_finished(folder, steps):
            return
        with quiet_training():
            train()
        if not is_finished(folder, steps):
            raise EcarError(
                f"the training in {folder.name!r} was stopped before its end: run the experiment "
                "again, it goes on from there"
            )

    def train_tokenizer(self, *, seed: int = 0, **settings: Any) -> Path:
        """The folder of a tokenizer trained for this size's preset, made now or remembered.

        Args:
            settings: fields of ``TokenizerTrainConfig`` that differ, e.g. ``tokenizer``.
        """
        from ecar_lab.training.config import TokenizerTrainConfig
        from ecar_lab.training.tokenizer import train_tokenizer

        wanted = {"seed": seed, "save_every": 10_000_000, "sample_every": 0, **settings}
        config = TokenizerTrainConfig.from_preset(
            self.size.preset, **wanted, device=self.device, dtype=self.dtype, data=self.data_root
        )
        config = replace(config, output=str(self.folder / f"tokenizer-{key_of(config)}"))
        folder = Path(config.output)
        self._finish(folder, config.steps, lambda: train_tokenizer(config))
        return folder / "final"

    def evaluate(self, trained: Trained | str | Path, **settings: Any) -> dict[str, Any]:
        """What :func:`ecar_lab.evaluation.evaluate.evaluate` finds, made now or remembered.

        Args:
            trained: a trained model, or a checkpoint's name or folder.
            settings: arguments of ``evaluate``; number of samples and device are the lab's.
        """
        checkpoint = trained.folder if isinstance(trained, Trained) else trained
        wanted: dict[str, Any] = {
            "num_samples": self.size.num_samples,
            "batch_size": 250,
            "brief": True,
            **settings,
            "device": self.device,
            "dtype": self.dtype,
        }
        identity = fingerprint(resolve_checkpoint(checkpoint))
        return self.remember(
            "evaluate",
            {"checkpoint": identity, **wanted},
            lambda: evaluate(str(checkpoint), data_root=self.data_root, **wanted),
        )

    def remember(
        self, kind: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The result of ``measure()``, or what it was the last time under these settings.

        Not for timings that will be compared: those belong into one run.

        Raises:
            EcarError: what is kept under these settings is damaged, or was measured under others.
        """
        file = self.folder / "measured" / f"{kind}-{digest(settings)}.json"
        if file.is_file():
            return read_measured(file, settings)
        result = as_json(measure())
        write_json(file, {"settings": settings, "result": result})
        return result

    def about(self) -> dict[str, Any]:
        """What every result JSON begins with."""
        size = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.size).items()}
        return {
            "size": size,
            "machine": machine(self.torch_device),
            "threads": torch.get_num_threads(),
            "dtype": str(self.torch_dtype).removeprefix("torch."),
            "versions": versions(),
        }


@contextlib.contextmanager
def quiet_training() -> Generator[None]:
    """Within the block a training's log lines stay away: the experiment has a bar of its own."""
    import logging

    logger = logging.getLogger("ecar_lab")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
