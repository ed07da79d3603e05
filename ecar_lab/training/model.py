"""Training E-CAR on the latents of a tokenizer, and the public door to all training.

``train_tokenizer(cfg)`` and ``train_model(cfg)`` return the run folder: ``config.json``,
``metrics.jsonl``, ``tensorboard/``, ``samples/``, ``checkpoints/`` and the result in ``final/``.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ecar_lab.baselines import build, make_pipeline
from ecar_lab.bounds import check_batch, least_activations
from ecar_lab.data import DatasetInfo, ImageDataset, open_dataset
from ecar_lab.data.feeds import Batch, IndexedFeed, StreamFeed, cache_latents, generator
from ecar_lab.data.identity import identity_of
from ecar_lab.device import autocast, pick_dtype
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.evaluate import held_out_loss
from ecar_lab.files import write_json
from ecar_lab.generator import LatentGenerator, TrainingDraw
from ecar_lab.home import checkpoints_root
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ImageOutput
from ecar_lab.presets import get_preset
from ecar_lab.tokenizers.base import Tokenizer
from ecar_lab.tokenizers.makers import load_tokenizer
from ecar_lab.training.agreement import agree_on_data, together
from ecar_lab.training.cards import write_card
from ecar_lab.training.config import (
    LatentTrainConfig,
    ModelTrainConfig,
)
from ecar_lab.training.launch import (
    Launch,
    held_out_split,
    initial_seed,
    launched,
    training_images,
)
from ecar_lab.training.loop import Trainer
from ecar_lab.training.processes import share_of
from ecar_lab.training.state import going_on_from
from ecar_lab.training.task import Task
from ecar_lab.training.terms import ExtraTerms, terms_for, tilt_finest
from ecar_lab.training.warm_start import tokenizer_of, warm_start
from ecar_lab.viz.pictures import image_grid

Config = TypeVar("Config", bound=LatentTrainConfig)
SAMPLE_CLASSES, SAMPLE_ROWS = 10, 4


def train_model(cfg: ModelTrainConfig) -> Path:
    """Trains E-CAR; the pipeline with the averaged weights is in ``final/`` of the run folder.

    Raises:
        EcarError: a bad value, no tokenizer yet, missing data, a full disk, divergence.
        KeyboardInterrupt: SIGINT ended it. SystemExit: SIGTERM or SIGHUP did.
    """
    cfg.check()
    find_tokenizer(cfg)  # first of all: without one there is no run folder either
    with launched(cfg) as launch:
        return model_trainer(cfg, launch).run()


def model_trainer(cfg: ModelTrainConfig, launch: Launch) -> Trainer:
    """All of a run up to its first step.

    Raises:
        EcarError: as :func:`train_model`.
    """
    preset, accelerator = get_preset(cfg.preset), launch.accelerator
    given = cfg
    cfg, goes_on = as_begun(given, launch)
    try:
        source = find_tokenizer(cfg)
    except EcarError:  # what the run has begun with may be gone
        source = find_tokenizer(given)
    tokenizer = load_tokenizer(source).to(accelerator.device).requires_grad_(False)
    data = training_images(cfg, preset.image_size, accelerator)
    initial_seed(cfg)
    model = new_model(cfg, tokenizer, data.info)
    check_batch(cfg.batch_size, least_activations(model.config), accelerator.device.type)
    if cfg.init_from and not goes_on:
        warm_start(model, cfg.init_from, tokenizer=tokenizer)
    task = ModelTask(cfg, model, tokenizer, data, accelerator)
    return Trainer(cfg, task, launch)


def as_begun(cfg: ModelTrainConfig, launch: Launch) -> tuple[ModelTrainConfig, bool]:
    """The configuration with the ``init_from`` that the run has begun with, and whether it goes on
    from a checkpoint.

    Raises:
        EcarError: it goes on, and would begin with the weights of another checkpoint now.
    """
    found = going_on_from(cfg, launch)
    if found is None:
        return cfg, False
    folder, before = found
    begun = before.get("init_from", "")

    def check() -> None:
        if cfg.init_from not in ("", begun):
            weights = f"the weights of {begun!r}" if begun else "random weights"
            raise EcarError(
                f"the run of the checkpoint {str(folder)!r} began with {weights}, and goes on "
                f"without those of init_from {cfg.init_from!r}: leave init_from out to continue, "
                "give another --output for a new run, or --resume none to begin anew"
            )

    main = launch.accelerator.is_main_process  # of several machines each may have its own path
    together(launch.accelerator, check if main else lambda: None)
    return dataclasses.replace(cfg, init_from=begun), True


def new_model(cfg: ModelTrainConfig, tokenizer: Tokenizer, info: DatasetInfo) -> LatentGenerator:
    """The model of a run, as it is before the first step.

    Raises:
        EcarError: the image size does not divide, an argument of the model is unknown.
    """
    factor = tokenizer.downsample_factor
    if info.image_size % factor:
        raise EcarError(
            f"{info.image_size} px is not divisible by {factor} (tokenizer): "
            f"use {-(-info.image_size // factor) * factor}"
        )
    stages = {**cfg.shape, **cfg.model}.get("num_stages")
    shape = {
        **get_preset(cfg.preset).model_of(stages),
        **cfg.shape,
        "latent_size": info.image_size // factor,
        "latent_channels": tokenizer.latent_channels,
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
    }
    model = build(cfg.architecture, shape, **cfg.model)
    model.prepare_for(tokenizer)
    return model


def find_tokenizer(cfg: ModelTrainConfig) -> str:
    """The tokenizer asked for, else that of the checkpoint to begin with, else the preset's, else
    the one trained or shipped for it.

    Raises:
        EcarError: the preset wants a trained tokenizer and there is none.
    """
    kinds = get_preset(cfg.preset).tokenizer
    if cfg.tokenizer:
        return cfg.tokenizer
    if cfg.init_from:
        return str(tokenizer_of(cfg.init_from))
    if "name" in kinds:
        return kinds["name"]
    own = Path(f"runs/{cfg.preset}-tokenizer/final")
    shipped = checkpoints_root() / cfg.preset / "tokenizer"
    for folder in (own, shipped):
        if (folder / "config.json").is_file():
            return str(folder)
    raise EcarError(
        f"there is no trained tokenizer for preset {cfg.preset!r}: run "
        f"`ecar train tokenizer --preset {cfg.preset}` first, or name one with --tokenizer"
    )


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """A digest of class, settings and weights: the same latents have the same hash."""
    settings = {k: v for k, v in tokenizer.config.items() if not k.startswith("_")}
    content = json.dumps([type(tokenizer).__name__, settings], sort_keys=True, default=str)
    digest = hashlib.blake2b(content.encode(), digest_size=8)
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class ModelObjective(nn.Module):
    """A generator's loss as a module's forward, so that it can be compiled and distributed."""

    def __init__(
        self,
        model: LatentGenerator,
        class_dropout: float,
        stage_strides: list[int] | None = None,
        terms: ExtraTerms | None = None,
    ):
        super().__init__()
        self.stage_strides = stage_strides if len(model.sides) > 1 else None
        self.model, self.class_dropout, self.terms = model, class_dropout, terms

    def forward(
        self, mean: Tensor, std: Tensor, labels: Tensor, *images_and_draw: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        *images, draw = images_and_draw
        latent = mean + std * draw.latent_noise
        further: dict[str, Any] = {}
        if self.terms is not None:
            further["term"] = self.terms.for_batch(*images)
        output = self.model.loss(
            latent, labels, draw, self.class_dropout, self.stage_strides, **further
        )
        parts = {"loss_stage": output.per_stage, "loss_bin": output.per_bin}
        if further:
            parts["loss_terms"] = output.loss.detach() - output.per_stage.mean()
        return output.loss, parts


class LatentTask(Task, Generic[Config]):
    """What the trainer needs to know about a generator of latents; subclasses set ``objective``,
    and ``wants_images`` if it takes images beside latents."""

    wants_images = False
    defaults = "the model's own defaults of sampling"

    def __init__(
        self,
        cfg: Config,
        model: LatentGenerator,
        tokenizer: Tokenizer,
        data: ImageDataset,
        accelerator: Accelerator,
    ):
        self.cfg, self.generator, self.tokenizer, self.data = cfg, model, tokenizer, data
        self.accelerator = accelerator
        self.device = accelerator.device
        self._check_sampling()
        self.identity = agree_on_data(
            accelerator, identity_of(data, tokenizer=tokenizer_hash(tokenizer))
        )
        self.model = model
        self.second_ema_decay = cfg.second_ema_decay
        self.held_out = held_out_split(data) if cfg.second_ema_decay else "test"
        self.share = share_of(cfg, accelerator)
        self.dtype = pick_dtype(self.device, cfg.dtype)
        self.autocast = functools.partial(autocast, self.device, self.dtype)
        cached = cfg.cache_latents and not cfg.streaming
        self.prefetch = not cached or self.device.type != "cpu"
        self.feed = self._cached_feed() if cached else self._encoding_feed()

    def _check_sampling(self) -> None:
        """Asks for the runs that pictures will be made in, which makes none.

        Raises:
            EcarError: the model does not take its own defaults, or what the pictures ask for.
        """
        pipeline, cfg = make_pipeline(self.generator, self.tokenizer), self.cfg
        asked: dict[str, dict[str, Any]] = {self.defaults: {}}
        if cfg.sample_every:
            asked["sample_steps"] = {"num_inference_steps": cfg.sample_steps}
            asked["sample_guidance"] = {"guidance_scale": cfg.sample_guidance}
        for name, settings in asked.items():
            try:
                pipeline.trace([0], **settings)
            except EcarError as error:
                raise EcarError(f"{name}: {error}") from None

    def _cached_feed(self) -> IndexedFeed:
        info, accelerator = self.data.info, self.accelerator
        key = [self.identity["tokenizer"], info.name, info.image_size, info.num_images,
               self.cfg.flip, str(self.dtype)]  # fmt: skip
        digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).hexdigest()
        folder = Path(self.cfg.latents or self.cfg.run_folder)
        file = folder / f"latents-{digest}.safetensors"
        with accelerator.main_process_first():
            store = cache_latents(
                self.tokenizer, self.data, self.cfg.flip, file, self.autocast, self.identity,
                quiet=not accelerator.is_main_process,
            )  # fmt: skip
        if self.wants_images:
            store.images = self.data.arrays()[0]
        if self.cfg.leave_out:
            store = store.without(self.generator.class_ids(self.cfg.leave_out).tolist())
        return IndexedFeed(store, self.share, self.cfg.seed, self.cfg.flip)

    def _encoding_feed(self) -> StreamFeed:
        return StreamFeed(self.data, self.share, self.cfg.seed, self.cfg.flip, self._encode)

    @torch.no_grad()
    def _encode(self, images: Tensor, labels: Tensor) -> Batch:
        with self.autocast():
            mean, std = self.tokenizer.moments(images.to(self.device, non_blocking=True))
        return (mean, std, labels, images) if self.wants_images else (mean, std, labels)

    def load(self, step: int) -> list[tuple]:
        draw = self.draw(generator(self.cfg.seed, "draw", step))
        micro_batches = []
        for part, batch in zip(self.share.parts, self.feed(step), strict=True):
            tensors = [tensor.to(self.device, non_blocking=True) for tensor in batch]
            micro_batches.append((*tensors, draw.slice(part.start, part.stop).to(self.device)))
        return micro_batches

    def draw(self, random: torch.Generator) -> Any:
        """Everything random in a step of the global batch; has ``slice`` and ``to``."""
        raise NotImplementedError

    def position(self, step: int) -> dict[str, int]:
        return self.feed.position(step)

    def restore(self, position: dict[str, int]) -> None:
        self.feed.restore(position)

    def close(self) -> None:
        self.feed.close()

    def sample(self, step: int) -> Any:
        classes = min(SAMPLE_CLASSES, self.generator.num_classes)
        labels = list(range(classes)) * SAMPLE_ROWS
        pipeline = make_pipeline(self.generator, self.tokenizer)
        pipeline.set_progress_bar_config(disable=True)
        with self.autocast():
            output = pipeline(
                class_labels=labels,
                num_inference_steps=self.cfg.sample_steps,
                guidance_scale=self.cfg.sample_guidance,
                generator=generator(self.cfg.seed, "sample", 0),
                output_type="pil",
            )
        names = self.generator.class_names[:classes] * SAMPLE_ROWS
        return image_grid(cast(ImageOutput, output).images, columns=classes, labels=names)

    def held_out_error(self) -> float:
        size = self.data.info.image_size
        held_out = open_dataset(
            self.cfg.dataset_name, split=self.held_out, image_size=size, data_root=self.cfg.data
        )
        pipeline = make_pipeline(self.generator, self.tokenizer)
        return held_out_loss(pipeline, held_out, self.cfg.seed, self.dtype)["mean"]

    def export(self, folder: Path, report: dict[str, Any]) -> dict[str, Any]:
        model = nn.Module.to(copy.deepcopy(self.generator), torch.bfloat16)
        pipeline = make_pipeline(model, self.tokenizer)
        pipeline.save_pretrained(folder, safe_serialization=True)
        write_json(folder / "training.json", self.cfg.to_dict())
        lines = [
            f"{self._describe()} Averaged weights (EMA {report['ema_decay']}), bfloat16.",
            "",
            "```python",
            "from ecar_lab.baselines import load_pipeline",
            "pipeline = load_pipeline('path/of/this/folder')",
            f"images = pipeline(class_labels=[{self.generator.class_names[0]!r}]).images",
            "```",
        ]
        title = f"{self.cfg.preset}: {type(self.generator).__name__}"
        write_card(folder, title, lines, self.cfg, self.data.info, report, {}, self.device)
        return {}

    def _describe(self) -> str:
        """One sentence on what was trained."""
        raise NotImplementedError


class ModelTask(LatentTask[ModelTrainConfig]):
    """Training a generator from the start, or further."""

    def __init__(self, cfg: ModelTrainConfig, model: LatentGenerator, *others: Any):
        self.terms = terms_for(cfg, model, others[0])
        self.wants_images = self.terms is not None and self.terms.alignment is not None
        self.objective = ModelObjective(model, cfg.class_dropout, cfg.stage_strides, self.terms)
        self.fsdp = cfg.fsdp
        super().__init__(cfg, model, *others)

    @property
    def trained(self) -> nn.Module:
        return self.objective if self.wants_images else self.model

    def at(self, progress: float) -> None:
        if self.terms is not None:
            self.terms.progress = progress

    def draw(self, random: torch.Generator) -> TrainingDraw:
        several = {"head_draws": self.cfg.head_draws} if len(self.generator.sides) > 1 else {}
        draw = self.generator.draw(self.share.global_batch, random, **several)
        return tilt_finest(draw, self.cfg.time_tilt) if self.cfg.time_tilt else draw

    def _describe(self) -> str:
        millions = self.generator.num_parameters() / 1e6
        if self.cfg.architecture != "ecar" or not isinstance(self.generator, ECAR):
            return (
                f"A baseline of ecar_lab, `{self.cfg.architecture}`: {millions:.1f} M parameters, "
                "as many as the E-CAR of this preset, trained alike."
            )
        schedule = self.generator.schedule
        return (
            f"An E-CAR model of ecar_lab: {millions:.1f} M parameters, {schedule.num_stages} "
            f"stages of {', '.join(f'{r}x{r}' for r in schedule.resolutions)} latents, coupling "
            f"`{schedule.coupling}`, windows ending at "
            f"{', '.join(f'{end:g}' for end in schedule.ends)}. "
            "The method is the paper's (arXiv 2412.14170), all sizes are our own."
        )
