"""What a training run is made of: dataclasses whose every field is a switch of `ecar train`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from ecar_lab.documents import read_json
from ecar_lab.errors import EcarError
from ecar_lab.presets import get_preset
from ecar_lab.schema import (
    Arguments,
    Count,
    Decays,
    NotNegative,
    Positive,
    Seed,
    Share,
    Steps,
    Text,
    Whole,
    settings,
    short,
)

Trackers = list[Literal["tensorboard", "trackio", "wandb"]]

# Fields that may differ between a run and its continuation: none of them bends the curve
# (steps and max_minutes move its end, which the stored plan takes care of; init_from has a check
# of its own, before the model is made).
FREE_ON_RESUME = {
    *(
        "data",
        "output",
        "resume",
        "new_data",
        "steps",
        "max_minutes",
        "save_every",
        "keep",
        "log_every",
        "log_with",
    ),
    *("sample_every", "sample_steps", "sample_guidance", "test_limit", "cache_latents"),
    "latents",
    *("device", "compile", "fsdp", "divergence_factor", "init_from"),
    *("batch_size", "grad_accum"),  # their product with the processes has to stay
}


@settings
class TrainConfig:
    """The switches that both trainings share. Defaults live here; presets override some of them.

    ``TrainConfig.from_preset(name)`` gives the configuration of a preset, the constructor alone
    gives the bare defaults.
    """

    kind: ClassVar[str]

    preset: Text = "digits"
    """Name of the preset that fixes data, tokenizer and model shape."""
    dataset: Text = ""
    """Data set to train on; empty takes the preset's own."""
    data: Text | None = None
    """Folder that holds the data sets; without it the variable ECAR_DATA is used."""
    streaming: bool = False
    """Read the images as a stream instead of holding the whole set in memory."""
    limit: Count | None = None
    """Use only the first so many images of the data set."""
    flip: bool = True
    """Show every image mirrored half of the time."""
    output: Text = ""
    """Run folder for checkpoints, logs and the result; empty means runs/<preset>-<kind>."""
    resume: Text = "auto"
    """auto goes on from the newest checkpoint in the run folder, none sets the old run aside and
    starts anew, a path goes on from that checkpoint."""
    new_data: bool = False
    """Go on from a checkpoint although the images, their classes or the tokenizer have changed."""

    steps: Count | None = 1000
    """Optimizer steps; leave it out (None) when max_minutes alone shall end the run."""
    max_minutes: Positive | None = None
    """Time box of the whole run, resumed parts included; the schedule is fitted into it."""
    batch_size: Count = 128
    """Images per process and per micro-batch."""
    grad_accum: Count = 1
    """Micro-batches whose gradients are summed up before one optimizer step."""
    seed: Seed = 0
    """Seed of the initial weights, the order of the data and every random draw."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """muon orthogonalises the updates of hidden weight matrices and leaves the rest to AdamW."""
    lr: Positive = 1e-3
    """Peak learning rate, the same for both optimizers (Muon's is matched to AdamW's size)."""
    lr_floor: Share = 0.02
    """Learning rate at the end of the cosine, as a fraction of the peak."""
    warmup_steps: Whole = 100
    """Steps over which the learning rate rises from zero."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay of the weight matrices."""
    betas: Decays = (0.9, 0.99)
    """Decay rates of AdamW's two moments."""
    grad_clip: Positive = 1.0
    """Gradients longer than this are scaled down to it."""
    ema_decay: Share = 0.999
    """Decay of the averaged weights; early on min(decay, (1+n)/(10+n)) is used."""

    device: Text = "auto"
    """Device to train on: auto, cpu, cuda or mps."""
    dtype: Text = "auto"
    """Precision of the matrix products: auto, float32 or bfloat16."""
    compile: bool = False
    """Compile the model with torch.compile; needs a C++ compiler on a CPU."""

    log_every: Count = 50
    """Steps between two lines in the logs."""
    log_with: Trackers = field(default_factory=lambda: ["tensorboard"])
    """Where curves and pictures go beside metrics.jsonl. trackio and wandb are packages of their
    own; wandb writes offline unless WANDB_MODE says otherwise."""
    save_every: Count = 500
    """Steps between two checkpoints."""
    keep: Count = 2
    """How many checkpoints to keep."""
    sample_every: Whole = 1000
    """Steps between two sample pictures; 0 makes none."""
    divergence_factor: Annotated[float, Field(gt=1), "a finite number above 1"] = 4.0
    """Stop when three logged losses in a row exceed the running median by this factor."""

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """The configuration of preset ``name``, with single fields replaced by ``overrides``.

        Raises:
            EcarError: the preset or a field is unknown.
        """
        preset = get_preset(name)
        given = {"preset": name, **getattr(preset, f"train_{cls.kind}"), **overrides}
        return cls._of(given, source=f"the settings for preset {name!r}")

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """The configuration that a run saved as its config.json.

        Raises:
            EcarError: the file is missing, no JSON, or belongs to another kind of training.
        """
        content = read_json(path, "the configuration", "give the config.json of a run folder")
        kind = content.pop("kind", cls.kind)
        if kind != cls.kind:
            raise EcarError(
                f"{str(path)!r} configures the training of a {kind}, not of a {cls.kind}: "
                f"use `ecar train {kind}`"
            )
        return cls._of(content, source=repr(str(path)))

    @classmethod
    def _of(cls, given: dict[str, Any], source: str) -> Self:
        names = {entry.name for entry in dataclasses.fields(cls)}
        unknown = sorted(set(given) - names)
        if unknown:
            raise EcarError(
                f"{source} has the unknown field {short(unknown[0])}: the fields are "
                f"{', '.join(sorted(names))}"
            )
        try:
            return cls(**given)
        except EcarError as error:
            raise EcarError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """All fields and the kind of training, as JSON would give them back."""
        return json.loads(json.dumps({"kind": self.kind, **dataclasses.asdict(self)}))

    @property
    def run_folder(self) -> Path:
        """Where the run writes."""
        return Path(self.output or f"runs/{self.preset}-{self.kind}")

    @property
    def dataset_name(self) -> str:
        """The data set asked for, else the preset's."""
        return self.dataset or get_preset(self.preset).dataset

    def check(self) -> None:
        """Refuses values that no run can work with: those that do not go together, too.

        Raises:
            EcarError: naming the field, its value and what would be right.
        """
        dataclasses.replace(self)  # what was assigned since it was made
        get_preset(self.preset)
        if self.steps is None and self.max_minutes is None:
            raise EcarError("steps and max_minutes are both empty: give one of them to end the run")


@settings
class TokenizerTrainConfig(TrainConfig):
    """Switches of `ecar train tokenizer`."""

    kind: ClassVar[str] = "tokenizer"

    optimizer: Literal["muon", "adamw"] = "adamw"
    """adamw suits convolutions; muon takes the weights that are true matrices."""
    test_limit: Count = 2000
    """Images of the test split on which the reconstruction is measured at the end."""
    perceptual: Text = ""
    """Feature net whose features reconstruction and image shall share, a name or a folder; empty
    leaves that term out. Such a net cannot judge what is made with the tokenizer."""
    perceptual_weight: NotNegative = 0.2
    """Weight of that term."""
    tokenizer: Arguments = field(default_factory=dict)
    """Arguments of the tokenizer that replace the preset's (in Python and config files)."""


@settings
class LatentTrainConfig(TrainConfig):
    """The switches that all trainings on the latents of a tokenizer share."""

    class_dropout: Share = 0.1
    """Share of the samples that are trained without their class, for guidance."""
    leave_out: list[Text | Whole] = field(default_factory=list)
    """Classes that are not trained on, by name or id; the model has room for them all the same."""
    cache_latents: bool = True
    """Encode every image and its mirror image once, before the first step."""
    latents: Text = ""
    """Folder of what was encoded; empty means the run folder. Runs on the same images with the same
    tokenizer may share it."""
    second_ema_decay: Share | None = None
    """Decay of a second set of averaged weights. At the end the set with the smaller velocity error
    on held-out images is exported."""
    sample_steps: Steps = 8
    """Flow steps per stage of the sample pictures."""
    sample_guidance: NotNegative = 2.0
    """Guidance scale of the sample pictures."""

    def check(self) -> None:
        super().check()
        if self.leave_out and (self.streaming or not self.cache_latents):
            raise EcarError(
                f"leave_out {self.leave_out} picks among cached latents: leave out streaming, and "
                "keep cache_latents"
            )
        second = self.second_ema_decay
        if second is not None and second == self.ema_decay:
            raise EcarError(
                f"second_ema_decay is {second}: use a number from 0 to 1 other than ema_decay, "
                f"{self.ema_decay}"
            )


@settings
class ModelTrainConfig(LatentTrainConfig):
    """Switches of `ecar train model`."""

    kind: ClassVar[str] = "model"

    architecture: Text = "ecar"
    """ecar, or a baseline of the same size: dit, dit-epsilon, full-denoise, stage-epsilon, mar,
    mar-masked, or code-ar (mar over the codes of a vq tokenizer)."""
    tokenizer: Text = ""
    """Tokenizer folder or name; empty takes the one that the preset names or trained."""
    init_from: Text = ""
    """Checkpoint whose weights the model begins with, a name or a folder: to train it further, or
    on images of your own, with other classes too. Its tokenizer comes along."""
    stage_strides: list[Count] | None = None
    """Train stage s on every k_s-th image only, e.g. 1 1 4: the coarse stages, which decide what is
    in the picture, have few tokens and so see more images in the same time. A model with one
    stage takes no notice of it."""
    head_draws: list[Count] | None = None
    """(Noise, time) pairs that the flow head of each stage learns from per image and token map,
    e.g. 2 2 1: cheap where tokens are few. A model with one stage takes no notice of it."""
    direction_loss: NotNegative = 0.0
    """Weight of 1 - cosine between velocity and target, token by token, beside the squared error.
    Only E-CAR and DiT take notice of it."""
    time_tilt: Annotated[float, Field(gt=-1, lt=1), "a number between -1 and 1"] = 0.0
    """How much more often than evenly the finest stage is trained in the middle of its time: 0.5
    makes the middle twice as dense, a negative value the ends. Between -1 and 1."""
    align: NotNegative = 0.0
    """Weight of the distance between tokens in the middle of the flow head and the features that
    the tokenizer's encoder has of the clean image; it ends after 60% of the run. Only E-CAR takes
    notice of it."""
    fsdp: bool = False
    """Spread weights, averages and optimizer state over the processes (FSDP2) instead of giving
    each of them all; for a model too large for one GPU."""
    shape: Arguments = field(default_factory=dict)
    """Arguments of the E-CAR that fixes the size, in place of the preset's; a baseline is made as
    large as that (in Python and config files)."""
    model: Arguments = field(default_factory=dict)
    """Arguments of the model itself, whatever its architecture (in Python and config files)."""

    @property
    def run_folder(self) -> Path:
        """Where the run writes."""
        name = self.kind if self.architecture == "ecar" else self.architecture
        return Path(self.output or f"runs/{self.preset}-{name}")

    def check(self) -> None:
        super().check()
        coarsest_share = max(self.stage_strides or [1])
        if self.batch_size % coarsest_share:
            raise EcarError(
                f"batch_size {self.batch_size} is not divisible by the stage stride "
                f"{coarsest_share}: use {-(-self.batch_size // coarsest_share) * coarsest_share}"
            )
        if self.fsdp and self.align:
            raise EcarError(
                f"fsdp spreads the model alone, and align {self.align:g} trains more than that: "
                "leave one of them out"
            )


@settings
class TurboTrainConfig(LatentTrainConfig):
    """Switches of `ecar train turbo`: a few-step head is taught by a trained E-CAR."""

    kind: ClassVar[str] = "turbo"

    teacher: Text = "cifar10"
    """E-CAR checkpoint that teaches, a name or a folder; its data set and tokenizer are used."""
    teacher_steps: Count = 8
    """Adams-Bashforth steps in which the teacher walks a stage; a multiple of 4."""
    train_transformer: bool = False
    """Train the transformer too; usually the teacher's stays as it is."""
    sample_steps: Steps = 2
    """Flow steps per stage of the sample pictures: 1, 2 or 4."""

    def check(self) -> None:
        super().check()
        if self.teacher_steps < 4 or self.teacher_steps % 4:
            raise EcarError(
                f"teacher_steps is {self.teacher_steps}: the head learns spans of a quarter, a "
                "half and the whole of a stage, so use 4, 8, 12 ..."
            )


def read_config(run: Path) -> dict[str, Any]:
    """The ``config.json`` of a run folder.

    Raises:
        EcarError: it is missing or damaged.
    """
    file, remedy = run / "config.json", "give the run folder of `ecar train`"
    kind = read_json(file, "the configuration", remedy).get("kind", ModelTrainConfig.kind)
    kinds = {of.kind: of for of in (TokenizerTrainConfig, ModelTrainConfig, TurboTrainConfig)}
    if kind not in list(kinds):
        raise EcarError(f"{str(file)!r} configures the training of a {kind!r}: {remedy}")
    return kinds[kind].from_json(file).to_dict()
