"""Beginning a training with the weights of a checkpoint: to train it further, on the same images or
on others with other classes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from ecar_lab.baselines import load_pipeline
from ecar_lab.errors import EcarError
from ecar_lab.files import resolve_checkpoint
from ecar_lab.generator import LatentGenerator
from ecar_lab.tokenizers.base import Tokenizer

logger = logging.getLogger(__name__)
# Arguments of a model that no weight's shape shows: weights trained under one value go on under
# another, but they have to learn it. num_heads is one, too, which no training would want: it is
# refused (held-out error of the digits model: 0.18 with its own 4 heads, 0.49 with 8).
UNSEEN = (
    *("window_ends", "coupling", "stage_ratio", "history", "attention_window", "objective"),
    *("norm", "latent_size"),
)


def tokenizer_of(checkpoint: str | Path) -> Path:
    """The folder of the tokenizer that came with a checkpoint."""
    return resolve_checkpoint(checkpoint) / "tokenizer"


@torch.no_grad()
def warm_start(
    model: LatentGenerator,
    checkpoint: str | Path,
    new_parts: tuple[str, ...] = (),
    tokenizer: Tokenizer | None = None,
) -> None:
    """Fills a new model with the weights of a checkpoint.

    Classes are known by name: a class that both have keeps its rows, a class that only the model
    has begins as no class at all (the checkpoint's null class). Parts that the model has and the
    checkpoint lacks stay as they are if they begin at zero, and so change nothing, or if their
    names begin with one of ``new_parts``. Another ``tokenizer`` than the checkpoint's is said.

    Raises:
        EcarError: another kind of model, other latent channels, another number of heads, a tensor
            that does not fit.
    """
    folder = resolve_checkpoint(checkpoint)
    pipeline = load_pipeline(folder, dtype=torch.float32)
    source = pipeline.model
    check_alike(model, source, folder)
    if tokenizer and tokenizer.content_hash() != pipeline.tokenizer.content_hash():
        logger.warning(
            "the weights of %s know the latents of another tokenizer, and have to learn those of "
            "this run: --tokenizer %s is their own",
            folder.name,
            folder / "tokenizer",
        )
    tables = {id(table.weight) for table in model.class_embeddings}
    own, given = dict(model.named_parameters()), dict(source.named_parameters())
    for name in sorted(set(own) | set(given)):
        here, there = own.get(name), given.get(name)
        if here is not None and there is not None and id(here) in tables:
            here.copy_(class_rows(model, source, there))
        elif here is not None and there is not None and here.shape == there.shape:
            here.copy_(there)
        elif here is not None and there is None and name.startswith(new_parts):
            continue
        elif here is None or there is not None or here.count_nonzero():
            raise EcarError(
                f"--init-from: {name} has the shape {shape_of(there)} in the checkpoint "
                f"{folder.name!r} and {shape_of(here)} in this model: train with the preset and "
                "the model arguments of the checkpoint (its training.json holds them)"
            )
    heads = source.config.num_heads
    if model.config.num_heads != heads:
        remedy = json.dumps({"num_heads": heads})
        raise EcarError(
            f"--init-from: the checkpoint {folder.name!r} has num_heads {heads}, this run's model "
            f"{model.config.num_heads}, which cuts the same weights into other heads: give --model "
            f"'{remedy}'"
        )
    new = [name for name in model.class_names if name not in source.class_names]
    logger.info("the model begins with the weights of %s", folder)
    if new:
        logger.info("classes that it does not know yet: %s", ", ".join(new))


def class_rows(model: LatentGenerator, source: LatentGenerator, table: Tensor) -> Tensor:
    """A class embedding for the classes of ``model``, (K + 1, D), from one of ``source``."""
    known = {name: row for row, name in enumerate(source.class_names)}
    rows = [known.get(name, source.null_class) for name in model.class_names]
    return table[[*rows, source.null_class]]


def check_alike(model: LatentGenerator, source: nn.Module, folder: Path) -> None:
    """Refuses weights that mean something else; says which arguments without weights differ."""
    if type(source) is not type(model):
        raise EcarError(
            f"--init-from: the checkpoint {folder.name!r} is a {type(source).__name__}, this run "
            f"trains a {type(model).__name__}: give a checkpoint of the same architecture"
        )
    old, new = source.config.latent_channels, model.config.latent_channels
    if old != new:
        raise EcarError(
            f"--init-from: the checkpoint {folder.name!r} works on latents of {old} channels, this "
            f"run's tokenizer gives {new}: use the checkpoint's own tokenizer, "
            f"--tokenizer {folder / 'tokenizer'}"
        )
    for name in UNSEEN:
        before, now = source.config.get(name), model.config.get(name)
        if before != now:
            logger.warning("%s was %s in %s, and is %s now", name, before, folder.name, now)


def shape_of(tensor: Tensor | None) -> tuple[int, ...] | str:
    """The shape of a tensor, or what to say where there is none."""
    return "none" if tensor is None else tuple(tensor.shape)
