"""Training a convolutional tokenizer: first the reconstruction, then the latent statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ecar_lab.bounds import check_arguments, check_batch
from ecar_lab.data import ImageDataset, open_dataset
from ecar_lab.data.columns import NO_LABELS
from ecar_lab.data.feeds import ImageStore, IndexedFeed, StreamFeed, generator, to_float
from ecar_lab.data.identity import identity_of
from ecar_lab.device import autocast, pick_dtype
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.feature_net import find_features, load_features
from ecar_lab.files import write_json
from ecar_lab.presets import get_preset
from ecar_lab.stored import fingerprint
from ecar_lab.tokenizers.base import psnr
from ecar_lab.tokenizers.makers import ConvTokenizer
from ecar_lab.training.agreement import agree_on_data
from ecar_lab.training.cards import write_card
from ecar_lab.training.config import TokenizerTrainConfig
from ecar_lab.training.launch import held_out_split, initial_seed, launched, training_images
from ecar_lab.training.loop import Trainer
from ecar_lab.training.perceptual import PerceptualLoss
from ecar_lab.training.processes import share_of
from ecar_lab.training.task import Task
from ecar_lab.viz.pictures import image_grid

SAMPLES = 16
EVALUATION_BATCH = 256
STATISTICS_IMAGES = 20_000  # plenty for a mean and a variance per channel


def train_tokenizer(cfg: TokenizerTrainConfig) -> Path:
    """Trains the tokenizer of a preset; the result is in ``final/`` of the returned run folder.

    Raises:
        EcarError: a bad value, missing data, a full disk, divergence.
        KeyboardInterrupt: SIGINT ended it. SystemExit: SIGTERM or SIGHUP did.
    """
    cfg.check()
    preset = get_preset(cfg.preset)
    shape = {**preset.tokenizer, **cfg.tokenizer}
    if "name" in shape:
        raise EcarError(
            f"the preset {cfg.preset!r} uses the tokenizer {shape['name']!r}, which needs no "
            f"training: go on with `ecar train model --preset {cfg.preset}`"
        )
    check_arguments(ConvTokenizer, shape)
    with launched(cfg) as launch:
        data = training_images(cfg, preset.image_size, launch.accelerator)
        check_batch(cfg.batch_size, 3 * data.info.image_size**2, launch.accelerator.device.type)
        perceptual = find_perceptual(cfg)
        if perceptual is not None:
            shape |= {
                "perceptual_weight": cfg.perceptual_weight,
                "perceptual_net": fingerprint(find_features(cfg.perceptual)),
            }
        initial_seed(cfg)
        model = ConvTokenizer(**shape)
        task = TokenizerTask(cfg, model, data, launch.accelerator, perceptual)
        return Trainer(cfg, task, launch).run()


def find_perceptual(cfg: TokenizerTrainConfig) -> PerceptualLoss | None:
    """The perceptual term that is asked for.

    Raises:
        EcarError: there is no such feature net.
    """
    return PerceptualLoss(load_features(cfg.perceptual)) if cfg.perceptual else None


class TokenizerObjective(nn.Module):
    """The tokenizer's training loss as a module's forward, so that it can be distributed."""

    def __init__(self, model: ConvTokenizer, perceptual: PerceptualLoss | None = None):
        super().__init__()
        self.model, self.perceptual = model, perceptual

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self.model.training_loss(images, noise=noise, perceptual=self.perceptual)
        loss = parts.pop("loss")
        return loss, {f"loss_{name}": value for name, value in parts.items()}


class TokenizerTask(Task):
    """What the trainer needs to know about a tokenizer."""

    def __init__(
        self,
        cfg: TokenizerTrainConfig,
        model: ConvTokenizer,
        data: ImageDataset,
        accelerator: Accelerator,
        perceptual: PerceptualLoss | None = None,
    ):
        self.cfg, self.data, self.accelerator = cfg, data, accelerator
        self.identity = agree_on_data(accelerator, identity_of(data))
        self.held_out = held_out_split(data)
        self.tokenizer = model.to(memory_format=torch.channels_last)  # convolutions are faster so
        self.model = self.tokenizer
        self.objective = TokenizerObjective(self.tokenizer, perceptual)
        self.share = share_of(cfg, accelerator)
        self.dtype = pick_dtype(accelerator.device, cfg.dtype)
        self.prefetch = cfg.streaming or accelerator.device.type != "cpu"
        if cfg.streaming:
            self.feed = StreamFeed(data, self.share, cfg.seed, cfg.flip)
        else:
            self.feed = IndexedFeed(ImageStore(*data.arrays()), self.share, cfg.seed, cfg.flip)
        side = data.info.image_size // model.downsample_factor
        self.noise_shape = (self.share.global_batch, model.latent_channels, side, side)

    def load(self, step: int) -> list[tuple]:
        noise = torch.randn(self.noise_shape, generator=generator(self.cfg.seed, "noise", step))
        device = self.accelerator.device
        return [
            (images.to(device, non_blocking=True), noise[part].to(device, non_blocking=True))
            for part, (images, _) in zip(self.share.parts, self.feed(step), strict=True)
        ]

    def position(self, step: int) -> dict[str, int]:
        return self.feed.position(step)

    def restore(self, position: dict[str, int]) -> None:
        self.feed.restore(position)

    def close(self) -> None:
        self.feed.close()

    @torch.no_grad()
    def sample(self, step: int) -> Any:
        images = next(self._images(self.held_out, SAMPLES))
        return image_grid(torch.cat([images, self._reconstruct(images)]).cpu(), columns=SAMPLES)

    def _reconstruct(self, images: Tensor) -> Tensor:
        with autocast(self.accelerator.device, self.dtype):
            return self.tokenizer.decode(self.tokenizer.encode(images))

    def _images(self, split: str, limit: int) -> Iterator[Tensor]:
        """Batches of at most ``limit`` images of a split, on the device."""
        if split == "train" and not self.cfg.streaming:
            images = cast(ImageStore, cast(IndexedFeed, self.feed).store).images[:limit]
        else:
            images = open_dataset(
                self.cfg.dataset_name,
                split=split,
                image_size=self.data.info.image_size,
                data_root=self.cfg.data,
                streaming=False,
                limit=limit,
                label_column=NO_LABELS,  # of a test split they are often kept secret
            ).arrays()[0][:limit]
        for rows in images.split(EVALUATION_BATCH):
            yield to_float(rows).to(self.accelerator.device)

    @torch.no_grad()
    def export(self, folder: Path, report: dict[str, Any]) -> dict[str, Any]:
        tokenizer, device = self.tokenizer, self.accelerator.device
        with autocast(device, self.dtype):
            tokenizer.fit_statistics(self._images("train", STATISTICS_IMAGES))
        # float32 throughout: this number describes the tokenizer, not the training's precision
        total = count = 0.0
        for images in self._images(self.held_out, self.cfg.test_limit):
            total += psnr(tokenizer.decode(tokenizer.encode(images)), images) * len(images)
            count += len(images)
        results = {
            f"{self.held_out}_psnr_db": total / count,
            f"{self.held_out}_images": int(count),
        }
        tokenizer.save_pretrained(folder, safe_serialization=True)
        write_json(folder / "training.json", self.cfg.to_dict())
        config = tokenizer.config
        lines = [
            f"A convolutional {'KL' if config['kind'] == 'kl' else 'VQ'}-VAE of ecar_lab: factor "
            f"{tokenizer.downsample_factor}, {tokenizer.latent_channels} latent channels, "
            f"{sum(p.numel() for p in tokenizer.parameters()) / 1e6:.2f} M parameters. "
            "The latent's shift and scale over the training set are stored with it.",
            "",
            "```python",
            "from ecar_lab import load_tokenizer",
            "tokenizer = load_tokenizer('path/of/this/folder')",
            "latent = tokenizer.encode(images)  # images in [-1, 1]",
            "```",
        ]
        title = f"{self.cfg.preset}: tokenizer"
        write_card(folder, title, lines, self.cfg, self.data.info, report, results, device)
        return results
