"""Training E-CAR on the latents of a tokenizer, and the public door to all training.

``train_tokenizer(cfg)`` and ``train_model(cfg)`` return the run folder: ``config.json``,
``metrics.jsonl``, ``tensorboard/``, ``samples/``, ``checkpoints/`` and the result in ``final/``.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ecar_lab.baselines import build, make_pipeline
from ecar_lab.data import DatasetInfo, ImageDataset, open_dataset
from ecar_lab.data.feeds import Batch, IndexedFeed, StreamFeed, cache_latents, generator
from ecar_lab.device import autocast, pick_dtype
from ecar_lab.errors import EcarError
from ecar_lab.files import checkpoints_root, write_json
from ecar_lab.generator import LatentGenerator, TrainingDraw
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ImageOutput
from ecar_lab.presets import get_preset
from ecar_lab.tokenizers.base import Tokenizer
from ecar_lab.tokenizers.makers import load_tokenizer
from ecar_lab.training.cards import write_card
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.launch import initial_seed, make_accelerator, prepare_run_folder, share_of
from ecar_lab.training.loop import Trainer
from ecar_lab.training.task import Task
from ecar_lab.viz.pictures import image_grid

SAMPLE_CLASSES, SAMPLE_ROWS = 10, 4


def train_model(cfg: ModelTrainConfig) -> Path:
    """Trains E-CAR; the pipeline with the averaged weights is in ``final/`` of the run folder.

    Raises:
        EcarError: a bad value, no tokenizer yet, missing data, a full disk, divergence.
    """
    started = time.monotonic()
    cfg.check()
    preset = get_preset(cfg.preset)
    accelerator = make_accelerator(cfg)
    source = find_tokenizer(cfg)
    prepare_run_folder(cfg, accelerator)
    tokenizer = load_tokenizer(source).to(accelerator.device).requires_grad_(False)
    data = open_dataset(
        cfg.dataset_name,
        split="train",
        image_size=preset.image_size,
        data_root=cfg.data,
        streaming=cfg.streaming,
        limit=cfg.limit,
    )
    initial_seed(cfg)
    model = new_model(cfg, tokenizer, data.info)
    task = ModelTask(cfg, model, tokenizer, data, accelerator)
    return Trainer(cfg, task, accelerator, started).run()


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
    shape = {
        **get_preset(cfg.preset).model,
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
    """The tokenizer asked for, else the preset's, else the one trained or shipped for it.

    Raises:
        EcarError: the preset wants a trained tokenizer and there is none.
    """
    kinds = get_preset(cfg.preset).tokenizer
    if cfg.tokenizer:
        return cfg.tokenizer
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
    ):
        super().__init__()
        self.stage_strides = stage_strides if len(model.sides) > 1 else None
        self.model, self.class_dropout = model, class_dropout

    def forward(
        self, mean: Tensor, std: Tensor, labels: Tensor, draw: TrainingDraw
    ) -> tuple[Tensor, dict[str, Tensor]]:
        latent = mean + std * draw.latent_noise
        output = self.model.loss(latent, labels, draw, self.class_dropout, self.stage_strides)
        return output.loss, {"loss_stage": output.per_stage, "loss_bin": output.per_bin}


class ModelTask(Task):
    """What the trainer needs to know about a generator of latents."""

    def __init__(
        self,
        cfg: ModelTrainConfig,
        model: LatentGenerator,
        tokenizer: Tokenizer,
        data: ImageDataset,
        accelerator: Accelerator,
    ):
        self.cfg, self.generator, self.tokenizer, self.data = cfg, model, tokenizer, data
        self.accelerator = accelerator
        self.device = accelerator.device
        self.model = model
        self.objective = ModelObjective(model, cfg.class_dropout, cfg.stage_strides)
        self.share = share_of(cfg, accelerator)
        self.dtype = pick_dtype(self.device, cfg.dtype)
        self.autocast = functools.partial(autocast, self.device, self.dtype)
        cached = cfg.cache_latents and not cfg.streaming
        self.prefetch = not cached or self.device.type != "cpu"
        self.feed = self._cached_feed() if cached else self._encoding_feed()

    def _cached_feed(self) -> IndexedFeed:
        info, accelerator = self.data.info, self.accelerator
        key = [tokenizer_hash(self.tokenizer), info.name, info.image_size, info.num_images,
               self.cfg.flip, str(self.dtype)]  # fmt: skip
        digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).hexdigest()
        file = self.cfg.run_folder / f"latents-{digest}.safetensors"
        with accelerator.main_process_first():
            store = cache_latents(
                self.tokenizer, self.data, self.cfg.flip, file, self.autocast,
                quiet=not accelerator.is_main_process,
            )  # fmt: skip
        if self.cfg.leave_out:
            store = store.without(self.generator.class_ids(self.cfg.leave_out).tolist())
        return IndexedFeed(store, self.share, self.cfg.seed, self.cfg.flip)

    def _encoding_feed(self) -> StreamFeed:
        return StreamFeed(self.data, self.share, self.cfg.seed, self.cfg.flip, self._encode)

    @torch.no_grad()
    def _encode(self, images: Tensor, labels: Tensor) -> Batch:
        with self.autocast():
            mean, std = self.tokenizer.moments(images.to(self.device, non_blocking=True))
        return mean, std, labels

    def load(self, step: int) -> list[tuple]:
        random = generator(self.cfg.seed, "draw", step)
        several = {"head_draws": self.cfg.head_draws} if len(self.generator.sides) > 1 else {}
        draw = self.generator.draw(self.share.global_batch, random, **several)
        micro_batches = []
        for part, batch in zip(self.share.parts, self.feed(step), strict=True):
            tensors = [tensor.to(self.device, non_blocking=True) for tensor in batch]
            micro_batches.append((*tensors, draw.slice(part.start, part.stop).to(self.device)))
        return micro_batches

    def position(self, step: int) -> dict[str, int]:
        return self.feed.position(step)

    def restore(self, position: dict[str, int]) -> None:
        self.feed.restore(position)

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

    def export(self, folder: Path, report: dict[str, Any]) -> dict[str, Any]:
        model = nn.Module.to(copy.deepcopy(self.generator), torch.bfloat16)
        pipeline = make_pipeline(model, self.tokenizer)
        pipeline.save_pretrained(folder, safe_serialization=True)
        write_json(folder / "training.json", self.cfg.to_dict())
        lines = [
            f"{self._describe()} Averaged weights (EMA {self.cfg.ema_decay}), bfloat16.",
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
